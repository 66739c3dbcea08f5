"""Whoever does not read an answer in pieces gives back what it holds, and nobody else notices meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from test_gate import METHODS, OPEN, gated

from meterwatch.access import gate

HELD: list[str] = []


async def floods_in_pieces(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    HELD.append("connection")
    try:
        while True:
            yield b"x" * 1_000_000
    finally:
        HELD.remove("connection")


async def test_an_answer_that_nobody_reads_ends_and_gives_back_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "UNREAD_S", 0.3)
    monkeypatch.setitem(METHODS, "Endless", (grpc.unary_stream_rpc_method_handler(floods_in_pieces), OPEN))
    async with gated() as world:
        call = world.channel.unary_stream("/test.Test/Endless")(b"")
        assert await call.read()
        async with asyncio.timeout(60):
            while HELD or world.gate._room.calls:  # noqa: ASYNC110  (nothing tells when the server has given up)
                await asyncio.sleep(0.01)
        assert await world.ask("Who") == b""
        call.cancel()
        assert world.metrics.registry.get_sample_value(
            "meterwatch_calls_refused_total",
            {"method": "Endless", "code": "DEADLINE_EXCEEDED", "reason": "DEADLINE"},
        )
