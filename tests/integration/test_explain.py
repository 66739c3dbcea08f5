"""Why there is each of three alarms, told by a real service over the reads and events that made them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr
from service_process import import_grid
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.cli import app
from meterwatch.client import HeadEnd
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.demo import fleet

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
FEEDER, TRANSFORMER, CONCENTRATOR = "MV1.101-L45", "LV1.109", "DC-PLC-3.104"
SILENT_FROM, CUT_AT, BACK_AT, END = 6, 12, 16, 20
GASPS = 0.6


@dataclass
class Told:
    address: str
    alarm_id: dict[str, str]
    gasped: list[str]


def send(address: str) -> list[str]:
    """Five hours of a town: one transformer loaded 1.2, a concentrator dies, a feeder is cut and restored."""
    town = fleet()
    meters, n = town.meter, len(town.meter)
    on_feeder = np.array([name == FEEDER for name in town.feeder])
    dead = np.array([name == CONCENTRATOR for name in town.concentrator]) & ~on_feeder
    hot = np.array([name == TRANSFORMER for name in town.transformer]) & ~on_feeder
    wh = np.where(hot, round(1.2 * 160 * 250 * 0.95 / hot.sum()), 100).astype(np.int32)
    volts = np.full(n, 230, np.float32)
    gasped = [m for i, m in enumerate(np.array(meters)[on_feeder].tolist()) if i < GASPS * on_feeder.sum()]
    with HeadEnd(address, "HES-1") as head_end:
        for step in range(1, END + 1):
            speaks = ~(dead & (step >= SILENT_FROM)) & ~(on_feeder & (CUT_AT < step <= BACK_AT))
            index = np.flatnonzero(speaks).astype(np.uint32)
            end_us = np.full(len(index), START_US + step * STEP_US)
            columns = {"import_wh": wh[index], "voltage_a_v": volts[index]}
            head_end.send_columns(meters, index, end_us, 900, **columns)
            head_end.flush()
            for at, code, since in ((CUT_AT, EventCode.POWER_FAIL, 5), (BACK_AT, EventCode.POWER_RESTORED, 7)):
                if step == at:
                    stamps = [START_US + step * STEP_US + since * US + i for i in range(len(gasped))]
                    head_end.send_events(gasped, stamps, [int(code)] * len(gasped))
    return gasped


def send_late(address: str) -> None:
    """The reads of the silent concentrator's meters, after all."""
    town = fleet()
    dead = np.array([name == CONCENTRATOR for name in town.concentrator])
    dead &= np.array([name != FEEDER for name in town.feeder])
    index = np.flatnonzero(dead).astype(np.uint32)
    with HeadEnd(address, "HES-1") as head_end:
        for step in range(SILENT_FROM, END + 1):
            end_us = np.full(len(index), START_US + step * STEP_US)
            head_end.send_columns(town.meter, index, end_us, 900, import_wh=np.full(len(index), 100, np.int32))
        head_end.flush()


@pytest.fixture
async def told(dsn: str) -> AsyncIterator[Told]:
    config = Config(
        server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=ClockSection(mode="replay", start=START)
    )
    async with running(config) as service:
        await asyncio.to_thread(import_grid, service.address)
        gasped = await asyncio.to_thread(send, service.address)
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "SELECT asset, alarm_id FROM alarms WHERE asset = ANY(%s) AND rule <> 'HOT_SPOT'",
                ([FEEDER, TRANSFORMER, CONCENTRATOR],),
            ).fetchall()
        yield Told(service.address, dict(rows), gasped)


async def explain(told: Told, asset: str, *options: str) -> str:
    arguments = ["alarms", "explain", told.alarm_id[asset], "--address", told.address, *options]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


async def explained(told: Told, asset: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await explain(told, asset, "--json"))
    return found


async def test_each_alarm_says_what_was_seen_by_which_limits_and_who_was_silent(told: Told) -> None:
    outage = await explained(told, FEEDER)
    seen = outage["meters"]
    assert seen["off"] == len(told.gasped)
    assert seen["members"] == seen["looked_at"] > seen["off"]
    first = seen["meter"][0]
    assert (first["said"], first["said_by"], first["back_by"]) == ("OFF", "EVENT", "EVENT")
    assert int(first["said_us"]) == START_US + CUT_AT * STEP_US + 5 * US
    assert int(first["back_us"]) == START_US + BACK_AT * STEP_US + 7 * US
    assert int(first["said_arrived_us"]) >= int(first["said_us"])
    assert {m["meter"] for m in seen["meter"] if m["said"] == "OFF"} <= set(told.gasped)
    told_by = outage["told_by"]
    assert re.fullmatch(r"default [0-9a-f]{8}, meterwatch \S+", told_by)
    assert outage["rules_version"] == told_by
    limits = {one["name"]: (one["told_json"], one["now_json"]) for one in outage["limit"]}
    assert limits["posterior_min"] == ("0.99", "0.99")
    assert [c["kind"] for c in outage["change"]][:1] == ["RAISED"]
    assert "CLEARED" in [c["kind"] for c in outage["change"]]

    silence = await explained(told, CONCENTRATOR)
    seen = silence["meters"]
    assert seen["silent"] == seen["members"] > 0
    last = START_US + (SILENT_FROM - 1) * STEP_US
    assert {int(m["heard_us"]) for m in seen["meter"]} == {last}
    assert {m["said"] for m in seen["meter"]} == {"SILENT"}
    assert all(last < int(m["due_us"]) <= int(silence["alarm"]["raised_us"]) for m in seen["meter"])
    assert {int(m["back_us"]) for m in seen["meter"]} == {0}

    await asyncio.to_thread(send_late, told.address)
    late = (await explained(told, CONCENTRATOR))["meters"]
    assert late["silent"] == seen["silent"]  # what came after the alarm was told does not count
    assert all(int(m["back_us"]) > int(silence["alarm"]["raised_us"]) for m in late["meter"])

    overload = await explained(told, TRANSFORMER)
    load = overload["load"]
    assert (overload["meters"]["silent"], overload["meters"]["off"]) == (0, 0)
    raised = next(w for w in load if int(w["end_us"]) == int(overload["alarm"]["raised_us"]))
    before = next(w for w in load if int(w["end_us"]) == int(overload["alarm"]["raised_us"]) - STEP_US)
    assert (raised["level"], before["level"]) == ("OVERLOAD", "")
    assert raised["b"] == pytest.approx(1.2, abs=0.01)
    assert (raised["coverage"], raised["valid"]) == (1.0, True)

    arguments = ["alarms", "explain", "OUT-none", "--address", told.address]
    unknown = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert unknown.exit_code != 0
    assert "OUT-none" in unknown.output

    for asset, words in (
        (FEEDER, ("fault began", "first of it arrived", "posterior_min", "said OFF", "RAISED", "CLEARED")),
        (CONCENTRATOR, ("first read overdue", "SILENT", "lost_share")),
        (TRANSFORMER, ("next held", "OVERLOAD", "b = load over 160 kVA", "raise_pu")),
    ):
        page = await explain(told, asset, "--zone", "Europe/Berlin")
        assert [word for word in words if word not in page] == []
        assert "CET" in page
        assert "UTC" not in page.split("\nTimes")[1].split("\nJudged by")[0]
