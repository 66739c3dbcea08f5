"""CONTRACT in a running service: contracts that change, ways to send and restarts, against the scalar ladder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import Databases
from law import Part, corrected, in_order, send, shuffled, weeks_late
from law_stories import HEAD_ENDS, town_day
from pydantic import SecretStr
from served import fresh_database
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.cli import app
from meterwatch.cli.output import utc
from meterwatch.client import RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from rules.contract_levels import ContractProfile
from tests.rules.overload_world import oracle

STORY = town_day(200, 50)
QUARTER_US = 900 * US
NOON_US = STORY.start_us + 30 * QUARTER_US
KW = (1.5, 2.0)
"""Of every meter, until noon and from then on."""
ALARMS = """
SELECT asset, extract(epoch FROM onset_at)::bigint, extract(epoch FROM raised_at)::bigint,
       extract(epoch FROM cleared_at)::bigint, level
FROM alarms WHERE rule = 'CONTRACT' AND state <> 'RETRACTED' ORDER BY 1, 2"""


def registry(kw: float) -> list[RegistryFile]:
    """The story's, with this contract for every meter."""
    return [
        one._replace(content=one.content.replace(b",230,100,1.5,1,", b",230,100,%g,1," % kw)) for one in STORY.registry
    ]


def config_of(dsn: str) -> Config:
    start = datetime.fromtimestamp(STORY.start_us // US, UTC)
    clock = ClockSection(mode="replay", start=start)
    return Config(server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=clock)


def tell(dsn: str, way: list[Part], restarts: int = 0, *, told_late: bool = False) -> list[Any]:
    """Send the story, in so many lives of the service and one more; the alarms. told_late: the change at noon, too."""

    async def contract(address: str, kw: float, from_us: int) -> None:
        answer = await asyncio.to_thread(import_registry, address, registry(kw), from_us)
        assert not answer.error, answer.error

    async def live() -> None:
        bounds = [len(way) * n // (restarts + 1) for n in range(restarts + 2)]
        for n, (first, stop) in enumerate(pairwise(bounds)):
            async with running(config_of(dsn)) as service:
                if n == 0:
                    await contract(service.address, KW[0], 0)
                if n == 0 and not told_late:
                    await contract(service.address, KW[1], NOON_US)
                await asyncio.to_thread(send, service.address, STORY, way[first:stop], HEAD_ENDS[n])
                if n == restarts and told_late:
                    await contract(service.address, KW[1], NOON_US)

    asyncio.run(live())
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        return connection.execute(ALARMS).fetchall()


def expected() -> list[Any]:
    windows = int((STORY.end_us.max() - STORY.start_us) // QUARTER_US)
    wh = np.full((len(STORY.meter), windows), -1)
    wh[STORY.meter_index, (STORY.end_us - STORY.start_us) // QUARTER_US - 1] = STORY.channels["import_wh"]
    found = []
    for name, reads in zip(STORY.meter, wh.tolist(), strict=True):
        loads = [None if one < 0 else one * 4 / (KW[w >= 30] * 1000) for w, one in enumerate(reads)]
        for onset, raised, cleared, level in oracle(loads, ContractProfile().as_ladder()):
            times = (None if w is None else STORY.start_us // US + w * 900 for w in (onset, raised, cleared))
            found.append((name, *times, level))
    return sorted(found)


@pytest.fixture(scope="module")
def told(cluster: Databases) -> Iterator[tuple[str, list[Any]]]:
    """Database and alarms of the story as it happened."""
    with fresh_database(cluster) as dsn:
        yield dsn, tell(dsn, list(in_order(STORY)))


def test_the_alarms_are_those_of_the_ladder(told: tuple[str, list[Any]]) -> None:
    _, alarms = told
    assert alarms == expected()
    assert {level for *_, level in alarms} >= {"ABOVE_110", "ABOVE_150"}


@pytest.mark.parametrize(("what", "restarts"), [("shuffled, doubled", 2), ("corrected", 1), ("weeks late", 3)])
def test_order_batches_resends_corrections_and_restarts_give_the_same_alarms(
    told: tuple[str, list[Any]], cluster: Databases, what: str, restarts: int
) -> None:
    ways = {
        "shuffled, doubled": lambda: shuffled(STORY, 3, times=2, any_batch=True),
        "corrected": lambda: corrected(STORY, 5),
        "weeks late": lambda: weeks_late(STORY, 6),
    }
    with fresh_database(cluster) as dsn:
        assert tell(dsn, list(ways[what]()), restarts) == told[1]


def test_a_change_that_is_told_late_leaves_the_same_alarms(told: tuple[str, list[Any]], cluster: Databases) -> None:
    with fresh_database(cluster) as dsn:
        assert tell(dsn, list(in_order(STORY)), told_late=True) == told[1]


def test_contracts_are_kept_over_time(told: tuple[str, list[Any]]) -> None:
    with psycopg.connect(told[0], options="-c TimeZone=UTC") as connection:
        rows = connection.execute(
            "SELECT contract_kw, extract(epoch FROM valid_from)::bigint * 1000000, valid_to = 'infinity', count(*)"
            " FROM meter_contracts GROUP BY 1, 2, 3 ORDER BY 2"
        ).fetchall()
    meters = len(STORY.meter)
    assert [row[0::2] for row in rows] == [(KW[0], False), (KW[1], True)]
    assert [row[3] for row in rows] == [meters, meters]
    assert rows[1][1] == NOON_US


def test_a_replay_raises_what_the_service_raised(told: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", told[0])
    span = ["--from", utc(STORY.start_us), "--to", utc(int(STORY.end_us.max()) + 900 * US)]
    result = CliRunner().invoke(app, ["rules", "replay", *span, "--all", "-o", "json"])
    assert result.exit_code == 0, result.output
    found = [row["difference"] for row in json.loads(result.stdout) if row["rule"] == "CONTRACT"]
    assert found == ["same"] * len(told[1])


def test_an_alarm_is_listed_and_explains_itself_window_by_window(
    told: tuple[str, list[Any]],
) -> None:
    dsn, alarms = told

    async def live() -> tuple[Any, Any]:
        async with running(config_of(dsn)) as service:

            def ask(*arguments: str) -> str:
                result = CliRunner().invoke(app, [*arguments, "--address", service.address])
                assert result.exit_code == 0, result.output
                return result.stdout

            listed = json.loads(await asyncio.to_thread(ask, "alarms", "list", "--type", "CONTRACT", "-o", "json"))
            return listed, await asyncio.to_thread(ask, "alarms", "explain", listed[0]["alarm_id"])

    listed, explained = asyncio.run(live())
    assert len(listed) == min(len(alarms), 100)
    assert "its contract of" in explained
    for word in ("raise_pu", "contract_kw", "ABOVE_110"):
        assert word in explained
