"""User rules in a running service: the law of event time over ways to send and restarts, against a scalar oracle."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Databases
from law import Part, corrected, in_order, send, shuffled
from law_stories import HEAD_ENDS, town_day
from pydantic import SecretStr
from served import fresh_database
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.cli import app
from meterwatch.cli.calls import calling
from meterwatch.cli.output import utc
from meterwatch.client import import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Rules, Server
from meterwatch.user_rules import read_rules
from meterwatch.v1 import user_rules_pb2 as pb
from rules.user.columns import On
from tests.rules import user_oracle

STORY = town_day(300, 40)
FILE = """
groups:
  - name: meters
    rules:
      - {alert: heavy, expr: import_kw > 1.5}
      - {alert: heavy_for_long, expr: import_kw > 1, for: 45m, keep_firing_for: 30m, labels: {severity: high}}
      - {alert: idle, expr: not import_wh > 50, for: 30m, keep_firing_for: 15m}
      - {alert: low, expr: not voltage_min_v > 0.99 * nominal_v, annotations: {summary: "{asset} in {district}"}}
  - name: loads
    rules:
      - {alert: busy, on: transformer, expr: load_ratio > 0.25, for: 30m, keep_firing_for: 15m}
      - {alert: feeder_busy, on: feeder, expr: load_ratio > 0.2, for: 15m}
"""
ALARMS = """
SELECT rule, asset, extract(epoch FROM onset_at)::bigint, extract(epoch FROM raised_at)::bigint,
       extract(epoch FROM cleared_at)::bigint
