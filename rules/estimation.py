"""What a missing read was, as well as can be known: the ladder of estimation. Arrays in, values and methods out.

For each missing interval the first rung that applies (docs/semantics.md, Estimates):

    OUTAGE      the meter told that it was without supply for the whole interval: no energy
    LINEAR      a gap of at most 2 h between two reads: on the line between them
    REGISTER    the register's count over a span is known, and finely enough: what the other intervals of the span leave
                of it, shared out over the missing ones like the like days, or evenly where those say nothing
    LIKE_DAYS   the mean of the same time on 3 to 5 like days
    -           stays missing

Everything is a function of what was sent; what was estimated before is no argument. Energy is whole Wh: the parts of a
register's count add up to it exactly. Axes: meters m, interval ends t on one grid without a hole, like days k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.quality import Method
from rules.gaps import Runs, runs

US: Final = 1_000_000
LINEAR_S_MAX: Final = 2 * 3600
"""A gap up to so long is bridged by a line. (std practice)"""
LIKE_DAYS_MIN: Final = 3
LIKE_DAYS_MAX: Final = 5
"""Values a mean is made of. (std practice)"""
OUTAGE_US_MAX: Final = 72 * 3600 * US
"""A power failure that nobody ended is believed so long. (std practice)"""
STEP_SHARE_MAX: Final = 0.1
"""A display's step is at most this share of what the missing intervals of a span have at its mean: what is left of a
coarser count is its rounding. (ours)"""
ABSENT: Final = -1
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Registers(NamedTuple):
    """What registers counted over spans of one meter's intervals; arrays of equal length, spans of a meter apart."""

    row: NDArray[np.intp]
    """Meter, 0..m-1."""
    first: NDArray[np.intp]
    """Index of the first interval of the span."""
    last: NDArray[np.intp]
    """Of the last one."""
    import_wh: Ints
    """ABSENT: not known; so for export."""
    export_wh: Ints
    step_wh: NDArray[np.float64]
    """What the display shows least, primary Wh."""

    @classmethod
    def none(cls) -> Registers:
        ids, energy = np.zeros(0, np.intp), np.zeros(0, np.int64)
        return cls(ids, ids, ids, energy, energy, np.zeros(0))


@dataclass(frozen=True, slots=True)
class Energy:
    """One channel. ABSENT where nothing was sent, or not for exactly that interval."""

    sent: Ints
    """int64[m, t], Wh"""
    like: Ints
    """int64[m, k, t], Wh: the same time on days before, the likest first."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """What is to be estimated, and from what."""

    interval_s: int
    missing: Mask
    """bool[m, t]: owed, and nothing that was sent covers a part of it."""
    off: Mask
    """bool[m, t]: known to be without supply for the whole interval."""
    import_wh: Energy
    export_wh: Energy
    registers: Registers = field(default_factory=Registers.none)


class Estimates(NamedTuple):
    """int64[m, t] each; method SENT (0) and ABSENT energy where nothing is estimated."""

    method: NDArray[np.uint8]
    import_wh: Ints
    export_wh: Ints


def estimate(gaps: Gaps) -> Estimates:
    """The first rung that applies, for each missing interval."""
    found = runs(gaps.missing)
    method = np.zeros(gaps.missing.shape, np.uint8)
    energies: list[Ints] = []
    leading = _leads(gaps)
    for energy, leads in ((gaps.import_wh, leading), (gaps.export_wh, ~leading)):
        values, of = _channel(gaps, found, energy)
        energies.append(values)
        method = np.where(leads[:, None], of, method)
    import_wh, export_wh = (np.where(method != Method.SENT, values, ABSENT) for values in energies)
    return Estimates(method, import_wh, export_wh)


def _leads(gaps: Gaps) -> Mask:
    """bool[m]: the meter's import decides the method; export does of one that never sends import."""
    return _ever(gaps.import_wh) | ~_ever(gaps.export_wh)


def _ever(energy: Energy) -> Mask:
    """bool[m]: the meter sends this channel."""
    found: Mask = np.any(energy.sent >= 0, axis=1) | np.any(energy.like >= 0, axis=(1, 2))
    return found


