"""The ladder of overload levels: the profile with its numbers, and one step of its latches for many transformers.

The full rule: b at or above `raise_pu` for `hold_s` of covered time latches a level; b below `clear_pu` for `clear_s`
unlatches it, with what was not heard of a window taken to draw as the rest does: nothing is over for lack of reads. An
invalid window is a gap: up to `max_gap_windows` in a row it neither extends nor resets a timer, beyond that it resets
the timers, and it never unlatches. An episode lasts from the first level latched to the last one unlatched, and begins
with the hold of that first level, or after the episode before it.
Refuses to know: reads, the ring, where b comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from meterwatch.episodes import Severity
from meterwatch.errors import ConfigError
from rules.seasons import Season, Seasons

NEVER = np.iinfo(np.int64).max

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Level:
    """One rung: latched after `hold_s` of b at or above `raise_pu`, unlatched after `clear_s` of b below `clear_pu`."""

    name: str
    raise_pu: float
    hold_s: int
    clear_pu: float
    clear_s: int
    severity: Severity
    strictly_above: bool = False
    """True: b == raise_pu is not enough."""


HEAVY = Level("HEAVY", 0.80, 7200, 0.75, 1800, Severity.MEDIUM)  # (check)
OVERLOAD = Level("OVERLOAD", 1.00, 7200, 0.95, 1800, Severity.HIGH, strictly_above=True)  # (check)
OVERLOAD_FAST = Level("OVERLOAD", 1.00, 1800, 0.95, 1800, Severity.HIGH, strictly_above=True)  # (ours)
EMERGENCY = (
    Level("EMERGENCY_1", 1.30, 1800, 1.20, 1800, Severity.CRITICAL),  # (ours)
    Level("EMERGENCY_2", 1.50, 900, 1.30, 0, Severity.CRITICAL),  # (ours)
    Level("EMERGENCY_3", 2.00, 0, 1.50, 0, Severity.CRITICAL),  # (ours)
)
PHASE = Level("PHASE", 1.00, 1800, 0.95, 1800, Severity.HIGH)  # (ours)
UNBALANCE = Level("UNBALANCE", 1.00, 7200, 0.95, 1800, Severity.LOW, strictly_above=True)  # (check)
REVERSE_HEAVY = Level("REVERSE_HEAVY", 0.80, 7200, 0.75, 1800, Severity.MEDIUM)  # (ours)


@dataclass(frozen=True, slots=True)
class OverloadProfile:
    """Numbers of the rule. ConfigError lists everything that does not fit together."""

    levels: tuple[Level, ...] = (HEAVY, OVERLOAD, *EMERGENCY)
    """Of transformers, from mild to grave, raise_pu rising."""
    page_from_level: str = "OVERLOAD"
    """An episode that never latched this level or a higher one is no alarm. (ours)"""
    reverse_levels: tuple[Level, ...] = (REVERSE_HEAVY,)
    """Of a transformer that delivers upwards; the first is an alarm."""
    feeder_levels: tuple[Level, ...] = (HEAVY, OVERLOAD, *EMERGENCY)
    """Of feeders; page_from_level holds for them too. (ours)"""
    feeder_nominal_kv: float = 10.0
    """Between the phases: with the registry's ampacity the rating of a feeder. (ours)"""
    feeder_loss_factor: float = 1.02
    """Apparent power at the head of a feeder over the sum of its transformers'. (ours)"""
    phase_levels: tuple[Level, ...] = ()
    """Of the greatest phase of a transformer over a third of its rating; none: phases are not counted. (ours)"""
    unbalance_levels: tuple[Level, ...] = ()
    """Of 1 + unbalance - its limit; none: phases are not counted. (ours)"""
    unbalance_yyn0: float = 0.15
    """Limit of (greatest - smallest) / greatest phase: Yyn0 and windings not known. (check)"""
    unbalance_dyn11: float = 0.25
    """The same of windings that begin with D. (check)"""
    unbalance_min_pu: float = 0.30
    """Below this b an unbalance says nothing. (ours)"""
    seasons: tuple[Season, ...] = ()
    """By which all limits are scaled; none: the same all the year."""
    window_s: int = 900
    """Length of a window, seconds. (std) quarter-hour demand"""
    ring_windows: int = 192
    """Windows in which a late read still amends: 48 h. (ours)"""
    checkpoint_windows: int = 5
    """Windows refolded at each judgement: an hourly read and the one before it. (ours)"""
    coverage_min: float = 0.90
    """Share of the expected weight-seconds a valid window needs. (ours)"""
    max_gap_windows: int = 1
    """Invalid windows in a row that a hold survives. (ours)"""
    assumed_power_factor: float = 0.95
    """For net import of meters that send no reactive energy, lagging. (ours)"""
    loss_factor: float = 1.0
    """Transformer apparent power over the sum of its members'. (ours)"""

    def __post_init__(self) -> None:
        problems = [
            f"level {high.name} raises at {high.raise_pu}, not above {low.name} at {low.raise_pu}; sort the levels"
            for low, high in zip(self.levels, self.levels[1:], strict=False)
            if high.raise_pu <= low.raise_pu
        ]
        problems += [
            f"level {level.name} clears at {level.clear_pu}, not below its raise at {level.raise_pu}; lower clear_pu"
            for level in self.levels
            if level.clear_pu >= level.raise_pu
        ]
        if self.page_from_level not in {level.name for level in self.levels}:
            problems.append(f"page_from_level is {self.page_from_level!r}; expected the name of one of the levels")
        if not 0 < self.assumed_power_factor <= 1:
            problems.append(f"assumed_power_factor is {self.assumed_power_factor}; expected above 0 and at most 1")
        if self.window_s <= 0 or not 1 <= self.checkpoint_windows < self.ring_windows:
            problems.append(
                f"window_s {self.window_s}, checkpoint_windows {self.checkpoint_windows}, ring_windows "
                f"{self.ring_windows}; expected a positive window and 1 <= checkpoint < ring"
            )
        if self.feeder_nominal_kv <= 0:
            problems.append(f"feeder_nominal_kv is {self.feeder_nominal_kv}; expected above 0")
        problems += [problem for season in self.seasons for problem in season.problems()]
        if problems:
            raise ConfigError(problems)

    @property
    def of_reverse(self) -> OverloadProfile:
        """The same rule for what a transformer delivers upwards."""
        return replace(self, levels=self.reverse_levels, page_from_level=self.reverse_levels[0].name)

    @property
    def by_phase(self) -> bool:
        """Something is judged by phase."""
        return bool(self.phase_levels or self.unbalance_levels)

    @property
    def of_phases(self) -> OverloadProfile:
        """The same rule for the greatest phase. There must be levels of it."""
        return replace(self, levels=self.phase_levels, page_from_level=self.phase_levels[0].name)

    @property
    def of_unbalance(self) -> OverloadProfile:
        """The same rule for unbalance, which knows no season. There must be levels of it."""
        levels = self.unbalance_levels
        return replace(self, levels=levels, page_from_level=levels[0].name, seasons=())

    @property
    def of_feeders(self) -> OverloadProfile:
        """The same rule for feeders."""
        return replace(self, levels=self.feeder_levels, loss_factor=self.loss_factor * self.feeder_loss_factor)

    @classmethod
    def fast(cls) -> OverloadProfile:
        """OVERLOAD after 30 minutes instead of 2 hours."""
        levels = (HEAVY, OVERLOAD_FAST, *EMERGENCY)
        return cls(levels=levels, feeder_levels=levels)


