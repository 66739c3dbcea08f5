"""A loss of supply told late, of a time within an outage that is over and no longer held, changes its own alone."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from service_process import import_grid
from test_restart import NEIGHBOUR, START, START_US, STEP_US, TRANSFORMER, send, tell

from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.config import ClockSection, Config, Database, Server

OUTAGES = """
SELECT asset, state <> 'RETRACTED', onset_at, raised_at, cleared_at FROM alarms
WHERE rule = 'OUTAGE' AND asset_kind = 'transformer' ORDER BY onset_at"""
HOUR_US = 4 * STEP_US
OFF_US = START_US + 40 * STEP_US


async def lost(address: str, transformer: str, begin_us: int, hours: float) -> None:
    for code, at_us in ((EventCode.POWER_FAIL, begin_us), (EventCode.POWER_RESTORED, begin_us + int(hours * HOUR_US))):
        await asyncio.to_thread(tell, address, code, at_us, transformer)


async def outages(dsn: str, *, late: bool, restarted: bool) -> list[Any]:
    """Two outages of one feeder, the second within the first; told in order, or the second 30 h after."""
    config = Config(
        server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=ClockSection(mode="replay", start=START)
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, batches, events, alarms, alarm_log, transformer_loads, transformer_members")
        connection.execute("UPDATE alarm_cursor SET seq = 0")
        async with running(config) as service:
            await asyncio.to_thread(import_grid, service.address)
            await asyncio.to_thread(send, service.address, 0, 40, 200)
            await lost(service.address, TRANSFORMER, OFF_US, 6)
            if not late:
                await lost(service.address, NEIGHBOUR, OFF_US + 3 * HOUR_US, 0.5)
            await asyncio.to_thread(send, service.address, 64, 64 + 130, 200)
            if late and not restarted:
                await lost(service.address, NEIGHBOUR, OFF_US + 3 * HOUR_US, 0.5)
        if late and restarted:
            async with running(config) as service:
                await asyncio.to_thread(send, service.address, 64 + 130, 64 + 131, 200)
                await lost(service.address, NEIGHBOUR, OFF_US + 3 * HOUR_US, 0.5)
        return connection.execute(OUTAGES).fetchall()


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_outage_told_late_leaves_the_one_around_it_as_it_was(dsn: str, restarted: bool) -> None:
    in_order = await outages(dsn, late=False, restarted=False)
    assert [(asset, stands) for asset, stands, *_ in in_order] == [(TRANSFORMER, True), (NEIGHBOUR, True)]
    assert await outages(dsn, late=True, restarted=restarted) == in_order
