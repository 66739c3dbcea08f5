"""The thermal twin of transformers: the kernel of rules.thermal run over windows, as a function of the loads alone.

Argument. A state that went on for ever would depend on when the service began. So a run is begun anew for each day,
`warm_windows` before it, at the load of `begin_pu`: by the day's first window the begin has faded, and the state after
any window follows from the loads of at most a day and the warm-up before it. Two runs are stepped side by side, that of
today and that which will be tomorrow's, so the work is even and no window waits for a fold.

A load that is not known goes on as the last one known, for as long as it takes; `guessed` says how much of the oil's
temperature rests on that. Life is counted from the begin of the UTC day. Refuses to know: where loads come from, the
ring, alarms.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.errors import ConfigError
from rules.plates import SHIPPED_TYPES, Plates, ThermalType
from rules.seasons import AirSeason
from rules.thermal import Level, Levels, Thermal, ThermalParameters, ThermalProfile, ThermalState, levels

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class HotSpotProfile:
    """Limits of HOT_SPOT. ConfigError lists everything that does not fit."""

    thermal: ThermalProfile = field(default_factory=ThermalProfile)
    types: tuple[ThermalType, ...] = SHIPPED_TYPES
    """Numbers that transformers share, by name. (docs/thermal.md)"""
    begin_pu: float = 0.5
    """Load before what is known. (ours)"""
    clear_k: float = 5.0
    """A level holds until the hot spot is so far below its limit. (ours)"""
    clear_s: int = 1800
    """And for so long of known loads; then the level falls to the highest of that time. (ours)"""
    guessed_max: float = 0.5
    """No level rises when more of the oil's temperature than this rests on a load that was not known. (ours)"""
    ambient_max_age_s: int = 10_800
    """A reading of the air counts for so long; then the usual one. (ours)"""
    air_seasons: tuple[AirSeason, ...] = ()
    """The usual air; without: ambient_c of the model, all year. (ours)"""
    near_windows: int = 5
    """Windows looked at again with each judgement: an hourly read and the one before it. (ours)"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; expected above 0"
            for name in ("clear_s", "ambient_max_age_s", "near_windows")
            if not getattr(self, name) > 0
        ]
        if self.begin_pu < 0 or self.clear_k < 0:
            problems.append(f"begin_pu {self.begin_pu}, clear_k {self.clear_k}; expected 0 or more")
        if not 0 < self.guessed_max <= 1:
            problems.append(f"guessed_max is {self.guessed_max}; expected above 0 and at most 1")
        if self.thermal.warm_up_s > DAY_S:
            problems.append(f"the warm-up is {self.thermal.warm_up_s} s; expected at most a day")
        problems += [problem for one in self.types for problem in one.problems()]
        problems += [problem for season in self.air_seasons for problem in season.problems()]
        if problems:
            raise ConfigError(problems)

    def thresholds(self) -> dict[str, float]:
        """The limits an episode was judged by, for its evidence."""
        limits = ("warning_c", "high_c", "critical_c", "high_within_s")
        own = ("clear_k", "clear_s", "guessed_max")
        return {name: getattr(self.thermal, name) for name in limits} | {name: getattr(self, name) for name in own}


@dataclass(frozen=True, slots=True)
class Days:
    """The days of the runs, in windows."""

    window_s: int
    windows: int
    warm_windows: int
    """Of the day before, with which a run begins."""

    @classmethod
    def of(cls, profile: HotSpotProfile, window_s: int) -> Days:
        return cls(window_s, DAY_S // window_s, int(np.ceil(profile.thermal.warm_up_s / window_s)))

    def day_of(self, window: int) -> int:
        """UTC day in which it begins, days since 1970."""
        return window // self.windows

    def begin_of(self, window: int) -> int:
        """First window of the run that is right for this one."""
        return window - window % self.windows - self.warm_windows

    @property
    def reach(self) -> int:
        """A load is felt in fewer than so many windows, from its own on."""
        return self.windows + self.warm_windows


@dataclass(slots=True)
class _Run:
    """One day's, with the numbers of that day."""

    kernel: Thermal
    left: Floats
    """Of a difference of the oil's temperature, after a window."""
    thermal: ThermalState
    guessed: Floats
    heard: Bools
    """Some load was known since the run began."""

    @classmethod
    def begun(cls, parameters: ThermalParameters, profile: HotSpotProfile, window_s: int) -> _Run:
        kernel, n = Thermal(parameters), len(parameters)
        begun = kernel.steady(profile.begin_pu, profile.thermal.ambient_c)
        left = np.exp(-window_s / parameters.oil_time_constant_s)
        return cls(kernel, left, begun, np.zeros(n), np.zeros(n, np.bool_))

    def step(self, window_s: int, load: Floats, ambient_c: Floats) -> None:
        self.kernel.step(self.thermal, window_s, load, ambient_c)
        unknown = np.isnan(load)
        self.guessed *= self.left
        if unknown.any():
            stale = unknown & self.heard
            self.guessed[stale] += 1 - self.left[stale]
        self.heard |= ~unknown

    def take(self, index: Ints) -> _Run:
        kernel, left = self.kernel.take(index), self.left[index]
        return _Run(kernel, left, self.thermal.take(index), self.guessed[index], self.heard[index])

    def put(self, index: Ints, other: _Run) -> None:
        for column in fields(self.thermal):
            getattr(self.thermal, column.name)[index] = getattr(other.thermal, column.name)
        self.guessed[index], self.heard[index] = other.guessed, other.heard


