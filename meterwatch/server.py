"""The gRPC server as every service of ours wants it: options, health, reflection, a port or a sentence why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meterwatch.acceptor import Acceptor
from meterwatch.access.methods import METHODS, PACKAGE
from meterwatch.config import Server
from meterwatch.errors import ConfigError
from meterwatch.health import Health
from meterwatch.transport.certificates import TlsFiles
from meterwatch.transport.rotation import Rotation
from meterwatch.transport.settings import Tls

_log = structlog.get_logger(__name__)

CALLS_PER_CONNECTION_MAX: Final = 500
"""Calls under way of one connection; its others wait at the client. Above 1,000 calls of one method that nobody has
picked up yet gRPC ends some of that method by chance, CANCELLED, whosoever they are: one connection that resets streams
must not get there. Ten times that limit ended none of others, and kept 1.4 GB in place of 0.4 in a flood of eight
methods by nobody who was asked: it stays gRPC's own."""
UNREQUESTED_S: Final = 600
"""A call that nobody has picked up for so long is ended by gRPC, CANCELLED. By default that is 30 s, which a busy event
loop may take where every turn of it parses many large requests; the caller's own deadline ends what waits too long."""
OPTIONS: Final = [
    ("grpc.so_reuseport", 0),  # two services on one port would share its callers
    ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
    ("grpc.http2.bdp_probe", 0),  # keeps a stream whose reader stopped at about 0.5 MB instead of 13
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a frozen peer is noticed after a minute
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.server_max_unrequested_time_in_server", UNREQUESTED_S),
]


def make_server(
    config: Server, *interceptors: grpc.aio.ServerInterceptor, methods: Iterable[str] = METHODS
) -> tuple[Acceptor, Health]:
    """A server with health and reflection, to which services are added; calls pass the interceptors in order."""
    options = [*OPTIONS, *_ages(config.tls), ("grpc.max_receive_message_length", config.message_bytes_max)]
    server = Acceptor(options, interceptors, methods)
    checks = Health()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*_names(), health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, checks


def rotation_of(tls: Tls) -> Rotation | None:
    """The certificate files, read and sound; None: plain text. ConfigError with all that is wrong with them."""
    if tls.certificate is None or tls.key is None:
        return None
    return Rotation(TlsFiles(tls.certificate, tls.key, tls.client_ca, tls.open_key))


def bind(server: grpc.aio.Server, config: Server, rotation: Rotation | None) -> str:
    """Listen; the address with the port given out. ConfigError if a port is taken."""
    if rotation is None:
        return f"{config.host}:{_port(server, config.host, 'server.port', config.port, None)}"
    demanded = rotation.credentials(demand=config.tls.client_ca is not None)
    port = _port(server, config.host, "server.port", config.port, demanded)
    if config.tls.token_port is not None:
        open_to_all = rotation.credentials(demand=False)
        token_port = _port(server, config.host, "server.tls.token_port", config.tls.token_port, open_to_all)
        _log.info("callers with a token are served", address=f"{config.host}:{token_port}")
    return f"{config.host}:{port}"


def _port(server: grpc.aio.Server, host: str, key: str, port: int, tls: grpc.ServerCredentials | None) -> int:
    where = f"{host}:{port}"
    try:
        return int(server.add_insecure_port(where) if tls is None else server.add_secure_port(where, tls))
    except RuntimeError:
        raise ConfigError(
            [
                f"port {port} on {host} cannot be bound: stop what listens there or set {key}; "
                "server.host must be an address of this machine"
            ]
        ) from None


def _ages(tls: Tls) -> list[tuple[str, int]]:
    """How long connections live. In plain text nobody is trusted more or less than before: for ever."""
    if tls.certificate is None:
        return []
    return [
        ("grpc.max_connection_age_ms", int(tls.connection_age_max_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(tls.connection_age_grace_s * 1000)),
    ]


def _names() -> Iterable[str]:
    """Every service of ours: what the table of methods names."""
    return dict.fromkeys(method.partition("/")[0] for method in METHODS if method.startswith(PACKAGE))