FROM alarms WHERE rule LIKE 'USER/%' AND state <> 'RETRACTED' ORDER BY 1, 2, 3"""


def config_of(dsn: str, files: list[str]) -> Config:
    start = datetime.fromtimestamp(STORY.start_us // US, UTC)
    return Config(
        server=Server(port=0), database=Database(url=SecretStr(dsn)), rules=Rules(files=files),
        clock=ClockSection(mode="replay", start=start),
    )  # fmt: skip


def tell(dsn: str, rules: Path, way: list[Part], restarts: int = 0) -> list[Any]:
    """Send a story, in so many lives of the service and one more; the alarms of user rules."""

    async def live() -> None:
        config = config_of(dsn, [str(rules)])
        bounds = [len(way) * n // (restarts + 1) for n in range(restarts + 2)]
        for n, (first, stop) in enumerate(pairwise(bounds)):
            async with running(config) as service:
                if n == 0:
                    answer = await asyncio.to_thread(import_registry, service.address, STORY.registry)
                    assert not answer.error, answer.error
                await asyncio.to_thread(send, service.address, STORY, way[first:stop], HEAD_ENDS[n])

    asyncio.run(live())
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        return connection.execute(ALARMS).fetchall()


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(FILE, "utf-8")
    return path


@pytest.fixture(scope="module")
def told(cluster: Databases, rules: Path) -> Iterator[tuple[str, list[Any]]]:
    """Database and alarms of the story as it happened."""
    with fresh_database(cluster) as dsn:
        yield dsn, tell(dsn, rules, list(in_order(STORY)))


def test_the_alarms_of_meters_are_those_of_the_oracle(told: tuple[str, list[Any]], rules: Path) -> None:
    dsn, alarms = told
    reads: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        rows = connection.execute(
            "SELECT meter, extract(epoch FROM end_at)::bigint, r.interval_s, import_wh,"
            " least(voltage_a_v, voltage_b_v, voltage_c_v), m.nominal_v FROM reads r JOIN meters m USING (slot)"
            " WHERE (quality >> 28) & 7 = 0"
        )
        for meter, end_s, interval_s, wh, volts, nominal in rows:
            nan = float("nan")
            wh = nan if wh is None else float(wh)
            row = {"import_wh": wh, "import_kw": wh * 3.6 / interval_s, "nominal_v": nominal}
            reads[meter].append(
                {"end": end_s, "length": interval_s, "voltage_min_v": nan if volts is None else volts} | row
            )
    expected = [
        (rule.alarm_rule, meter, *said)
        for rule in read_rules([str(rules)]).on(On.METER)
        for meter, mine in reads.items()
        for said in user_oracle.episodes(
            [(row["end"], row["length"], user_oracle.truth(rule.expr, row)) for row in mine],
            rule.for_s,
            rule.keep_firing_s,
        )
    ]
    found = [row for row in alarms if row[0] not in ("USER/busy", "USER/feeder_busy")]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert {row[0] for row in alarms} == {
        f"USER/{name}" for name in ("heavy", "heavy_for_long", "idle", "low", "busy", "feeder_busy")
    }


@pytest.mark.parametrize(
    ("what", "restarts"), [("shuffled, doubled", 0), ("shuffled", 2), ("in order", 3), ("corrected", 1)]
)
def test_order_batches_resends_corrections_and_restarts_give_the_same_alarms(
    told: tuple[str, list[Any]], cluster: Databases, rules: Path, what: str, restarts: int
) -> None:
    ways = {
        "shuffled, doubled": lambda: shuffled(STORY, 3, times=2, any_batch=True),
        "shuffled": lambda: shuffled(STORY, 4),
        "in order": lambda: in_order(STORY),
        "corrected": lambda: corrected(STORY, 5),
    }
    with fresh_database(cluster) as dsn:
        alarms = tell(dsn, rules, list(ways[what]()), restarts)
    assert set(alarms) ^ set(told[1]) == set()


def test_a_replay_over_what_is_stored_raises_what_the_service_raised(
    told: tuple[str, list[Any]], rules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, alarms = told
    monkeypatch.setenv("METERWATCH_DATABASE__URL", dsn)
    span = ["--from", utc(STORY.start_us), "--to", utc(int(STORY.end_us.max()) + 900 * US)]
    result = CliRunner().invoke(app, ["rules", "replay", *span, "--rules", str(rules), "-o", "json"])
    assert result.exit_code == 0, result.output
    found = {
        (row["rule"], row["asset"], row["onset"], row["raised"], row["cleared"]) for row in json.loads(result.stdout)
    }
    assert found == {(rule, asset, *(utc((s or 0) * US) for s in times)) for rule, asset, *times in alarms}


def test_a_reload_is_whole_or_nothing_and_its_status_is_seen(cluster: Databases, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    one = "groups: [{name: g, rules: [{alert: %s, expr: import_kw > %s}]}]"

    async def live(dsn: str) -> None:
        file.write_text(one % ("heavy", "1.5"), "utf-8")
        way = list(in_order(STORY))
        async with running(config_of(dsn, [str(file)])) as service:
            await asyncio.to_thread(import_registry, service.address, STORY.registry)
            await asyncio.to_thread(send, service.address, STORY, way[: len(way) // 2])

            def call(what: str, request: Any, answer: Any) -> Any:
                with calling(service.address) as ask:
                    return ask(f"UserRules/{what}", request, answer)

            def listed() -> Any:
                return call("ListUserRules", pb.ListUserRulesRequest(), pb.ListUserRulesResponse)

            async def reload() -> list[str]:
                request = pb.ReloadUserRulesRequest()
                answer = await asyncio.to_thread(call, "ReloadUserRules", request, pb.ReloadUserRulesResponse)
                return list(answer.problem)

            before = await asyncio.to_thread(listed)
            assert [rule.name for rule in before.rule] == ["heavy"]
            assert before.rule[0].rows > 0
            file.write_text(one % ("new", "voltage_a_v.real"), "utf-8")
            [problem] = await reload()
            assert ":1: expr, character" in problem
            after = await asyncio.to_thread(listed)
            assert [rule.name for rule in after.rule] == ["heavy"]
            assert list(after.problem) == [problem]
            shown = await asyncio.to_thread(
                CliRunner().invoke, app, ["rules", "list", "--address", service.address, "-o", "json"]
            )
            assert shown.exit_code == 1
            assert json.loads(shown.stdout)[0]["alert"] == "heavy"
            assert service.metrics.registry.get_sample_value("meterwatch_user_rules_reload_ok") == 0
            file.write_text(one % ("new", "1.2"), "utf-8")
            assert await reload() == []
            assert service.metrics.registry.get_sample_value("meterwatch_user_rules_reload_ok") == 1
            await asyncio.to_thread(send, service.address, STORY, way[len(way) // 2 :], HEAD_ENDS[1])
            assert [rule.name for rule in (await asyncio.to_thread(listed)).rule] == ["new"]

    with fresh_database(cluster) as dsn:
        asyncio.run(live(dsn))
        with psycopg.connect(dsn) as connection:
            open_left = connection.execute(
                "SELECT count(*) FROM alarms WHERE rule = 'USER/heavy' AND cleared_at IS NULL"
            ).fetchone()
            told = dict(
                connection.execute("SELECT rule, count(*) FROM alarms WHERE rule LIKE 'USER/%' GROUP BY 1").fetchall()
            )
    assert open_left == (0,), told
    assert set(told) == {"USER/heavy", "USER/new"}
