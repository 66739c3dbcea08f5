"""A CA, what it issues, a server with one method that says who called, and calls of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from meterwatch.calls import Watch
from meterwatch.client.secure import Security
from meterwatch.config import Server
from meterwatch.metrics import Metrics
from meterwatch.server import bind, make_server, rotation_of
from meterwatch.transport import dev
from meterwatch.transport.rotation import Rotation
from meterwatch.transport.settings import Tls

NOW = datetime.now(UTC).replace(microsecond=0)  # by the machine, as peers judge; certificates know no fractions
ENOUGH_S = 10.0  # a limit for a hung test, not an expectation
WHO = "/test.Test/Who"
CA = dev.authority(NOW)
OTHER_CA = dev.authority(NOW, name="another CA")


@dataclass
class Files:
    """The files of one service and its callers in a directory."""

    directory: Path

    def server(self, pair: dev.Pair | None = None, ca: dev.Pair = CA, **more: Any) -> Tls:
        """Write those of the service."""
        certificate, key = dev.write_pair(self.directory, "server", pair or dev.server(ca, NOW))
        return Tls(certificate=certificate, key=key, client_ca=self.ca(CA), **more)

    def ca(self, *authorities: dev.Pair) -> Path:
        path = self.directory / "ca.pem"
        path.write_bytes(b"".join(one.certificate_pem for one in authorities))
        return path

    def client(self, ca: dev.Pair = CA, trusts: dev.Pair = CA, days: float = 1, **more: Any) -> Security:
        """Write those of an operator."""
        pair = dev.client(ca, "anna", "operator", NOW, days=days, districts=["Süd 7"])
        certificate, key = dev.write_pair(self.directory, "anna", pair)
        return self.stranger(trusts)._replace(certificate=str(certificate), key=str(key), **more)

    def stranger(self, trusts: dev.Pair = CA) -> Security:
        """Somebody without a certificate."""
        path = self.directory / f"trusted-{id(trusts)}.pem"
        path.write_bytes(trusts.certificate_pem)
        return Security(ca=str(path))


class Listening(NamedTuple):
    """A server of the test."""

    address: str
    rotation: Rotation | None


class _Who(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(_who) if details.method == WHO else None


async def _who(_request: bytes, context: Any) -> bytes:
    """What a service sees of its caller."""
    seen = {name: [value.decode() for value in values] for name, values in context.auth_context().items()}
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    return json.dumps({"auth": seen, "metadata": metadata}).encode()


@asynccontextmanager
async def listening(tls: Tls | None = None) -> AsyncIterator[Listening]:
    """The server as the service makes it, with `Who` instead of the service's own methods."""
    config = Server(port=0, tls=tls or Tls())
    server, health = make_server(config, Watch(Metrics()), methods=[WHO.removeprefix("/")])
    server.add_generic_rpc_handlers((_Who(),))
    rotation = rotation_of(config.tls)
    address = bind(server, config, rotation)
    await server.start()
    health.serving()
    try:
        yield Listening(address, rotation)
    finally:
        await server.stop(None)


def ask(channel: Any) -> dict[str, Any]:
    """Who the server takes us for; raises grpc.RpcError."""
    answer: dict[str, Any] = json.loads(channel.unary_unary(WHO)(b"", timeout=ENOUGH_S))
    return answer


async def away(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run what waits in a thread, so that the server goes on."""
    return await asyncio.to_thread(function, *arguments)
