"""Calls that wait because the event loop is busy: gRPC ends them, CANCELLED, unless it is told to be patient."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterwatch import server
from meterwatch.config import Server
from meterwatch.server import bind, make_server

ENOUGH_S = 60.0
BUSY_S = 2.5
CALLS = 4
PATIENCE = "grpc.server_max_unrequested_time_in_server"


async def ends_of_calls_while_the_loop_is_busy() -> list[str]:
    """How calls end that are made while one turn of the server's loop takes BUSY_S."""
    config = Server(port=0)
    served, health = make_server(config)
    address = bind(served, config, None)
    await served.start()
    health.serving()
    busy = threading.Event()
    ends: list[str] = []

    def ask() -> None:
        with grpc.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            check(health_pb2.HealthCheckRequest(), timeout=ENOUGH_S)
            loop.call_soon_threadsafe(work)
            assert busy.wait(ENOUGH_S)
            calls = [check.future(health_pb2.HealthCheckRequest(), timeout=ENOUGH_S) for _ in range(CALLS)]
            ends.extend(call.code().name for call in calls)

    def work() -> None:
        busy.set()
        time.sleep(BUSY_S)  # a turn of the loop that takes so long

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(ask)
    await served.stop(None)
    return ends


async def test_a_call_outlasts_a_busy_loop() -> None:
    assert await ends_of_calls_while_the_loop_is_busy() == ["OK"] * CALLS


async def test_without_patience_it_would_end_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(server.OPTIONS)[PATIENCE] > 2 * 60
    monkeypatch.setattr(server, "OPTIONS", [(name, 1 if name == PATIENCE else value) for name, value in server.OPTIONS])
    assert set(await ends_of_calls_while_the_loop_is_busy()) == {"OK", "CANCELLED"}
