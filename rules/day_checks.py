"""The checks of reads that need their local day (V12, V13, V15, V16, V17), and the day's sums. Arrays in, masks out.

Everything is a function of the reads of one meter's local day, of the tail of the day before (`Tail`: how it ended, a
function of its reads alone) and of the energy of the four same weekdays before. So the words of a read do not depend on
the order in which anything arrived, and a read that changes touches its own day, the next one, and the same weekday of
the next four weeks. A window check marks the read that completes the window, so no read waits for later ones.
A read belongs to the day in which it ends. V numbers as in docs/schema.md, thresholds in meterwatch.check_profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.check_profile import CheckProfile
from meterwatch.quality import DAY_BITS, ORIGIN_MASK, ORIGIN_SHIFT, Origin, Quality
from rules.side_by_side import side_by_side

US: Final = 1_000_000
DAY_US: Final = 86_400 * US
WEEKS: Final = 4
"""Same weekdays before that V15 compares with."""
POWER_FAIL, POWER_RESTORED = 1, 2
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tail:
    """How the days before ended, per meter-day; all zero: nothing known. A function of that day's reads alone."""

    end_us: Ints
    """End of its last read; 0: none."""
    interval_s: Ints
    import_wh: Ints
    export_wh: Ints
    """Of the last read; -1: absent."""
    same_s: Ints
    """How long the reads up to the last one were like it, within the day."""
    loaded: Ints
    """How many of them, up to the last one, were V17's."""

    @classmethod
    def none(cls, rows: int) -> Tail:
        return cls(*(np.zeros(rows, np.int64) for _ in range(6)))


@dataclass(frozen=True, slots=True)
class MeterDays:
    """The meter-days that are judged together. Arrays of length m."""

    start_us: Ints
    """Local midnight, or the meter's installation if that is later."""
    end_us: Ints
    """The next midnight, or its retirement."""
    whole: Mask
    """In service for the whole local day."""
    interval_s: Ints
    """Usual length of its intervals, by the registry."""
    rated_a: NDArray[np.float64]
    capacity_kw: NDArray[np.float64]
    """Imax x Un x phases."""
    meter_class: NDArray[np.uint8]
    weekday_wh: Ints
    """[m, WEEKS] import of the same weekdays before; -1: that day is not complete or not known."""
    tail: Tail
    profile: CheckProfile

    def limit(self, name: str) -> NDArray[Any]:
        """One threshold per meter-day."""
        by_class = np.array([getattr(self.profile.day_limits(number), name) for number in range(3)])
        return by_class[self.meter_class]


