"""Who has sent for an end: look-ups and commits meet in any order; what is forgotten is looked up again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from psycopg_pool import AsyncConnectionPool
from stored_world import end_us, fill

from meterwatch.batch import ReadChange
from meterwatch.quality import METHOD_SHIFT, ORIGIN_SHIFT, Method, Origin
from storage.arrived import Arrived
from storage.slot_bits import END_BYTES

ESTIMATE = int(Origin.ESTIMATED) << ORIGIN_SHIFT | int(Method.LINEAR) << METHOD_SHIFT
SLOTS = 5


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[AsyncConnectionPool]:
    fill(dsn, [(1, 0, 0, 5, None, None), (2, 1, ESTIMATE, 5, None, None), (4, 2, 0, 5, None, None)])
    options = "-c TimeZone=UTC"
    async with AsyncConnectionPool(dsn, open=False, kwargs={"autocommit": True, "options": options}) as one:
        yield one


def change(rows: list[tuple[int, int, int, int]]) -> ReadChange:
    """(slot, step, quality, sign)"""
    slot, step, quality, sign = (np.array(column) for column in zip(*rows, strict=True))
    none = np.zeros(len(rows), np.int32)
    ends = np.array([end_us(int(at)) for at in step], np.int64)
    has = np.ones(len(rows), np.bool_)
    return ReadChange(
        slot.astype(np.int32), ends, none + 900, quality.astype(np.int32), none, none, none, none, has, has,
        sign.astype(np.int8),
    )  # fmt: skip


async def ask(arrived: Arrived, *steps: int) -> list[set[int]]:
    bits = await arrived.ask(np.array([end_us(step) for step in steps], np.int64), SLOTS)
    return [set(np.flatnonzero(np.unpackbits(row, bitorder="little")).tolist()) for row in bits]


async def test_what_is_stored_and_what_is_told_meanwhile_come_together(pool: AsyncConnectionPool) -> None:
    arrived = Arrived(pool)
    arrived.observe(change([(3, 0, 0, 1)]))  # nobody has asked yet: it is in the table, or it is lost by design
    assert await ask(arrived, 0, 1, 2) == [{1}, set(), {4}]
    arrived.observe(change([(3, 0, 0, 1), (2, 0, 0, -1), (3, 1, ESTIMATE, 1), (4, 1, 0, 1), (0, 9, 0, 1)]))
    assert await ask(arrived, 0, 1, 2) == [{1, 3}, {4}, {4}]


async def test_ends_beyond_the_room_are_forgotten_and_looked_up_again(pool: AsyncConnectionPool) -> None:
    arrived = Arrived(pool, bytes_max=2 * (1 + END_BYTES))
    assert arrived.room(SLOTS) == 2
    assert await ask(arrived, 0, 2) == [{1}, {4}]
    assert await ask(arrived, 1, 2) == [set(), {4}]
    assert len(arrived) == 2
    assert await ask(arrived, 0) == [{1}]
