"""What a restart may not change, with the service in this process and the clock replayed."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from pydantic import SecretStr
from service_process import import_grid

from meterwatch import data
from meterwatch.app import running
from meterwatch.client import HeadEnd
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
TRANSFORMER = "LV1.109"
DAY = 96


def alarms(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT alarm_id, version, state, severity, level, onset_at, raised_at, cleared_at FROM alarms"
            " WHERE rule = 'OVERLOAD' ORDER BY onset_at"
        ).fetchall()


def send(address: str, first: int, stop: int, import_wh: int) -> None:
    """Reads of all meters of the transformer for quarter-hours first..stop-1, one batch per six hours."""
    with (data.GRID / "meters.csv").open() as file:
        meters = [row["meter"] for row in csv.DictReader(file) if row["transformer"] == TRANSFORMER]
    with HeadEnd(address, "HES-1") as head_end:
        for at in range(first, stop, 24):
            ends = START_US + np.arange(at + 1, min(at + 24, stop) + 1) * STEP_US
            n = len(meters) * len(ends)
            head_end.send_columns(
                meters,
                np.tile(np.arange(len(meters), dtype=np.uint32), len(ends)),
                np.repeat(ends, len(meters)),
                900,
                import_wh=np.full(n, import_wh, np.int32),
            )
            head_end.flush()


async def test_an_overload_older_than_the_ring_keeps_its_onset_over_a_restart(dsn: str) -> None:
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=START),
    )
    overloaded_wh, calm_wh = 160 * 250 * 14 // 10 // 13, 200
    async with running(config) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send, service.address, 0, DAY // 4, calm_wh)
        await asyncio.to_thread(send, service.address, DAY // 4, 4 * DAY, overloaded_wh)
        before = alarms(dsn)
    assert [(state, cleared) for _, _, state, *_, cleared in before] == [("UNACK_ACTIVE", None)]
    async with running(config) as service:
        assert alarms(dsn) == before
        await asyncio.to_thread(send, service.address, 4 * DAY, 4 * DAY + 2, overloaded_wh)
        assert alarms(dsn) == before
        await asyncio.to_thread(send, service.address, 4 * DAY + 2, 4 * DAY + 24, calm_wh)
        [(alarm_id, _, state, *_, onset_at, raised_at, cleared_at)] = alarms(dsn)
    assert (alarm_id, state, onset_at, raised_at) == (before[0][0], "RTN_UNACK", before[0][5], before[0][6])
    assert cleared_at is not None
