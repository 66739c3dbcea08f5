"""The gRPC server as every service of ours wants it: options, health, reflection, a port or a sentence why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meterwatch.calls import Watch
from meterwatch.config import Server
from meterwatch.errors import ConfigError
from meterwatch.v1 import (
    alarms_pb2,
    gaps_pb2,
    ingest_pb2,
    reads_pb2,
    receipts_pb2,
    registry_pb2,
    reliability_pb2,
    routes_pb2,
)

INGEST: Final = "meterwatch.v1.Ingest"
OPTIONS: Final = [
    ("grpc.so_reuseport", 0),  # two services on one port would share its callers
    ("grpc.http2.bdp_probe", 0),  # keeps a stream whose reader stopped at about 0.5 MB instead of 13
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a frozen peer is noticed after a minute
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
]


class Health:
    """What grpc.health.v1 says: `INGEST` for ingestion, "" for all."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def starting(self) -> None:
        """Ingestion is not there yet."""
        await self._servicer.set(INGEST, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def serving(self) -> None:
        """All is there."""
        for name in (INGEST, ""):
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """Nothing is served any more, for good."""
        await self._servicer.enter_graceful_shutdown()


def make_server(config: Server, watch: Watch) -> tuple[grpc.aio.Server, Health]:
    """A server with health and reflection, to which the services are added."""
    server = grpc.aio.server(
        options=[*OPTIONS, ("grpc.max_receive_message_length", config.message_bytes_max)], interceptors=[watch]
    )
    checks = Health(server)
    reflection.enable_server_reflection((*_names(), health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, checks


def bind(server: grpc.aio.Server, config: Server) -> str:
    """Listen; the address with the port given out. ConfigError if the port is taken."""
    try:
        port = server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError:
        raise ConfigError(
            [
                f"port {config.port} on {config.host} cannot be bound: stop what listens there or set server.port; "
                "server.host must be an address of this machine"
            ]
        ) from None
    return f"{config.host}:{port}"


def _names() -> Iterable[str]:
    modules: tuple[Any, ...] = (
        *(ingest_pb2, alarms_pb2, registry_pb2, reads_pb2),
        *(gaps_pb2, receipts_pb2, reliability_pb2, routes_pb2),
    )
    return [service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
