"""Stored reads and events come back exactly, in pages, for all meters or some."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import psycopg_pool
import pytest
from databases import both_layouts
from hypothesis import given
from hypothesis import strategies as st
from stored_world import T0_US, end_us, fill

import storage.history
from meterwatch.errors import StorageBroken, StorageUnavailable
from meterwatch.quality import METHOD_SHIFT, Method
from storage.arrays import micros, moment
from storage.faults import storage_faults
from storage.history import History
from storage.layout import Layout
from storage.loads import load_view

READS = [
    (1, 0, 0, 10, None, 230.0),
    (1, 1, 64, None, None, 0.0),
    (2, 0, 0, 20, -5, None),
    (2, 1, 1 << 25, 0, 7, None),
    (4, 1, 0, 30, None, None),
]
EVENTS = [(4, T0_US + 1, 1), (2, T0_US, 5)]


@pytest.fixture
async def history(dsn: str, layout: Layout) -> AsyncIterator[History]:
    fill(dsn, READS, EVENTS)
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        yield History(pool, columnar=layout is Layout.COLUMNSTORE)


async def flat(history: History, *arguments: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    async for change in history.reads_between(*arguments):
        assert not change.slot.flags.writeable
        assert (change.sign == 1).all()
        columns = (change.slot, change.end_us, change.quality, change.import_wh, change.import_varh)
        flags = (change.has_energy, change.has_reactive)
        rows += zip(*(column.tolist() for column in (*columns, *flags)), strict=True)
    return sorted(rows)


EXPECTED = [
    (slot, end_us(step), quality, wh or 0, varh or 0, wh is not None, varh is not None)
    for slot, step, quality, wh, varh, _ in READS
]


@both_layouts
@pytest.mark.parametrize("page_rows", [1, 2, 5, 100_000])
async def test_pages_of_any_size_give_every_read_once(
    history: History, page_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.history, "PAGE_ROWS", page_rows)
    assert await flat(history, T0_US, end_us(2), None) == EXPECTED


@both_layouts
async def test_the_range_includes_its_start_and_not_its_end(history: History) -> None:
    assert await flat(history, T0_US, end_us(1), None) == [row for row in EXPECTED if row[1] == T0_US]
    assert await flat(history, T0_US + 1, end_us(1), None) == []


@both_layouts
async def test_slots_limit_reads_and_events(history: History) -> None:
    slots = np.array([2, 3], np.int32)
    assert await flat(history, T0_US, end_us(2), slots) == [row for row in EXPECTED if row[0] == 2]
    assert (await history.events_between(T0_US, end_us(2), slots)).slot.tolist() == [2]
    assert await flat(history, T0_US, end_us(2), slots[:0]) == []


@both_layouts
async def test_events_come_by_time_with_exact_microseconds(history: History) -> None:
    events = await history.events_between(0, end_us(2), None)
    assert events.at_us.tolist() == [T0_US, T0_US + 1]
    assert events.slot.tolist() == [2, 4]
    assert events.code.tolist() == [5, 1]
    assert events.code.dtype == np.int16
    assert (await history.events_between(0, 1, None)).rows == 0


@both_layouts
async def test_supply_off_slots_are_those_of_zero_voltage_reads_and_power_fail_events(history: History) -> None:
    assert (await history.supply_off_slots(T0_US)).tolist() == [1, 4]
    assert (await history.supply_off_slots(T0_US + 2)).tolist() == [1]
    assert (await history.supply_off_slots(end_us(2))).tolist() == []


@both_layouts
async def test_last_heard_leaves_out_a_silent_meter(history: History) -> None:
    slot, last_us = await history.last_heard(np.arange(6, dtype=np.int32), T0_US)
    assert (slot.tolist(), last_us.tolist()) == ([1, 2, 4], [end_us(1)] * 3)
    assert len((await history.last_heard(np.arange(6, dtype=np.int32), end_us(2)))[0]) == 0


@both_layouts
async def test_an_estimate_of_the_service_is_no_sign_of_life(history: History, dsn: str) -> None:
    mark = "UPDATE reads SET quality = quality # %s WHERE slot = 1 AND end_at = %s"
    newest = (Method.LINEAR << METHOD_SHIFT, moment(end_us(1)))
    with psycopg.connect(dsn) as connection:
        connection.execute(mark, newest)
    slot, last_us = await history.last_heard(np.arange(6, dtype=np.int32), T0_US)
    with psycopg.connect(dsn) as connection:
        connection.execute(mark, newest)
    assert dict(zip(slot.tolist(), last_us.tolist(), strict=True)) == {1: end_us(0), 2: end_us(1), 4: end_us(1)}


@both_layouts
async def test_batches_not_evaluated_come_oldest_first(history: History, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for seq, evaluated, first in ((1, True, moment(T0_US)), (2, False, moment(T0_US + 3)), (3, False, None)):
            connection.execute(
                "INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions,"
                " duplicates, rejected, first_end, last_end, received_at, evaluated)"
                " VALUES (1, 1, 1, %s, '', '', 0, 0, 0, 0, 0, %s, %s, now(), %s)",
                (seq, first, first, evaluated),
            )
    async with load_view(history.pool, 900, columnar=history.columnar) as view:
        found = await view.owed()
    assert [(one.first_end_us, one.last_end_us) for one in found] == [(T0_US + 3, T0_US + 3), (0, 0)]
    assert found[0][0] < found[1][0]


@both_layouts
@pytest.mark.parametrize("all_slots", [3, 1000])
async def test_the_reads_of_days_that_follow_each_other_have_no_hole(dsn: str, layout: Layout, all_slots: int) -> None:
    """Looked up day by day, or all together where most of the meters are wanted: also those at the days' borders."""
    steps = range(-1, 2 * 96 + 2)
    fill(dsn, [(slot, step, 0, step + 1, None, None) for slot in (1, 2) for step in steps])
    columnar = layout is Layout.COLUMNSTORE
    found: list[tuple[int, int]] = []
    async with (
        psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool,
        load_view(pool, 900, columnar=columnar) as view,
    ):
        slots = np.array([1, 2], np.int32)
        async for change in view.reads(slots, all_slots, T0_US, end_us(2 * 96)):
            found += zip(change.slot.tolist(), change.end_us.tolist(), strict=True)
    assert len(set(found)) == len(found)
    assert {(slot, end_us(step)) for slot in (1, 2) for step in range(1, 2 * 96 + 1)} <= set(found)


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_a_moment_is_the_same_microseconds_again(us: int) -> None:
    assert micros(moment(us)) == us


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (psycopg.OperationalError("x"), StorageUnavailable),
        (psycopg.InterfaceError("x"), StorageUnavailable),
        (psycopg.errors.AdminShutdown("x"), StorageUnavailable),
        (psycopg.errors.ReadOnlySqlTransaction("x"), StorageUnavailable),
        (psycopg.errors.DataCorrupted("x"), StorageBroken),
        (psycopg.errors.UndefinedTable("x"), psycopg.errors.UndefinedTable),
    ],
)
def test_an_error_of_the_connection_is_unavailable_and_of_the_data_is_broken(error: Exception, ours: Any) -> None:
    with pytest.raises(ours), storage_faults():
        raise error