class Twin:
    """n transformers, after the last window stepped."""

    def __init__(self, profile: HotSpotProfile, days: Days, plates: Plates) -> None:
        """Begun; right from the first day on whose warm-up it was stepped through."""
        self._profile, self._days, self._plates = profile, days, plates
        self._today = self._begun(0)
        self._tomorrow: _Run | None = None

    def _begun(self, day: int) -> _Run:
        return _Run.begun(self._plates.on(day), self._profile, self._days.window_s)

    def step(self, window: int, load: Floats, ambient_c: Floats) -> None:
        """Take all through this window. load [n]: b, NaN where it is not known; ambient_c [n]."""
        at = window % self._days.windows
        if at == 0:
            if self._tomorrow is not None:
                self._today, self._tomorrow = self._tomorrow, None
            self._today.thermal.life_s[:] = 0.0
        if at == self._days.windows - self._days.warm_windows:
            self._tomorrow = self._begun(self._days.day_of(window) + 1)
        for run in (self._today, self._tomorrow):
            if run is not None:
                run.step(self._days.window_s, load, ambient_c)

    @property
    def now(self) -> ThermalState:
        """Read only."""
        return self._today.thermal

    @property
    def guessed(self) -> Floats:
        """0 to 1: how much of the oil's temperature rests on a load that was not known."""
        return self._today.guessed

    def levels(self) -> tuple[Floats, Levels, Levels]:
        """Seconds to high_c, the level that is reached, and the one that is held if it was reached before."""
        thermal = self._profile.thermal
        hot_spot_c = self.now.hot_spot_c
        seconds = self._today.kernel.seconds_to(self.now, thermal.high_c)
        reached = levels(thermal, hot_spot_c, seconds)
        held = np.maximum(reached, levels(thermal, hot_spot_c + self._profile.clear_k, seconds))
        reached[self.guessed > self._profile.guessed_max] = Level.NORMAL
        return seconds, reached, held

    def take(self, index: Ints) -> Twin:
        """These transformers, to step on their own."""
        taken = copy(self)
        taken._plates = self._plates.take(index)
        taken._today = self._today.take(index)
        taken._tomorrow = None if self._tomorrow is None else self._tomorrow.take(index)
        return taken

    def put(self, index: Ints, other: Twin) -> None:
        """Put back what was taken, or begun anew, after the same window."""
        self._today.put(index, other._today)
        if self._tomorrow is not None and other._tomorrow is not None:
            self._tomorrow.put(index, other._tomorrow)


def run(profile: HotSpotProfile, days: Days, plates: Plates, begin: int, load: Floats, air: Floats) -> Curve:
    """Temperatures after the windows from `begin` on; right from the first day on that `begin` is the `begin_of`.

    load: b, NaN where it is not known; it, air and what comes out [windows, transformers].
    """
    twin = Twin(profile, days, plates)
    found = Curve(np.empty(load.shape), np.empty(load.shape))
    for row, (b, ambient_c) in enumerate(zip(load, air, strict=True)):
        twin.step(begin + row, b, ambient_c)
        found.top_oil_c[row], found.hot_spot_c[row] = twin.now.top_oil_c, twin.now.hot_spot_c
    return found


class Curve(NamedTuple):
    """[windows, transformers], Celsius."""

    top_oil_c: Floats
    hot_spot_c: Floats
