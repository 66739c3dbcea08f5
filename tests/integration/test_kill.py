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
from databases import Databases
from promises import Heard, Journal, Recorder, listening
from service_process import ENOUGH_S, ServiceProcess, import_grid, until

from meterwatch import data
from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd
from meterwatch.client.retry import Backoff
from meterwatch.clock import US
from meterwatch.demo import SHIFT_S, STEP_S, TRANSFORMER, Player

pytestmark = pytest.mark.timeout(300)  # the two runs are one fixture; a busy machine takes a minute for them
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


def fresh_database(cluster: Databases) -> tuple[str, str]:
    name = f"kill_{uuid.uuid4().hex[:12]}"
    return name, cluster.migrated(name)


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
            except BaseException:
                head_end.abandon()  # else the sender waits for a service that is gone
                raise
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
def two_runs(cluster: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
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


ONE_READ = "(slot, end_at) = (SELECT slot, end_at FROM reads ORDER BY end_at, slot LIMIT 1)"
DAMAGES: dict[str, tuple[str, str]] = {
    "reads: a row is gone": (f"DELETE FROM reads WHERE {ONE_READ}", "acknowledged and not stored"),
    "reads: a value is another": (f"UPDATE reads SET voltage_a_v = 1 WHERE {ONE_READ}", "stored ("),
    "reads: a row is twice": (
        f"DROP INDEX reads_end_slot; INSERT INTO reads SELECT * FROM reads WHERE {ONE_READ}",
        "stored twice",
    ),
    "reads: a row from nowhere": (
        f"UPDATE reads SET end_at = end_at + interval '7 min' WHERE {ONE_READ}",
        "never sent",
    ),
    "acks: a ledger row is gone": ("DELETE FROM batches WHERE kind = 1 AND seq = 5", "not in the ledger"),
    "acks: a batch is not evaluated": (
        "UPDATE batches SET evaluated = false WHERE kind = 1 AND seq = 5",
        "not evaluated",
    ),
    "acks: the ledger says another answer": (
        "UPDATE batches SET accepted = accepted - 1, duplicates = duplicates + 1 WHERE kind = 1 AND seq = 5",
        "the ack says",
    ),
    "log: a transition is gone": ("DELETE FROM alarm_log WHERE seq = 3", "cursor 3 of alarm_log is 4"),
    "log: events are not evaluated": (
        "UPDATE batches SET evaluated = false WHERE kind = 2 AND seq = 1",
        "not evaluated",
    ),
    "log: an alarm is twice": (
        'INSERT INTO alarms SELECT (a).* FROM (SELECT jsonb_populate_record(alarms, \'{"alarm_id": "X"}\') AS a'
        " FROM alarms LIMIT 1) AS copy",
        "has two alarms",
    ),
    "feed: a transition was not told": (
        "INSERT INTO alarm_log SELECT seq + 1, alarm_id, version + 1, kind, recorded_at, alarm FROM alarm_log"
        " ORDER BY seq DESC LIMIT 1",
        "never heard",
    ),
    "feed: a transition was told and is not stored": ("DELETE FROM alarm_log WHERE seq = 3", "which is not in the log"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_noticed(two_runs: tuple[Run, Run], damage: str) -> None:
    run = two_runs[1]
    statement, told = DAMAGES[damage]
    with psycopg.connect(run.dsn) as connection:
        connection.execute(statement)
        found = {
            "reads": lambda: promises.reads_broken(connection, run.journal),
            "acks": lambda: promises.acks_broken(connection, run.journal),
            "log": lambda: promises.log_broken(connection),
            "feed": lambda: promises.feed_broken(connection, run.heard),
        }[damage.split(":", maxsplit=1)[0]]()
        connection.rollback()
    assert any(told in sentence for sentence in found), found


def test_a_subscriber_told_twice_or_in_disorder_is_noticed(two_runs: tuple[Run, Run]) -> None:
    run = two_runs[1]
    told = run.heard.transitions
    again = type(told[0])()
    again.CopyFrom(told[0])
    again.seq += 1000
    with psycopg.connect(run.dsn) as connection:
        assert not promises.feed_broken(connection, Heard([*told, told[0]]))  # the same again is no harm
        assert any("was told as" in sentence for sentence in promises.feed_broken(connection, Heard([*told, again])))
        assert any(" came after " in sentence for sentence in promises.feed_broken(connection, Heard(told[::-1])))
        assert promises.feed_broken(connection, Heard(told, coalesced=1))
