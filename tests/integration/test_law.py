"""The law of event time on real reads and on a simulated day with faults; see `law` for what it covers.

The short form is part of `make test`: the cut of the households and a town of a thousand meters. `make law` runs the
long form: the whole published file (BAMBERG=FILE; the cut without it) and a town of five thousand.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import Databases
from law import (
    DAY_US,
    OWED_S,
    Hashes,
    Part,
    Progress,
    again,
    corrected,
    differing,
    hashes_of,
    in_order,
    nothing_owed,
    send,
    shared_out,
    shuffled,
    table,
    weeks_late,
)
from law_stories import HEAD_ENDS as SENDERS
from law_stories import Story, households, town_day
from pydantic import SecretStr
from service_process import ServiceProcess, until
from test_real_reads import small, whole

from meterwatch.app import running
from meterwatch.client import import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Rules, Server
from meterwatch.quality import Origin

LONG = bool(os.environ.get("METERWATCH_LAW_LONG"))
pytestmark = pytest.mark.timeout(3600 if LONG else 300)  # a dozen services, one after the other
KILLS = 5
SHORT_S = 6 * 86_400
"""Of the cut, in the short form: its last days, in which a meter climbs."""
WEEK_S = 7 * 86_400
WEEKS = 4
SIX_HOURS_US = 6 * 3600 * US
RATED_KVA = 20
"""Of twenty households: overloaded on some evenings."""
IN_ORDER = "in order"
LATE = "meters' days 3 and 20 days late"
WAYS = [part for part in os.environ.get("METERWATCH_LAW_WAYS", "").split(",") if part]
"""Parts of the names of the ways to tell beside IN_ORDER; none: all."""
SAME_READS = (
    IN_ORDER,
    LATE,
    "shuffled over 24 h",
    "doubled",
    "tripled, shuffled, batches of 1 to 30,000",
    "five kill -9",
    "four head-ends at once",
    "wrong values first, corrections later",
    *(("shuffled again",) if LONG else ()),
)
RULES = "phases"
"""Every rule there is."""
OF_LOAD = {(rule, "transformer") for rule in ("OVERLOAD", "REVERSE", "PHASE", "UNBALANCE", "HOT_SPOT")}
OF_LOAD |= {("OVERLOAD", "feeder")}
RANKED = ("wrong first, re-read later", "re-read first, wrong later")


@dataclass
class Telling:
    """All ways of telling one story, each to a service with a database of its own."""

    cluster: Databases
    story: Story
    directory: Path
    told: dict[str, Hashes] = field(default_factory=dict)

    def all(self) -> dict[str, Hashes]:
        story = self.story
        self._one(IN_ORDER, in_order(story))
        self._one(LATE, weeks_late(story, 8))
        self._one("shuffled over 24 h", shuffled(story, 1))
        if LONG:
            self._one("shuffled again", shuffled(story, 2))
        self._one("doubled", again(story, 2), times=2)
        self._one("tripled, shuffled, batches of 1 to 30,000", shuffled(story, 3, times=3, any_batch=True), times=3)
        self._one("wrong values first, corrections later", corrected(story, 4))
        for name, wrong_first in zip(RANKED, (True, False), strict=True):
            self._one(name, corrected(story, 5, wrong_first=wrong_first, origin=Origin.REREAD))
        self._database("five kill -9", self._killed)
        self._database("four head-ends at once", lambda dsn: self._served(dsn, self._crowd))
        return self.told

    def weeks_apart(self) -> dict[str, Hashes]:
        """Those ways in which reads come when their windows have long left the ring."""
        self._one(IN_ORDER, in_order(self.story))
        self._one(LATE, weeks_late(self.story, 9, SIX_HOURS_US))
        wrong = corrected(self.story, 10, lag_us=20 * DAY_US, share=0.04, step_us=SIX_HOURS_US)
        self._one("corrected 20 days later", wrong)
        return self.told

    def _one(self, name: str, way: Iterable[Part], times: int = 1) -> None:
        progress = Progress(name, times * len(self.story.end_us)) if LONG else None

        async def tell(address: str) -> None:
            await asyncio.to_thread(send, address, self.story, way, progress=progress)

        self._database(name, lambda dsn: self._served(dsn, tell))

    def _database(self, name: str, tell: Callable[[str], None]) -> None:
        if WAYS and name != IN_ORDER and not any(part in name for part in WAYS):
            return
        began_s = time.monotonic()
        database = f"law_{uuid.uuid4().hex[:12]}"
        dsn = self.cluster.migrated(database)
        try:
            tell(dsn)
            self.told[name] = hashes_of(dsn)
        finally:
            self.cluster.drop_database(database)
        if LONG:
            print(
                f"  {self.story.name}, {name}: reads {self.told[name].reads}, values {self.told[name].values}, alarms "
                f"{self.told[name].alarms}, {time.monotonic() - began_s:.0f} s",
                flush=True,
            )

    @property
    def _start(self) -> datetime:
        return datetime.fromtimestamp(self.story.start_us // US, UTC)

    def _served(self, dsn: str, tell: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Tell it to a service in this process."""

        async def live() -> None:
            config = Config(
                server=Server(port=0),
                database=Database(url=SecretStr(dsn)),
                clock=ClockSection(mode="replay", start=self._start),
                rules=Rules(profile=RULES),
            )
            async with running(config) as service:
                answer = await asyncio.to_thread(import_registry, service.address, self.story.registry)
                assert not answer.error, answer.error
                await tell(service.address)
                await asyncio.to_thread(nothing_owed, dsn)

        asyncio.run(live())

    async def _crowd(self, address: str) -> None:
        ways = zip(shared_out(self.story, 6), SENDERS, strict=True)
        await asyncio.gather(*(asyncio.to_thread(send, address, self.story, way, name) for way, name in ways))

    def _killed(self, dsn: str) -> None:
        """Tell it in order to a process that is killed five times on the way."""
        failed: list[BaseException] = []
        done = [0]

        def counted() -> Iterable[Part]:
            for part in in_order(self.story):
                yield part
                done[0] += len(part.reads)

        def tell() -> None:
            try:
                send(process.address, self.story, counted())
            except BaseException as error:
                failed.append(error)

        rng = random.Random(7)
        log = self.directory / "service.log"
        with ServiceProcess(dsn, self._start, log, METERWATCH_RULES__PROFILE=RULES) as process:
            process.start()
            answer = import_registry(process.address, self.story.registry)
            assert not answer.error, answer.error
            sender = threading.Thread(target=tell, name="sender")
            sender.start()
            for kill in range(KILLS):
                share = (kill + rng.uniform(0.3, 0.9)) / (KILLS + 1)
                goal = share * len(self.story.end_us)
                until(
                    lambda goal=goal: done[0] >= goal or not sender.is_alive(),  # type: ignore[misc]
                    f"{goal:.0f} reads sent",
                    OWED_S,
                )
                assert sender.is_alive(), (failed, "all was sent before all kills")
                process.kill()
                process.start()
            sender.join()
            assert not failed, failed
            nothing_owed(dsn)


