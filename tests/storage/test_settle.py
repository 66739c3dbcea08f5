"""Any mix of new, equal and different reads, with any hint, ends in the tables a plain dictionary ends in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterwatch.batch import Batch, Reads, Rejects
from meterwatch.channels import CHANNEL_BIT
from meterwatch.quality import ORIGIN_RANK, ORIGIN_SHIFT, Origin
from storage.arrays import integers, moment, moments
from storage.probe import ABSENT, BY_KEY, OTHER, SAME
from storage.versions import BY_KEY as BY_KEY_SETTLED
from storage.versions import create_staging
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
STEP_US = 900_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
Value = tuple[int | None, float | None, int | None, Origin]
"""import_wh, voltage_a_v, device_status, origin."""
Rows = dict[tuple[int, int], Value]

values = st.tuples(
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from([0.0, 229.5, 231.25]),
    st.none() | st.sampled_from([0, 1, 2**31 + 5]),
    st.sampled_from([Origin.MEASURED, Origin.MEASURED, Origin.ESTIMATED, Origin.EDITED]),
).filter(lambda value: value[:3] != (None, None, None))
batches = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), values, min_size=1, max_size=8)


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    made = Writer(dsn, {}, table=table_of(dsn))
    yield made
    made.close()


def reads_of(rows: Rows) -> Reads:
    keys = sorted(rows)
    names = ("import_wh", "voltage_a_v", "device_status")
    dtypes = (np.int32, np.float32, np.uint32)
    mask = [
        sum(CHANNEL_BIT[name] for name, v in zip(names, rows[key][:3], strict=True) if v is not None) for key in keys
    ]
    return Reads(
        np.array([slot for slot, _ in keys], np.int32),
        np.array([NOW_US + step * STEP_US for _, step in keys], np.int64),
        900,
        np.array([int(rows[key][3]) << ORIGIN_SHIFT for key in keys], np.int32),
        {name: np.array([rows[key][i] or 0 for key in keys], dtypes[i]) for i, name in enumerate(names)},
        np.array(mask, np.uint32),
    )


def stored(connection: psycopg.Connection[Any]) -> dict[tuple[int, int], tuple[Any, ...]]:
    rows = connection.execute(
        "SELECT slot, (extract(epoch FROM end_at) * 1000000)::bigint, import_wh, voltage_a_v, device_status,"
        " quality >> 24, version FROM reads"
    ).fetchall()
    return {(row[0], (row[1] - NOW_US) // STEP_US): row[2:] for row in rows}


class Oracle:
    """The rules of versions, one read at a time."""

    def __init__(self) -> None:
        self.current: dict[tuple[int, int], tuple[Value, int]] = {}
        self.beside: list[tuple[tuple[int, int], Value]] = []

    def take(self, rows: Rows) -> tuple[int, int, int]:
        accepted = versions = duplicates = 0
        for key, value in rows.items():
            if key not in self.current:
                self.current[key] = (value, 1)
                accepted += 1
                continue
            old, version = self.current[key]
            if value == old or (key, value) in self.beside:
                duplicates += 1
                continue
            versions += 1
            if ORIGIN_RANK[value[3]] >= ORIGIN_RANK[old[3]]:
                self.beside.append((key, old))
                self.current[key] = (value, version + 1)
            else:
                self.beside.append((key, value))
        return accepted, versions, duplicates


@both_layouts
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(batches, min_size=1, max_size=5), st.booleans())
def test_tables_and_counts_are_those_of_the_scalar_rules(
    writer: Writer, dsn: str, sent: list[Rows], forget: bool
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches")
        writer.table = table_of(dsn)
        oracle = Oracle()
        for seq, rows in enumerate(sent, 1):
            if forget:
                writer.table = table_of(dsn)  # as after a restart
            reads = reads_of(rows)
            [done] = writer.write([Batch(1, 1, seq, b"%d" % seq, reads, NO_REJECTS, 0, reads.rows)], NOW_US)
            assert (done.accepted, done.versions, done.duplicates) == oracle.take(rows)
        expected = {
            key: (wh, volts, None if status is None else int(np.uint32(status).view(np.int32)), int(origin), version)
            for key, ((wh, volts, status, origin), version) in oracle.current.items()
        }
        assert stored(connection) == expected
        beside = connection.execute("SELECT count(*) FROM read_versions").fetchone()
        assert beside == (len(oracle.beside),)


@both_layouts
def test_a_probe_tells_absent_same_and_other(writer: Writer, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches")
        base: Rows = {(slot, 0): (slot, 230.0, None, Origin.MEASURED) for slot in range(4)}
        reads = reads_of(base)
        writer.write([Batch(1, 1, 1, b"1", reads, NO_REJECTS, 0, 4)], NOW_US)
        asked: Rows = {
            (0, 0): base[0, 0],
            (1, 0): (None, 230.0, None, Origin.MEASURED),
            (2, 0): (2, 230.0, 0, Origin.MEASURED),
            (3, 0): (3, 230.0, None, Origin.EDITED),
            (3, 1): (3, 230.0, None, Origin.MEASURED),
        }
        with connection.transaction(), connection.cursor() as cursor:
            state = writer.table.probe(cursor, reads_of(asked), np.arange(5))
    assert state.tolist() == [SAME, OTHER, OTHER, OTHER, ABSENT]


@pytest.mark.parametrize("ends", [1, 9])
def test_statistics_from_before_the_newer_reads_do_not_change_how_reads_are_looked_up(dsn: str, ends: int) -> None:
    """One interval of many meters, statistics, then newer ones: for the planner these are not there, so that any other
    plan than a look-up per key costs nothing. With a million meters it took 28 s and more a group."""

    def fill(connection: psycopg.Connection[Any], first: int, last: int) -> None:
        connection.execute(
            "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh)"
            " SELECT %s + step * interval '15 min', %s, slot, 900, 0, 1, 5"
            " FROM generate_series(%s::integer, %s::integer) AS step, generate_series(1, 5000) AS slot",
            (moment(NOW_US), moment(NOW_US), first, last),
        )

    slot = np.arange(1, 31, dtype=np.int32)
    end_us = NOW_US + (1 + slot.astype(np.int64) % ends) * STEP_US
    span = moment(int(end_us.min())), moment(int(end_us.max()))
    asked = (integers(slot), moments(end_us), *span)
    settled = {"rows": slot.tolist(), "again": True, "first": span[0], "last": span[1]}
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches")
        connection.execute("SET LOCAL random_page_cost = 0.001")  # a large table's costs: a tall index is no dearer
        fill(connection, 0, 0)
        connection.execute("ANALYZE reads")
        fill(connection, 1, 9)
        create_staging(connection)
        connection.execute(
            "INSERT INTO staging (slot, end_at, received_at, interval_s, quality, version, import_wh, row_no)"
            " SELECT slot, at, at, 900, 0, 1, 7, slot FROM unnest(%s::integer[], %s::timestamptz[]) AS s (slot, at)",
            (integers(slot), moments(end_us)),
        )
        connection.execute("ANALYZE staging")
        plans = [connection.execute(f"EXPLAIN (ANALYZE, TIMING off) {BY_KEY}", asked).fetchall()]
        for statement in (BY_KEY_SETTLED.current, BY_KEY_SETTLED.keep_old):
            plans.append(connection.execute(f"EXPLAIN (ANALYZE, TIMING off) {statement}", settled).fetchall())
        connection.execute(BY_KEY_SETTLED.set_new, settled)  # an INSERT, which finds what is there by the unique index
        changed = connection.execute("SELECT count(*) FROM reads WHERE import_wh = 7 AND version = 2").fetchone()
        connection.rollback()
    assert changed == (30,)
    for plan in plans:
        text = "\n".join(row[0] for row in plan)
        found = re.findall(r"Index Scan.*chunk.*actual rows=(\d+) loops=(\d+)", text)
        assert found, text
        assert all(int(rows) <= 1 and int(loops) <= 30 for rows, loops in found), text
        assert "Rows Removed by Join Filter" not in text, text


@pytest.mark.parametrize("statement", [BY_KEY_SETTLED.current, BY_KEY_SETTLED.keep_old])
def test_a_correction_is_looked_up_in_the_chunks_of_its_time_only(dsn: str, statement: str) -> None:
    day_us = 86_400_000_000
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE reads")
        connection.cursor().executemany(
            "INSERT INTO reads (slot, end_at, received_at, interval_s, version, quality, import_wh)"
            " VALUES (1, %s, now(), 900, 1, 0, 1)",
            [(moment(NOW_US - day * day_us),) for day in range(30)],
        )
        create_staging(connection)
        span = {
            "rows": [1],
            "again": True,
            "first": moment(NOW_US - 10 * day_us),
            "last": moment(NOW_US - 10 * day_us + STEP_US),
        }
        plan = str(connection.execute(f"EXPLAIN {statement}", span).fetchall())
        connection.rollback()
    assert len(set(re.findall(r" on (_hyper_1_\d+_chunk)", plan))) == 1, plan
