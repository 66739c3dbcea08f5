"""Single calls to the service: open a channel, ask, close."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from meterwatch import client
from meterwatch.client import RegistryFile, Unreachable
from meterwatch.client.retry import failure_of, open_channel, why_silent
from meterwatch.v1 import alarms_pb2, gaps_pb2, ingest_pb2, reads_pb2, registry_pb2, reliability_pb2

DEADLINE_S: Final = 60.0
REACH_S: Final = 20.0
PAGE: Final = 1000
ASSET_PAGE: Final = 10_000


@contextmanager
def calling(address: str) -> Iterator[Any]:
    """Give a function call(method, request, answer type) -> answer. Unreachable if nothing listens there."""
    channel = open_channel(address)

    def call(method: str, request: Any, answer: Any, timeout_s: float = DEADLINE_S) -> Any:
        send = channel.unary_unary(
            f"/{method}" if method.startswith("grpc.") else f"/meterwatch.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return send(request, timeout=timeout_s)

    try:
        yield call
    except grpc.RpcError as error:
        if _nobody(error):
            raise Unreachable(_says(address, error)) from None
        raise
    finally:
        channel.close()


def _nobody(error: grpc.RpcError) -> bool:
    """True: no answer of a service, which would carry a reason."""
    failure = failure_of(error)
    return failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and not failure.reason


def _says(address: str, error: grpc.RpcError) -> str:
    failure = failure_of(error)
    if failure.code == "DEADLINE_EXCEEDED":
        return f"the service at {address} does not answer; look at its log, or try again"
    return why_silent(address) or (
        f"no service at {address}; start it with 'make serve', or give --address or server.port"
    )


def reach(address: str) -> None:
    """Unreachable at once if nothing listens there; whatever answers is good enough."""
    with calling(address) as call:
        try:
            call(
                "grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse, REACH_S
            )
        except grpc.RpcError as error:
            if _nobody(error):
                raise


def list_alarms(address: str, filter_: alarms_pb2.AlarmFilter, *, active_only: bool, most: int) -> Iterator[Any]:
    """Alarms newest first, over all pages."""
    request = alarms_pb2.ListAlarmsRequest(filter=filter_, active_only=active_only, page_size=min(most, PAGE))
    with calling(address) as call:
        while most > 0:
            page = call("Alarms/ListAlarms", request, alarms_pb2.ListAlarmsResponse)
            yield from page.alarm[:most]
            most -= len(page.alarm)
            request.page_token = page.next_page_token
            if not request.page_token:
                return


def acknowledge(address: str, alarm_id: str, version: int, operator: str, note: str) -> Any:
    """Acknowledge an alarm; return it."""
    request = alarms_pb2.AcknowledgeRequest(
        alarm_id=alarm_id, expected_version=version, action_id=str(uuid.uuid4()), operator=operator, note=note
    )
    with calling(address) as call:
        return call("Alarms/Acknowledge", request, alarms_pb2.AcknowledgeResponse).alarm


def query_reads(address: str, request: reads_pb2.QueryRequest) -> Iterator[Any]:
    """Stored reads, chunk by chunk."""
    with calling(address), open_channel(address) as channel:
        yield from channel.unary_stream(
            "/meterwatch.v1.Reads/Query",
            request_serializer=reads_pb2.QueryRequest.SerializeToString,
            response_deserializer=reads_pb2.QueryResponse.FromString,
        )(request)


def edit_reads(address: str, request: ingest_pb2.EditReadsRequest, action_id: str | None) -> Any:
    """Edit reads by hand; the EditReadsResponse. action_id None: a new one."""
    request.action_id = action_id or str(uuid.uuid4())
    with calling(address) as call:
        return call("Ingest/EditReads", request, ingest_pb2.EditReadsResponse)


def estimate_reads(address: str, request: gaps_pb2.EstimateRequest) -> Iterator[Any]:
    """Estimate missing reads; what was written, chunk by chunk."""
    with calling(address), open_channel(address) as channel:
        yield from channel.unary_stream(
            "/meterwatch.v1.Gaps/Estimate",
            request_serializer=gaps_pb2.EstimateRequest.SerializeToString,
            response_deserializer=gaps_pb2.EstimateResponse.FromString,
        )(request)


def act(
    address: str,
    what: alarms_pb2.ActRequest,
    targets: list[alarms_pb2.ActTarget],
    wanted: alarms_pb2.AlarmFilter | None,
) -> Any:
    """Do what an operator wants on the targets, or on all that a filter matches; return a result for each alarm."""
    what.action_id = str(uuid.uuid4())
    request = alarms_pb2.ActOnManyRequest(act=what, target=targets, filter=wanted)
    with calling(address) as call:
        return call("Alarms/ActOnMany", request, alarms_pb2.ActOnManyResponse).result


def shelve_asset(address: str, request: alarms_pb2.ShelveAssetRequest) -> Any:
    """Put a shelf over an asset or lift it; the ShelveAssetResponse."""
    request.action_id = str(uuid.uuid4())
    with calling(address) as call:
        return call("Alarms/ShelveAsset", request, alarms_pb2.ShelveAssetResponse)


def list_shelves(address: str) -> Any:
    """Shelves over assets that last."""
    with calling(address) as call:
        return call("Alarms/ListShelves", alarms_pb2.ListShelvesRequest(), alarms_pb2.ListShelvesResponse).shelf


def alarm_kpis(address: str, hours: int, operators: int) -> Any:
    """Figures of the alarm system over the last hours."""
    request = alarms_pb2.GetKpisRequest(hours=hours, operators=operators)
    with calling(address) as call:
        return call("Alarms/GetKpis", request, alarms_pb2.GetKpisResponse)


def explain_alarm(address: str, alarm_id: str) -> Any:
    """All that can be said about an alarm; the ExplainResponse."""
    with calling(address) as call:
        return call("Alarms/Explain", alarms_pb2.ExplainRequest(alarm_id=alarm_id), alarms_pb2.ExplainResponse)


def list_assets(address: str, kind: str, parent: str = "") -> Iterator[Any]:
    """Assets of one kind by name, over all pages."""
    request = registry_pb2.ListAssetsRequest(kind=kind, page_size=ASSET_PAGE, parent=parent)
    with calling(address) as call:
        while True:
            page = call("Registry/ListAssets", request, registry_pb2.ListAssetsResponse)
            yield from page.asset
            request.page_token = page.next_page_token
            if not request.page_token:
                return


def import_registry(address: str, files: list[tuple[str, str, bytes]], valid_from_us: int, *, dry_run: bool) -> Any:
    """Import (kind, name, CSV) files as one transaction; return the ImportResponse."""
    with calling(address):
        return client.import_registry(address, [RegistryFile(*file) for file in files], valid_from_us, dry_run=dry_run)


def indices(address: str, request: reliability_pb2.GetIndicesRequest) -> Any:
    """The indices of supply; the GetIndicesResponse."""
    with calling(address) as call:
        return call("Reliability/GetIndices", request, reliability_pb2.GetIndicesResponse)
