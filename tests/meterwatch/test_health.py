"""Health, which anybody may watch: whoever leaves an answer unread is waited for by nobody, and no list grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc
from raw_http2 import Http2, message

from meterwatch import health
from meterwatch.access.gate import Gate
from meterwatch.access.trail import Trail
from meterwatch.config import Server
from meterwatch.health import INGEST, Health
from meterwatch.server import bind, make_server

ENOUGH_S = 60.0
SERVING, NOT_SERVING, UNKNOWN = (
    pb.HealthCheckResponse.SERVING,
    pb.HealthCheckResponse.NOT_SERVING,
    pb.HealthCheckResponse.SERVICE_UNKNOWN,
)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, Health, health_pb2_grpc.HealthStub]]:
    async def nowhere(_rows: object) -> None:
        pass

    server, checks = make_server(Server(port=0), Gate(Trail(nowhere)))
    address = bind(server, Server(port=0), None)
    checks.starting()
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield address, checks, health_pb2_grpc.HealthStub(channel)
        finally:
            await server.stop(None)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(ENOUGH_S):
        while not done():  # noqa: ASYNC110  (nothing tells how far the server is)
            await asyncio.sleep(0.005)


def asked(name: str) -> pb.HealthCheckRequest:
    return pb.HealthCheckRequest(service=name)


async def test_a_watcher_is_told_what_is_and_each_change() -> None:
    async with serving() as (_, checks, stub):
        watch, other = stub.Watch(asked(INGEST)), stub.Watch(asked("Nobody"))
        assert ((await watch.read()).status, (await other.read()).status) == (NOT_SERVING, UNKNOWN)
        checks.serving()
        assert (await watch.read()).status == SERVING
        checks.draining()
        checks.serving()  # too late: it is for good
        assert (await watch.read()).status == NOT_SERVING
        assert [(await stub.Check(asked(name))).status for name in ("", INGEST)] == [NOT_SERVING] * 2
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(asked("Nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_reads_no_answer_keeps_neither_the_service_nor_who_watches_beside_him() -> None:
    async with serving() as (address, checks, stub):
        with ExitStack() as connections:
            for name in (INGEST, ""):
                one = connections.enter_context(await asyncio.to_thread(Http2, address, window=0))
                one.call("/grpc.health.v1.Health/Watch", message(asked(name).SerializeToString()))
            await until(lambda: len(checks._watches) == 2)
            watch = stub.Watch(asked(INGEST))
            async with asyncio.timeout(ENOUGH_S):
                assert (await watch.read()).status == NOT_SERVING
                checks.serving()
                assert (await watch.read()).status == SERVING
                checks.draining()
                assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        await until(lambda: not checks._watches)


async def test_of_too_many_that_watch_the_longest_there_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WATCHES_MAX", 3)
    async with serving() as (_, checks, stub):
        watches = []
        for _ in range(5):
            watches.append(stub.Watch(asked(INGEST)))
            assert (await watches[-1].read()).status == NOT_SERVING
        for ended in watches[:2]:
            assert await ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        checks.serving()
        for stays in watches[2:]:
            assert (await stays.read()).status == SERVING
            stays.cancel()
        await until(lambda: not checks._watches)
