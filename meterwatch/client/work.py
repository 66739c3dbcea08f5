"""Planned work to the service."""

from __future__ import annotations

from typing import Any, Final

from meterwatch.client.retry import open_channel
from meterwatch.v1.registry_pb2 import PlannedWork, PlanWorkRequest, PlanWorkResponse

METHOD: Final = "/meterwatch.v1.Registry/PlanWork"
DEADLINE_S: Final = 60.0


def plan_work(address: str, works: list[PlannedWork], *, credentials: Any = None) -> None:
    """Record works, each under its work_id: again is no change. Raises grpc.RpcError."""
    channel = open_channel(address, credentials)
    try:
        call = channel.unary_unary(
            METHOD,
            request_serializer=PlanWorkRequest.SerializeToString,
            response_deserializer=PlanWorkResponse.FromString,
        )
        for work in works:
            call(PlanWorkRequest(work=work), timeout=DEADLINE_S)
    finally:
        channel.close()
