"""kill -9 of the service, in mid-stream and at chosen points: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import promises
import psycopg
import pytest
from promises import Heard, Journal, Recorder, listening
from service_process import ENOUGH_S, ServiceProcess, import_grid, until

from meterwatch import data
from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd
from meterwatch.client.retry import Backoff
from meterwatch.clock import US
from meterwatch.demo import SHIFT_S, STEP_S, TRANSFORMER, Player
from storage.embedded import EmbeddedCluster
from storage.migrate import migrate

START = datetime.fromtimestamp(int(data.shapes().end_s[0]) + SHIFT_S - STEP_S, UTC)
EPOCH = 7
BATCH_ROWS = 240
KILLS = 10
SEED = 20181113
STEPS = 60
"""Fifteen hours of quarter-hours: 72,180 reads at most, 300 batches."""
CUT_FEEDER = "MV1.101-L45"
EARLY_METER = 0
EARLY_STEPS = range(2, 5)
CUT_STEPS = range(20, 26)
DARK_TRANSFORMER = "LV1.109"
DARK_STEPS = range(32, 36)
OVERLOAD_STEPS = range(14, 44)


def fresh_database(cluster: EmbeddedCluster) -> tuple[str, str]:
    name = f"kill_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    migrate(cluster.dsn_of(name))
    return name, cluster.dsn_of(name)


@dataclass
class Town:
    """The same hours in every run: real reads, a meter that fails, a feeder cut, an overload, dark reads."""

    recorder: Recorder

    def __post_init__(self) -> None:
        self.player = Player(self.recorder, SimpleNamespace(sent_s=0.0))  # type: ignore[arg-type]

    def early(self) -> None:
        """Until the first alarm was raised and is over, so that every resume has a cursor."""
        for step in range(EARLY_STEPS.stop + 1):
            self.step(step)

    def step(self, step: int) -> None:
        player = self.player
        fleet = player.fleet
        on_feeder = np.array([feeder == CUT_FEEDER for feeder in fleet.feeder])
        dark = np.array([name == DARK_TRANSFORMER for name in fleet.transformer])
        keep = np.ones(len(on_feeder), np.bool_)
        if step in EARLY_STEPS:
            keep[EARLY_METER] = False
        for steps, rows in ((EARLY_STEPS, np.array([EARLY_METER])), (CUT_STEPS, np.flatnonzero(on_feeder)[::2])):
            if step == steps.start:
                player.events(rows, player.end_us(step) - 600 * US, 20, EventCode.POWER_FAIL)
        for steps, rows in ((EARLY_STEPS, np.array([EARLY_METER])), (CUT_STEPS, np.flatnonzero(on_feeder))):
            if step == steps.stop:
                player.events(rows, player.end_us(step) - 600 * US, 20, EventCode.POWER_RESTORED)
        if step in CUT_STEPS:
            keep &= ~on_feeder
        if step in DARK_STEPS:
            keep &= ~dark
            self.dark(step, np.flatnonzero(dark))
        player.send(step, keep, overload=step in OVERLOAD_STEPS)

    def dark(self, step: int, rows: Any) -> None:
        """Reads of meters that say they have no supply."""
        zero = np.zeros(len(rows), np.float32)
        self.recorder.send_columns(
            self.player.fleet.meter,
            rows.astype(np.uint32),
            np.full(len(rows), self.player.end_us(step), np.int64),
            STEP_S,
            import_wh=zero.astype(np.int32),
            voltage_a_v=zero,
            voltage_b_v=zero,
            voltage_c_v=zero,
            mask=np.where(self.player.fleet.three_phase[rows], 0b1110001, 0b0010001).astype(np.uint32),
        )


class Run:
    """One run of the town against one service."""

    def __init__(self, process: ServiceProcess, dsn: str) -> None:
        self.process, self.dsn = process, dsn
        self.journal, self.heard = Journal(EPOCH), Heard()
        self.reconnects = 0

    def go(self, kill_after: list[int], rng: random.Random) -> None:
        """Stream everything; kill and restart once so many batches are acknowledged."""
        import_grid(self.process.address)
        with (
            psycopg.connect(self.dsn, autocommit=True) as connection,
            listening(self.process.address, self.heard),
            HeadEnd(
                self.process.address,
                "HES-1",
                EPOCH,
                batch_rows=BATCH_ROWS,
                on_ack=self.journal.note_ack,
                backoff=Backoff(0.05, 0.2, random.Random(SEED)),
            ) as head_end,
        ):
            town = Town(Recorder(head_end, self.journal, BATCH_ROWS))
            town.early()
            head_end.flush()
            until(lambda: self.heard.transitions, "the first alarm was heard")
            sender = Sender(town, head_end)
            sender.start()
            try:
                for acks in kill_after:
                    until(lambda acks=acks: len(self.journal.acks) >= acks or sender.over, f"{acks} acks")
                    assert not sender.over, (sender.error, "the stream ended before all kills")
                    time.sleep(rng.random() * 0.02)  # the moment within the life of a batch
                    self.process.kill()
                    assert not promises.acks_broken(connection, self.journal)
                    self.process.start()
            finally:
                sender.join(2 * ENOUGH_S)
            assert sender.error is None, sender.error
            assert sender.over
            self.reconnects = head_end.reconnects
            newest = connection.execute("SELECT seq FROM alarm_cursor").fetchone()
            assert newest is not None
            until(lambda: self.heard.transitions[-1].seq >= newest[0], f"cursor {newest[0]} was heard")


class Sender(threading.Thread):
    """Sends the rest of the town's hours and waits for every answer."""

    def __init__(self, town: Town, head_end: HeadEnd) -> None:
        super().__init__(name="sender")
        self._town, self._head_end = town, head_end
        self.error: BaseException | None = None
        self.over = False

    def run(self) -> None:
        try:
            for step in range(EARLY_STEPS.stop + 1, STEPS):
                self._town.step(step)
            self._head_end.flush()
        except BaseException as error:
            self.error = error
        finally:
            self.over = True