@dataclass(frozen=True)
class DayReads:
    """Their stored reads, by meter-day and end. Arrays of length n; what follows from them is worked out once."""

    of: NDArray[np.intp]
    """Index of the meter-day."""
    end_us: Ints
    interval_s: Ints
    quality: NDArray[np.int32]
    import_wh: Ints
    """-1: absent; so for export."""
    export_wh: Ints
    current_a: NDArray[np.float64]
    """Greatest of the phases; -1: absent."""
    off: Mask
    """A sign of an outage in it: `powerless`."""

    @cached_property
    def start_us(self) -> Ints:
        return self.end_us - self.interval_s * US

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Row of the first read of each meter-day that has one."""
        begins = np.ones(len(self.of), np.bool_)
        begins[1:] = self.of[1:] != self.of[:-1]
        return np.flatnonzero(begins)

    @cached_property
    def ends(self) -> NDArray[np.intp]:
        """Row of the last read of each of these."""
        return np.append(self.starts[1:], len(self.of))[: len(self.starts)] - 1

    @cached_property
    def guessed(self) -> Mask:
        """An estimate, the sender's or the service's."""
        origin = self.quality & ORIGIN_MASK
        found: Mask = (origin == Origin.ESTIMATED << ORIGIN_SHIFT) | (origin == Origin.SUBSTITUTED << ORIGIN_SHIFT)
        return found

    @cached_property
    def measured(self) -> Mask:
        """Import is there and is no estimate."""
        found: Mask = (self.import_wh >= 0) & ~self.guessed
        return found

    @cached_property
    def zero(self) -> Mask:
        found: Mask = (self.import_wh == 0) & (self.export_wh <= 0)
        return found

    @cached_property
    def joined(self) -> Mask:
        """It begins where the read before it, of the same meter-day, ended."""
        found = np.zeros(len(self.of), np.bool_)
        found[1:] = self.start_us[1:] == self.end_us[:-1]
        found[self.starts] = False
        return found

    @cached_property
    def power_w(self) -> NDArray[np.float64]:
        """Mean import power of the interval; -1: no import."""
        return np.where(self.import_wh >= 0, self.import_wh * 3600.0 / self.interval_s, -1.0)

    def per_day(self, values: NDArray[Any], rows: int, by: np.ufunc = np.add) -> Ints:
        """Values of the reads of each meter-day put together, of `rows` meter-days; 0: it has none."""
        found = np.zeros(rows, np.int64)
        if len(self.starts):
            found[self.of[self.starts]] = by.reduceat(values, self.starts, dtype=np.int64)
        return found


@dataclass(frozen=True, slots=True)
class Events:
    """Power-fail and restoration events of the meter-days and of the day before each. Arrays of equal length."""

    of: NDArray[np.intp]
    at_us: Ints
    code: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class DaySums:
    """One meter-day in numbers. Arrays of length m."""

    import_wh: Ints
    export_wh: Ints
    peak_w: Ints
    """Highest mean import power of an interval, rounded; -1: no import."""
    peak_end_us: Ints
    """End of the first such interval; 0: none."""
    present: Ints
    expected: Ints
    """present, and what is missing counted in the meter's usual intervals."""
    estimated: Ints
    covered_s: Ints
    findings: NDArray[np.int32]
    """All bits that some read has, those of this module anew; origin left out."""
    tail: Tail


def judge(reads: DayReads, days: MeterDays) -> tuple[NDArray[np.int32], DaySums]:
    """DAY_BITS of each read, and the sums of each meter-day. Cost: some 50 ns a read, where little is found."""
    alike, loaded = alike_run(reads, days.tail), loaded_run(reads, days)
    sums = _sums(reads, days, alike, loaded)
    bits = np.zeros(len(reads.of), np.int32)
    for mask, bit in (
        (after_gap(reads, days), Quality.AFTER_GAP),
        (spike(reads, days), Quality.SPIKE),
        (unusual_use(reads, days, sums.import_wh, sums.covered_s), Quality.UNUSUAL_USE),
        (stuck(reads, days, alike.length), Quality.STUCK),
        (zero_under_load(reads, days, loaded.length), Quality.ZERO_UNDER_LOAD),
    ):
        if mask.any():
            bits |= mask * np.int32(bit)
    if len(reads.starts):
        sums.findings[reads.of[reads.starts]] |= np.bitwise_or.reduceat(bits, reads.starts)
    return bits, sums


def powerless(
    of: NDArray[np.intp], start_us: Ints, end_us: Ints, quality: NDArray[np.int32], day_us: Ints, events: Events
) -> Mask:
    """Reads with a sign of an outage: SUPPLY_OFF, a power-fail event in it, or one before it and no restoration since.

    A read with SUPPLY_ON that began without supply is none: its restoration was lost. day_us:
    start per meter-day; events from up to a day before it count.
    """
    off: Mask = (quality & Quality.SUPPLY_OFF) != 0
    if len(events.of) == 0:
        return off
    told = np.zeros(len(day_us), np.bool_)
    told[events.of] = True
    rows = np.flatnonzero(told[of])  # few meters tell anything
    of, start_us, end_us, quality = of[rows], start_us[rows], end_us[rows], quality[rows]
    order = np.lexsort((events.code, events.at_us, events.of))
    event_key = _key(events.of, events.at_us, day_us)[order]
    fails = events.code[order] == POWER_FAIL
    before = np.searchsorted(event_key, _key(of, start_us, day_us), side="right")
    until = np.searchsorted(event_key, _key(of, end_us, day_us), side="right")
    failed = np.concatenate(([0], np.cumsum(fails)))
    last = np.maximum(before - 1, 0)
    still_off = (before > 0) & (events.of[order][last] == of) & fails[last] & ((quality & Quality.SUPPLY_ON) == 0)
    off[rows] |= still_off | (failed[until] > failed[before])
    return off


