"""Rows named by key are looked up: none is compared with all of a young table, whatever its statistics say."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import psycopg
import pytest

from meterwatch.local_days import as_date
from storage import edits, meter_days, registers
from storage.arrays import bigints, integers, moment, moments

DAY = 20_454
START_US = DAY * 86_400_000_000
METERS, ASKED = 5_000, 200


def compared(connection: psycopg.Connection[Any], statement: str, parameters: Any) -> int:
    """Rows that a statement reads or throws away, by its own plan."""
    plan = connection.execute(f"EXPLAIN (ANALYZE, TIMING off) {statement}", parameters).fetchall()
    text = "\n".join(row[0] for row in plan)
    nodes = re.findall(r"actual rows=([\d.]+) loops=(\d+)", text)
    gone = re.findall(r"Rows Removed by [A-Za-z ]+: (\d+)", text)
    return sum(int(float(rows) * int(loops)) for rows, loops in nodes) + sum(int(rows) for rows in gone)


@pytest.fixture
def connection(dsn: str) -> Any:
    with psycopg.connect(dsn) as opened:
        opened.execute("SET LOCAL random_page_cost = 0.001")  # a large table's costs: a tall index is no dearer
        yield opened
        opened.rollback()


def many_reads(connection: psycopg.Connection[Any]) -> None:
    """An interval, statistics, and nine more intervals of which they know nothing."""
    for first, last in ((0, 0), (1, 9)):
        connection.execute(
            "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh)"
            " SELECT %s + step * interval '15 min', %s, slot, 900, 0, 1, 5"
            " FROM generate_series(%s::integer, %s::integer) AS step, generate_series(1, %s::integer) AS slot",
            (moment(START_US), moment(START_US), first, last, METERS),
        )
        if first == 0:
            connection.execute("ANALYZE reads")


def test_days_stored_since_the_statistics_were_taken_are_looked_up_one_by_one(connection: Any) -> None:
    """With a table joined to 1,000 meters each step compared them with every day stored: 1.3 s of the database."""
    connection.execute(meter_days._PLAN)
    for first, last in ((1, 1), (2, METERS)):
        connection.execute(
            "INSERT INTO meter_days (day, slot, start_at, day_s, import_wh, export_wh, present, expected, estimated,"
            " covered_s, complete, findings, tail_interval_s, tail_import_wh, tail_export_wh, tail_same_s, tail_loaded)"
            " SELECT %s, slot, %s, 86400, 1, 0, 96, 96, 0, 86400, true, 0, 900, 1, 0, 0, 0"
            " FROM generate_series(%s::integer, %s::integer) AS slot",
            (as_date(DAY), moment(START_US), first, last),
        )
        if first == 1:
            connection.execute("ANALYZE meter_days")
    days = [as_date(DAY - back) for back in (0, 1, 7, 14, 21, 28)]
    asked = {"slots": integers(np.arange(1, ASKED + 1)), "days": days, "first": min(days), "last": max(days)}
    assert ASKED <= compared(connection, meter_days._BEFORE, asked) <= 10 * ASKED


def test_events_of_many_meters_are_looked_up_one_by_one(connection: Any) -> None:
    connection.execute(meter_days._PLAN)
    connection.execute(
        "INSERT INTO events (at, received_at, slot, code) SELECT %s + slot * interval '1 ms', %s, slot, 1"
        " FROM generate_series(1, %s::integer) AS slot",
        (moment(START_US), moment(START_US), METERS),
    )
    slots = np.arange(1, ASKED + 1, dtype=np.int32)
    start_us = np.full(ASKED, START_US, np.int64)
    spans = meter_days._spans(slots, start_us, start_us + 86_400_000_000)
    assert ASKED <= compared(connection, meter_days._EVENTS, spans) <= 10 * ASKED


def test_findings_are_written_without_comparing_each_with_every_read(connection: Any) -> None:
    connection.execute(meter_days._PLAN)
    many_reads(connection)
    slot = np.tile(np.arange(1, ASKED + 1, dtype=np.int32), 3)
    end_us = START_US + np.repeat(np.array([3, 5, 8], np.int64), ASKED) * 900_000_000
    bits, version = np.full(len(slot), 8192, np.int32), np.ones(len(slot), np.int32)
    connection.execute(meter_days._HASHED)
    read = compared(connection, meter_days._MARK_READS, meter_days._marked(slot, end_us, bits, version))
    assert len(slot) <= read <= 10 * len(slot)
    assert connection.execute("SELECT count(*) FROM reads WHERE quality = 8192").fetchone() == (len(slot),)


@pytest.mark.parametrize("statement", [registers._KEEP, registers._REPLACE])
def test_registers_of_another_value_are_looked_up_one_by_one(connection: Any, statement: str) -> None:
    for first, last in ((1, 1), (2, METERS)):
        connection.execute(
            "INSERT INTO register_reads (at, received_at, slot, register, version, value_wh)"
            " SELECT %s, %s, slot, 1, 1, 5 FROM generate_series(%s::integer, %s::integer) AS slot",
            (moment(START_US), moment(START_US), first, last),
        )
        if first == 1:
            connection.execute("ANALYZE register_reads")
    sent = {
        "slot": integers(np.arange(1, ASKED + 1)),
        "register": integers(np.ones(ASKED, np.int32)),
        "at": moments(np.full(ASKED, START_US, np.int64)),
        "value": bigints(np.full(ASKED, 6, np.int64)),
        **{"low": moment(START_US), "high": moment(START_US), "now": moment(START_US + 1)},
    }
    assert ASKED <= compared(connection, statement, sent) <= 10 * ASKED
    changed = "SELECT count(*) FROM register_versions" if statement == registers._KEEP else (
        "SELECT count(*) FROM register_reads WHERE value_wh = 6 AND version = 2"
    )  # fmt: skip
    assert connection.execute(changed).fetchone() == (ASKED,)


@pytest.mark.parametrize("statement", [edits._BEFORE, edits._BEFORE_UNLOCKED, edits._RECORD])
def test_reads_to_be_edited_are_looked_up_one_by_one(connection: Any, statement: str) -> None:
    many_reads(connection)
    asked = {
        "slot": integers(np.arange(1, ASKED + 1)),
        "end": moments(np.full(ASKED, START_US + 5 * 900_000_000, np.int64)),
        "was": ["{}"] * ASKED,
        **{"first": moment(START_US), "last": moment(START_US + 9 * 900_000_000)},
        **{"action": "a-1", "operator": "op", "reason": "why", "now": moment(START_US)},
    }
    assert ASKED <= compared(connection, statement, asked) <= 10 * ASKED
