"""How a day comes to the service: plainly, as it is sent, or in a way drawn from a seed.

A way is a list of acts in time. What disturbs is drawn by kind, each from numbers of its own, so that a failing way can
be tried without one of them and all else stays as it was. Refuses to know what an act does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from meterwatch.clock import US
from meterwatch.devtools.simulation.small_grid import INTERVAL_US, START_US, Grid
from meterwatch.devtools.simulation.told_day import HOUR_US, MINUTE_US, Day, Rows

BURST_US: Final = 30 * US
"""Events sent so close together come together."""
HALF_HOUR_US: Final = 30 * MINUTE_US
LATE_MAX_US: Final = 6 * HOUR_US
SETTLED_US: Final = 14 * HOUR_US
"""So long after the last interval everything is over: what was late is here, shelves have ended, the clock is right."""
AHEAD_S_MAX: Final = 3 * 3600
BEHIND_S_MAX: Final = 3 * 3600
"""Ingest would refuse what is sent (V04: 120 s); here all of it is stored, which is harder on the rules."""
NO_ROWS: Final = np.zeros(0, np.intp)
ASPECTS: Final = ("reorder", "split", "duplicate", "restart", "clock", "failure", "operator", "subscriber")
"""What may be left out of a way."""


class What(IntEnum):
    """Kinds of acts; of one moment in this order."""

    CLOCK = 0
    """number: by how much the machine's clock is wrong from now on, us."""
    KILL = 1
    """number: 0 at once, 1 when the next reads are stored, 2 and 3 before and after the next commit."""
    FAIL = 2
    """The next commit fails; number: 0 before, 1 after it is done."""
    GONE = 3
    COMES = 4
    EVENTS = 5
    READS = 6
    OPERATOR = 7
    LOOK = 8
    """Subscribers read, and the desk keeps time."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something at a moment of true time."""

    at_us: int
    what: What
    number: int = 0
    rows: Rows = field(default_factory=lambda: NO_ROWS)
    batches: tuple[Rows, ...] = ()


def settled_us(day: Day) -> int:
    """When everything is over."""
    return day.over_us + SETTLED_US


def plain(day: Day) -> list[Act]:
    """As it is sent, the reads of half an hour together: the price of a turn is by turn, not by read."""
    acts = [*_events(day, day.event_sent_us, BURST_US), *_silences(day)]
    slice_of = day.read_sent_us // HALF_HOUR_US
    for number in np.unique(slice_of).tolist():
        rows = np.flatnonzero(slice_of == number)
        acts.append(Act(int(day.read_sent_us[rows].max()), What.READS, batches=tuple(_cells_once(day, rows))))
    return sorted(acts, key=lambda act: (act.at_us, act.what))


