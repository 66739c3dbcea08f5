"""The bench's arm about questions: a meter's day and a transformer's month, in a table filled with weeks of reads.

The reads are copied in as they would have come, interval by interval, before the day on which the bench sends; the
loads of the transformers are summed from them. Each question is of a meter or transformer that nobody has asked for
yet, and is asked twice: the figure is the first answer, what was read then helps the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final

import numpy as np

from loadtest.copy_arm import CopyArm, CopyLoad
from loadtest.database import Database
from loadtest.fleet import INTERVAL_S, METERS_PER_TRANSFORMER, US, Fleet
from loadtest.load import Load
from meterwatch.client.retry import open_channel
from meterwatch.v1 import reads_pb2, reads_pb2_grpc

DAY_US: Final = 86_400 * US
DAY_INTERVALS: Final = 86_400 // INTERVAL_S
PIECES: Final = 2
"""Copies a day is made in: half a day of 32,000 meters is 200 MB in memory."""
MONTH_DAYS: Final = 31
KEYS: Final = {
    "day by service": "query_meter_day",
    "day by SQL": "query_meter_day_sql",
    "month by SQL": "query_transformer_month",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, asked twice."""

    arm: str
    rows: int
    first_ms: float
    again_ms: float


def fill(dsn: str, database: Database, fleet: Fleet, days: int, meters: int, say: Callable[[str], None]) -> Fleet:
    """Copy days of reads of the first meters in, ending where the fleet begins; their fleet."""
    past = Fleet(meters, 1, fleet.start_us - days * DAY_US, fleet.seed)
    copy = CopyArm(dsn, past, database.slots(fleet)[:meters], database.usual_quality())
    began_s = time.monotonic()
    try:
        for day in range(days):
            database.make_chunk(past.start_us + day * DAY_US)
            for piece in range(PIECES):
                many = DAY_INTERVALS // PIECES
                copy.prepare(CopyLoad(Load(day * DAY_INTERVALS + piece * many + 1, many), 0, 2))
                copy.run()
            database.sum_loads(past.end_us(day * DAY_INTERVALS), past.end_us((day + 1) * DAY_INTERVALS))
            if (day + 1) % 5 == 0 or day + 1 == days:
                say(
                    f"{(day + 1) * DAY_INTERVALS * meters:,} reads are in the table, {time.monotonic() - began_s:.0f} s"
                )
    finally:
        copy.close()
    database.analyze()
    return past


def ask(
    address: str, database: Database, past: Fleet, days: int, questions: int, say: Callable[[str], None]
) -> tuple[list[Asked], dict[str, float]]:
    """Ask the service and the database, in turn, for many meters and transformers."""
    rng = np.random.default_rng((past.seed, 3))
    order = rng.permutation(past.meters // METERS_PER_TRANSFORMER)
    windows = min(days, MONTH_DAYS) * DAY_INTERVALS
    end_us = past.end_us(days * DAY_INTERVALS)
    month = (end_us - windows * INTERVAL_S * US, end_us)
    runs: list[Asked] = []
    channel = open_channel(address)
    try:
        query: Any = reads_pb2_grpc.ReadsStub(channel).Query
        for nth in range(questions):
            by_service, by_sql = (past.name(meter) for meter in rng.integers(past.meters, size=2))
            day_us = past.start_us + int(rng.integers(days)) * DAY_US
            day = (day_us, day_us + DAY_US)
            transformer = f"T{order[nth % len(order)]}"
            runs += [
                _asked("day by service", DAY_INTERVALS, partial(_service, query, by_service, *day)),
                _asked("day by SQL", DAY_INTERVALS, partial(database.day, by_sql, *day)),
                _asked("month by SQL", windows, partial(database.month, transformer, *month)),
            ]
    finally:
        channel.close()
    figures: dict[str, float] = {}
    for arm, key in KEYS.items():
        mine = [one for one in runs if one.arm == arm]
        first, again = median(one.first_ms for one in mine), median(one.again_ms for one in mine)
        figures |= {f"{key}_ms": first, f"{key}_again_ms": again}
        say(f"{arm:22} {first:.2f} ms, asked again {again:.2f} ms: medians of {len(mine)} questions")
    return runs, figures


def _asked(arm: str, expected: int, question: Callable[[], int]) -> Asked:
    took_ms: list[float] = []
    for _ in range(2):
        began_s = time.monotonic()
        rows = question()
        took_ms.append(1000 * (time.monotonic() - began_s))
        if rows != expected:
            raise RuntimeError(f"{arm}: {rows} rows came, {expected} are stored")
    return Asked(arm, rows, *took_ms)


def _service(query: Any, meter: str, from_us: int, to_us: int) -> int:
    request = reads_pb2.QueryRequest(meter=[meter], from_us=from_us + 1, to_us=to_us + 1)
    return sum(len(chunk.end_us) for chunk in query(request))
