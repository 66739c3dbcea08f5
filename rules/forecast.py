"""Forecast of the load of transformers: seasonal-naive, a ridge regression on what it misses, bands from past errors.

Seasonal-naive says: as a week ago. The regression says what to add, per transformer and day ahead, from what is known
at the origin: the mean of two weeks, the last day and the last week at that time of day, how wrong "as a week ago" was
in the last hour and day, the time of day, the weekend. It shrinks to seasonal-naive where the past shows nothing
better. Everything is an array over transformers; loads are on a regular grid without gaps, [transformers, steps].
Promises: a forecast made at step `origin` reads loads before `origin` alone. Refuses to know: where loads come from,
the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.errors import ConfigError
from rules.thermal import Thermal, ThermalParameters, ThermalState

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECENT_WEEKS: Final = 2
"""Loads of so long before an origin are read."""
ERROR_HOURS: Final = (1.0, 6.0)
"""A recent error of the baseline fades with these time constants. (ours)"""
TINY: Final = 1e-9
FOLDS: Final = 4
"""Of past origins, when a band is held against errors it was not made of. (ours)"""


@dataclass(frozen=True, slots=True)
class ForecastProfile:
    """Numbers of the forecast. ConfigError lists everything that does not fit."""

    step_s: int = 900
    """Length of a step, seconds. (std)"""
    days: int = 2
    """How far ahead. (ours)"""
    train_days: int = 60
    """The regression learns from origins of so many days, or of as many as there are. (ours)"""
    origins_a_day: int = 4
    """Evenly over the day. (ours)"""
    ridge: float = 0.01
    """Weight of "add nothing", per row of the past. (ours)"""
    band_hours: int = 3
    """Errors of so many hours ahead together make a quantile. (ours)"""

    def __post_init__(self) -> None:
        problems = []
        if self.step_s <= 0 or 3600 % self.step_s or 24 % self.origins_a_day:
            problems.append(
                f"step_s {self.step_s}, origins_a_day {self.origins_a_day}; expected parts of an hour and of 24"
            )
        if not 1 <= self.days <= 7 or self.train_days < 1:
            problems.append(f"days {self.days}, train_days {self.train_days}; expected 1 to 7, and at least 1")
        if self.ridge <= 0 or self.band_hours < 1 or 24 % self.band_hours:
            problems.append(f"ridge {self.ridge}, band_hours {self.band_hours}; expected above 0, and a part of 24")
        if problems:
            raise ConfigError(problems)

    @property
    def hour(self) -> int:
        """Steps of an hour."""
        return 3600 // self.step_s

    @property
    def day(self) -> int:
        return 24 * self.hour

    @property
    def week(self) -> int:
        return 7 * self.day

    @property
    def horizon(self) -> int:
        """Steps forecast."""
        return self.days * self.day

    @property
    def history(self) -> int:
        """Steps before an origin that are read."""
        return RECENT_WEEKS * self.week


def seasonal_naive(load: Floats, origins: Ints, profile: ForecastProfile) -> Floats:
    """As a week ago: [transformers, origins, horizon]."""
    return load[:, origins[:, None] + np.arange(profile.horizon) - profile.week]


def known(load: Floats, origins: Ints, weekday: int, profile: ForecastProfile) -> Floats:
    """What each origin knows of each step ahead: [transformers, origins, horizon, columns].

    Loads come as differences to seasonal-naive. weekday: of step 0, 0 is Monday.
    """
    day, week, hour = profile.day, profile.week, profile.hour
    ahead = np.arange(profile.horizon)
    at = origins[:, None] + ahead
    last_day = at - (ahead // day + 1) * day
    base = load[:, at - week]
    days = np.stack([load[:, last_day - back * day] for back in range(7)])
    wrong = np.cumsum(load[:, week:] - load[:, :-week], axis=1)

    def error(steps: int) -> Floats:
        end = origins - week - 1
        mean: Floats = (wrong[:, end] - wrong[:, end - steps]) / steps
        return mean

    shape = base.shape
    columns = [(load[:, at - 2 * week] - base) / 2, days[0] - base, days.mean(axis=0) - base]
    columns += [np.broadcast_to(error(day)[:, :, None], shape)]
    columns += [error(hour)[:, :, None] * np.exp(-ahead / (constant * hour)) for constant in ERROR_HOURS]
    angle = 2 * np.pi * (at % day) / day
    weekend = (at // day + weekday) % 7 >= 5
    calendar = [np.ones(at.shape), weekend, *(wave(n * angle) for n in (1, 2) for wave in (np.cos, np.sin))]
    size = spread(load, origins, profile)[:, None, None]
    columns += [size * one for one in calendar]
    return np.stack(columns, axis=-1)


def spread(load: Floats, origins: Ints, profile: ForecastProfile) -> Floats:
    """How much a week differs from the week before, by what the first origin knows: [transformers], above 0."""
    until = int(origins.min())
    change = load[:, until - profile.week : until] - load[:, until - 2 * profile.week : until - profile.week]
    size: Floats = np.sqrt(np.mean(change**2, axis=1)) + TINY
    return size


@dataclass(frozen=True, slots=True)
class Regression:
    """What to add to seasonal-naive."""

    weights: Floats
    """[transformers, days ahead, columns]"""

    @classmethod
    def learn(cls, load: Floats, origin: int, weekday: int, profile: ForecastProfile) -> Regression:
        """From the origins whose whole horizon lies before `origin`. ConfigError if there is none."""
        last, step = origin - profile.horizon, profile.day // profile.origins_a_day
        first = max(profile.history, origin - profile.train_days * profile.day)
        past = np.arange(last, first - 1, -step, dtype=np.int64)[::-1]
        if not len(past):
            needed = profile.history + profile.horizon
            raise ConfigError([f"{origin} steps of load before the origin; expected at least {needed}"])
        size = spread(load, past, profile)
        columns = known(load, past, weekday, profile) / size[:, None, None, None]
        missed = load[:, past[:, None] + np.arange(profile.horizon)] - seasonal_naive(load, past, profile)
        missed /= size[:, None, None]
        weights = []
        for day in range(profile.days):
            steps = slice(day * profile.day, (day + 1) * profile.day)
            x = columns[:, :, steps].reshape(len(load), -1, columns.shape[-1])
            y = missed[:, :, steps].reshape(len(load), -1, 1)
            turned = x.transpose(0, 2, 1)
            penalty = profile.ridge * x.shape[1] * np.eye(x.shape[2])
            weights.append(np.linalg.solve(turned @ x + penalty, turned @ y)[..., 0])
        return cls(np.stack(weights, axis=1))

    def forecast(self, load: Floats, origins: Ints, weekday: int, profile: ForecastProfile) -> Floats:
        """[transformers, origins, horizon]; loads of `origins` and later are not read."""
        columns = known(load, origins, weekday, profile)
        by_step = np.repeat(self.weights, profile.day, axis=1)
        said: Floats = seasonal_naive(load, origins, profile) + np.einsum("nohc,nhc->noh", columns, by_step)
        return said


def band(errors: Floats, quantiles: Floats, profile: ForecastProfile) -> Floats:
    """Quantiles of past errors (load less forecast) [transformers, origins, horizon] by hours ahead.

    float64 [quantiles, transformers, horizon]; to be added to a forecast.
    """
    n, origins, horizon = errors.shape
    together = profile.band_hours * profile.hour
    blocks = errors.reshape(n, origins, horizon // together, together).transpose(0, 2, 1, 3)
    found = np.quantile(blocks.reshape(n, horizon // together, -1), quantiles, axis=-1)
    return np.repeat(found, together, axis=-1)


def calibrated(errors: Floats, quantiles: Floats, profile: ForecastProfile) -> Floats:
    """The same as `band`, as wide as it must be to hold errors it was not made of. quantiles: low, 0.5, high.

    Cross-conformal: each fold of the past origins is held against the band of the other folds, in widths of that band;
    the width that held enough of them scales the band of all. "Enough" counts the forecast to come as one of the
    origins, (origins + 1) / origins, so few of them give a wider band. Errors of the past alone are read.
    """
    origins = errors.shape[1]
    fold = np.arange(origins) * FOLDS // origins
    apart = [_widths(errors[:, fold == one], band(errors[:, fold != one], quantiles, profile)) for one in range(FOLDS)]
    enough = min((quantiles[2] - quantiles[0]) * (origins + 1) / origins, 1.0)
    scale = np.quantile(np.concatenate(apart, axis=1).reshape(len(errors), -1), enough, axis=-1)[:, None]
    low, middle, high = band(errors, quantiles, profile)
    return np.stack([middle - scale * (middle - low), middle, middle + scale * (high - middle)])


def _widths(errors: Floats, of: Floats) -> Floats:
    """How far each error lies from the middle of a band, in its half-widths on that side: 1 at its edge."""
    low, middle, high = of[:, :, None]
    off = errors - middle
    widths: Floats = np.where(off >= 0, off / np.maximum(high - middle, TINY), -off / np.maximum(middle - low, TINY))
    return widths


def chances(
    forecast: Floats, errors: Floats, parameters: ThermalParameters, state: ThermalState, ambient_c: Floats,
    limit_c: float, profile: ForecastProfile,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Share of the past errors with which b > 1 at a step, and the hot spot has been above `limit_c` by a step.

    forecast [transformers, horizon] per unit; errors [transformers, origins, horizon], whole paths, so that an hour
    above goes with the hours around it; state: of now; ambient_c and both answers [transformers, horizon].
    """
    n, paths, horizon = errors.shape
    load = np.maximum(forecast[:, None] + errors, 0.0)
    model, own = Thermal(parameters.take(np.repeat(np.arange(n), paths))), state.take(np.repeat(np.arange(n), paths))
    hot, passed = np.empty((n, horizon)), np.zeros(n * paths, np.bool_)
    for step in range(horizon):
        model.step(own, profile.step_s, load[:, :, step].ravel(), np.repeat(ambient_c[:, step], paths))
        passed |= own.hot_spot_c > limit_c
        hot[:, step] = passed.reshape(n, paths).mean(axis=1)
    return (load > 1).mean(axis=1), hot
