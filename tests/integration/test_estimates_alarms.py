"""An estimate never raises an overload and never ends an outage: live, after a restart, and in a replay."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
import psycopg
from databases import Databases
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr
from served import fresh_database
from service_process import import_grid

from meterwatch import data
from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.quality import Method, Origin
from meterwatch.replay import replay
from meterwatch.v1 import gaps_pb2
from rules.profile import PROFILES

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
HERE, ELSEWHERE = "LV1.109", "LV4.101"
CALM_WH = 200
HIGH_WH = round(1.2 * 160 * 250 * 0.95 / 13)
"""160 kVA, 13 meters, power factor 0.95: b = 1.2."""


def meters_of(transformer: str) -> list[str]:
    with (data.GRID / "meters.csv").open() as file:
        return [row["meter"] for row in csv.DictReader(file) if row["transformer"] == transformer]


def config(dsn: str) -> Config:
    return Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=START),
    )


def send(address: str, transformer: str, wh: dict[int, int], **more: Any) -> None:
    """Reads of all its meters: quarter-hour -> Wh."""
    meters = meters_of(transformer)
    with HeadEnd(address, "HES-1") as head_end:
        for step, energy in wh.items():
            head_end.send_columns(
                meters,
                np.arange(len(meters), dtype=np.uint32),
                np.full(len(meters), START_US + step * STEP_US),
                900,
                import_wh=np.full(len(meters), energy, np.int32),
                **{name: np.full(len(meters), value) for name, value in more.items()},
            )
        head_end.flush()


def tell(address: str, step: float, code: EventCode) -> None:
    meters = meters_of(HERE)
    with HeadEnd(address, "HES-1") as head_end:
        head_end.send_events(meters, [round(START_US + step * STEP_US)] * len(meters), [code] * len(meters))


def alarms(dsn: str, rule: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT alarm_id, version, asset, state, level, cleared_at FROM alarms"
            " WHERE rule = %s AND state <> 'RETRACTED' ORDER BY onset_at, asset",
            (rule,),
        ).fetchall()


def estimate(address: str, first: int, last: int) -> list[int]:
    """Methods of what is written for the quarter-hours first..last of the transformer."""
    request = gaps_pb2.EstimateRequest(
        meter=meters_of(HERE), from_us=START_US + (first - 1) * STEP_US, to_us=START_US + last * STEP_US
    )
    with grpc.insecure_channel(address) as channel:
        chunks = channel.unary_stream(
            "/meterwatch.v1.Gaps/Estimate", response_deserializer=gaps_pb2.EstimateResponse.FromString
        )(request.SerializeToString(), timeout=60)
        return [method for chunk in chunks for method in chunk.method]


async def replayed(dsn: str, rule: str) -> list[str]:
    """What a replay of the stored reads would have otherwise."""
    async with AsyncConnectionPool(dsn, open=False, kwargs={"options": "-c TimeZone=UTC"}) as pool:
        found = await replay(pool, START_US, START_US + 96 * STEP_US, PROFILES["default"])
    told = [(one.kind, one.stored or one.replayed) for one in found.differences if one.kind != "same"]
    return [f"{kind} {alarm.asset}" for kind, alarm in told if alarm is not None and alarm.rule == rule]


async def test_an_estimate_never_raises_an_overload(cluster: Databases) -> None:
    gap = range(25, 33)
    curve = {step: HIGH_WH if step in (24, 33) else CALM_WH for step in range(1, 46) if step not in gap}
    with fresh_database(cluster) as dsn:
        async with running(config(dsn)) as service:
            await asyncio.to_thread(import_grid, service.address)
            await asyncio.to_thread(send, service.address, HERE, curve)
            methods = await asyncio.to_thread(estimate, service.address, gap[0], gap[-1])
            assert methods == [Method.LINEAR] * 13 * len(gap)
            assert alarms(dsn, "OVERLOAD") == []
            with psycopg.connect(dsn) as connection:
                stored = connection.execute(
                    "SELECT avg(import_wh), count(*) FROM reads WHERE import_wh > %s", (CALM_WH,)
                )
                assert stored.fetchone() == (HIGH_WH, 13 * (len(gap) + 2)), "the table shows 2.5 h of overload"
        assert await replayed(dsn, "OVERLOAD") == []
        async with running(config(dsn)) as service:
            assert alarms(dsn, "OVERLOAD") == []
            await asyncio.to_thread(send, service.address, HERE, {46: CALM_WH})
            assert alarms(dsn, "OVERLOAD") == []
            with psycopg.connect(dsn) as connection:
                covered = connection.execute(
                    "SELECT max(coverage) FROM transformer_load_curve WHERE transformer = %s AND window_end"
                    " BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
                    (HERE, START_US // US + gap[0] * 900, START_US // US + gap[-1] * 900),
                ).fetchone()
                assert covered in [(None,), (0.0,)]
            await asyncio.to_thread(send, service.address, HERE, dict.fromkeys(gap, HIGH_WH + 1))
            [(_, _, asset, *_)] = alarms(dsn, "OVERLOAD")  # what was measured does
            assert asset == HERE
        assert await replayed(dsn, "OVERLOAD") == []


async def test_an_estimate_never_ends_an_outage(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn:
        async with running(config(dsn)) as service:
            await asyncio.to_thread(import_grid, service.address)
            for transformer in (HERE, ELSEWHERE):
                await asyncio.to_thread(send, service.address, transformer, dict.fromkeys(range(1, 21), CALM_WH))
            await asyncio.to_thread(tell, service.address, 20.1, EventCode.POWER_FAIL)
            await asyncio.to_thread(send, service.address, ELSEWHERE, dict.fromkeys(range(21, 41), CALM_WH))
            [before] = alarms(dsn, "OUTAGE")
            assert before[2:4] == (HERE, "UNACK_ACTIVE")
            methods = await asyncio.to_thread(estimate, service.address, 22, 36)
            assert methods == [Method.OUTAGE] * 13 * 15
            await asyncio.to_thread(send, service.address, ELSEWHERE, {41: CALM_WH})
            assert alarms(dsn, "OUTAGE") == [before]
            # a head-end's estimates are no evidence either, whatever voltage they name
            await asyncio.to_thread(
                send, service.address, HERE, {30: CALM_WH, 31: CALM_WH}, voltage_a_v=231.0, origin=int(Origin.ESTIMATED)
            )
            await asyncio.to_thread(send, service.address, ELSEWHERE, {42: CALM_WH})
            assert alarms(dsn, "OUTAGE") == [before]
        assert await replayed(dsn, "OUTAGE") == []
        async with running(config(dsn)) as service:
            assert alarms(dsn, "OUTAGE") == [before]
            await asyncio.to_thread(send, service.address, ELSEWHERE, {43: CALM_WH})
            assert alarms(dsn, "OUTAGE") == [before]
            await asyncio.to_thread(tell, service.address, 43.5, EventCode.POWER_RESTORED)
            await asyncio.to_thread(send, service.address, ELSEWHERE, {44: CALM_WH})
            [(*_, cleared_at)] = alarms(dsn, "OUTAGE")
            assert cleared_at is not None
        assert await replayed(dsn, "OUTAGE") == []