@pytest.fixture(scope="module")
def two_runs(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """The same hours without a crash, and with ten."""
    rng = random.Random(SEED)
    runs = []
    names = []
    for kills in (0, KILLS):
        name, dsn = fresh_database(cluster)
        names.append(name)
        with ServiceProcess(dsn, START, tmp_path_factory.mktemp("kill") / "service.log") as process:
            process.start()
            run = Run(process, dsn)
            first, last = 35, 290
            run.go(sorted(rng.sample(range(first, last), kills)), rng)
            runs.append(run)
    yield runs[0], runs[1]
    for name in names:
        cluster.drop_database(name)


def test_ten_kills_lose_and_double_no_acknowledged_read(two_runs: tuple[Run, Run]) -> None:
    for run, lives in zip(two_runs, (1, KILLS + 1), strict=True):
        assert run.process.lives == lives
        assert run.reconnects >= lives - 1
        assert len(run.journal.acks) == len(run.journal.sent) > 250
        with psycopg.connect(run.dsn) as connection:
            assert not promises.acks_broken(connection, run.journal)
            assert not promises.reads_broken(connection, run.journal)


def test_ten_kills_lose_and_double_no_alarm_and_no_transition(two_runs: tuple[Run, Run]) -> None:
    for run in two_runs:
        with psycopg.connect(run.dsn) as connection:
            assert not promises.log_broken(connection)
            assert not promises.feed_broken(connection, run.heard)


def test_ten_kills_change_no_alarm(two_runs: tuple[Run, Run]) -> None:
    alarms = []
    for run in two_runs:
        with psycopg.connect(run.dsn) as connection:
            alarms.append(promises.alarms_as_they_are(connection))
    assert {(rule, asset) for _, rule, _, asset, *_ in alarms[0]} >= {
        ("OUTAGE", CUT_FEEDER),
        ("OUTAGE", DARK_TRANSFORMER),
        ("OVERLOAD", TRANSFORMER),
    }
    assert alarms[0] == alarms[1]
