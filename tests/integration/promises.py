"""What a crash may not break, as functions over the database and the journals of those who sent and listened.

Each returns sentences about what is wrong; an empty list is the promise kept. The journals live in the test's process,
where no kill of the service reaches them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from service_process import ENOUGH_S

from meterwatch.channels import CHANNEL_BIT
from meterwatch.client import AlarmFeed, Backoff, HeadEnd, Totals
from meterwatch.v1 import alarms_pb2, ingest_pb2

CHANNELS = ("import_wh", "voltage_a_v", "voltage_b_v", "voltage_c_v")


@dataclass
class Sent:
    """One batch as it was sent: meter number and end per row, and the rows' channels, absent ones masked."""

    meter: list[str]
    end_us: np.ndarray[Any, np.dtype[np.int64]]
    columns: dict[str, np.ndarray[Any, Any]]
    mask: np.ndarray[Any, np.dtype[np.uint32]]


@dataclass
class Journal:
    """What one head-end sent under which number, and what it was answered."""

    epoch: int
    sent: dict[int, Sent] = field(default_factory=dict)
    acks: dict[int, ingest_pb2.Ack] = field(default_factory=dict)
    acked_twice: list[int] = field(default_factory=list)
    events_sent: int = 0
    events: Totals = field(default_factory=Totals)

    def note_ack(self, seq: int, ack: ingest_pb2.Ack, _latency_s: float) -> None:
        if seq in self.acks:
            self.acked_twice.append(seq)
        self.acks[seq] = ack


class Recorder:
    """A HeadEnd whose batches are written down first. Rows of one call must fit one batch."""

    def __init__(self, head_end: HeadEnd, journal: Journal, batch_rows: int) -> None:
        self._head_end, self._journal, self._batch_rows = head_end, journal, batch_rows

    def send_columns(
        self, meter: list[str], meter_index: Any, end_us: Any, interval_s: int, *, mask: Any, **channels: Any
    ) -> None:
        for at in range(0, len(meter_index), self._batch_rows):
            rows = slice(at, at + self._batch_rows)
            part = {name: values[rows] for name, values in channels.items()}
            names = [meter[i] for i in meter_index[rows].tolist()]
            self._journal.sent[len(self._journal.sent) + 1] = Sent(names, end_us[rows], part, mask[rows])
            self._head_end.send_columns(meter, meter_index[rows], end_us[rows], interval_s, mask=mask[rows], **part)
            assert self._head_end.totals().batches == len(self._journal.sent), "one call must be one batch"

    def send_events(self, meters: list[str], at_us: Any, codes: Any) -> Totals:
        self._head_end.flush()  # events go by another call: the reads before them first, as a head-end's queue does
        totals = self._head_end.send_events(meters, at_us, codes)
        self._journal.events_sent += len(meters)
        self._journal.events.accepted += totals.accepted
        self._journal.events.duplicates += totals.duplicates
        self._journal.events.rejected += totals.rejected
        return totals

    def flush(self) -> None:
        """Do not wait: batches are in flight all the time."""


@dataclass
class Heard:
    """Everything one subscriber was told, in order."""

    transitions: list[alarms_pb2.Transition] = field(default_factory=list)
    coalesced: int = 0

    def take(self, message: alarms_pb2.SubscribeResponse) -> None:
        if message.WhichOneof("message") == "transition":
            self.transitions.append(message.transition)
        self.coalesced += message.WhichOneof("message") == "coalesced"


@contextlib.contextmanager
def listening(address: str, heard: Heard) -> Iterator[None]:
    """A subscriber on a thread of its own that resumes after every break."""
    feed = AlarmFeed(address, backoff=Backoff(0.05, 0.2))
    broken: list[BaseException] = []

    def follow() -> None:
        try:
            for message in feed:
                heard.take(message)
        except BaseException as error:
            broken.append(error)

    thread = threading.Thread(target=follow, name="subscriber")
    thread.start()
    try:
        yield
    finally:
        feed.close()
        thread.join(ENOUGH_S)
    assert not broken, broken


def acks_broken(connection: psycopg.Connection[Any], journal: Journal) -> list[str]:
    """Of what is acknowledged by now: ledger rows that are missing, differ from the ack, or are not evaluated."""
    acks = dict(journal.acks)
    rows = connection.execute(
        "SELECT seq, rows_sent, accepted, versions, duplicates, rejected, evaluated FROM batches"
        " WHERE kind = 1 AND epoch = %s",
        (journal.epoch,),
    ).fetchall()
    ledger = {row[0]: row[1:] for row in rows}
    found = [f"batch {seq} was acknowledged twice" for seq in journal.acked_twice]
    for seq, ack in acks.items():
        if seq not in ledger:
            found.append(f"batch {seq} is acknowledged and not in the ledger")
            continue
        told = (len(journal.sent[seq].meter), ack.accepted, ack.versions, ack.duplicates, ack.rejected)
        if ledger[seq][:5] != told or sum(told[1:]) != told[0]:
            found.append(f"batch {seq}: the ack says {told}, the ledger {ledger[seq][:5]}")
        if not ledger[seq][5]:
            found.append(f"batch {seq} is acknowledged and not evaluated")
    return found


