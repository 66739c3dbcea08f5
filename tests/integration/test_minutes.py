"""One supply monitor, a voltage a minute: what the outage rule makes of it, to the minute, through the whole service.

The series below is made up after a real afternoon: four minutes dark, a brownout at half the voltage, three minutes
dark, a return with overvoltage, a dark minute an hour later, a dip that is none. METERWATCH_ESMI=FILE.csv (the 1-minute
voltages of the Electricity Supply Monitoring Initiative, which may not be passed on) tells the real one, of its monitor
APU004: `device_id,timestamp_local,v_min,v_max,v_avg`.
"""

from __future__ import annotations

import asyncio
import csv
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
import pytest
from law_stories import head_ends
from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.client import HeadEnd, RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.quality import Quality

STATION = "APU004"
INDIA = ZoneInfo("Asia/Kolkata")
NOMINAL_V = 230.0
ESMI = os.environ.get("METERWATCH_ESMI")


@dataclass
class Series:
    """Minute by minute, as the monitor stamped them in local time."""

    at: list[datetime]
    volts: list[float]

    def minutes(self, low: float, high: float) -> list[str]:
        """Local minutes with low <= voltage < high."""
        return [f"{at:%H:%M}" for at, v in zip(self.at, self.volts, strict=True) if low <= v < high]


def made_up() -> Series:
    """Values of no real minute; the times are those of the real afternoon."""
    start = datetime(2015, 1, 4, 12, 30, tzinfo=INDIA)
    at = [start + timedelta(minutes=i) for i in range(150)]

    def volts(hour: int, minute: int) -> float:
        now = hour * 60 + minute
        if 785 <= now <= 788 or 808 <= now <= 810 or now == 872:
            return 0.0
        if 789 <= now <= 807:
            return 110.0 + now % 20
        return 148.0 if now == 760 else 245.0 if 811 <= now <= 815 else 236.0

    return Series(at, [volts(one.hour, one.minute) for one in at])


def real() -> Series:
    assert ESMI
    with open(ESMI, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device_id"] == STATION]
    at = [datetime.strptime(row["timestamp_local"], "%Y/%m/%d %H:%M:%S").replace(tzinfo=INDIA) for row in rows]
    return Series(at, [float(row["v_avg"]) for row in rows])


def monitors() -> list[RegistryFile]:
    meters = (
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
        f"concentrator,head_end\n{STATION},,A,230,80,,1,60,2014-01-01,,,,H-0\n"
    )
    return [head_ends(), RegistryFile("meters", "meters.csv", meters.encode())]


def told(dsn: str, series: Series, order: np.ndarray[Any, Any]) -> tuple[list[Any], list[str]]:
    """Send the series in this order; the alarms in local time, and the minutes that counted as without supply."""
    end_us = np.array([int(at.timestamp()) * US for at in series.at])
    volts = np.array(series.volts, np.float32)

    async def live() -> None:
        start = datetime.fromtimestamp(int(end_us.min()) // US - 60, UTC)
        config = Config(
            server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=ClockSection(mode="replay", start=start)
        )
        async with running(config) as service:
            assert not (await asyncio.to_thread(import_registry, service.address, monitors())).error
            await asyncio.to_thread(send, service.address)

    def send(address: str) -> None:
        with HeadEnd(address, "H-0", 1) as client:
            for rows in np.array_split(order, 10):
                index = np.zeros(len(rows), np.uint32)
                client.send_columns([STATION], index, end_us[rows], 60, voltage_a_v=volts[rows])
                client.flush()

    asyncio.run(live())
    local = "to_char(%s AT TIME ZONE 'Asia/Kolkata', 'HH24:MI')"
    with psycopg.connect(dsn) as connection:
        alarms = connection.execute(
            f"SELECT asset, level, {local % 'onset_at'}, {local % 'cleared_at'} FROM alarms"  # type: ignore[arg-type]
            " WHERE rule = 'OUTAGE' AND state <> 'RETRACTED' ORDER BY onset_at"
        ).fetchall()
        off = connection.execute(
            f"SELECT {local % 'end_at'} FROM reads WHERE quality & {int(Quality.SUPPLY_OFF)} <> 0 ORDER BY end_at"  # type: ignore[arg-type]
        ).fetchall()
    return alarms, [minute for (minute,) in off]


WAYS = pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
REAL = pytest.param(real, id="real", marks=pytest.mark.skipif(not ESMI, reason="the file may not be passed on"))


@WAYS
@pytest.mark.parametrize("series_of", [pytest.param(made_up, id="made up"), REAL])
def test_outages_and_the_brownout_between_them_come_at_their_minutes(dsn: str, series_of: Any, shuffled: bool) -> None:
    series: Series = series_of()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches, events, alarms, alarm_log")
    order = np.arange(len(series.at))
    if shuffled:
        order = np.random.default_rng(4).permutation(order)
    alarms, off = told(dsn, series, order)

    dark = series.minutes(0, 1)
    brown = series.minutes(1, 0.6 * NOMINAL_V)
    assert dark == ["13:05", "13:06", "13:07", "13:08", "13:28", "13:29", "13:30", "14:32"]
    assert brown == [f"13:{minute:02}" for minute in range(9, 28)]
    # each minute counts: the dark ones, and those of the brownout, in which no appliance works; the dips do not
    assert off == sorted(dark + brown)
    # dark, brown and dark again are one loss of supply, over a minute after the voltage is back (restore_hold_s);
    # one dark minute alone is a momentary interruption and no alarm
    assert alarms == [(STATION, "SUSTAINED", "13:05", "13:32")]
