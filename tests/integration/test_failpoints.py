"""SIGKILL at every named place of a batch's way: after a restart and a re-send nothing is lost and nothing is doubled.

One head-end and one subscriber live through all deaths of one service; each case has transformers of its own, and each
of its batches raises one alarm by itself (twice the rating, which is told at once).
"""

from __future__ import annotations

import csv
import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import promises
import psycopg
import pytest
from promises import Heard, Journal, Recorder, listening
from service_process import SIGKILLED, ServiceProcess, import_grid, until

from meterwatch import data, failpoints
from meterwatch.batch import EventCode
from meterwatch.client import Backoff, HeadEnd
from meterwatch.clock import US
from meterwatch.errors import ConfigError

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
DAY_US = 86_400 * US
EPOCH = 3
LOAD_PU = 2.1
"""Above 2.0 an overload is told at once."""


@dataclass
class World:
    process: ServiceProcess
    connection: psycopg.Connection[Any]
    head_end: HeadEnd
    recorder: Recorder
    journal: Journal
    heard: Heard
    members: dict[str, list[str]]
    rated_kva: dict[str, float]
    free: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self.free = iter(sorted(self.members))

    def armed(self, point: str, n: int = 1) -> None:
        """The next life of the service is to end at this point."""
        self.process.kill()
        self.process.start({failpoints.VARIABLE: f"{point}:{n}"})

    def died_and_back(self) -> None:
        assert self.process.died() == SIGKILLED
        self.process.start()

    def send(self, meters: list[str], end_us: Any, import_wh: int, volts: float) -> None:
        """One batch: these meters at each of these ends, all with the same values."""
        ends = np.atleast_1d(np.asarray(end_us, np.int64))
        n = len(meters) * len(ends)
        self.recorder.send_columns(
            meters,
            np.tile(np.arange(len(meters), dtype=np.uint32), len(ends)),
            np.repeat(ends, len(meters)),
            900,
            import_wh=np.full(n, import_wh, np.int32),
            voltage_a_v=np.full(n, volts, np.float32),
            voltage_b_v=np.full(n, volts, np.float32),
            voltage_c_v=np.full(n, volts, np.float32),
            mask=np.full(n, 0b0010001, np.uint32),
        )

    def overload(self, transformer: str) -> None:
        """One batch that raises one alarm."""
        meters = self.members[transformer]
        wh = round(LOAD_PU * self.rated_kva[transformer] * 250 / len(meters))
        self.send(meters, START_US + STEP_US, wh, 230.0)

    def alarms(self, rule: str, asset: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(
            "SELECT state, severity, level, onset_at, raised_at, cleared_at, version FROM alarms"
            " WHERE rule = %s AND asset = %s ORDER BY onset_at",
            (rule, asset),
        ).fetchall()

    def kept(self) -> None:
        """All promises, over everything since the first case."""
        newest = self.connection.execute("SELECT seq FROM alarm_cursor").fetchone()
        assert newest is not None
        until(lambda: self.heard.transitions[-1].seq >= newest[0], f"cursor {newest[0]} was heard")
        assert self.journal.acks.keys() == self.journal.sent.keys()
        assert not promises.acks_broken(self.connection, self.journal)
        assert not promises.reads_broken(self.connection, self.journal)
        assert not promises.log_broken(self.connection)
        assert not promises.feed_broken(self.connection, self.heard)


@contextmanager
def living(process: ServiceProcess, dsn: str) -> Iterator[World]:
    """A world whose service has begun its first life, and whose first alarm was heard."""
    members: dict[str, list[str]] = defaultdict(list)
    with (data.GRID / "meters.csv").open() as file:
        for row in csv.DictReader(file):
            members[row["transformer"]].append(row["meter"])
    with (data.GRID / "transformers.csv").open() as file:
        rated_kva = {row["transformer"]: float(row["rated_kva"]) for row in csv.DictReader(file)}
    journal, heard = Journal(EPOCH), Heard()
    with psycopg.connect(dsn, autocommit=True) as connection:
        process.start()
        import_grid(process.address)
        with (
            listening(process.address, heard),
            HeadEnd(process.address, "HES-1", EPOCH, on_ack=journal.note_ack, backoff=Backoff(0.05, 0.2)) as head_end,
        ):
            recorder = Recorder(head_end, journal, 20_000)
            world = World(process, connection, head_end, recorder, journal, heard, dict(members), rated_kva)
            world.overload(next(world.free))  # so that every resume has a cursor
            head_end.flush()
            until(lambda: heard.transitions, "the first alarm was heard")
            yield world


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    output = tmp_path_factory.mktemp("failpoints") / "service.log"
    with ServiceProcess(dsn, START, output) as process, living(process, dsn) as world:
        yield world


@pytest.mark.parametrize(("point", "n"), [*itertools.product(failpoints.POINTS, (1, 2))])
def test_a_death_at_any_point_loses_and_doubles_nothing(world: World, point: str, n: int) -> None:
    transformers = [next(world.free), next(world.free)]
    world.armed(point, n)
    for i, transformer in enumerate(transformers, 1):
        world.overload(transformer)
        if i == n:
            world.died_and_back()
        world.head_end.flush()
    for transformer in transformers:
        [(state, _, level, *_, cleared_at, version)] = world.alarms("OVERLOAD", transformer)
        assert (state, level, cleared_at, version) == ("UNACK_ACTIVE", "EMERGENCY_3", None, 1)
    world.kept()


def test_events_stored_and_not_judged_raise_their_outage_after_the_restart(world: World) -> None:
    dark, other = next(world.free), next(world.free)
    meters = world.members[dark]
    world.armed("after_copy")
    stamps = START_US + STEP_US + np.arange(len(meters)) * 10_000
    codes = np.full(len(meters), int(EventCode.POWER_FAIL))
    sending = threading.Thread(target=world.head_end.send_events, args=(meters, stamps, codes))
    sending.start()
    world.died_and_back()
    sending.join()
    world.send(world.members[other], START_US + 2 * STEP_US, 100, 230.0)  # time passes
    world.head_end.flush()
    [(state, *_)] = world.alarms("OUTAGE", dark)
    assert state == "UNACK_ACTIVE"
    world.kept()


def test_backfill_older_than_the_rebuild_is_judged_after_a_restart_as_it_is_alive(world: World) -> None:
    told = {}
    for days, dies in ((5, False), (6, True)):
        transformer = next(world.free)
        off_us = START_US - days * DAY_US + np.arange(1, 5) * STEP_US
        world.send(world.members[transformer], off_us + 4 * STEP_US, 100, 230.0)  # the end of it is known already
        world.head_end.flush()
        if dies:
            world.armed("after_copy")
        world.send(world.members[transformer], off_us, 0, 0.0)
        if dies:
            world.died_and_back()
        world.head_end.flush()
        [(state, severity, level, onset_at, raised_at, cleared_at, version)] = world.alarms("OUTAGE", transformer)
        ago = timedelta(days=days)
        told[dies] = (state, severity, level, onset_at + ago, raised_at + ago, cleared_at + ago, version)
    assert told[False] == told[True]
    world.kept()


def test_a_correction_stored_and_not_judged_retracts_its_alarm_after_the_restart(world: World) -> None:
    transformer = next(world.free)
    meter = world.members[transformer][0]
    world.send([meter], START_US + STEP_US, 0, 0.0)
    world.send(world.members[transformer][1:], START_US + 2 * STEP_US, 100, 230.0)  # time passes
    world.head_end.flush()
    [(state, *_)] = world.alarms("OUTAGE", meter)
    assert state == "UNACK_ACTIVE"
    world.armed("after_copy")
    corrected = len(world.journal.sent) + 1
    world.send([meter], START_US + STEP_US, 90, 230.0)
    world.died_and_back()
    world.head_end.flush()
    assert world.journal.acks[corrected].versions == 1
    [(state, *_)] = world.alarms("OUTAGE", meter)
    assert state == "RETRACTED"
    world.kept()


@pytest.mark.parametrize("text", ["after_copy", "after_copy:0", "after_copy:-1", "after_copy:x", "nowhere:1"])
def test_a_failpoint_that_does_not_exist_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigError, match="expected name:n"):
        failpoints.Failpoint({failpoints.VARIABLE: text})
