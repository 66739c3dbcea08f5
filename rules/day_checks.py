"""The checks of reads that need their local day (V12, V13, V15, V16, V17), and the day's sums. Arrays in, masks out.

Everything is a function of the reads of one meter's local day, of the tail of the day before (`Tail`: how it ended, a
function of its reads alone) and of the energy of the four same weekdays before. So the words of a read do not depend on
the order in which anything arrived, and a read that changes touches its own day, the next one, and the same weekday of
the next four weeks. A window check marks the read that completes the window, so no read waits for later ones.
A read belongs to the day in which it ends. V numbers as in docs/schema.md, thresholds in meterwatch.check_profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.check_profile import CheckProfile
from meterwatch.quality import DAY_BITS, ORIGIN_MASK, ORIGIN_SHIFT, Origin, Quality

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


@dataclass(frozen=True, slots=True)
class DayReads:
    """Their stored reads, by meter-day and end. Arrays of length n."""

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

    @property
    def start_us(self) -> Ints:
        return self.end_us - self.interval_s * US

    @property
    def first(self) -> Mask:
        """First read of its meter-day."""
        return np.concatenate(([True], self.of[1:] != self.of[:-1])) if len(self.of) else np.zeros(0, np.bool_)

    @property
    def last(self) -> Mask:
        """Last read of its meter-day."""
        return np.concatenate((self.first[1:], [True]))[: len(self.of)]

    @property
    def measured(self) -> Mask:
        """Import is there and is no estimate."""
        origin = (self.quality & ORIGIN_MASK) >> ORIGIN_SHIFT
        found: Mask = (self.import_wh >= 0) & (origin != Origin.ESTIMATED) & (origin != Origin.SUBSTITUTED)
        return found

    @property
    def zero(self) -> Mask:
        found: Mask = (self.import_wh == 0) & (self.export_wh <= 0)
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
    """DAY_BITS of each read, and the sums of each meter-day."""
    sums = _sums(reads, days)
    same_s = run_s(reads, days.tail)
    loaded = loaded_run(reads, days)
    bits = np.zeros(len(reads.of), np.int32)
    for mask, bit in (
        (after_gap(reads, days), Quality.AFTER_GAP),
        (spike(reads, days), Quality.SPIKE),
        (unusual_use(reads, days, sums.import_wh, sums.covered_s), Quality.UNUSUAL_USE),
        (stuck(reads, days, same_s), Quality.STUCK),
        (zero_under_load(reads, days, loaded), Quality.ZERO_UNDER_LOAD),
    ):
        bits |= mask * np.int32(bit)
    at = np.flatnonzero(reads.first)
    if len(at):
        sums.findings[reads.of[at]] |= np.bitwise_or.reduceat(bits, at)
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
    order = np.lexsort((events.code, events.at_us, events.of))
    event_key = _key(events.of, events.at_us, day_us)[order]
    fails = events.code[order] == POWER_FAIL
    before = np.searchsorted(event_key, _key(of, start_us, day_us), side="right")
    until = np.searchsorted(event_key, _key(of, end_us, day_us), side="right")
    failed = np.concatenate(([0], np.cumsum(fails)))
    last = np.maximum(before - 1, 0)
    still_off = (before > 0) & (events.of[order][last] == of) & fails[last] & ((quality & Quality.SUPPLY_ON) == 0)
    found: Mask = off | still_off | (failed[until] > failed[before])
    return found


def _key(of: NDArray[np.intp], at_us: Ints, day_us: Ints) -> Ints:
    """Meter-day and time as one number; a meter-day and the day before are less than 2^38 us."""
    key: Ints = (of.astype(np.int64) << 39) + np.clip(at_us - day_us[of] + DAY_US + 1, 0, (1 << 39) - 1)
    return key


def after_gap(reads: DayReads, days: MeterDays) -> Mask:
    """V12: the read does not begin where the one before it ended, or the day (the installation) began."""
    since = np.where(reads.first, days.start_us[reads.of], np.concatenate(([0], reads.end_us[:-1]))[: len(reads.of)])
    found: Mask = reads.start_us > since
    return found


def spike(reads: DayReads, days: MeterDays) -> Mask:
    """V13: (P - P3) / P3 above 1.8, P3 the third highest import power of the day, and P above the floors."""
    power_kw = _power_w(reads) / 1000
    order = np.lexsort((power_kw, reads.of))
    last = np.cumsum(np.bincount(reads.of, minlength=len(days.start_us)))
    third = last - 3
    enough = (third >= 0) & (np.bincount(reads.of, reads.import_wh >= 0, minlength=len(last)) >= 3)
    third_kw = np.full(len(last), np.inf)
    third_kw[enough] = power_kw[order[third[enough]]]
    floor_kw = np.maximum(days.limit("spike_floor_kw"), days.limit("spike_floor_share") * days.capacity_kw)
    limit_kw = np.maximum((1 + days.limit("spike_ratio")) * third_kw, floor_kw)
    found: Mask = power_kw > limit_kw[reads.of]
    return found


def unusual_use(reads: DayReads, days: MeterDays, import_wh: Ints, covered_s: Ints) -> Mask:
    """V15: the last read of a day whose import is outside 0.3 to 3 times the median of four same weekdays before.

    Those must be complete; the day itself only to be called low, because what is missing can but add to it.
    """
    complete = days.whole & (covered_s * US == days.end_us - days.start_us)
    usual = np.median(days.weekday_wh, axis=1)
    odd = (import_wh < days.limit("use_low") * usual) & complete | (import_wh > days.limit("use_high") * usual)
    odd &= (days.weekday_wh >= 0).all(axis=1) & (np.maximum(import_wh, usual) > days.limit("use_floor_wh"))
    found: Mask = reads.last & odd[reads.of] & (reads.import_wh >= 0)
    return found


def run_s(reads: DayReads, tail: Tail) -> Ints:
    """How long measured reads up to each one were like it without a gap or a sign of an outage, s; 0: it is none."""
    good = reads.measured & ~reads.off
    start_us = reads.start_us
    alike = _continues(reads) & good & np.concatenate(([False], good[:-1]))[: len(good)]
    for values in (reads.import_wh, reads.export_wh, reads.interval_s):
        alike[1:] &= values[1:] == values[:-1]
    began = _began(alike)
    before = tail.end_us[reads.of] == start_us
    for values, last in ((reads.import_wh, tail.import_wh), (reads.export_wh, tail.export_wh)):
        before &= values == last[reads.of]
    before &= reads.first & (reads.interval_s == tail.interval_s[reads.of])
    run: Ints = (reads.end_us - start_us[began]) // US + (before * tail.same_s[reads.of])[began]
    return np.where(good, run, 0)


def stuck(reads: DayReads, days: MeterDays, same_s: Ints) -> Mask:
    """V16: with it 24 h of identical reads that are not zero, or 4 h of zero."""
    enough_s = np.where(reads.zero, days.limit("zero_s")[reads.of], days.limit("stuck_s")[reads.of])
    found: Mask = (same_s >= enough_s) & (reads.interval_s <= days.limit("stuck_interval_s_max")[reads.of])
    return found


def loaded_run(reads: DayReads, days: MeterDays) -> Ints:
    """How many reads up to each one, without a gap, had no energy while a current flowed."""
    load = reads.measured & reads.zero
    load &= reads.current_a > (days.limit("idle_current_share") * days.rated_a)[reads.of]
    alike = _continues(reads) & load & np.concatenate(([False], load[:-1]))[: len(load)]
    began = _began(alike)
    before = reads.first & load & (days.tail.end_us[reads.of] == reads.start_us)
    count: Ints = np.arange(len(load)) - began + 1 + (before * days.tail.loaded[reads.of])[began]
    return np.where(load, count, 0)


def zero_under_load(reads: DayReads, days: MeterDays, loaded: Ints) -> Mask:
    """V17: with it 4 intervals of no energy while a current flowed."""
    found: Mask = loaded >= days.limit("loaded_intervals")[reads.of]
    return found


def _continues(reads: DayReads) -> Mask:
    """It begins where the read before it, of the same meter-day, ended."""
    found = ~reads.first
    found[1:] &= reads.start_us[1:] == reads.end_us[:-1]
    return found


def _began(alike: Mask) -> NDArray[np.intp]:
    """Row in which the run of each row began."""
    rows = np.arange(len(alike))
    return np.maximum.accumulate(np.where(alike, 0, rows)) if len(rows) else rows


def _power_w(reads: DayReads) -> NDArray[np.float64]:
    return np.where(reads.import_wh >= 0, reads.import_wh * 3600.0 / reads.interval_s, -1.0)


def _sums(reads: DayReads, days: MeterDays) -> DaySums:
    rows = len(days.start_us)

    def per_day(values: NDArray[Any]) -> Ints:
        return np.bincount(reads.of, values, rows).astype(np.int64)

    at = np.flatnonzero(reads.first)
    here = reads.of[at]
    peak_w, peak_end_us = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
    findings = np.zeros(rows, np.int32)
    if len(at):
        power_w = _power_w(reads)
        peak = np.maximum.reduceat(power_w, at)
        peak_w[here] = np.rint(peak)
        top = np.flatnonzero((power_w >= 0) & (power_w == np.repeat(peak, np.diff([*at, len(power_w)]))))[::-1]
        peak_end_us[reads.of[top]] = reads.end_us[top]
        findings[here] = np.bitwise_or.reduceat(reads.quality & ~np.int32(ORIGIN_MASK | DAY_BITS), at)
    origin = (reads.quality & ORIGIN_MASK) >> ORIGIN_SHIFT
    covered_s = per_day((reads.end_us - np.maximum(reads.start_us, days.start_us[reads.of])) // US)
    present = np.bincount(reads.of, minlength=rows).astype(np.int64)
    missing_s = np.maximum((days.end_us - days.start_us) // US - covered_s, 0)
    return DaySums(
        import_wh=per_day(np.maximum(reads.import_wh, 0)),
        export_wh=per_day(np.maximum(reads.export_wh, 0)),
        peak_w=peak_w,
        peak_end_us=peak_end_us,
        present=present,
        expected=present + -(-missing_s // days.interval_s),
        estimated=per_day((origin == Origin.ESTIMATED) | (origin == Origin.SUBSTITUTED)),
        covered_s=covered_s,
        findings=findings,
        tail=_tail(reads, days, rows),
    )


def _tail(reads: DayReads, days: MeterDays, rows: int) -> Tail:
    """How these days end, out of their own reads alone."""
    none = Tail.none(rows)
    last = np.flatnonzero(reads.last)

    def at_end(values: Ints) -> Ints:
        placed = np.zeros(rows, np.int64)
        placed[reads.of[last]] = values[last]
        return placed

    return Tail(
        end_us=at_end(reads.end_us),
        interval_s=at_end(reads.interval_s),
        import_wh=at_end(reads.import_wh),
        export_wh=at_end(reads.export_wh),
        same_s=at_end(run_s(reads, none)),
        loaded=at_end(loaded_run(reads, replace(days, tail=none))),
    )
