"""What a local day of some meters lacks, out of what is stored: columns for the ladder in, reads to write out. No I/O.

The ladder (rules.estimation) sees the day and 2 h on both sides, its like days and the power failures of three days. An
estimate that stands and follows no more is withdrawn: a read without values takes its place. What comes out is only
what differs from the estimates that stand, so doing it again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import EventCode, Reads
from meterwatch.channels import CHANNEL_BIT
from meterwatch.clock import US
from meterwatch.local_days import day_starts_us
from meterwatch.quality import METHOD_MASK, METHOD_SHIFT, ORIGIN_MASK, ORIGIN_SHIFT, Method, Origin, Quality
from rules.estimation import ABSENT, LINEAR_S_MAX, OUTAGE_US_MAX, Energy, Gaps, Registers, estimate, without_supply
from rules.gaps import grid, owed

WEEKS_BEFORE: Final = (7, 14, 21, 28)
"""The same weekday before: the likest days. (std practice)"""
WEEK: Final = 7
WEEKEND: Final = 5
"""Monday is 0."""
Ints = NDArray[np.int64]
Slots = NDArray[np.int32]


def like_days_of(day: int) -> list[int]:
    """Days before that are like it, the likest first: same weekdays, then the last week's working days (weekends)."""

    def weekend(one: int) -> bool:
        return (one + 3) % WEEK >= WEEKEND  # 1970-01-01 was a Thursday

    recent = [day - n for n in range(1, WEEK) if weekend(day - n) == weekend(day)]
    return [day - n for n in WEEKS_BEFORE] + recent


def days_resting_on(day: int) -> list[int]:
    """Days whose estimates may change with the reads or events of this one: itself among them."""
    return [day - 1, *range(day, day + WEEK + 1), *(day + n for n in WEEKS_BEFORE[1:])]


@dataclass(frozen=True, slots=True)
class DayOf:
    """One local day of meters of one zone and interval length."""

    zone: str
    day: int
    interval_s: int
    slots: Slots
    installed_us: Ints
    retired_us: Ints

    def bounds(self, day: int) -> tuple[int, int]:
        """Begin and end of a local day, us."""
        starts = day_starts_us(self.zone)
        return int(starts[day]), int(starts[day + 1])

    @property
    def margin_us(self) -> int:
        return (LINEAR_S_MAX + self.interval_s) * US

    def spans(self) -> list[tuple[int, int]]:
        """From and to (from < end <= to) of the reads that are needed; of the first one the events as well."""
        start_us, end_us = self.bounds(self.day)
        first_us = min(self.bounds(self.day - WEEK)[0], start_us - OUTAGE_US_MAX)
        return [(first_us, end_us + self.margin_us), *(self.bounds(self.day - n) for n in WEEKS_BEFORE[1:])]


class Stored(NamedTuple):
    """Reads by meter, arrays of equal length; energy ABSENT where not sent."""

    of: NDArray[np.intp]
    end_us: Ints
    interval_s: Ints
    quality: Ints
    import_wh: Ints
    export_wh: Ints

    @property
    def start_us(self) -> Ints:
        return self.end_us - self.interval_s * US

    def where(self, mask: NDArray[np.bool_]) -> Stored:
        return Stored(*(column[mask] for column in self))


def stored_of(spans: list[list[NDArray[Any]]]) -> Stored:
    """Out of the columns of storage.meter_days.DayStep.reads for each of day.spans()."""
    of, end_us, interval_s, quality, _, import_wh, export_wh, *_ = (
        np.concatenate(column) for column in zip(*spans, strict=True)
    )
    return Stored(
        of.astype(np.intp),
        *(column.astype(np.int64) for column in (end_us, interval_s, quality, import_wh, export_wh)),
    )


def differing(
    day: DayOf, stored: Stored, events: list[NDArray[Any]], registers: Registers, span: tuple[int, int]
) -> Reads:
    """Estimates to write, for ends in span[0] < end <= span[1] of the day.

    events: index of the meter, at_us and code. registers: rows by meter, intervals by `ends_of`.
    """
    if not len(stored.of) and not len(registers.row):  # every rung rests on something
        none = np.zeros(0, np.int64)
        return _reads(day, none, none, none, none, none)
    ends_us = ends_of(day)
    own = (stored.quality & METHOD_MASK) != 0
    sent = stored.where(~own)
    import_wh, export_wh = (_placed(day, ends_us, sent, energy) for energy in (sent.import_wh, sent.export_wh))
    missing = owed(ends_us, day.interval_s, day.installed_us, day.retired_us) & ~_covered(day, ends_us, sent)
    like = _like(day, ends_us, sent)
    gaps = Gaps(
        day.interval_s,
        missing,
        _off(day, ends_us, sent, events),
        Energy(import_wh, like[0]),
        Energy(export_wh, like[1]),
        registers,
    )
    new = estimate(gaps)
    standing = stored.where(own)
    methods = (standing.quality & METHOD_MASK) >> METHOD_SHIFT
    old = np.maximum(_placed(day, ends_us, standing, methods), Method.SENT)
    method = np.where((new.method == Method.SENT) & (old != Method.SENT), Method.WITHDRAWN, new.method).astype(np.int64)
    changed = method != old
    for values, before in ((new.import_wh, standing.import_wh), (new.export_wh, standing.export_wh)):
        changed |= values != _placed(day, ends_us, standing, before)
    start_us, end_us = day.bounds(day.day)
    changed &= (ends_us > max(start_us, span[0])) & (ends_us <= min(end_us, span[1]))
    row, at = np.nonzero(changed)
    return _reads(day, row, ends_us[at], method[row, at], new.import_wh[row, at], new.export_wh[row, at])