@dataclass(slots=True)
class LadderState:
    """State of n transformers after some window. Window numbers are us // window since 1970; -1 = none."""

    hold_s: Ints  # [n, levels] covered seconds of b >= raise
    hold_from: Ints  # [n, levels] window where that run began
    hold_peak: Floats  # [n, levels] highest b of that run
    clear_s: Ints  # [n, levels] covered seconds of b < clear while latched
    latched: Bools  # [n, levels]
    gap: Ints  # [n] invalid windows in a row
    onset: Ints  # [n] of the open episode, and so on
    raised: Ints
    worst: Ints
    peak: Floats
    free: Ints  # [n] window after the end of the last episode: the next one begins there at the earliest

    @classmethod
    def cold(cls, n: int, levels: int) -> LadderState:
        def ints(*shape: int) -> Ints:
            return np.zeros(shape, np.int64)

        return cls(
            ints(n, levels), ints(n, levels), np.zeros((n, levels)), ints(n, levels), np.zeros((n, levels), np.bool_),
            ints(n), ints(n), ints(n) - 1, ints(n) - 1, np.zeros(n), ints(n),
        )  # fmt: skip

    def take(self, index: Ints) -> LadderState:
        return LadderState(*(getattr(self, column.name)[index] for column in fields(self)))

    @classmethod
    def joined(cls, parts: list[LadderState]) -> LadderState:
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))

    def put(self, index: Ints, other: LadderState) -> None:
        for column in fields(self):
            getattr(self, column.name)[index] = getattr(other, column.name)