def _channel(gaps: Gaps, found: Runs, energy: Energy) -> tuple[Ints, NDArray[np.uint8]]:
    """The ladder for one channel alone."""
    values = np.full(gaps.missing.shape, ABSENT, np.int64)
    method = np.zeros(gaps.missing.shape, np.uint8)
    usual = like_days(energy.like)

    def rung(name: Method, offered: Ints) -> None:
        takes = gaps.missing & (method == Method.SENT) & (offered >= 0)
        values[takes] = offered[takes]
        method[takes] = name

    rung(Method.OUTAGE, np.where(gaps.off & _ever(energy)[:, None], 0, ABSENT))
    rung(Method.LINEAR, linear(energy.sent, found, LINEAR_S_MAX // gaps.interval_s))
    of_span = gaps.registers.import_wh if energy is gaps.import_wh else gaps.registers.export_wh
    known = np.where(energy.sent >= 0, energy.sent, values)
    open_ = gaps.missing & (method == Method.SENT)
    rung(Method.REGISTER, by_register(gaps.registers, of_span, known, open_, energy.like))
    rung(Method.LIKE_DAYS, usual)
    return values, method


def linear(sent: Ints, found: Runs, reads_max: int) -> Ints:
    """int64[m, t]: between the reads beside each run of at most reads_max intervals; ABSENT elsewhere. Half up."""
    values = np.full(sent.shape, ABSENT, np.int64)
    inside = (found.reads <= reads_max) & (found.first > 0) & (found.last < sent.shape[1] - 1)
    row, first, last = found.row[inside], found.first[inside], found.last[inside]
    before, after = sent[row, first - 1], sent[row, last + 1]
    both = (before >= 0) & (after >= 0)
    row, first, last, before, after = (column[both] for column in (row, first, last, before, after))
    count = last - first + 1
    run = np.repeat(np.arange(len(row)), count)
    step = np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count) + 1
    parts = (count + 1)[run]
    doubled = 2 * (before[run] * (parts - step) + after[run] * step) + parts
    values[row[run], first[run] + step - 1] = doubled // (2 * parts)
    return values


def like_days(like: Ints) -> Ints:
    """int64[m, t]: mean of the first LIKE_DAYS_MAX values along k, half up; ABSENT where fewer than LIKE_DAYS_MIN."""
    there = like >= 0
    taken = there & (np.cumsum(there, axis=1) <= LIKE_DAYS_MAX)
    count = taken.sum(axis=1)
    total = np.where(taken, like, 0).sum(axis=1)
    enough = count >= LIKE_DAYS_MIN
    return np.where(enough, (2 * total + count) // np.maximum(2 * count, 1), ABSENT)


def by_register(registers: Registers, span_wh: Ints, known: Ints, open_: Mask, like: Ints) -> Ints:
    """int64[m, t]: what is left of each span's count, over its open intervals; ABSENT elsewhere.

    known: int64[m, t] energy of the others; a span in which one is not known says nothing, nor does one with less than
    nothing left, or of a display that is too coarse (STEP_SHARE_MAX). The shape is the mean of the like days there are
    (one is enough), if every open interval has one.
    """
    values = np.full(known.shape, ABSENT, np.int64)
    there = like >= 0
    usual = np.where(there, like, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    shaped: Mask = np.any(there, axis=1)
    columns = (registers.row, registers.first, registers.last, span_wh, registers.step_wh)
    for row, first, last, wh, step_wh in zip(*(column.tolist() for column in columns), strict=True):  # spans, not reads
        span = slice(first, last + 1)
        mine, others = open_[row, span], known[row, span][~open_[row, span]]
        left = wh - int(others.sum())
        if wh < 0 or not mine.any() or (others < 0).any() or left < 0:
            continue
        if step_wh > STEP_SHARE_MAX * wh * np.count_nonzero(mine) / len(mine):
            continue
        shape = usual[row, span][mine]
        if not shaped[row, span][mine].all() or shape.sum() == 0:
            shape = np.ones(len(shape))
        share = np.floor(left * np.concatenate(([0.0], np.cumsum(shape))) / shape.sum()).astype(np.int64)
        share[-1] = left
        values[row, first + np.flatnonzero(mine)] = np.diff(share)
    return values


Moments = tuple[NDArray[np.intp], Ints]
"""Meter and time of each."""


def without_supply(starts_us: Ints, interval_s: int, fail: Moments, back: Moments, rows: int) -> Mask:
    """bool[rows, t]: intervals that lie wholly between a power failure of the meter and the first sign of supply.

    starts_us: int64[t] begin of each interval. fail: power failures. back: signs of supply (a restoration, the begin of
    a read with supply). A failure without a sign is believed for OUTAGE_US_MAX.
    """
    delta = np.zeros((rows, len(starts_us) + 1), np.int64)
    order = np.lexsort((back[1], back[0]))
    back_row, back_us = back[0][order], back[1][order]
    for row, at_us in zip(fail[0].tolist(), fail[1].tolist(), strict=True):  # events, not reads
        mine = slice(*np.searchsorted(back_row, (row, row + 1)))
        later = np.searchsorted(back_us[mine], at_us, side="left")
        end_us = at_us + OUTAGE_US_MAX
        if later < mine.stop - mine.start:
            end_us = min(end_us, int(back_us[mine][later]))
        first = int(np.searchsorted(starts_us, at_us, side="left"))
        stop = int(np.searchsorted(starts_us + interval_s * US, end_us, side="right"))
        if first < stop:
            delta[row, first] += 1
            delta[row, stop] -= 1
    found: Mask = np.cumsum(delta, axis=1)[:, :-1] > 0
    return found