def _key(of: NDArray[np.intp], at_us: Ints, day_us: Ints) -> Ints:
    """Meter-day and time as one number; a meter-day and the day before are less than 2^38 us."""
    key: Ints = (of.astype(np.int64) << 39) + np.clip(at_us - day_us[of] + DAY_US + 1, 0, (1 << 39) - 1)
    return key


def after_gap(reads: DayReads, days: MeterDays) -> Mask:
    """V12: the read does not begin where the one before it ended, or the day (the installation) began."""
    since = np.empty(len(reads.of), np.int64)
    since[1:] = reads.end_us[:-1]
    since[reads.starts] = days.start_us[reads.of[reads.starts]]
    found: Mask = reads.start_us > since
    return found


def spike(reads: DayReads, days: MeterDays) -> Mask:
    """V13: (P - P3) / P3 above 1.8, P3 the third highest import power of the day, and P above the floors."""
    power_kw = reads.power_w / 1000
    floor_kw = np.maximum(days.limit("spike_floor_kw"), days.limit("spike_floor_share") * days.capacity_kw)
    found: Mask = power_kw > floor_kw[reads.of]
    high = np.zeros(len(days.start_us), np.bool_)
    high[reads.of[found]] = True
    rows = np.flatnonzero(high[reads.of])
    number = np.cumsum(high) - 1
    table = side_by_side(number[reads.of[rows]], power_kw[rows], int(np.count_nonzero(high)), -1.0)
    if table.shape[1] < 3:
        return np.zeros(len(found), np.bool_)
    third_kw = np.full(len(high), np.inf)
    third_kw[high] = np.partition(table, -3, axis=1)[:, -3]
    third_kw[third_kw < 0] = np.inf  # fewer than three are known
    limit_kw = (1 + days.limit("spike_ratio")) * third_kw
    found &= power_kw > limit_kw[reads.of]
    return found


def unusual_use(reads: DayReads, days: MeterDays, import_wh: Ints, covered_s: Ints) -> Mask:
    """V15: the last read of a day whose import is outside 0.3 to 3 times the median of four same weekdays before.

    Those must be complete; the day itself only to be called low, because what is missing can but add to it.
    """
    found = np.zeros(len(reads.of), np.bool_)
    known = (days.weekday_wh >= 0).all(axis=1)
    if not known.any():  # a service of less than four weeks
        return found
    complete = days.whole & (covered_s * US == days.end_us - days.start_us)
    usual = np.median(days.weekday_wh, axis=1)
    odd = (import_wh < days.limit("use_low") * usual) & complete | (import_wh > days.limit("use_high") * usual)
    odd &= known & (np.maximum(import_wh, usual) > days.limit("use_floor_wh"))
    found[reads.ends] = odd[reads.of[reads.ends]] & (reads.import_wh[reads.ends] >= 0)
    return found


class Run(NamedTuple):
    """How long what goes on at each read has gone on, it included; 0: it does not."""

    length: Ints
    own: Ints
    """Within its day."""


def _run(reads: DayReads, good: Mask, began: NDArray[np.intp], own: Ints, before: Ints) -> Run:
    """own: length of each run up to here, from the row in which it began; before: what the first read of each
    meter-day, if a run begins with it, had behind it."""
    own = np.where(good, own, 0)
    if not before.any():
        return Run(own, own)
    behind = np.zeros(len(good), np.int64)
    behind[reads.starts] = before
    return Run(np.where(good, own + behind[began], 0), own)


def _began(alike: Mask) -> NDArray[np.intp]:
    """Row in which the run of each row began."""
    rows = np.arange(len(alike))
    return np.maximum.accumulate(np.where(alike, 0, rows)) if len(rows) else rows