@pytest.fixture(scope="module")
def real_reads() -> Story:
    path = os.environ.get("METERWATCH_BAMBERG")
    file = whole(path) if path else small()
    keep = file.end_s > (0 if LONG else file.end_s.max() - SHORT_S)
    return households(file.meter, file.meter_index[keep], file.end_s[keep], file.wh[keep], RATED_KVA)


def check(told: dict[str, Hashes], story: Story) -> None:
    print(f"\n{story.name}, {len(story.end_us):,} reads, {len(story.event_us):,} events\n{table(told)}")
    same, ranked = ([name for name in names if name in told] for names in (SAME_READS, RANKED))
    assert WAYS or len(same) + len(ranked) == len(SAME_READS) + len(RANKED)
    plain = [name for name in same if not name.startswith("wrong")]
    broken = differing(told, same, "reads") + differing(told, plain, "values") + differing(told, same, "alarms")
    for column in ("reads", "values", "alarms"):
        broken += differing(told, ranked, column) if ranked else []
    assert not broken, "\n".join(broken)


def test_real_reads_leave_the_same_however_they_come(cluster: Databases, real_reads: Story, tmp_path: Path) -> None:
    told = Telling(cluster, real_reads, tmp_path).all()
    check(told, real_reads)
    assert told[IN_ORDER].standing


def test_reads_and_corrections_weeks_late_leave_the_same_alarms(cluster: Databases, tmp_path: Path) -> None:
    """The week of the cut four times, so that there are weeks to be late by."""
    file = small()
    keep = np.flatnonzero(file.end_s > file.end_s.max() - WEEK_S)
    weeks = np.repeat(np.arange(WEEKS) * WEEK_S, len(keep))
    index, wh = np.tile(file.meter_index[keep], WEEKS), np.tile(file.wh[keep], WEEKS)
    story = households(file.meter, index, np.tile(file.end_s[keep], WEEKS) + weeks, wh, RATED_KVA)
    told = Telling(cluster, story, tmp_path).weeks_apart()
    print(f"\n{story.name}, {len(story.end_us):,} reads\n{table(told)}")
    broken = differing(told, list(told), "reads") + differing(told, list(told), "alarms")
    assert not broken, "\n".join(broken)
    assert told[IN_ORDER].rules >= OF_LOAD


def test_a_day_with_faults_leaves_the_same_however_it_comes(cluster: Databases, tmp_path: Path) -> None:
    story = town_day(5_000, 96) if LONG else town_day(1_000, 48)
    told = Telling(cluster, story, tmp_path).all()
    check(told, story)
    assert len(told[IN_ORDER].standing) > 4
    assert any(alarm[-1] == "PHASE_LOSS" for alarm in told[IN_ORDER].standing)