async def test_a_closed_pool_is_unavailable(dsn: str) -> None:
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
        history = History(pool)
    with pytest.raises(StorageUnavailable):
        await history.last_heard(np.zeros(1, np.int32), 0)


OWED = """
INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates, rejected,
                     first_end, last_end, received_at, evaluated)
VALUES (1, %s, 1, 1, '', '', 1, 1, 0, 0, 0, %s, %s, %s, %s)
"""


@both_layouts
@pytest.mark.parametrize("evaluated", [False, True])
async def test_who_is_off_in_owed_batches_is_found_however_old(dsn: str, history: History, evaluated: bool) -> None:
    with psycopg.connect(dsn) as connection:
        [(received_at,)] = connection.execute("SELECT received_at FROM events WHERE slot = 4").fetchall()
        span = (moment(end_us(0)), moment(end_us(1)))
        connection.execute(OWED, (1, *span, moment(end_us(1)), evaluated))
        connection.execute(OWED, (2, None, None, received_at, evaluated))
    slot, at_us = await history.owed_off()
    expected = [] if evaluated else [(1, end_us(1)), (4, T0_US + 1)]
    assert sorted(zip(slot.tolist(), at_us.tolist(), strict=True)) == expected


@both_layouts
async def test_the_newest_stored_time_and_end_are_known_and_zero_if_there_is_none(dsn: str, history: History) -> None:
    assert await history.newest_end_us(end_us(1) + 1) == end_us(1)
    assert await history.newest_end_us(end_us(1)) == end_us(0)
    assert await history.newest_end_us(end_us(0)) == 0
    assert await history.newest_stored_us() == 0
    with psycopg.connect(dsn) as connection:
        connection.execute(OWED, (2, None, None, moment(T0_US), True))
    assert await history.newest_stored_us() == T0_US


@both_layouts
async def test_the_newest_stamp_is_that_of_a_read_or_an_event(dsn: str, history: History) -> None:
    newest_us = await history.newest_stamp_us()
    assert newest_us >= end_us(1)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO events (at, received_at, slot, code) VALUES (%(at)s, %(at)s, 1, 2)",
            {"at": moment(newest_us + 1)},
        )
    assert await history.newest_stamp_us() == newest_us + 1