def ends_of(day: DayOf) -> Ints:
    """The interval ends the ladder sees."""
    start_us, end_us = day.bounds(day.day)
    return grid(start_us - day.margin_us, end_us + day.margin_us, day.interval_s)


def _placed(day: DayOf, ends_us: Ints, reads: Stored, values: Ints) -> Ints:
    """int64[m, t]: the values at their ends, of reads of the meter's own interval length; ABSENT elsewhere."""
    placed = np.full((len(day.slots), len(ends_us)), ABSENT, np.int64)
    step = day.interval_s * US
    at = (reads.end_us - ends_us[0]) // step
    fits = (reads.interval_s == day.interval_s) & ((reads.end_us - ends_us[0]) % step == 0)
    fits &= (at >= 0) & (at < len(ends_us))
    placed[reads.of[fits], at[fits]] = values[fits]
    return placed


def _covered(day: DayOf, ends_us: Ints, sent: Stored) -> NDArray[np.bool_]:
    """bool[m, t]: a read lies over a part of the interval."""
    first = np.searchsorted(ends_us, sent.start_us, side="right")
    stop = np.searchsorted(ends_us - day.interval_s * US, sent.end_us, side="left")
    delta = np.zeros((len(day.slots), len(ends_us) + 1), np.int64)
    over = first < stop
    np.add.at(delta, (sent.of[over], first[over]), 1)
    np.add.at(delta, (sent.of[over], stop[over]), -1)
    covered: NDArray[np.bool_] = np.cumsum(delta, axis=1)[:, :-1] > 0
    return covered


def _like(day: DayOf, ends_us: Ints, sent: Stored) -> tuple[Ints, Ints]:
    """int64[m, k, t] of import and export: the same time on like days, counted back from their next midnight.

    So an hour is off where the clocks change, for the hours before the change. Only measured reads with supply count.
    """
    origin = (sent.quality & ORIGIN_MASK) >> ORIGIN_SHIFT
    sound = sent.where((origin < Origin.SUBSTITUTED) & ((sent.quality & Quality.SUPPLY_OFF) == 0))
    start_us, end_us = day.bounds(day.day)
    imports, exports = [], []
    for one in like_days_of(day.day):
        first_us, last_us = day.bounds(one)
        shift_us = end_us - last_us
        mine = sound.where((sound.end_us > max(first_us, start_us - shift_us)) & (sound.end_us <= last_us))
        moved = mine._replace(end_us=mine.end_us + shift_us)
        imports.append(_placed(day, ends_us, moved, moved.import_wh))
        exports.append(_placed(day, ends_us, moved, moved.export_wh))
    return np.stack(imports, axis=1), np.stack(exports, axis=1)


def _off(day: DayOf, ends_us: Ints, sent: Stored, events: list[NDArray[Any]]) -> NDArray[np.bool_]:
    of, at_us, code = events[0].astype(np.intp), events[1].astype(np.int64), events[2]
    fails, restored = code == EventCode.POWER_FAIL, code == EventCode.POWER_RESTORED
    supplied = ((sent.quality & Quality.SUPPLY_OFF) == 0) & (
        ((sent.quality & Quality.SUPPLY_ON) != 0) | (sent.import_wh > 0) | (sent.export_wh > 0)
    )
    signs = (
        np.concatenate((of[restored], sent.of[supplied])),
        np.concatenate((at_us[restored], sent.start_us[supplied])),
    )
    starts_us = ends_us - day.interval_s * US
    return without_supply(starts_us, day.interval_s, (of[fails], at_us[fails]), signs, len(day.slots))


def _reads(day: DayOf, row: NDArray[np.intp], end_us: Ints, method: Ints, import_wh: Ints, export_wh: Ints) -> Reads:
    order = np.lexsort((end_us, day.slots[row]))
    row, end_us, method = row[order], end_us[order], method[order]
    energy = {"import_wh": import_wh[order], "export_wh": export_wh[order]}
    mask = np.zeros(len(row), np.uint32)
    for name, values in energy.items():
        mask |= (values >= 0) * np.uint32(CHANNEL_BIT[name])
    most = np.iinfo(np.int32).max
    return Reads(
        slot=day.slots[row],
        end_us=end_us,
        interval_s=day.interval_s,
        quality=(int(Origin.ESTIMATED) << ORIGIN_SHIFT | method << METHOD_SHIFT).astype(np.int32),
        channels={name: np.clip(values, 0, most).astype(np.int32) for name, values in energy.items()},
        mask=mask,
    )