def reads_broken(connection: psycopg.Connection[Any], journal: Journal) -> list[str]:
    """Acknowledged reads that are missing, doubled or different in `reads`, and reads nobody sent."""
    expected: dict[tuple[str, int], tuple[Any, ...]] = {}
    for seq in sorted(journal.acks):  # a later batch may replace reads of an earlier one
        sent = journal.sent[seq]
        present = [(sent.mask & CHANNEL_BIT[name]) != 0 for name in CHANNELS]
        values = [
            [value if there else None for value, there in zip(sent.columns[name].tolist(), here.tolist(), strict=True)]
            for name, here in zip(CHANNELS, present, strict=True)
        ]
        expected.update(zip(zip(sent.meter, sent.end_us.tolist(), strict=True), zip(*values, strict=True), strict=True))
    stored: dict[tuple[str, int], tuple[Any, ...]] = {}
    found: list[str] = []
    with connection.cursor(binary=True) as cursor:
        cursor.execute(
            f"SELECT meter, (extract(epoch FROM end_at) * 1000000)::bigint, {', '.join(CHANNELS)}"
            " FROM reads JOIN meters USING (slot)"
        )
        for meter, end_us, *values_of in cursor:
            if (meter, end_us) in stored:
                found.append(f"meter {meter} at {end_us} is stored twice")
            stored[meter, end_us] = tuple(values_of)
    found += [f"meter {m} at {us} is acknowledged and not stored" for m, us in expected.keys() - stored.keys()]
    found += [f"meter {m} at {us} is stored and was never sent" for m, us in stored.keys() - expected.keys()]
    found += [
        f"meter {m} at {us}: sent {expected[m, us]}, stored {stored[m, us]}"
        for m, us in expected.keys() & stored.keys()
        if expected[m, us] != stored[m, us]
    ]
    return found


def log_broken(connection: psycopg.Connection[Any]) -> list[str]:
    """Gaps in the cursors or versions of alarm_log, batches left unevaluated, alarms that differ from their log."""
    log = connection.execute("SELECT seq, alarm_id, version FROM alarm_log ORDER BY seq").fetchall()
    found = [f"cursor {i} of alarm_log is {row[0]}" for i, row in enumerate(log, 1) if row[0] != i]
    versions: dict[str, int] = {}
    for _, alarm_id, version in log:
        if version != versions.get(alarm_id, 0) + 1:
            found.append(f"version {version} of alarm {alarm_id} follows {versions.get(alarm_id, 0)}")
        versions[alarm_id] = version
    table = dict(connection.execute("SELECT alarm_id, version FROM alarms").fetchall())
    if table != versions:
        found.append(f"the alarms table has versions {table}, the log {versions}")
    cursor = connection.execute("SELECT seq FROM alarm_cursor").fetchone()
    if cursor != (len(log),):
        found.append(f"alarm_cursor is {cursor}, the log has {len(log)} transitions")
    twice = connection.execute(
        "SELECT rule, asset, onset_at FROM alarms WHERE state <> 'RETRACTED' GROUP BY 1, 2, 3 HAVING count(*) > 1"
    ).fetchall()
    found += [f"{rule} of {asset} since {onset} has two alarms" for rule, asset, onset in twice]
    owed = connection.execute("SELECT count(*) FROM batches WHERE NOT evaluated AND head_end_id > 0").fetchone()
    if owed != (0,):
        found.append(f"{owed} batches are not evaluated")
    return found


def feed_broken(connection: psycopg.Connection[Any], heard: Heard) -> list[str]:
    """Transitions of the log the subscriber missed, got twice (after dedupe by alarm and version), or in disorder."""
    log = connection.execute("SELECT seq, alarm_id, version, kind FROM alarm_log ORDER BY seq").fetchall()
    told: dict[tuple[str, int], tuple[int, str]] = {}
    last: dict[str, int] = {}
    found: list[str] = [] if not heard.coalesced else [f"{heard.coalesced} transitions were folded"]
    for transition in heard.transitions:
        alarm, kind = transition.alarm, transition.kind
        key = (alarm.alarm_id, alarm.version)
        if key in told:  # delivery is at least once; the same again is no harm
            if told[key] != (transition.seq, kind):
                found.append(f"{key} was told as {told[key]} and as {(transition.seq, kind)}")
            continue
        if alarm.version <= last.get(alarm.alarm_id, 0):
            found.append(f"version {alarm.version} of {alarm.alarm_id} came after {last[alarm.alarm_id]}")
        told[key], last[alarm.alarm_id] = (transition.seq, kind), alarm.version
    logged = {(alarm_id, version): (seq, kind) for seq, alarm_id, version, kind in log}
    found += [f"the subscriber never heard {key} {logged[key]}" for key in logged.keys() - told.keys()]
    found += [f"the subscriber heard {key} {told[key]}, which is not in the log" for key in told.keys() - logged.keys()]
    found += [
        f"{key} is {logged[key]} in the log, told as {told[key]}"
        for key in told.keys() & logged.keys()
        if told[key] != logged[key]
    ]
    return found


def alarms_as_they_are(connection: psycopg.Connection[Any]) -> Counter[tuple[Any, ...]]:
    """What must not depend on crashes: every alarm with its times, level and state."""
    rows = connection.execute(
        "SELECT alarm_id, rule, asset_kind, asset, state, severity, level, onset_at, raised_at, cleared_at FROM alarms"
    ).fetchall()
    return Counter(rows)
