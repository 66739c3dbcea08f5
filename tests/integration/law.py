"""The law of event time: the same reads and events, however they come, leave the same reads and the same alarms.

This module is how a story (law_stories) is sent, and what must not depend on the telling: three hashes. The hash of
the *reads* covers meter, interval, channels and the quality word of every current read; that of the *values* the
same of every version ever stored; that of the *alarms* rule, asset, onset, raised, cleared, severity and level of every
alarm that stands by itself. Outside the law, because they say how it was told: the clock of the service in any column,
the number of a version, the quality bits LATE, BACKFILL and CLOCK_DRIFT, alarms that were retracted or folded into a
parent, the transitions, the state (history pages nobody), and `alarm_id`, which keeps the onset first told. Two values
of one rank for one read are outside too: the one stored later is current by definition. COMM_LOSS
and SYSTEM follow the clock, and the findings of a local day (DAY_BITS) come when its job has judged it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import psycopg
from law_stories import HEAD_ENDS, Stamps, Story
from numpy.typing import NDArray

from loadtest.world import INTERVAL_S
from meterwatch.channels import CHANNEL_NAMES, VOLTAGE
from meterwatch.client import HeadEnd
from meterwatch.client.retry import Backoff
from meterwatch.clock import US
from meterwatch.quality import DAY_BITS, METHOD_MASK, Origin, Quality

Rows = NDArray[np.intp]
BATCH_ROWS = 5_000
BATCH_ROWS_MAX = 30_000
DAY_US = 86_400 * US
NEVER = np.iinfo(np.int64).max
STEP_US = 3600 * US
"""Told in this much event time at once: events first, then reads. What is late is late by at most so much more."""
OUTSIDE = Quality.LATE | Quality.BACKFILL | Quality.CLOCK_DRIFT | DAY_BITS
ENERGY = {"import_wh", "export_wh"}
STEPS_APART = 12
TOGETHER_S = 300.0
"""A limit for a hung test."""


class Part(NamedTuple):
    """Rows sent together, and how."""

    reads: Rows
    events: Rows
    batch_rows: int = BATCH_ROWS
    wrong: bool = False
    """As other values of lower or equal rank."""
    origin: Origin = Origin.MEASURED
    after_acks: bool = False
    """Not before all that was sent is acknowledged: batches under way together are stored in any order."""


NONE: Rows = np.zeros(0, np.intp)
Way = Iterable[Part]


def _by_step(reads_at_us: Stamps, events_at_us: Stamps, step_us: int = STEP_US) -> Iterator[tuple[Rows, Rows]]:
    """Reads and events by the time at which they come, in steps."""
    told = []
    for at_us in (reads_at_us, events_at_us):
        order = np.argsort(at_us, kind="stable")
        told.append((order, at_us[order] // step_us))
    steps = np.unique(np.concatenate([step for _, step in told]))
    bounds = [np.searchsorted(step, np.append(steps, NEVER)).tolist() for _, step in told]
    for i in range(len(steps)):
        reads, events = (order[at[i] : at[i + 1]] for (order, _), at in zip(told, bounds, strict=True))
        yield reads, events


def in_order(story: Story) -> Iterator[Part]:
    """As it happened."""
    for reads, events in _by_step(story.end_us - 1, story.event_us):
        yield Part(reads, events)


def shuffled(story: Story, seed: int, *, times: int = 1, any_batch: bool = False) -> Iterator[Part]:
    """Each read and event up to 24 h late, every one of its copies on its own."""
    rng = np.random.default_rng(seed)
    reads, events = np.tile(np.arange(len(story.end_us)), times), np.tile(np.arange(len(story.event_us)), times)
    reads_at = story.end_us[reads] + rng.integers(0, DAY_US, len(reads))
    events_at = story.event_us[events] + rng.integers(0, DAY_US, len(events))
    for mine, told in _by_step(reads_at, events_at):
        left = rng.permutation(reads[mine])
        if not any_batch:
            yield Part(left, events[told])
            continue
        yield Part(NONE, events[told])
        while len(left):
            rows = int(np.exp(rng.uniform(0, np.log(BATCH_ROWS_MAX + 1))))
            yield Part(left[:rows], NONE, rows)
            left = left[rows:]


def weeks_late(story: Story, seed: int, step_us: int = STEP_US) -> Iterator[Part]:
    """Of three days of a meter in ten one comes 3 days late, another 20, whole; the rest as it happened."""
    rng = np.random.default_rng(seed)
    day, of = np.unique(story.end_us // DAY_US, return_inverse=True)
    late = rng.choice(np.array([0, 3, 20]), (len(day), len(story.meter)), p=[0.7, 0.15, 0.15])
    at_us = story.end_us - 1 + late[of, story.meter_index] * DAY_US
    for reads, events in _by_step(at_us, story.event_us, step_us):
        yield Part(reads, events)


def again(story: Story, times: int) -> Iterator[Part]:
    """In order, each step several times."""
    for part in in_order(story):
        for _ in range(times):
            yield part


def corrected(
    story: Story,
    seed: int,
    *,
    wrong_first: bool = True,
    origin: Origin = Origin.MEASURED,
    lag_us: int = DAY_US // 2,
    share: float = 1 / 3,
    step_us: int = STEP_US,
) -> Iterator[Part]:
    """A share of the reads comes with a wrong value and, half a day apart, with the right one of `origin`."""
    rng = np.random.default_rng(seed)
    doubtful = rng.random(len(story.end_us)) < share
    sure, unsure = np.flatnonzero(~doubtful), np.flatnonzero(doubtful)
    both = np.concatenate([sure, unsure, unsure])
    second = np.repeat([False, False, True], [len(sure), len(unsure), len(unsure)])
    wrong = np.repeat([False, wrong_first, not wrong_first], [len(sure), len(unsure), len(unsure)])
    at_us = story.end_us[both] - 1 + second * lag_us
    for rows, events in _by_step(at_us, story.event_us, step_us):
        yield Part(NONE, events)
        for lie in (True, False):
            mine = both[rows[wrong[rows] == lie]]
            yield Part(mine[~doubtful[mine]], NONE)
            in_turn = not lie and origin is Origin.MEASURED
            origin_now = Origin.MEASURED if lie else origin
            yield Part(mine[doubtful[mine]], NONE, wrong=lie, origin=origin_now, after_acks=in_turn)


def shared_out(story: Story, seed: int) -> list[Iterator[Part]]:
    """One way for each of the head-ends: every read goes to one of them, every fourth to a second one too.

    Nobody runs away by more than half a day.
    """
    rng = np.random.default_rng(seed)
    together = threading.Barrier(len(HEAD_ENDS), timeout=TOGETHER_S)
    of = rng.integers(0, len(HEAD_ENDS), len(story.end_us))
    also = np.where(rng.random(len(of)) < 0.25, (of + 1) % len(HEAD_ENDS), of)

    def mine(one: int) -> Iterator[Part]:
        order = np.random.default_rng((seed, one))
        for number, (reads, events) in enumerate(_by_step(story.end_us - 1, story.event_us)):
            own = reads[(of[reads] == one) | (also[reads] == one)]
            if number % STEPS_APART == 0:
                together.wait()
            told = events if one == 0 else NONE
            yield Part(
                order.permutation(own), told, int(order.integers(500, 10_000)), after_acks=number % STEPS_APART == 0
            )

    return [mine(one) for one in range(len(HEAD_ENDS))]


def values_of(story: Story, part: Part) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint32]]:
    """What is sent for the reads of a part: channels and mask."""
    channels = {name: values[part.reads] for name, values in story.channels.items()}
    if part.wrong:  # three times the energy, and one meter in eight without supply
        for name in ENERGY.intersection(channels):
            channels[name] = channels[name] * 3 + 1
        dark = story.meter_index[part.reads] % 8 == 0
        for name in [n for n in channels if n in VOLTAGE or n.startswith("current")]:
            channels[name] = np.where(dark, np.float32(0), channels[name])
    return channels, story.mask[part.reads]


def send(address: str, story: Story, way: Way, head_end: str = HEAD_ENDS[0], progress: Progress | None = None) -> None:
    """Send a story in one way; returns when all of it is acknowledged. A call of the client makes one batch."""
    with HeadEnd(address, head_end, 1, batch_rows=BATCH_ROWS_MAX, backoff=Backoff(0.05, 0.2)) as client:
        for part in way:
            if len(part.events) or part.after_acks:
                client.flush()  # events go by another call, so that they come after the reads before them
            if len(part.events):
                names = [story.meter[i] for i in story.event_meter[part.events]]
                told = story.event_us[part.events], story.event_code[part.events], story.event_phases[part.events]
                client.send_events(names, *told)
            channels, mask = values_of(story, part)
            origin = np.full(len(part.reads), int(part.origin), np.uint32)
            for at in range(0, len(part.reads), part.batch_rows):
                rows = slice(at, at + part.batch_rows)
                client.send_columns(
                    story.meter,
                    story.meter_index[part.reads[rows]],
                    story.end_us[part.reads[rows]],
                    INTERVAL_S,
                    mask=mask[rows],
                    origin=origin[rows] if part.origin else None,
                    **{name: values[rows] for name, values in channels.items()},
                )
            if progress is not None:
                progress.sent(len(part.reads))
        client.flush()


class Progress:
    """Says how far a way has come, every few seconds of reads."""

    def __init__(self, what: str, total: int, every: int = 500_000) -> None:
        self._what, self._total, self._every = what, total, every
        self._sent = 0
        self._lock = threading.Lock()

    def sent(self, rows: int) -> None:
        with self._lock:
            before, self._sent = self._sent, self._sent + rows
            if before // self._every < self._sent // self._every:
                print(f"    {self._what}: {self._sent:,} of about {self._total:,} reads sent", flush=True)


class Hashes(NamedTuple):
    """What the law is about, 16 hex digits each, and how many alarms there are."""

    reads: str
    values: str
    alarms: str
    rows: int
    standing: tuple[tuple[Any, ...], ...]
    """The alarms themselves, to see what differs."""

    @property
    def rules(self) -> set[tuple[str, str]]:
        """Rule and kind of asset of which there is an alarm."""
        return {alarm[:2] for alarm in self.standing}


SENT = f"quality & {METHOD_MASK} = 0"
"""Estimates come when their job has made them."""
_VALUE = f"meter, end_at, v.interval_s, quality & ~{int(OUTSIDE)}, {', '.join(CHANNEL_NAMES)}"
_READS = f"""
SELECT coalesce(sum(n), 0), coalesce(sum(h::numeric * n), 0), count(*), coalesce(sum(h::numeric), 0)
FROM (SELECT h, count(*) FILTER (WHERE is_current) AS n
      FROM (SELECT hashtextextended(r::text, 0) AS h, is_current
            FROM (SELECT * FROM read_history WHERE {SENT}) AS v JOIN meters USING (slot)
            CROSS JOIN LATERAL (SELECT v.superseded_at IS NULL AS is_current) AS c
            CROSS JOIN LATERAL (SELECT {_VALUE}) AS r) AS told
      GROUP BY h) AS distinct_values"""
"""Each version is spelled out once, for both hashes: DISTINCT over the columns sorts millions of rows by text."""
_ALARMS = """
SELECT rule, asset_kind, asset, onset_at, raised_at, cleared_at, severity, level FROM alarms
WHERE rule NOT IN ('COMM_LOSS', 'SYSTEM') AND state <> 'RETRACTED' AND parent_id IS NULL ORDER BY 1, 2, 3, 4, 5"""


def alarms_of(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """The alarms under the law."""
    return connection.execute(_ALARMS).fetchall()


OWED_S = 1800.0
"""A limit for a hung test: the long form on a busy machine takes minutes to judge seven weeks of corrections."""


def nothing_owed(dsn: str) -> None:
    """Wait until all that was acknowledged is judged: what is late by days may be judged after the ack."""
    deadline_s = time.monotonic() + OWED_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute("SELECT FROM transformer_loads_owed LIMIT 1").fetchone() is not None:
            assert time.monotonic() < deadline_s, "something of the past still waits to be judged"
            time.sleep(0.05)  # the service works meanwhile


def hashes_of(dsn: str) -> Hashes:
    """The hashes of a database in which nothing is under way."""
    with psycopg.connect(dsn, options="-c TimeZone=UTC -c work_mem=256MB") as connection:
        row = connection.execute(_READS.encode()).fetchone()
        assert row is not None
        alarms = alarms_of(connection)
    return Hashes(_short(row[:2]), _short(row[2:]), _short(alarms), int(row[0]), tuple(alarms))


def _short(thing: Any) -> str:
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:16]


def table(told: dict[str, Hashes]) -> str:
    """The hashes of all ways, for people."""
    width = max(map(len, told))
    head = f"{'way':{width}}  {'reads':16}  {'values':16}  {'alarms':16}  {'rows':>9}  alarms"
    return "\n".join(
        [
            head,
            *(
                f"{name:{width}}  {h.reads}  {h.values}  {h.alarms}  {h.rows:9,}  {len(h.standing)}"
                for name, h in told.items()
            ),
        ]
    )


def differing(told: dict[str, Hashes], of: Sequence[str], column: str) -> list[str]:
    """What differs between these ways, as lines; nothing if the law holds."""
    first = told[of[0]]
    found = [name for name in of if getattr(told[name], column) != getattr(first, column)]
    lines = [f"{name}: {getattr(told[name], column)} instead of {getattr(first, column)}" for name in found]
    if "alarms" in column:
        for name in found:
            own, others = Counter(told[name].standing), Counter(first.standing)  # the same one twice differs too
            lines += [f"  {name}, not {of[0]}: {_line(alarm)}" for alarm in sorted((own - others).elements(), key=str)]
            lines += [f"  {of[0]}, not {name}: {_line(alarm)}" for alarm in sorted((others - own).elements(), key=str)]
    return lines


def _line(alarm: tuple[Any, ...]) -> str:
    return " ".join(f"{value:%m-%d %H:%M:%S}" if hasattr(value, "hour") else str(value) for value in alarm)
