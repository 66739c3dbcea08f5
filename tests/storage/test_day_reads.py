"""The reads of meter-days, as columns, are what plain SQL says they are, whichever way they are asked for."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from storage.arrays import micros, moment
from storage.meter_days import DayStore

START_US = 1_768_086_000_000_000
DAY_US = 86_400_000_000
SLOTS = [*range(40), 900, 5000]
BIGGEST = 2**31 - 1
_ROWS = """
SELECT slot, end_at, interval_s, quality, version, coalesce(import_wh, -1), coalesce(export_wh, -1),
       coalesce(greatest(current_a_a, current_b_a, current_c_a), -1), coalesce(device_status, 0) & 64 <> 0, received_at
FROM reads ORDER BY slot, end_at"""


@pytest.fixture(scope="module")
def rows(dsn: str) -> list[tuple[Any, ...]]:
    """Reads of two days with every value there can be; all of them, plainly read."""
    dice = random.Random(1)
    reads = []
    for slot in SLOTS:
        for n in sorted(dice.sample(range(48), 30)):
            end_us = START_US + (n + 1) * 3_600_000_000
            few = [None, 0, 1, BIGGEST]
            reads.append((
                moment(end_us), moment(end_us + dice.randrange(10**12)), slot, dice.choice([60, 900, 86_400]),
                dice.choice([0, 1 << 13, BIGGEST]), dice.choice([1, 2, 32_767]), dice.choice(few), dice.choice(few),
                dice.choice([None, 0.0, 1.5]), dice.choice([None, 2.5]), dice.choice([None, 0, 63, 64, BIGGEST, -1]),
            ))  # fmt: skip
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh, export_wh,"
            " current_a_a, current_c_a, device_status) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", reads,
        )  # fmt: skip
        cursor.execute("INSERT INTO read_stamps SELECT DISTINCT end_at FROM reads")
        return cursor.execute(_ROWS).fetchall()


@pytest.mark.parametrize(
    "slots",
    [[3], list(range(40)), [n for n in range(40) if n not in (7, 20)], [0, 9, 17, 38], [1, 900, 5000], [41, 42]],
    ids=["one", "all of a span", "nearly all of it", "some of it", "far apart", "without reads"],
)
async def test_reads_are_those_of_the_slots_and_spans(dsn: str, rows: list[tuple[Any, ...]], slots: list[int]) -> None:
    start_us = np.array([START_US + slot % 3 * 7_200_000_000 for slot in slots], np.int64)
    end_us = start_us + DAY_US - np.array([slot % 2 * 3_600_000_000 for slot in slots], np.int64)
    expected = [
        (slots.index(slot), micros(end), *values, micros(received))
        for slot, end, *values, received in rows
        if slot in slots and start_us[slots.index(slot)] < micros(end) <= end_us[slots.index(slot)]
    ]
    async with (
        AsyncConnectionPool(dsn, min_size=1, open=False, kwargs={"autocommit": True}) as pool,
        DayStore(pool).step() as step,
    ):
        columns = await step.reads(np.array(slots, np.int32), start_us, end_us)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
