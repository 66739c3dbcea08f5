"""From true and false to episodes: one rule over the reads of many assets, each asset a lane.

The rule of `for` and `keep_firing_for`, in event time. A run begins with the first true read and is *pending* until the
true reads in it cover `for`; then it fires, and its onset is where the run began. A false read ends a pending run; so
does a hole of more than one interval between two true reads. A firing run ends at the first false read whose end is
`keep_firing_for` or more after the last true one, and was over `keep_firing_for` after that. Silence ends nothing, and
an unknown value is as silence. So the episodes follow from the set of reads alone.

Calm: a false read without a true one in the `keep_firing_for` before its end brings every state to rest. What is before
a calm read cannot be felt after it, which bounds what must be read again when something late arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
REST = -1
FAR_PAST = -(2**62)


@dataclass(slots=True)
class Lanes:
    """State per lane, arrays of the same length."""

    onset_us: Ints
    """Begin of the run; REST: none."""
    covered_us: Ints
    """Time its true reads cover, up to firing."""
    last_true_us: Ints
    raised_us: Ints
    """End of the read with which it fired; 0: pending."""
    values: NDArray[np.float64]
    """(lanes, columns shown): those of that read."""

    @classmethod
    def at_rest(cls, lanes: int, columns: int) -> Lanes:
        covered, last_true, raised = (np.zeros(lanes, np.int64) for _ in range(3))
        return cls(np.full(lanes, REST, np.int64), covered, last_true, raised, np.full((lanes, columns), np.nan))

    def take(self, rows: Any) -> Lanes:
        return Lanes(
            self.onset_us[rows], self.covered_us[rows], self.last_true_us[rows], self.raised_us[rows], self.values[rows]
        )

    def put(self, rows: Any, other: Lanes) -> None:
        self.onset_us[rows], self.covered_us[rows] = other.onset_us, other.covered_us
        self.last_true_us[rows], self.raised_us[rows] = other.last_true_us, other.raised_us
        self.values[rows] = other.values

    def joined(self, other: Lanes) -> Lanes:
        """The two, one after the other."""
        names = ("onset_us", "covered_us", "last_true_us", "raised_us", "values")
        return Lanes(*(np.concatenate((getattr(self, name), getattr(other, name))) for name in names))


class Evidence(NamedTuple):
    """Rows of one rule, by (lane, end), no end twice in a lane; unknown ones are left out."""

    lane: NDArray[np.intp]
    end_us: Ints
    length_us: Ints
    true: Bools
    values: NDArray[np.float64]

    def take(self, rows: Any) -> Evidence:
        return Evidence(*(column[rows] for column in self))


class Ended(NamedTuple):
    """Episodes that are over, in the order of their ends in each lane."""

    lane: NDArray[np.intp]
    onset_us: Ints
    raised_us: Ints
    cleared_us: Ints
    values: NDArray[np.float64]


def joined(parts: Sequence[Evidence]) -> Evidence:
    """All of them."""
    return parts[0] if len(parts) == 1 else Evidence(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def sorted_evidence(rows: Evidence) -> Evidence:
    """By lane and end."""
    order = np.argsort(rows.lane, kind="stable")
    lane = rows.lane[order]
    if (lane[1:] == lane[:-1]).any():
        order = np.lexsort((rows.end_us, rows.lane))
    return rows.take(order)


def by_lane(rows: Evidence) -> tuple[NDArray[np.int32], Evidence]:
    """Rows by asset as rows by lane and end: the assets, ascending, and each one's place among them as its lane."""
    rows = sorted_evidence(rows)
    first = np.ones(len(rows.lane), np.bool_)
    first[1:] = rows.lane[1:] != rows.lane[:-1]
    return rows.lane[first].astype(np.int32), rows._replace(lane=np.cumsum(first) - 1)


