"""Subscribers that come and leave, thousands of them: nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter

from alarm_cases import episode, verdict
from test_service import World, serving

from meterwatch.episodes import Severity
from meterwatch.v1 import alarms_pb2 as pb

COUNT = int(os.environ.get("METERWATCH_SUBSCRIPTIONS", "1500"))
TOGETHER = 50
RING = 10
"""Transitions the hub keeps: they are to be as many before as after."""
SOME = COUNT // 10
"""Objects of a type that may be more afterwards: caches, the runtime's own. What each subscription leaves is COUNT."""


async def one(world: World, way: int) -> None:
    """Subscribe and leave: at once, after the snapshot, or with something waiting that is never read."""
    call = world.stub.Subscribe(pb.SubscribeRequest())
    if way > 0:
        await call.read()
    if way > 1:
        level = Severity.CRITICAL if next(iter(world.desk.book)).severity is Severity.HIGH else Severity.HIGH
        await world.desk.record([verdict(episode(10, severity=level))], [])
    call.cancel()


async def leave(world: World, count: int) -> None:
    for _ in range(0, count, TOGETHER):
        await asyncio.gather(*(one(world, number % 3 if number else 2) for number in range(TOGETHER)))
    async with asyncio.timeout(60):
        while world.desk.hub.subscribers or len(asyncio.all_tasks()) > 50:  # noqa: ASYNC110 - both sides end by and by
            await asyncio.sleep(0.01)


def census() -> Counter[str]:
    """Objects by type."""
    gc.collect()
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


async def test_subscriptions_that_were_cancelled_leave_nothing(dsn: str) -> None:
    async with serving(dsn, ring_max=RING) as world:
        await world.desk.record([verdict(episode(10, severity=Severity.HIGH))], [])
        await leave(world, TOGETHER)
        before = census()
        await leave(world, COUNT)
        grown = {kind: count for kind, count in (census() - before).items() if count > SOME}
        assert grown == {}