@dataclass(frozen=True, slots=True)
class Span:
    """An episode in window numbers."""

    onset: int
    raised: int
    cleared: int | None
    level: int
    worst: int
    peak: float


class Ladder:
    """The profile's levels as arrays, and the step."""

    def __init__(self, profile: OverloadProfile) -> None:
        self._profile = profile
        levels = profile.levels
        self._raise_pu = np.array([v.raise_pu for v in levels])
        self._strict = np.array([v.strictly_above for v in levels])
        self._clear = np.array([v.clear_pu for v in levels])
        self._raise = self._raises(1.0)
        self._hold_s = np.array([v.hold_s for v in levels], np.int64)
        self._clear_s = np.array([v.clear_s for v in levels], np.int64)
        self._seasons = Seasons(profile.seasons)
        self._page_level = next(i for i, v in enumerate(levels) if v.name == profile.page_from_level)

    def rests(self, s: LadderState, rows: slice, load: Floats) -> Bools:
        """True where these windows change nothing but the gap: no timer runs, no level is latched, none is reached.

        load [windows, transformers]: 0 where a window is not valid.
        """
        running = s.latched[rows].any(axis=1) | s.hold_s[rows].any(axis=1) | s.clear_s[rows].any(axis=1)
        rests: Bools = ~running & (load.max(axis=0) < self.lowest_pu)
        return rests

    def gap_after(self, gap: Ints, valid: Bools) -> Ints:
        """Invalid windows in a row after these. valid [windows, transformers]."""
        trailing = np.argmax(valid[::-1], axis=0)
        some = valid.any(axis=0)
        return np.minimum(np.where(some, trailing, gap + len(valid)), self._profile.max_gap_windows + 1)

    def _limits(self, window: int) -> tuple[Floats, Floats]:
        """Raise and clear of each level in this window, by its season."""
        if not self._seasons:
            return self._raise, self._clear
        scale = self._seasons.scale(window * self._profile.window_s)
        return self._raises(scale), self._clear * scale

    def _raises(self, scale: float) -> Floats:
        raises = self._raise_pu * scale
        return np.where(self._strict, np.nextafter(raises, inf), raises)

    def step(self, s: LadderState, window: int, b: Floats, valid: Bools, coverage: Floats | None = None) -> Bools:
        """One window for n transformers. True where an episode ended; its columns stay until the next one begins.

        coverage: what was heard, 0..1; None: all, or what was not would not add to b.
        """
        profile = self._profile
        s.gap = np.where(valid, 0, np.minimum(s.gap + 1, profile.max_gap_windows + 1))
        restart = (valid | (s.gap > profile.max_gap_windows))[:, None]
        raises, clears = self._limits(window)
        high = valid[:, None] & (b[:, None] >= raises)
        low = valid[:, None] & (at_most(b, coverage)[:, None] < clears)

        s.hold_from = np.where(high & (s.hold_s == 0), window, s.hold_from)
        s.hold_s = np.where(high, s.hold_s + profile.window_s, np.where(restart, 0, s.hold_s))
        s.hold_peak = np.where(high, np.maximum(s.hold_peak, b[:, None]), np.where(restart, 0.0, s.hold_peak))
        s.clear_s = np.where(low & s.latched, s.clear_s + profile.window_s, np.where(restart, 0, s.clear_s))

        was_open = s.latched.any(axis=1)
        rise = high & ~s.latched & (s.hold_s >= self._hold_s)
        fall = low & s.latched & (s.clear_s >= self._clear_s)
        s.latched = (s.latched | rise) & ~fall
        is_open = s.latched.any(axis=1)

        begun = is_open & ~was_open
        if begun.any():
            since = np.where(rise, s.hold_from, NEVER).min(axis=1)
            s.onset = np.where(begun, np.maximum(since, s.free), s.onset)
            s.peak = np.where(begun, np.where(rise, s.hold_peak, 0.0).max(axis=1), s.peak)
            s.raised = np.where(begun, -1, s.raised)
            s.worst = np.where(begun, -1, s.worst)
        if is_open.any():
            top = top_level(s.latched)
            s.worst = np.where(is_open, np.maximum(s.worst, top), s.worst)
            s.raised = np.where(is_open & (s.raised < 0) & (top >= self._page_level), window, s.raised)
            s.peak = np.where(is_open, np.maximum(s.peak, b), s.peak)
        ended: Bools = np.logical_and(was_open, ~is_open)
        s.free = np.where(ended, window + 1, s.free)
        return ended

    def fold(
        self, s: LadderState, rows: slice, index: Ints, first: int, load: Floats, usable: Bools,
        ended: dict[int, list[Span]], coverage: Floats | None = None,
    ) -> None:  # fmt: skip
        """Take these rows of `s` through the windows from `first` on; what ends goes into `ended[index[row]]`.

        load, usable, coverage [windows, transformers]: as in `step`; load is 0 where it is not usable. Most
        transformers are at rest and stay so, whatever the number of windows: those are not stepped through.
        """
        rest = self.rests(s, rows, load)
        s.gap[rows][rest] = self.gap_after(s.gap[rows][rest], usable[:, rest])
        busy = np.flatnonzero(~rest)
        if not len(busy):
            return
        own = s.take(rows.start + busy)
        share = None if coverage is None else coverage[:, busy]
        for at, (b, valid) in enumerate(zip(load[:, busy], usable[:, busy], strict=True)):
            window = first + at
            for i in np.flatnonzero(self.step(own, window, b, valid, None if share is None else share[at])):
                if own.raised[i] >= 0:
                    span = span_of(own, int(i), int(own.worst[i]), window)
                    ended.setdefault(int(index[rows.start + busy[i]]), []).append(span)
        s.put(rows.start + busy, own)

    @property
    def calm_windows(self) -> int:
        """So many valid windows in a row below `calm_pu` leave every state at rest, whatever it was before."""
        longest_s = max(level.clear_s for level in self._profile.levels)
        return max(-(-longest_s // self._profile.window_s), 1) + 1

    @property
    def calm_pu(self) -> float:
        """Below this no level is reached and each one clears, in any season."""
        return float(min(self._clear.min(), self._raise_pu[0])) * self._seasons.lowest

    @property
    def lowest_pu(self) -> float:
        """Below this no level is reached, in any season."""
        return float(self._raise_pu[0]) * self._seasons.lowest


def at_most(b: Floats, coverage: Floats | None) -> Floats:
    """What b is if what was not heard draws as the rest does; coverage None: b."""
    if coverage is None:
        return b
    found: Floats = np.divide(b, np.minimum(coverage, 1.0), out=b.copy(), where=coverage > 0)
    return found


def top_level(latched: Bools) -> Ints:
    """Highest latched level of each row, -1 where none is."""
    top: Ints = latched.shape[1] - 1 - np.argmax(latched[:, ::-1], axis=1)
    return np.where(latched.any(axis=1), top, -1)


def span_of(state: LadderState, i: int, level: int, cleared: int | None) -> Span:
    worst = int(state.worst[i])
    return Span(int(state.onset[i]), int(state.raised[i]), cleared, level, worst, float(state.peak[i]))
