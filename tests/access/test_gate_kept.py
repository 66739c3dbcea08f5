"""What a call leaves in memory when it is over: nothing that waits for the garbage collector, which comes seldom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from test_gate import World, gated

from meterwatch.access.gate import _Call

CALLS = 5


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def calls() -> int:
    return sum(type(one) is _Call for one in gc.get_objects())


async def one(world: World, method: str) -> None:
    with capture_logs():
        match method:
            case "Forgotten" | "Breaks":
                await world.refusal(method)
            case "Pieces":
                assert [piece async for piece in world.channel.unary_stream(f"/test.Test/{method}")(b"")]
            case "Forever":
                call = world.channel.unary_stream(f"/test.Test/{method}")(b"")
                assert await call.read() == b"begun"
                assert calls() > 0
                call.cancel()
            case _:
                await world.ask(method, data=b"x" * 1000)


@pytest.mark.parametrize("method", ["Who", "Change", "Pieces", "Forever", "Forgotten", "Breaks"])
async def test_a_call_that_is_over_is_gone_without_the_collector(method: str) -> None:
    async with gated() as world:
        for _ in range(CALLS):
            await one(world, method)
        async with asyncio.timeout(60):
            while calls():  # noqa: ASYNC110  (nothing tells when the server has taken its last step)
                await asyncio.sleep(0.01)
