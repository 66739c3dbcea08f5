"""The law of event time for interruptions: however the votes come, the same interruptions are stored; real service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from databases import Databases
from law import Way, again, corrected, in_order, send, shuffled
from law_stories import Story, town_day
from pydantic import SecretStr

from meterwatch import interruptions
from meterwatch.app import running
from meterwatch.client import import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

pytestmark = pytest.mark.timeout(300)  # some services, one after the other
STORY = town_day(300, 40)


@pytest.fixture
def fresh(cluster: Databases) -> Iterator[list[str]]:
    """URLs of as many migrated databases as the test asks for, by `database(fresh, cluster)`."""
    names: list[str] = []
    yield names
    for name in names:
        cluster.drop_database(name)


def database(names: list[str], cluster: Databases) -> str:
    names.append(f"interruptions_{uuid.uuid4().hex[:12]}")
    return cluster.migrated(names[-1])


async def told(dsn: str, story: Story, way: Way) -> None:
    """Tell it to a service, and leave it with all interruptions written."""
    start = datetime.fromtimestamp(story.start_us // US, UTC)
    config = Config(
        server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=ClockSection(mode="replay", start=start)
    )
    async with running(config) as service:
        answer = await asyncio.to_thread(import_registry, service.address, story.registry)
        assert not answer.error, answer.error
        await asyncio.to_thread(send, service.address, story, way)


def stored(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        owed = connection.execute("SELECT * FROM interruptions_owed").fetchall()
        assert owed == []
        return connection.execute(
            "SELECT meter, from_at, to_at FROM interruptions JOIN meters USING (slot) ORDER BY 1, 2"
        ).fetchall()


async def test_the_same_votes_leave_the_same_interruptions(cluster: Databases, fresh: list[str]) -> None:
    ways = {
        "in order": in_order(STORY),
        "shuffled": shuffled(STORY, 1),
        "twice": again(STORY, 2),
        "wrong first, corrections later": corrected(STORY, 4),
    }
    found = {}
    for name, way in ways.items():
        dsn = database(fresh, cluster)
        await told(dsn, STORY, way)
        found[name] = stored(dsn)
    plain = found["in order"]
    assert len(plain) > 30
    assert any(to_at is None or (to_at - from_at).total_seconds() > 300 for _, from_at, to_at in plain)
    for name in ways:
        assert found[name] == plain, name


async def test_what_a_crash_left_unwritten_is_written_after_the_next_start(
    cluster: Databases, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = database(fresh, cluster), database(fresh, cluster)
    await told(whole, STORY, in_order(STORY))
    with monkeypatch.context() as patch:
        patch.setattr(interruptions.Interruptions, "once", _nothing)
        await told(cut, STORY, in_order(STORY))
    with psycopg.connect(cut) as connection:
        assert connection.execute("SELECT count(*) FROM interruptions").fetchone() == (0,)
        (owed,) = connection.execute("SELECT count(*) FROM interruptions_owed").fetchone() or (0,)
        assert owed > 0
    await told(cut, STORY, [])
    assert stored(cut) == stored(whole)


async def _nothing(self: interruptions.Interruptions) -> bool:
    return False
