"""The writer against a real TimescaleDB: counts, re-sends, versions, absent channels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of

from meterwatch.batch import Batch, Column, Reads, Rejects
from meterwatch.quality import ORIGIN_SHIFT, Origin
from storage.writer import Writer

pytestmark = both_layouts
NOW_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("reads", "read_versions", "batches", "quarantine"):
            connection.execute(f"TRUNCATE {table}")  # type: ignore[arg-type]
    made = Writer(dsn, {1: "UNKNOWN_METER"}, table=table_of(dsn))
    yield made
    made.close()


def rows(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def batch(seq: int, wh: list[int], origin: Origin = Origin.MEASURED, **channels: Column) -> Batch:
    n = len(wh)
    quality = np.full(n, int(origin) << ORIGIN_SHIFT, np.int32)
    end_us = np.full(n, NOW_US, np.int64)
    columns: dict[str, Column] = {"import_wh": np.array(wh, np.int32), **channels}
    reads = Reads(np.arange(n, dtype=np.int32), end_us, 900, quality, columns)
    rejects = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
    return Batch(1, 7, seq, f"{seq}{wh}{origin}".encode(), reads, rejects, 0, n)


def test_a_fresh_batch_is_all_accepted_and_its_energy_adds_up(writer: Writer, dsn: str) -> None:
    (stored,) = writer.write([batch(1, [10, 20, 30])], NOW_US)
    assert (stored.accepted, stored.versions, stored.duplicates, stored.replayed) == (3, 0, 0, False)
    assert rows(dsn, "SELECT count(*), sum(import_wh), count(voltage_a_v) FROM reads") == [(3, 60, 0)]


def test_the_same_key_again_is_replayed_and_writes_nothing(writer: Writer, dsn: str) -> None:
    (first,) = writer.write([batch(1, [10, 20])], NOW_US)
    writer._open().execute("SET default_transaction_read_only = on")
    (again,) = writer.write([batch(1, [10, 20])], NOW_US + HOUR_US)
    assert again.replayed
    assert (again.accepted, again.batch_id) == (first.accepted, first.batch_id)
    assert rows(dsn, "SELECT count(*) FROM batches") == [(1,)]


def test_the_same_key_with_other_content_is_refused(writer: Writer) -> None:
    writer.write([batch(1, [10])], NOW_US)
    (other,) = writer.write([batch(1, [11])], NOW_US)
    assert other.reused
    assert not other.replayed


def test_the_same_reads_in_another_batch_are_duplicates(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [10, 20])], NOW_US)
    (again,) = writer.write([batch(2, [10, 20, 30])], NOW_US)
    assert (again.accepted, again.versions, again.duplicates) == (1, 0, 2)
    assert again.change is not None
    assert again.change.slot.tolist() == [2]
    assert rows(dsn, "SELECT count(*), sum(import_wh) FROM reads") == [(3, 60)]


def test_a_different_value_becomes_a_version_and_the_old_one_stays(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [10, 20])], NOW_US)
    (changed,) = writer.write([batch(2, [10, 25])], NOW_US)
    assert (changed.accepted, changed.versions, changed.duplicates) == (0, 1, 1)
    assert changed.change is not None
    assert changed.change.import_wh.tolist() == [25, 20]
    assert changed.change.sign.tolist() == [1, -1]
    assert rows(dsn, "SELECT import_wh, version FROM reads ORDER BY slot") == [(10, 1), (25, 2)]
    assert rows(dsn, "SELECT slot, import_wh, version FROM read_versions") == [(1, 20, 1)]


def test_a_superseded_value_sent_again_is_a_duplicate(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [10])], NOW_US)
    writer.write([batch(2, [11])], NOW_US)
    (again,) = writer.write([batch(3, [10])], NOW_US)
    assert (again.versions, again.duplicates) == (0, 1)
    assert rows(dsn, "SELECT import_wh FROM reads") == [(11,)]


def test_a_lower_rank_never_replaces_a_higher_one(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [10])], NOW_US)
    (estimate,) = writer.write([batch(2, [12], Origin.ESTIMATED)], NOW_US)
    assert estimate.versions == 1
    assert rows(dsn, "SELECT import_wh FROM reads") == [(10,)]
    assert rows(dsn, "SELECT import_wh FROM read_versions") == [(12,)]


def test_a_duplicate_in_a_group_costs_only_its_own_batch(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [10])], NOW_US)
    stored = writer.write([batch(2, [10]), batch(3, [10, 20]), batch(2, [10])], NOW_US)
    assert [(s.accepted, s.duplicates, s.replayed) for s in stored] == [(0, 1, False), (1, 1, False), (0, 1, True)]
    assert rows(dsn, "SELECT count(*) FROM reads") == [(2,)]


def test_writers_that_are_sent_the_same_reads_at_once_do_not_meet_in_the_table(writer: Writer, dsn: str) -> None:
    """Every read comes three times, in batches of other sizes, over two writers that share what is known."""
    writers = [writer, Writer(dsn, {}, table=writer.table)]
    wh = np.random.default_rng(4).integers(0, 1000, 2_000).tolist()
    groups = [
        [batch(100 * number + at, wh[: 2_000 - 300 * ((number + at) % 3)]) for at in range(6)] for number in range(1, 9)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(writers[n % 2].write, group, NOW_US) for n, group in enumerate(groups)]
            answers = [stored for one in work for stored in one.result(60)]
    finally:
        writers[1].close()
    assert sum(stored.accepted for stored in answers) == 2_000
    assert sum(stored.accepted + stored.duplicates for stored in answers) == sum(b.rows_sent for g in groups for b in g)
    assert [one.careful_batches for one in writers] == [0, 0]
    assert rows(dsn, "SELECT count(*), sum(import_wh) FROM reads") == [(2_000, sum(wh))]


def test_rejected_rows_go_to_quarantine_and_come_back_in_a_replay(writer: Writer, dsn: str) -> None:
    whole = batch(1, [10])
    rejects = Rejects(np.array([4], np.uint32), np.array([1], np.uint8), [b'{"meter": "x"}'])
    with_reject = Batch(1, 7, 1, whole.digest, whole.reads, rejects, 0, 2)
    writer.write([with_reject], NOW_US)
    (again,) = writer.write([with_reject], NOW_US)
    assert again.rejected_row.tolist() == [4]
    assert again.rejected_reason.tolist() == [1]
    assert rows(dsn, "SELECT row_no, reason, detail->>'meter' FROM quarantine") == [(4, "UNKNOWN_METER", "x")]


def test_absent_channels_are_null_per_row(writer: Writer, dsn: str) -> None:
    made = batch(1, [1, 2, 3], voltage_a_v=np.array([230.5, 0, 231], np.float32))
    mask = np.array([0b10001, 0b00001, 0b10000], np.uint32)
    reads = Reads(made.reads.slot, made.reads.end_us, 900, made.reads.quality, made.reads.channels, mask)
    writer.write([Batch(1, 7, 1, b"d", reads, made.rejects, 0, 3)], NOW_US)
    assert rows(dsn, "SELECT import_wh, voltage_a_v FROM reads ORDER BY slot") == [(1, 230.5), (2, None), (None, 231.0)]


def test_batches_with_different_channels_go_into_one_copy(writer: Writer, dsn: str) -> None:
    volts = np.array([230.0, 231.0], np.float32)
    one, two, three = batch(1, [1, 2]), batch(2, [3, 4], voltage_a_v=volts), batch(3, [5, 6], power_factor=volts / 300)
    for i, each in enumerate((one, two, three)):
        each.reads.slot[:] += 10 * i
    writer.write([one, two, three], NOW_US)
    assert rows(dsn, "SELECT import_wh, voltage_a_v, power_factor > 0.7 FROM reads ORDER BY 1") == [
        (1, None, None), (2, None, None), (3, 230.0, None), (4, 231.0, None), (5, None, True), (6, None, True)
    ]  # fmt: skip
