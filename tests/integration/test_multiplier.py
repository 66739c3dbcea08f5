"""The instrument transformers of a meter are exchanged at noon: every read counts with those of its own time.

Stamps are interval starts and energies those behind the transformers, as both are stated on the wire. In order, or the
afternoon first and the morning late; the day is one of 92, 96 or 100 quarter-hours.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr
from service_process import until

from meterwatch.app import running
from meterwatch.client import HeadEnd, RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

ZONE = ZoneInfo("Europe/Zurich")
QUARTER_US = 900 * US
BEFORE, AFTER = 40, 60


def us(at: datetime) -> int:
    return int(at.timestamp()) * US


def registry(multiplier: int) -> list[RegistryFile]:
    meters = (
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
        f"concentrator,head_end\nM,,ABC,230,400,,{multiplier},900,2020-01-01,,,,H\n"
    )
    return [
        RegistryFile("head_ends", "head_ends.csv", b"head_end,time_zone,late_window_days\nH,Europe/Zurich,60\n"),
        RegistryFile("meters", "meters.csv", meters.encode()),
    ]


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the morning late"])
@pytest.mark.parametrize(
    ("day", "quarters"), [(date(2025, 3, 30), 92), (date(2025, 6, 1), 96), (date(2025, 10, 26), 100)], ids=str
)
def test_a_multiplier_that_changes_at_noon_splits_the_day(dsn: str, day: date, quarters: int, late: bool) -> None:
    first_us = us(datetime.combine(day, time(0), ZONE))
    noon_us = us(datetime.combine(day, time(12), ZONE))
    start_us = first_us + np.arange(quarters) * QUARTER_US
    assert start_us[-1] + QUARTER_US == us(datetime.combine(day + timedelta(days=1), time(0), ZONE))
    wh = np.arange(quarters) % 7 + 100  # behind the transformers
    parts = [np.flatnonzero(start_us < noon_us), np.flatnonzero(start_us >= noon_us)]
    tables = "meter_multipliers, meter_transformers, meter_links, meters, head_ends, concentrators, transformers"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"TRUNCATE reads, read_versions, batches, alarms, alarm_log, meter_days, meter_days_owed, local_day_passes,"  # type: ignore[arg-type]
            f" transformer_feeders, feeders, {tables} RESTART IDENTITY"
        )

    def query(text: str) -> list[Any]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    def send(address: str) -> None:
        with HeadEnd(address, "H", 1) as client:
            for rows in reversed(parts) if late else parts:
                index = np.zeros(len(rows), np.uint32)
                client.send_columns(["M"], index, start_us[rows], 900, import_wh=wh[rows], starts=True, secondary=True)
                client.flush()
            tomorrow_us = int(start_us[-1]) + 86_400 * US
            client.send_columns(["M"], [0], [tomorrow_us], 900, import_wh=[0])
            client.flush()
            until(lambda: bool(query("SELECT FROM meter_days WHERE import_wh > 0")), "the day judged")

    async def live() -> None:
        config = Config(
            server=Server(port=0),
            database=Database(url=SecretStr(dsn)),
            clock=ClockSection(mode="replay", start=datetime.fromtimestamp(first_us // US, UTC)),
        )
        async with running(config) as service:
            for multiplier, since_us in ((BEFORE, first_us), (AFTER, noon_us)):
                answer = await asyncio.to_thread(import_registry, service.address, registry(multiplier), since_us)
                assert not answer.error, answer.error
            await asyncio.to_thread(send, service.address)

    asyncio.run(live())
    expected = np.where(start_us < noon_us, BEFORE, AFTER) * wh
    stored = query("SELECT extract(epoch FROM end_at)::bigint, import_wh, quality & 256 FROM reads ORDER BY end_at")
    assert stored[:-1] == [
        (int(at + QUARTER_US) // US, energy, 0) for at, energy in zip(start_us, expected.tolist(), strict=True)
    ]
    days = query("SELECT import_wh, present, expected FROM meter_days WHERE import_wh > 0")
    assert days == [(int(expected.sum()), quarters, quarters)]
