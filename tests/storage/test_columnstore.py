"""Without a unique index a read is still stored once: restarts, races, commits in doubt, other services."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import psycopg_pool
import pytest
from databases import compresses, table_of

from meterwatch.batch import Batch, Reads, Rejects
from meterwatch.clock import SimulatedClock
from meterwatch.errors import StorageBroken, StorageUnavailable
from storage.arrays import moment
from storage.columnstore import Columnstore
from storage.known import LOAD_ROWS
from storage.layout import Layout
from storage.upkeep import PACK_AFTER, Retention, Upkeep
from storage.writer import Writer

pytestmark = pytest.mark.parametrize("layout", [Layout.COLUMNSTORE], indirect=True, scope="module")
NOW_US = 1_767_225_600_000_000
STEP_US = 900_000_000
DAY_US = 86_400_000_000
COMPRESSED, UNORDERED, PARTIAL = 1, 2, 8
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])


@pytest.fixture
def table(dsn: str) -> Columnstore:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches")
    made = table_of(dsn)
    assert isinstance(made, Columnstore)
    return made


@pytest.fixture
def writers(dsn: str, table: Columnstore) -> Iterator[list[Writer]]:
    made = [Writer(dsn, {}, table=table) for _ in range(3)]
    yield made
    for writer in made:
        writer.close()


def batch(seq: int, slot: Any, end_us: Any = NOW_US, wh: int = 5, head_end: int = 1) -> Batch:
    slot = np.asarray(slot, np.int32)
    n = len(slot)
    ends = np.broadcast_to(np.asarray(end_us, np.int64), n)
    reads = Reads(slot, ends, 900, np.zeros(n, np.int32), {"import_wh": np.full(n, wh, np.int32)})
    return Batch(head_end, 1, seq, f"{head_end} {seq} {wh}".encode(), reads, NO_REJECTS, 0, n)


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]


def rows_and_reads(dsn: str) -> tuple[int, int]:
    return one(dsn, "SELECT count(*) FROM reads"), one(
        dsn, "SELECT count(*) FROM (SELECT DISTINCT slot, end_at FROM reads) d"
    )


@pytest.mark.parametrize("count", [LOAD_ROWS // 2, 2 * LOAD_ROWS], ids=["looked up", "loaded"])
def test_after_a_restart_what_was_stored_is_found_again(writers: list[Writer], dsn: str, count: int) -> None:
    writers[0].write([batch(1, np.arange(0, count, 2))], NOW_US)
    writers[1].table = table_of(dsn)
    [again] = writers[1].write([batch(2, np.arange(count))], NOW_US)
    assert (again.accepted, again.duplicates, again.versions) == (count // 2, count // 2, 0)
    assert rows_and_reads(dsn) == (count, count)


def test_the_same_reads_twice_in_one_group_are_stored_once(writers: list[Writer], dsn: str) -> None:
    group = [batch(1, [1, 2, 3]), batch(2, [3, 4]), batch(3, [5])]
    stored = writers[0].write(group, NOW_US)
    assert [(s.accepted, s.duplicates) for s in stored] == [(3, 0), (1, 1), (1, 0)]
    assert rows_and_reads(dsn) == (5, 5)


def test_the_same_reads_from_many_sides_at_once_are_stored_once(writers: list[Writer], dsn: str) -> None:
    def send(number: int) -> list[tuple[int, int, int]]:
        rng = np.random.default_rng(number)
        counts = []
        for seq in range(1, 13):
            slots = np.sort(rng.choice(60, 40, replace=False))
            ends = NOW_US + STEP_US * rng.integers(0, 3, 40)
            [done] = writers[number].write([batch(seq, slots, ends, head_end=number + 1)], NOW_US)
            counts.append((done.accepted, done.duplicates, done.versions))
        return counts

    with ThreadPoolExecutor(3) as threads:
        counts = [count for some in threads.map(send, range(3)) for count in some]
    rows, reads = rows_and_reads(dsn)
    assert rows == reads == sum(accepted for accepted, _, _ in counts)
    assert all(sum(count) == 40 and count[2] == 0 for count in counts)


@pytest.mark.parametrize("commits", [True, False])
def test_a_commit_in_doubt_is_waited_for(writers: list[Writer], table: Columnstore, dsn: str, commits: bool) -> None:
    """As when a connection broke in COMMIT: nobody here knows its end, and its transaction still runs."""
    with psycopg.connect(dsn) as limbo:
        table._known.lose(table._known.take([batch(1, [1, 2]).reads]))
        with limbo.cursor() as cursor:
            table.begin(cursor)
            cursor.execute(
                "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh)"
                " SELECT %s, now(), slot, 900, 0, 1, 5 FROM unnest(ARRAY[1, 2]) AS slot",
                (moment(NOW_US),),
            )
        threading.Timer(0.3, limbo.commit if commits else limbo.rollback).start()
        [stored] = writers[0].write([batch(2, [1, 2, 3])], NOW_US)
    assert (stored.accepted, stored.duplicates) == ((1, 2) if commits else (3, 0))
    assert rows_and_reads(dsn) == (3, 3)


def test_a_writer_cut_off_in_its_transaction_holds_nobody_up(writers: list[Writer], dsn: str) -> None:
    writers[0].write([batch(1, [1])], NOW_US)
    pid = writers[0]._connection.info.backend_pid  # type: ignore[union-attr]
    with psycopg.connect(dsn) as lock:  # so that it is cut off with its reads under way
        lock.execute("LOCK TABLE batches IN EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as threads:
            cut = threads.submit(writers[0].write, [batch(2, [2, 3])], NOW_US)
            while not one(dsn, f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted"):
                pass
            one(dsn, f"SELECT pg_terminate_backend({pid})")
            with pytest.raises(StorageUnavailable):
                cut.result(30)
    [stored] = writers[1].write([batch(3, [2, 3])], NOW_US)
    assert (stored.accepted, stored.duplicates) == (2, 0)
    assert rows_and_reads(dsn) == (3, 3)


def test_a_service_whose_database_was_taken_over_writes_nothing_more(writers: list[Writer], dsn: str) -> None:
    writers[0].write([batch(1, [1])], NOW_US)
    writers[1].table = table_of(dsn)
    with pytest.raises(StorageBroken, match="took over"):
        writers[0].write([batch(2, [2])], NOW_US)
    [stored] = writers[1].write([batch(3, [1, 2])], NOW_US)
    assert (stored.accepted, stored.duplicates) == (1, 1)


def test_other_values_of_reads_far_apart_become_versions_and_nothing_else_changes(
    writers: list[Writer], dsn: str
) -> None:
    slots = np.arange(0, 9_000, 3)
    for n, day in enumerate((0, 1)):
        writers[0].write([batch(1 + n, slots, NOW_US + day * DAY_US)], NOW_US)
    changed = np.array([0, 3, 2_700, 8_997])
    both = np.concatenate((changed, changed)), NOW_US + DAY_US * np.repeat([0, 1], 4)
    [stored] = writers[0].write([batch(3, *both, wh=9)], NOW_US)
    assert (stored.accepted, stored.versions, stored.duplicates) == (0, 8, 0)
    assert rows_and_reads(dsn) == (6_000, 6_000)
    assert one(dsn, "SELECT sum(import_wh) FROM reads") == 6_000 * 5 + 8 * 4
    assert one(dsn, "SELECT sum(import_wh) FROM read_versions") == 8 * 5


async def test_a_finished_day_is_packed_and_its_reads_are_the_same(writers: list[Writer], dsn: str) -> None:
    if not compresses(dsn):
        pytest.skip("this database has no columnstore to pack into")
    slots = np.arange(3_000)
    for seq in range(1, 5):
        writers[0].write([batch(seq, slots, NOW_US + seq * STEP_US)], NOW_US)
    writers[0].write([batch(9, [5], NOW_US + STEP_US, wh=7)], NOW_US)  # decompresses what it changes
    chunk = one(dsn, "SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks"
                     " WHERE hypertable_name = 'reads'")  # fmt: skip
    status = f"SELECT _timescaledb_functions.chunk_status('{chunk}')"
    assert one(dsn, status) == COMPRESSED | UNORDERED | PARTIAL
    clock = SimulatedClock(NOW_US + 2 * DAY_US + PACK_AFTER // timedelta(microseconds=1), 1.0)
    async with psycopg_pool.AsyncConnectionPool(
        dsn, min_size=1, max_size=1, open=False, kwargs={"autocommit": True}
    ) as pool:
        await Upkeep(pool, clock, Retention(), packs=True).once()
    assert one(dsn, status) == COMPRESSED
    [again] = writers[0].write([batch(10, slots, NOW_US + STEP_US)], NOW_US)
    assert (again.accepted, again.duplicates, again.versions) == (0, 3_000, 0)
    assert rows_and_reads(dsn) == (12_000, 12_000)
    assert one(dsn, "SELECT sum(import_wh) FROM reads") == 12_000 * 5 + 2
