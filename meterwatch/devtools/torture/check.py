"""The journal against the database, while both go on.

What is acknowledged in the journal before a snapshot of the database is taken must be in the snapshot; what is in the
snapshot must have been sent by the time the journal is read again after it. A read may show the value of any batch that
was sent and, at least, that of the newest acknowledged one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.devtools.torture.journal import AlarmsJournal, Key, ReadsJournal
from meterwatch.devtools.torture.town import HEAD_ENDS, METERS, START_US, STEP_US, Reads, Town
from meterwatch.quality import METHOD_MASK
from storage.arrays import columns_of, moment

STEPS_TOGETHER: Final = 500
SAID_MAX: Final = 10
"""Sentences kept of one kind; all are counted."""
_READS: Final = f"""
SELECT array_agg(substr(m.meter, 3)::integer), array_agg(r.end_at), array_agg(coalesce(r.import_wh, -9)),
       array_agg(coalesce(r.voltage_a_v, -9))
FROM reads r JOIN meters m USING (slot) WHERE r.end_at >= %s AND r.end_at < %s AND r.quality & {METHOD_MASK} = 0"""
"""Without what the service estimated itself where a meter was dark."""
_ALARMS: Final = """
SELECT rule, asset_kind, asset, onset_at, raised_at, cleared_at, severity, level FROM alarms
WHERE state <> 'RETRACTED' AND parent_id IS NULL AND rule NOT IN ('COMM_LOSS', 'SYSTEM')"""
"""What does not depend on how it was told (tests/integration/law.py)."""


@dataclass
class Broken:
    """What was found, over all cycles."""

    reads_lost: set[tuple[int, int]] = field(default_factory=set)
    """Meter and step."""
    reads_doubled: set[tuple[int, int]] = field(default_factory=set)
    reads_wrong: set[tuple[int, int]] = field(default_factory=set)
    """Another value than was sent, or a read nobody sent."""
    alarms_lost: set[str] = field(default_factory=set)
    alarms_doubled: set[str] = field(default_factory=set)
    sentences: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(
            self.reads_lost or self.reads_doubled or self.reads_wrong or self.alarms_lost or self.alarms_doubled
            or self.sentences
        )  # fmt: skip

    def told(self) -> list[str]:
        """Sentences, some of each kind."""
        cells = {"lost": self.reads_lost, "doubled": self.reads_doubled, "wrong": self.reads_wrong}
        reads = [
            f"read of meter {m} in step {s} is {what}" for what, at in cells.items() for m, s in sorted(at)[:SAID_MAX]
        ]
        alarms = [*sorted(self.alarms_lost)[:SAID_MAX], *sorted(self.alarms_doubled)[:SAID_MAX]]
        return [*reads, *alarms, *sorted(self.sentences)]

    def say(self, *sentences: str) -> None:
        for sentence in sentences[:SAID_MAX]:
            self.sentences[sentence] += 1


class Check:
    """The checks of one run; keeps its place, so that a cycle costs what came since the last one."""

    def __init__(self, town: Town, reads: ReadsJournal, alarms: AlarmsJournal, broken: Broken) -> None:
        self._town, self._reads, self._alarms, self._broken = town, reads, alarms, broken
        self._ledger_seen: set[Key] = set()
        self._log_seen = 0

    def ledger(self, connection: psycopg.Connection[Any]) -> None:
        """Every acknowledged batch is in the ledger, evaluated, with the answer that was given."""
        self._reads.read()
        fresh = [key for key in self._reads.acks if key not in self._ledger_seen]
        rows = connection.execute(
            "SELECT k.n, b.accepted, b.versions, b.duplicates, b.rejected, b.rows_sent, b.evaluated"
            " FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS k (head_end, epoch, seq, n)"
            " JOIN head_ends h USING (head_end)"
            " JOIN batches b ON (b.head_end_id, b.kind, b.epoch, b.seq) = (h.head_end_id, 1, k.epoch, k.seq)",
            ([HEAD_ENDS[key.head_end] for key in fresh], [key.epoch for key in fresh], [key.seq for key in fresh]),
        ).fetchall()
        found: dict[int, list[tuple[Any, ...]]] = {}
        for n, *row in rows:
            found.setdefault(n - 1, []).append(tuple(row))
        for n, key in enumerate(fresh):
            answers = found.get(n, [])
            expected = (*self._reads.acks[key], self._reads.sent[key].rows, True)
            if answers != [expected]:
                self._broken.say(f"batch {tuple(key)} was acknowledged with {expected}, the ledger has {answers}")
            elif expected[3]:
                self._broken.say(f"batch {tuple(key)} had {expected[3]} rejected rows")
        self._broken.say(*(f"batch {tuple(key)} was acknowledged twice" for key in self._reads.acked_twice))
        self._ledger_seen.update(fresh)

    def reads(self, connection: psycopg.Connection[Any], first: int = 0) -> None:
        """Reads of the steps from `first` on."""
        self._reads.read()
        acked = self._batches(self._reads.acks)
        newest = max((sent.step for sent in self._reads.sent.values()), default=-1) + 2 * STEPS_TOGETHER
        for begin in range(first, newest, STEPS_TOGETHER):
            self._reads_of(connection, range(begin, begin + STEPS_TOGETHER), acked)

    def _batches(self, keys: Any) -> set[tuple[int, str, int]]:
        return {(key.head_end, self._reads.sent[key].what, self._reads.sent[key].step) for key in keys}

    def _reads_of(self, connection: psycopg.Connection[Any], steps: range, acked: set[tuple[int, str, int]]) -> None:
        bounds = moment(START_US + steps.start * STEP_US), moment(START_US + steps.stop * STEP_US)
        with connection.cursor(binary=True) as cursor:
            cursor.execute(_READS, bounds)
            meter, end_us, wh, volts = columns_of(cursor)
        self._reads.read()
        sent = self._batches(self._reads.sent)
        step = (end_us - START_US) // STEP_US - steps.start
        count = np.zeros((len(steps), METERS), np.int64)
        np.add.at(count, (step, meter), 1)
        stored_wh, stored_v = np.full(count.shape, -1, np.int64), np.full(count.shape, np.nan, np.float32)
        stored_wh[step, meter], stored_v[step, meter] = wh, volts
        due, sent_here = (_Expected.of(self._town, steps, batches) for batches in (acked, sent))
        right = (stored_wh == due.first_wh) & ~due.again_there | (stored_wh == due.again_wh) & due.again_there
        maybe = (stored_wh == sent_here.first_wh) | (stored_wh == sent_here.again_wh) & sent_here.again_there
        # an acknowledged value may have been replaced by one that was sent later and is not acknowledged yet
        newer = (stored_wh == sent_here.again_wh) & sent_here.again_there & ~due.again_there
        there = count > 0
        wrong = there & ~(maybe & (stored_v == sent_here.volts))
        wrong |= there & due.there & ~(right | newer)
        for found, cells in (
            (self._broken.reads_lost, due.there & ~there),
            (self._broken.reads_doubled, count > 1),
            (self._broken.reads_wrong, wrong),
        ):
            found.update((int(m), int(s) + steps.start) for s, m in zip(*np.nonzero(cells), strict=True))

    def alarms(self, connection: psycopg.Connection[Any]) -> None:
        """Every transition of the log up to what was heard was told once, and nothing else was."""
        self._alarms.read()
        if self._alarms.began is None:
            return
        self._log_seen = max(self._log_seen, self._alarms.began)
        upto = self._alarms.newest
        rows = connection.execute(
            "SELECT seq, alarm_id, version, kind FROM alarm_log WHERE seq > %s AND seq <= %s", (self._log_seen, upto)
        ).fetchall()
        logged = {seq: tuple(told) for seq, *told in rows}
        told = {seq: one for seq, one in self._alarms.told.items() if self._log_seen < seq <= upto}
        self._broken.alarms_lost.update(f"cursor {seq}: {logged[seq]}" for seq in logged.keys() - told.keys())
        self._broken.alarms_doubled.update(f"cursor {seq}: {told[seq]}" for seq in told.keys() - logged.keys())
        self._broken.say(
            *(f"cursor {seq} is {logged[seq]} and was told as {told[seq]}"
              for seq in told.keys() & logged.keys() if told[seq] != logged[seq])
        )  # fmt: skip
        self._broken.alarms_doubled.update(p for p in self._alarms.problems if " was told with cursors " in p)
        self._broken.say(*self._alarms.problems)
        self._log_seen = upto

    def events(self, connection: psycopg.Connection[Any]) -> None:
        """Every acknowledged event is stored once, and no other; for the end, when nothing is on its way."""
        self._reads.read()
        rows = connection.execute(
            "SELECT substr(m.meter, 3)::integer, (extract(epoch FROM e.at) * 1000000)::bigint, e.code"
            " FROM events e JOIN meters m USING (slot)"
        ).fetchall()
        stored = Counter(rows)
        expected: set[tuple[int, int, int]] = set()
        for head_end, step in self._reads.events:
            events = self._town.events(head_end, step)
            assert events is not None
            expected.update(zip(events.meter.tolist(), events.at_us.tolist(), events.code.tolist(), strict=True))
        self._broken.say(*(f"event {one} is acknowledged and not stored" for one in sorted(expected - stored.keys())))
        self._broken.say(*(f"event {one} is stored and was never sent" for one in sorted(stored.keys() - expected)))
        self._broken.say(*(f"event {one} is stored {n} times" for one, n in stored.items() if n > 1))


@dataclass
class _Expected:
    """Values by step and meter that some batches bring; where `there` (`again_there`) is False they mean nothing."""

    there: NDArray[np.bool_]
    first_wh: NDArray[np.int64]
    again_there: NDArray[np.bool_]
    again_wh: NDArray[np.int64]
    volts: NDArray[np.float32]

    @classmethod
    def of(cls, town: Town, steps: range, batches: set[tuple[int, str, int]]) -> _Expected:
        shape = (len(steps), METERS)
        found = cls(
            np.zeros(shape, np.bool_), np.full(shape, -2, np.int64), np.zeros(shape, np.bool_),
            np.full(shape, -2, np.int64), np.full(shape, -2, np.float32),
        )  # fmt: skip
        for head_end, what, step in batches:
            if step in steps:
                found._put(what, _reads_of(town, head_end, what, step), step - steps.start)
        return found

    def _put(self, what: str, reads: Reads, at: int) -> None:
        if what == "reads":
            self.there[at, reads.meter] = True
            self.first_wh[at, reads.meter] = reads.import_wh
            self.volts[at, reads.meter] = reads.voltage_v
        else:
            self.again_there[at, reads.meter] = True
            self.again_wh[at, reads.meter] = reads.import_wh


def _reads_of(town: Town, head_end: int, what: str, step: int) -> Reads:
    """The rows of a batch; `again` is known by the step of its reads, which is before the one it was sent in."""
    return town.reads(head_end, step) if what == "reads" else town.again_of(head_end, step)


def same_alarms(tortured: psycopg.Connection[Any], calm: psycopg.Connection[Any], broken: Broken) -> None:
    """The alarms after all kills are those of the same reads and events without one."""
    here, there = (Counter(connection.execute(_ALARMS).fetchall()) for connection in (tortured, calm))
    broken.alarms_lost.update(f"without kills there is {alarm}" for alarm in (there - here))
    broken.alarms_doubled.update(f"without kills there is no {alarm}" for alarm in (here - there))