def fold(state: Lanes, rows: Evidence, for_us: int, keep_us: int) -> Ended:
    """Take `state` through the rows; the episodes that ended. Cost: a few numpy calls per read of the longest lane."""
    if (rows.lane[1:] > rows.lane[:-1]).all():  # nearly always: each lane once, and `_step` knows what changes nothing
        every = len(rows.lane) == len(state.onset_us)
        return _step(state, rows, slice(None) if every else rows.lane, for_us, keep_us)
    rows = rows.take(_felt(state, rows, keep_us))
    at = np.arange(len(rows.lane))
    first = np.ones(len(at), np.bool_)
    first[1:] = rows.lane[1:] != rows.lane[:-1]
    rank = at - np.maximum.accumulate(np.where(first, at, 0)) if len(at) else at
    ended: list[Ended] = []
    order = np.argsort(rank, kind="stable")
    stops = np.cumsum(np.bincount(rank)) if len(at) else at
    begin = 0
    for stop in stops.tolist():
        some = rows.take(order[begin:stop])
        ended.append(_step(state, some, some.lane, for_us, keep_us))
        begin = stop
    if not ended:
        none = np.zeros(0, np.int64)
        return Ended(none, none, none, none, state.values[:0])
    return Ended(*(np.concatenate(column) for column in zip(*ended, strict=True)))


def last_true_before(state: Lanes | None, rows: Evidence) -> Ints:
    """Per row the end of the last true read of its lane before it; FAR_PAST: none known."""
    n = len(rows.lane)
    if not n:
        return np.zeros(0, np.int64)
    at = np.arange(n)
    first = np.ones(n, np.bool_)
    first[1:] = rows.lane[1:] != rows.lane[:-1]
    begin = np.maximum.accumulate(np.where(first, at, 0))
    newest = np.maximum.accumulate(np.where(rows.true, at, -1))
    before = np.concatenate(([-1], newest[:-1]))
    known = before >= begin
    carried = np.full(n, FAR_PAST)
    if state is not None:
        carried = np.where(state.onset_us[rows.lane] == REST, FAR_PAST, state.last_true_us[rows.lane])
    return np.where(known, rows.end_us[np.maximum(before, 0)], carried)


def calm(rows: Evidence, keep_us: int, from_us: int) -> Bools:
    """Rows that bring any state to rest, as far as reads that end after from_us show."""
    before = last_true_before(None, rows)
    return ~rows.true & (before <= rows.end_us - keep_us) & (rows.end_us - keep_us >= from_us)


def _felt(state: Lanes, rows: Evidence, keep_us: int) -> Bools:
    """Rows that can change something: the true ones, and of the false the first after one and the first past `keep`."""
    before = last_true_before(state, rows)
    past: Bools = rows.end_us - before >= keep_us
    same = np.zeros(len(past), np.bool_)
    same[1:] = (rows.lane[1:] == rows.lane[:-1]) & ~rows.true[:-1] & (before[1:] == before[:-1])
    again = same.copy()
    again[1:] &= past[:-1] | ~past[1:]
    awake: Bools = before != FAR_PAST
    return rows.true | (awake & ~again)


def _step(state: Lanes, rows: Evidence, lanes: Any, for_us: int, keep_us: int) -> Ended:
    """One row of each of these lanes."""
    now = state.take(lanes)
    begin_us = rows.end_us - rows.length_us
    pending = now.raised_us == 0
    broken = pending & (begin_us - now.last_true_us > rows.length_us)
    begins = rows.true & ((now.onset_us == REST) | broken)
    more = np.minimum(rows.length_us, rows.end_us - now.last_true_us)
    covered = np.where(begins, rows.length_us, now.covered_us + more)
    fires = rows.true & (begins | pending) & (covered >= for_us)
    over = ~rows.true & ~pending & (rows.end_us - now.last_true_us >= keep_us)
    rests = over | (~rows.true & pending)
    ended = Ended(
        rows.lane[over], now.onset_us[over], now.raised_us[over], now.last_true_us[over] + keep_us, now.values[over]
    )
    after = Lanes(
        np.where(rests, REST, np.where(begins, begin_us, now.onset_us)),
        np.where(rows.true & pending, covered, now.covered_us),
        np.where(rows.true, rows.end_us, now.last_true_us),
        np.where(rests, 0, np.where(fires, rows.end_us, now.raised_us)),
        np.where(fires[:, None], rows.values, now.values),
    )
    state.put(lanes, after)
    return ended
