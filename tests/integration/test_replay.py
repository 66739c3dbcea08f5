"""A replay of stored history raises what the service raised; another profile differs where it should."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from law import nothing_owed, send, shuffled
from law_stories import town_day
from pydantic import SecretStr
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.cli import app, rules
from meterwatch.client import import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

STORY = town_day(1_000, 48)
START = datetime.fromtimestamp(STORY.start_us // US, UTC)


@pytest.fixture(scope="module")
def told(dsn: str) -> str:
    """URL of a database in which a day with faults came up to 24 h late, and the service is gone."""

    async def live() -> None:
        config = Config(
            server=Server(port=0),
            database=Database(url=SecretStr(dsn)),
            clock=ClockSection(mode="replay", start=START),
        )
        async with running(config) as service:
            answer = await asyncio.to_thread(import_registry, service.address, STORY.registry)
            assert not answer.error, answer.error
            await asyncio.to_thread(send, service.address, STORY, shuffled(STORY, 1))
            await asyncio.to_thread(nothing_owed, dsn)

    asyncio.run(live())
    return dsn


def replay(dsn: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[list[dict[str, Any]], str]:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", dsn)
    span = ["--from", START.isoformat(), "--to", (START + timedelta(hours=12, minutes=15)).isoformat()]
    result = CliRunner().invoke(app, ["rules", "replay", *span, "-o", "json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_a_replay_says_how_far_it_is_where_no_bar_can_be_drawn(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SAY_EVERY_S", 0.0)
    _, said = replay(told, monkeypatch)
    reads = [int(line.split()[4].replace(",", "")) for line in said.splitlines() if "half-days" in line]
    assert reads == sorted(reads)
    assert reads[-1] > 0


def test_the_same_profile_raises_the_same_alarms(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    differences, said = replay(told, monkeypatch, "--all")
    assert {one["difference"] for one in differences} == {"same"}
    assert {one["rule"] for one in differences} == {"OUTAGE", "OVERLOAD", "CONTRACT", "HOT_SPOT"}
    assert f"{len(STORY.end_us):,} reads" in said
    assert replay(told, monkeypatch)[0] == []


def test_another_profile_differs_where_its_numbers_differ(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    differences, _ = replay(told, monkeypatch, "--profile", "fast-overload", "--all")
    overloads = [one for one in differences if one["rule"] == "OVERLOAD"]
    assert {one["difference"] for one in differences if one["rule"] == "OUTAGE"} == {"same"}
    assert {"changed"} <= {one["difference"] for one in overloads} <= {"changed", "new", "same"}
    for one in overloads:
        if one["difference"] == "changed":
            assert one["raised"] < one["stored"]["raised"]


def test_what_is_missing_and_what_should_not_be_there_are_named(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(told) as connection:
        [(missing, onset_at)] = connection.execute(
            "SELECT asset, onset_at FROM alarms WHERE rule = 'OVERLOAD' AND state <> 'RETRACTED' ORDER BY 2, 1 LIMIT 1"
        ).fetchall()
        connection.execute(
            "UPDATE alarms SET asset = 'ELSEWHERE', asset_id = 0 WHERE rule = 'OVERLOAD' AND asset = %s", (missing,)
        )
    differences, _ = replay(told, monkeypatch)
    assert {(one["difference"], one["asset"]) for one in differences} == {("new", missing), ("gone", "ELSEWHERE")}
    assert {one["onset"] for one in differences} == {f"{onset_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def test_nothing_is_written(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ("reads", "alarms", "alarm_log", "transformer_loads", "batches")

    def counts() -> list[Any]:
        with psycopg.connect(told) as connection:
            return [connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for table in tables]

    before = counts()
    replay(told, monkeypatch)
    assert counts() == before
