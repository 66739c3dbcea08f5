"""While a service starts: who may ask it already, what it says of itself, and what it refuses to start on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from databases import Databases
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr
from served import ENOUGH_S, HEAD_END, Raw, Served, fresh_database, fresh_epoch, goes_on, serving
from service_process import INGEST, free_port, until

from meterwatch import app
from meterwatch.config import Config, Database, Server
from meterwatch.errors import ConfigError
from meterwatch.server import bind, make_server
from meterwatch.v1 import alarms_pb2
from meterwatch.v1 import ingest_pb2 as pb

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def starting(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, threading.Event, Future[Served]]]:
    """A service that rebuilds its rules for as long as it is let: its address, the event that lets it, and itself."""
    go, port, honest = threading.Event(), free_port(), app._recall

    async def held(*of: Any) -> list[int]:
        await asyncio.to_thread(go.wait, ENOUGH_S)
        return await honest(*of)

    with fresh_database(cluster) as dsn:
        with serving(dsn):
            pass  # the registry is there
        monkeypatch.setattr(app, "_recall", held)
        with ExitStack() as services, ThreadPoolExecutor(1) as threads:
            started = threads.submit(services.enter_context, serving(dsn, registered=True, port=port))
            yield f"127.0.0.1:{port}", go, started
            go.set()
            started.result(ENOUGH_S)


def test_until_it_is_ready_reads_are_refused_for_now_and_alarms_are_served(
    starting: tuple[str, threading.Event, Future[Served]],
) -> None:
    address, go, started = starting
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def says(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return int(health.Check(request, timeout=ENOUGH_S, wait_for_ready=True).status)

        assert (says(INGEST), says("")) == (NOT_SERVING, SERVING)
        subscribe = channel.unary_stream(
            "/meterwatch.v1.Alarms/Subscribe", response_deserializer=alarms_pb2.SubscribeResponse.FromString
        )
        call = subscribe(b"", timeout=ENOUGH_S)
        assert next(call).snapshot.complete
        assert not next(call).bookmark.rules_ready
        with Raw(address) as raw:
            raw.send(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=fresh_epoch())))
            end = raw.end()
        assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        assert "starting" in end.message
        go.set()
        served = started.result(ENOUGH_S)
        until(lambda: says(INGEST) == SERVING, "it takes reads")
        while not next(call).bookmark.rules_ready:
            pass
        call.cancel()
        with served.stream() as raw:
            goes_on(raw)


async def test_it_does_not_start_on_the_slow_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_implementation, "Type", lambda: "python")
    config = Config(database=Database(url=SecretStr("postgresql://nobody@127.0.0.1:1/none")))
    with pytest.raises(ConfigError, match="'python' backend"):
        async with app.running(config):
            pass


async def test_two_services_do_not_share_a_port() -> None:
    first, _ = make_server(Server())
    second, _ = make_server(Server())
    address = bind(first, Server(port=0), None)
    await first.start()
    with pytest.raises(ConfigError, match="cannot be bound"):
        bind(second, Server(port=int(address.rpartition(":")[2])), None)
    await first.stop(None)