def alike_run(reads: DayReads, tail: Tail) -> Run:
    """How long measured reads up to each one were like it without a gap or a sign of an outage, s; 0: it is none."""
    good = reads.measured & ~reads.off
    alike = reads.joined & good
    alike[1:] &= good[:-1]
    for values in (reads.import_wh, reads.export_wh, reads.interval_s):
        alike[1:] &= values[1:] == values[:-1]
    first, day = reads.starts, reads.of[reads.starts]
    goes_on = tail.end_us[day] == reads.start_us[first]
    for values, last in (
        (reads.import_wh, tail.import_wh), (reads.export_wh, tail.export_wh), (reads.interval_s, tail.interval_s),
    ):  # fmt: skip
        goes_on &= values[first] == last[day]
    began = _began(alike)
    return _run(reads, good, began, (reads.end_us - reads.start_us[began]) // US, goes_on * tail.same_s[day])


def stuck(reads: DayReads, days: MeterDays, same_s: Ints) -> Mask:
    """V16: with it 24 h of identical reads that are not zero, or 4 h of zero."""
    zero_s, stuck_s = days.limit("zero_s"), days.limit("stuck_s")
    found: Mask = same_s >= np.minimum(zero_s, stuck_s)[reads.of]
    rows = np.flatnonzero(found)
    day = reads.of[rows]
    enough = same_s[rows] >= np.where(reads.zero[rows], zero_s[day], stuck_s[day])
    found[rows] = enough & (reads.interval_s[rows] <= days.limit("stuck_interval_s_max")[day])
    return found


def loaded_run(reads: DayReads, days: MeterDays) -> Run:
    """How many reads up to each one, without a gap, had no energy while a current flowed."""
    load = reads.measured & reads.zero
    load &= reads.current_a > (days.limit("idle_current_share") * days.rated_a)[reads.of]
    if not load.any():
        none = np.zeros(len(load), np.int64)
        return Run(none, none)
    alike = reads.joined & load
    alike[1:] &= load[:-1]
    first, day = reads.starts, reads.of[reads.starts]
    goes_on = load[first] & (days.tail.end_us[day] == reads.start_us[first])
    began = _began(alike)
    return _run(reads, load, began, np.arange(len(load)) - began + 1, goes_on * days.tail.loaded[day])


def zero_under_load(reads: DayReads, days: MeterDays, loaded: Ints) -> Mask:
    """V17: with it 4 intervals of no energy while a current flowed."""
    found: Mask = loaded >= days.limit("loaded_intervals")[reads.of]
    return found


def _sums(reads: DayReads, days: MeterDays, alike: Run, loaded: Run) -> DaySums:
    rows, at, here = len(days.start_us), reads.starts, reads.of[reads.starts]

    def at_end(values: Ints) -> Ints:
        placed = np.zeros(rows, np.int64)
        placed[here] = values[reads.ends]
        return placed

    peak_w, peak_end_us = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
    findings = np.zeros(rows, np.int32)
    if len(at):
        power_w = reads.power_w
        peak = np.maximum.reduceat(power_w, at)
        peak_w[here] = np.rint(peak)
        top = np.flatnonzero(power_w == np.repeat(peak, reads.ends - at + 1))[::-1]
        top = top[power_w[top] >= 0]
        peak_end_us[reads.of[top]] = reads.end_us[top]  # the first of equals is written last
        findings[here] = np.bitwise_or.reduceat(reads.quality & ~np.int32(ORIGIN_MASK | DAY_BITS), at)
    covered_s = reads.per_day((reads.end_us - np.maximum(reads.start_us, days.start_us[reads.of])) // US, rows)
    present = np.zeros(rows, np.int64)
    present[here] = reads.ends - at + 1
    missing_s = np.maximum((days.end_us - days.start_us) // US - covered_s, 0)
    tail = Tail(*(at_end(values) for values in (
        reads.end_us, reads.interval_s, reads.import_wh, reads.export_wh, alike.own, loaded.own,
    )))  # fmt: skip
    return DaySums(
        import_wh=reads.per_day(np.maximum(reads.import_wh, 0), rows),
        export_wh=reads.per_day(np.maximum(reads.export_wh, 0), rows),
        peak_w=peak_w,
        peak_end_us=peak_end_us,
        present=present,
        expected=present + -(-missing_s // days.interval_s),
        estimated=reads.per_day(reads.guessed, rows),
        covered_s=covered_s,
        findings=findings,
        tail=tail,
    )