def drawn(day: Day, grid: Grid, seed: int, without: frozenset[str] = frozenset()) -> list[Act]:
    """In the way of a seed. without: aspects left out."""
    rng = {aspect: np.random.default_rng((seed, 1, number)) for number, aspect in enumerate(ASPECTS)}
    acts = _silences(day)
    reads_us, events_us = day.read_sent_us, day.event_sent_us
    order = rng["reorder"]
    lateness = order.choice([0, 5 * MINUTE_US, HOUR_US, LATE_MAX_US], p=[0.2, 0.25, 0.3, 0.25])
    reads_late, events_late = order.random(len(reads_us)), order.random(len(events_us))
    step_us = int(order.choice([HALF_HOUR_US, HOUR_US, 2 * HOUR_US]))
    of_meters = order.random(grid.topology.slots) < 0.2
    if "reorder" not in without:
        if order.random() < 0.5:
            reads_us = reads_us + (reads_late * lateness).astype(np.int64)
            events_us = events_us + (events_late * lateness).astype(np.int64)
        else:  # some meters hold all back until the end
            until_us = int(order.integers(START_US + 2 * HOUR_US, day.over_us + LATE_MAX_US))
            reads_us = np.where(of_meters[day.slot], np.maximum(reads_us, until_us), reads_us)
            events_us = np.where(of_meters[day.event_slot], np.maximum(events_us, until_us), events_us)
        second = day.rank > day.rank.min(initial=0)
        reads_us = np.where(second, np.maximum(reads_us, day.read_sent_us), reads_us)
    acts += _events(day, events_us, BURST_US if step_us == HALF_HOUR_US else step_us // 4)
    split = rng["split"] if "split" not in without else None
    slice_of = reads_us // step_us
    for number in np.unique(slice_of).tolist():
        rows = np.flatnonzero(slice_of == number)
        if "reorder" not in without:
            rows = order.permutation(rows)
        acts.append(Act(int(reads_us[rows].max()), What.READS, batches=tuple(_parts(day, rows, split))))
    began_us, end_us = START_US + INTERVAL_US, max(act.at_us for act in acts)

    def some(aspect: str, most: int, share: float) -> list[int]:
        mine = rng[aspect]
        times = mine.integers(began_us, end_us, int(mine.integers(1, most + 1)) if mine.random() < share else 0)
        return [] if aspect in without else sorted(times.tolist())

    for at_us in some("duplicate", 4, 0.6):
        rows = np.flatnonzero(reads_us < at_us)
        again = rng["duplicate"].permutation(rows)[: int(rng["duplicate"].integers(1, 200))]
        acts.append(Act(at_us, What.READS, batches=tuple(_cells_once(day, again))))
        told = np.flatnonzero(events_us < at_us)
        if len(told):
            acts.append(Act(at_us, What.EVENTS, rows=rng["duplicate"].permutation(told)[:40]))
    acts += [Act(at_us, What.KILL, int(rng["restart"].integers(0, 4))) for at_us in some("restart", 3, 0.6)]
    acts += [Act(at_us, What.FAIL, int(rng["failure"].integers(0, 2))) for at_us in some("failure", 3, 0.4)]
    for at_us in some("clock", 2, 0.4):
        ahead_s, behind_s = rng["clock"].integers((40, 40), (AHEAD_S_MAX, BEHIND_S_MAX)).tolist()
        wrong_us = (ahead_s if rng["clock"].random() < 0.6 else -behind_s) * US
        acts.append(Act(at_us, What.CLOCK, wrong_us))
        acts.append(Act(at_us + int(rng["clock"].integers(60, 7200)) * US, What.CLOCK, 0))
    acts += [Act(at_us, What.OPERATOR, i) for i, at_us in enumerate(some("operator", 6, 0.6))]
    acts += [Act(at_us, What.LOOK) for at_us in some("subscriber", 6, 1.0)]
    return sorted(acts, key=lambda act: (act.at_us, act.what))


def _silences(day: Day) -> list[Act]:
    gone = [Act(one.from_us, What.GONE, one.head_end) for one in day.silences]
    return gone + [Act(one.to_us, What.COMES, one.head_end) for one in day.silences]


def _events(day: Day, sent_us: np.ndarray[tuple[int], np.dtype[np.int64]], apart_us: int) -> Iterator[Act]:
    """Bursts of events, each with the last of it."""
    order = np.argsort(sent_us, kind="stable")
    cuts = np.flatnonzero(np.diff(sent_us[order]) > apart_us) + 1
    for rows in np.split(order, cuts) if len(order) else []:
        yield Act(int(sent_us[rows].max()), What.EVENTS, rows=rows)


def _cells_once(day: Day, rows: Rows) -> Iterator[Rows]:
    """Batches in which no read is twice: what corrects comes after what it corrects."""
    second = day.rank[rows] > day.rank.min()
    for part in (rows[~second], rows[second]):
        if len(part):
            yield part


def _parts(day: Day, rows: Rows, rng: np.random.Generator | None) -> Iterator[Rows]:
    """The same in several batches."""
    count = 1 if rng is None else int(rng.choice([1, 1, 2, 5]))
    for part in np.array_split(rows, count):
        yield from _cells_once(day, part)
