"""What a restart may not change, with the service in this process and the clock replayed."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from pydantic import SecretStr
from service_process import import_grid

from meterwatch import data
from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd, RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
TRANSFORMER = "LV1.109"
NEIGHBOUR = "LV1.110"
"""On the same feeder."""
DAY = 96


def alarms(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT alarm_id, version, state, severity, level, onset_at, raised_at, cleared_at FROM alarms"
            " WHERE rule = 'OVERLOAD' ORDER BY onset_at"
        ).fetchall()


def members(transformer: str = TRANSFORMER) -> list[str]:
    with (data.GRID / "meters.csv").open() as file:
        return [row["meter"] for row in csv.DictReader(file) if row["transformer"] == transformer]


def send(address: str, first: int, stop: int, import_wh: int) -> None:
    """Reads of all meters of the transformer for quarter-hours first..stop-1, one batch per six hours."""
    meters = members()
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


def load(*parts: tuple[int, float]) -> list[int]:
    """Wh of each of the 13 meters per quarter-hour: (quarter-hours, b) one after the other; 160 kVA, factor 0.95."""
    return [round(b * 160 * 250 * 0.95 / 13) for count, b in parts for _ in range(count)]


def send_curve(address: str, curve: list[int], first: int) -> None:
    meters = members()
    with HeadEnd(address, "HES-1") as head_end:
        for step, wh in enumerate(curve[first:], first + 1):
            end_us = np.full(len(meters), START_US + step * STEP_US)
            wh_each = np.full(len(meters), wh, np.int32)
            head_end.send_columns(meters, np.arange(len(meters), dtype=np.uint32), end_us, 900, import_wh=wh_each)
        head_end.flush()


async def test_a_restart_changes_no_alarm_that_ended_in_the_ring_and_began_before_it(dsn: str) -> None:
    """Heavy load that latched before the ring dates the alarm; the ring alone would date it later, or take it back."""
    curve = load((16, 0.5), (40, 0.85), (12, 1.1), (8, 0.5), (170, 0.3), (10, 0.85), (190, 0.78), (12, 1.1), (40, 0.3))
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=START),
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, batches, alarms, alarm_log, transformer_loads, transformer_members")
        connection.execute("UPDATE alarm_cursor SET seq = 0")
    async with running(config) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send_curve, service.address, curve[:250], 0)
        before = alarms(dsn)
    [(*_, onset_at, raised_at, cleared_at)] = before
    ring_at = START + timedelta(minutes=15 * (250 - 192))
    assert onset_at < ring_at < raised_at < cleared_at
    async with running(config) as service:
        assert alarms(dsn) == before
        await asyncio.to_thread(send_curve, service.address, curve[:440], 250)
        assert alarms(dsn) == before
    async with running(config) as service:  # heavy for longer than the ring, and no alarm yet
        await asyncio.to_thread(send_curve, service.address, curve, 440)
        [_, second] = alarms(dsn)
    assert second[5] == START + timedelta(minutes=15 * (250 - 4))


def tell(address: str, code: EventCode, at_us: int, transformer: str = TRANSFORMER) -> None:
    meters = members(transformer)
    with HeadEnd(address, "HES-1") as head_end:
        head_end.send_events(meters, np.full(len(meters), at_us), np.full(len(meters), int(code), np.uint32))


async def test_what_an_old_file_left_open_ends_as_measured_also_after_a_restart(dsn: str) -> None:
    """Told 60 days after: open, as it was told, and nobody is called; what comes after it ends it."""
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=START + timedelta(days=60)),
    )
    query = (
        "SELECT rule, alarm_id, state, onset_at, raised_at, cleared_at FROM alarms"
        " WHERE parent_id IS NULL AND rule IN ('OUTAGE', 'OVERLOAD') ORDER BY 1"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, batches, alarms, alarm_log, transformer_loads, transformer_members")
        connection.execute("UPDATE alarm_cursor SET seq = 0")
        curve, off_us = load((16, 0.5), (56, 1.1), (24, 0.3)), START_US + 2 * DAY * STEP_US
        async with running(config) as service:
            await asyncio.to_thread(import_grid, service.address)
            late = RegistryFile("head_ends", "head_ends.csv", b"head_end,time_zone,late_window_days\nHES-1,UTC,120\n")
            assert not (await asyncio.to_thread(import_registry, service.address, [late])).error
            await asyncio.to_thread(send_curve, service.address, curve[:72], 0)
            await asyncio.to_thread(tell, service.address, EventCode.POWER_FAIL, off_us)
            before = connection.execute(query).fetchall()
        assert [(rule, state, cleared) for rule, _, state, _, _, cleared in before] == [
            ("OUTAGE", "NORMAL", None),
            ("OVERLOAD", "NORMAL", None),
        ]
        async with running(config) as service:
            assert connection.execute(query).fetchall() == before
            await asyncio.to_thread(send_curve, service.address, curve, 72)
            await asyncio.to_thread(tell, service.address, EventCode.POWER_RESTORED, off_us + 3600 * US)
            after = connection.execute(query).fetchall()
    assert [row[:5] for row in after] == [row[:5] for row in before]
    outage_over, overload_over = (row[-1] for row in after)
    assert outage_over == START + timedelta(days=2, hours=1, seconds=60)  # ON for T_off
    assert overload_over == START + timedelta(minutes=15 * 74)


async def test_an_outage_in_which_the_look_back_of_a_restart_begins_stays_as_it_was(dsn: str) -> None:
    """Another outage of its feeder has the group judged again; what is loaded begins in the middle of the first one."""
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=START),
    )
    query = (
        "SELECT alarm_id, version, state, onset_at, raised_at, cleared_at FROM alarms WHERE rule = 'OUTAGE'"
        " AND asset_kind = 'transformer' ORDER BY onset_at"
    )
    off_us, hour_us = START_US + 40 * STEP_US, 4 * STEP_US
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, batches, events, alarms, alarm_log, transformer_loads, transformer_members")
        connection.execute("UPDATE alarm_cursor SET seq = 0")
        async with running(config) as service:
            await asyncio.to_thread(import_grid, service.address)
            await asyncio.to_thread(send, service.address, 0, 40, 200)
            for begin_us, transformer in ((off_us, TRANSFORMER), (off_us + 5 * hour_us, NEIGHBOUR)):
                await asyncio.to_thread(tell, service.address, EventCode.POWER_FAIL, begin_us, transformer)
                await asyncio.to_thread(
                    tell, service.address, EventCode.POWER_RESTORED, begin_us + hour_us, transformer
                )
            await asyncio.to_thread(send, service.address, 64, 40 + 102, 200)  # 25.5 h after it began
            before = connection.execute(query).fetchall()
        assert [(state, cleared is None) for _, _, state, _, _, cleared in before] == [("RTN_UNACK", False)] * 2
        async with running(config) as service:
            await asyncio.to_thread(send, service.address, 40 + 102, 40 + 104, 200)
            assert connection.execute(query).fetchall() == before
