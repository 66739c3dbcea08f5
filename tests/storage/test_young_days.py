"""What judging a day asks of the database compares nothing with all of a young day, whatever its statistics say."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import psycopg
import pytest

from meterwatch.local_days import as_date
from storage import meter_days
from storage.arrays import integers, moment

DAY = 20_454
START_US = DAY * 86_400_000_000
METERS, ASKED = 5_000, 200


def compared(connection: psycopg.Connection[Any], statement: str, parameters: Any) -> int:
    """Rows that a statement reads or throws away, by its own plan."""
    plan = connection.execute(f"EXPLAIN (ANALYZE, TIMING off) {statement}", parameters).fetchall()
    text = "\n".join(row[0] for row in plan)
    assert "chunk" in text, text
    nodes = re.findall(r"actual rows=([\d.]+) loops=(\d+)", text)
    gone = re.findall(r"Rows Removed by [A-Za-z ]+: (\d+)", text)
    return sum(int(float(rows) * int(loops)) for rows, loops in nodes) + sum(int(rows) for rows in gone)


@pytest.fixture
def connection(dsn: str) -> Any:
    with psycopg.connect(dsn) as opened:
        opened.execute("SET LOCAL random_page_cost = 0.001")  # a large table's costs: a tall index is no dearer
        opened.execute(meter_days._PLAN)
        yield opened
        opened.rollback()


def test_days_stored_since_the_statistics_were_taken_are_looked_up_one_by_one(connection: Any) -> None:
    """With a table joined to 1,000 meters each step compared them with every day stored: 1.3 s of the database."""
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
    assert compared(connection, meter_days._BEFORE, asked) <= 10 * ASKED


def test_events_of_many_meters_are_looked_up_one_by_one(connection: Any) -> None:
    connection.execute(
        "INSERT INTO events (at, received_at, slot, code) SELECT %s + slot * interval '1 ms', %s, slot, 1"
        " FROM generate_series(1, %s::integer) AS slot",
        (moment(START_US), moment(START_US), METERS),
    )
    slots = np.arange(1, ASKED + 1, dtype=np.int32)
    start_us = np.full(ASKED, START_US, np.int64)
    spans = meter_days._spans(slots, start_us, start_us + 86_400_000_000)
    assert compared(connection, meter_days._EVENTS, spans) <= 10 * ASKED


def test_findings_are_written_without_comparing_each_with_every_read(connection: Any) -> None:
    for first, last in ((0, 0), (1, 9)):
        connection.execute(
            "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh)"
            " SELECT %s + step * interval '15 min', %s, slot, 900, 0, 1, 5"
            " FROM generate_series(%s::integer, %s::integer) AS step, generate_series(1, %s::integer) AS slot",
            (moment(START_US), moment(START_US), first, last, METERS),
        )
        if first == 0:
            connection.execute("ANALYZE reads")
    slot = np.tile(np.arange(1, ASKED + 1, dtype=np.int32), 3)
    end_us = START_US + np.repeat(np.array([3, 5, 8], np.int64), ASKED) * 900_000_000
    bits, version = np.full(len(slot), 8192, np.int32), np.ones(len(slot), np.int32)
    connection.execute(meter_days._HASHED)
    read = compared(connection, meter_days._MARK_READS, meter_days._marked(slot, end_us, bits, version))
    assert read <= 10 * len(slot)
    assert connection.execute("SELECT count(*) FROM reads WHERE quality = 8192").fetchone() == (len(slot),)
