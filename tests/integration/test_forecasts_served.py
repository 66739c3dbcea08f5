"""Forecasts of a running service: stored, asked for, told and taken back; plans and pages of the same loads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import Databases
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr
from served import fresh_database
from test_indices import FILES
from typer.testing import CliRunner

from meterwatch.alarms import Alarm, AlarmState
from meterwatch.app import Service, running
from meterwatch.cli import app
from meterwatch.client import RegistryFile, import_registry
from meterwatch.clock import US, ReplayClock
from meterwatch.config import ClockSection, Config, Database, ForecastSection, Server
from meterwatch.forecasts import Forecasts
from rules.ladder import OverloadProfile
from storage.arrays import bigints, integers, moments
from storage.forecasts import ForecastStore

NOON_US = 1_772_449_200 * US
"""2026-03-02 12:00 in Berlin, a Monday."""
HOUR_US = 3600 * US
WINDOW_US = 900 * US
DAYS = 34
RATED_KVA = 400.0
EVENING = (17, 22)
"""Hours of the peak, UTC."""
STORE = (
    "INSERT INTO transformer_loads (transformer_id, window_end, wh, varh, covered_weight_s, expected_weight_s)"
    " SELECT id, at, wh, 0, 900, 900 FROM unnest(%s, %s, %s) AS l (id, at, wh)"
    " ON CONFLICT (transformer_id, window_end) DO UPDATE SET wh = excluded.wh"
)


@pytest.fixture
def own_dsn(cluster: Databases) -> Iterator[str]:
    """A database for this test alone: stored loads and forecasts stay."""
    with fresh_database(cluster) as dsn:
        yield dsn


def put_loads(dsn: str, until_us: int, peak_pu: float) -> None:
    """DAYS of half the peak, and the peak in the evening."""
    end_us = until_us - WINDOW_US * np.arange(DAYS * 96)
    hour = (end_us - 1) // HOUR_US % 24
    load_pu = np.where((hour >= EVENING[0]) & (hour < EVENING[1]), peak_pu, peak_pu / 2)
    wh = np.rint(load_pu * RATED_KVA * 1000 / 4).astype(np.int64)
    with psycopg.connect(dsn) as connection:
        number = connection.execute("SELECT transformer_id FROM transformers").fetchall()[0][0]
        connection.execute(STORE, (integers(np.full(len(wh), number, np.int32)), moments(end_us), bigints(wh)))


def config_of(dsn: str) -> Config:
    """A service whose forecasts the test makes."""
    clock = ClockSection.model_validate({"mode": "simulated", "start": "2026-03-02T11:00:00Z"})
    return Config(
        server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=clock,
        forecast=ForecastSection(automatic=False),
    )  # fmt: skip


async def registered(service: Service) -> None:
    files = [RegistryFile(kind, kind, text.encode()) for kind, text in FILES.items()]
    assert not (await asyncio.to_thread(import_registry, service.address, files)).error


async def passed(service: Service, pool: Any, now_us: int) -> None:
    """One whole pass at this time."""
    store = ForecastStore(pool, 900)
    job = Forecasts(
        store, service.desk, service.pipeline.topology, ReplayClock(now_us), service.metrics, OverloadProfile()
    )
    while await job.once():
        pass
    assert job.behind_s == 0


def told(service: Service) -> list[Alarm]:
    return [alarm for alarm in service.desk.book if alarm.rule == "FORECAST_OVERLOAD"]


async def test_a_forecast_is_told_once_amended_and_taken_back(own_dsn: str) -> None:
    async with running(config_of(own_dsn)) as service, AsyncConnectionPool(own_dsn, min_size=1, open=False) as pool:
        await registered(service)
        await asyncio.to_thread(put_loads, own_dsn, NOON_US, 1.2)
        await passed(service, pool, NOON_US)
        [alarm] = told(service)
        assert (alarm.state, alarm.level, alarm.asset) == (AlarmState.UNACK_ACTIVE, "OVERLOAD", "T")
        raised_us = NOON_US + 8 * HOUR_US  # 17:00 UTC and the two hours of the ladder
        assert alarm.evidence["expected_us"] == raised_us
        assert alarm.evidence["overload_chance"] == 1
        assert alarm.evidence["lead_s"] == 8 * 3600
        first = alarm

        await asyncio.to_thread(put_loads, own_dsn, NOON_US + HOUR_US, 1.2)
        await passed(service, pool, NOON_US + HOUR_US)
        assert told(service) == [first]  # nothing new to say
        await asyncio.to_thread(put_loads, own_dsn, NOON_US + 3 * HOUR_US, 1.2)
        await passed(service, pool, NOON_US + 3 * HOUR_US)
        [amended] = told(service)
        assert (amended.alarm_id, amended.evidence["stage"]) == (first.alarm_id, "within 6 h")
        assert (amended.version, amended.evidence["first_lead_s"]) == (2, 8 * 3600)

        await asyncio.to_thread(put_loads, own_dsn, NOON_US + 4 * HOUR_US, 0.6)
        await passed(service, pool, NOON_US + 4 * HOUR_US)
        [over] = told(service)
        assert (over.alarm_id, over.evidence["outcome"]) == (first.alarm_id, "WITHDRAWN")
        assert over.cleared_us == NOON_US + 4 * HOUR_US


async def test_commands_show_what_is_stored(own_dsn: str, tmp_path: Path) -> None:
    async with running(config_of(own_dsn)) as service, AsyncConnectionPool(own_dsn, min_size=1, open=False) as pool:
        await registered(service)
        await asyncio.to_thread(put_loads, own_dsn, NOON_US, 1.4)

        async def command(*arguments: str) -> Any:
            done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--address", service.address])
            assert done.exit_code == 0, done.output
            return done

        refused = await asyncio.to_thread(
            CliRunner().invoke, app, ["forecast", "transformer", "T", "--address", service.address]
        )
        assert refused.exit_code == 1
        assert "NO_FORECAST" in refused.output
        before = await command("plan", "transformer", "T")
        assert "the newest load" in before.stderr
        assert "nothing to do" in before.stderr

        await passed(service, pool, NOON_US)
        [alarm] = told(service)
        assert alarm.level == "HOT_SPOT"
        steps = json.loads((await command("forecast", "transformer", "T", "-o", "json")).stdout)
        assert len(steps) == 192
        assert steps[0]["end"].startswith("2026-03-02T11:15")
        assert max(step["p50_kva"] for step in steps) == pytest.approx(1.4 * RATED_KVA, rel=0.02)
        assert steps[-1]["p_hot"] == 1
        assert max(step["hot_spot_c"] for step in steps) > 140

        csv = tmp_path / "f.csv"
        csv.write_text("meter,protected,shift_kw,avoid_kw,limit_to_kw,limited_at\nM0,yes,,,,\nM1,,20,10,,\nM9,,1,,,\n")
        wrong = await asyncio.to_thread(
            CliRunner().invoke, app, ["plan", "import", str(csv), "--address", service.address]
        )
        assert wrong.exit_code == 1
        assert "M9" in wrong.output
        csv.write_text(csv.read_text().replace("M9,,1,,,\n", "M2,,,,5,2026-01-01\n"))
        await command("plan", "import", str(csv))
        found = await command("plan", "transformer", "T", "-o", "json")
        measures = json.loads(found.stdout)
        assert {one["measure"] for one in measures} == {"SHIFT", "AVOID", "LIMIT", "DISCONNECT"}
        assert "M0" not in {one["meter"] for one in measures}
        assert "1 of 8 customers are protected; met" in found.stderr

        explained = await command("alarms", "explain", alarm.alarm_id)
        assert "FORECAST_OVERLOAD" in explained.stdout
        assert "hot_raise" in explained.stdout
        page = tmp_path / "t.html"
        await command("report", "transformer", "T", "--out", str(page))
        html = page.read_text()
        assert "<script" not in html
        assert "http" not in html.replace("http-equiv", "")
        for words in (
            "rating",
            "Coverage",
            "hot spot with the median forecast",
            "FORECAST_OVERLOAD",
            "80 % of past errors",
        ):
            assert words in html
        await command("report", "transformer", "T", "--from", "2026-02-20", "--to", "2026-03-01", "--out", str(page))
        assert "median forecast" not in page.read_text()
