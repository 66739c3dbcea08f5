"""A forecast with the errors it would have made: one of three forecasters per transformer, by what the past shows.

Seasonal-naive ("as a week ago"), the day before, and the regression (rules.forecast) are each asked what they would
have said on the past days at the time of day of now. The one with the least mean absolute error speaks, and its errors
make the band and the paths of `chances`: as they begin at the same time of day, a morning's error stays in the morning.
The regression that is asked about the past learnt from what was over before the first of those days; the one that
speaks now has learnt from all. Refuses to know: where loads come from, the clock, alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.errors import ConfigError
from rules.forecast import TINY, ForecastProfile, Regression, calibrated, seasonal_naive
from rules.ladder import Ladder, LadderState, OverloadProfile, Span

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PATHS_MAX: Final = 28
"""Past days whose errors are kept: four weeks. (ours)"""
PATHS_MIN: Final = 6
"""Fewer say nothing of a chance. (ours)"""
LEARN_DAYS_MIN: Final = 4
"""The regression that is asked about the past learns from origins of at least so many days. (ours)"""
AS_GOOD: Final = 0.01
"""A simpler forecaster speaks when its error is at most this share larger. (ours)"""
QUANTILES: Final = np.array([0.1, 0.5, 0.9])


class Forecaster(IntEnum):
    """Who spoke."""

    SEASONAL_NAIVE = 0
    DAY_BEFORE = 1
    REGRESSION = 2


@dataclass(frozen=True, slots=True)
class Ahead:
    """The next steps of n transformers, from `origin` = the end of the loads given; float64, in the loads' unit."""

    forecaster: NDArray[np.int8]
    """[n] Forecaster."""
    forecast: Floats
    """[n, horizon], 0 or more."""
    errors: Floats
    """[n, paths, horizon]: load less forecast on past days at this time of day, the newest first."""
    quantiles: Floats
    """[3, n, horizon]: P10, P50, P90, 0 or more."""


def days_needed(profile: ForecastProfile) -> int:
    """Whole days of load before an origin without which there is no forecast."""
    return profile.history // profile.day + 2 * profile.days + LEARN_DAYS_MIN + PATHS_MIN - 1


def ahead(load: Floats, weekday: int, profile: ForecastProfile) -> Ahead:
    """Forecast what follows load [n, steps], which begins at midnight of `weekday` (0: Monday).

    ConfigError with fewer than `days_needed` days. Memory: about 4 MB a transformer while it learns.
    """
    origin = load.shape[1]
    days = origin // profile.day
    if days < days_needed(profile):
        raise ConfigError([f"{days} days of load before the origin; expected at least {days_needed(profile)}"])
    paths = min(PATHS_MAX, days - days_needed(profile) + PATHS_MIN)
    past = origin - profile.horizon - np.arange(paths, dtype=np.int64) * profile.day
    at = np.concatenate([past, [origin]])
    first = int(past[-1])
    early = Regression.learn(load[:, :first], first, weekday, profile)
    late = Regression.learn(load, origin, weekday, profile)
    said = np.stack([_as_a_week_ago(load, at, profile), _as_the_day_before(load, at, profile),
                     _of_regressions(load, past, early, late, weekday, profile)])  # fmt: skip
    errors = load[:, past[:, None] + np.arange(profile.horizon)] - said[:, :, :-1]
    off = np.abs(errors).mean(axis=(2, 3))
    forecaster = np.argmax(off <= off.min(axis=0) * (1 + AS_GOOD) + TINY, axis=0).astype(np.int8)
    each = np.arange(len(load))
    forecast, mine = said[forecaster, each, -1], errors[forecaster, each]
    quantiles = np.sort(np.maximum(forecast + calibrated(mine, QUANTILES, profile), 0.0), axis=0)
    return Ahead(forecaster, np.maximum(forecast, 0.0), mine, quantiles)


def _as_a_week_ago(load: Floats, at: Ints, profile: ForecastProfile) -> Floats:
    return seasonal_naive(load, at, profile)


def _as_the_day_before(load: Floats, at: Ints, profile: ForecastProfile) -> Floats:
    return load[:, at[:, None] - profile.day + np.arange(profile.horizon) % profile.day]


def _of_regressions(
    load: Floats, past: Ints, early: Regression, late: Regression, weekday: int, profile: ForecastProfile
) -> Floats:
    now = np.array([load.shape[1]])
    parts = [early.forecast(load, past, weekday, profile), late.forecast(load, now, weekday, profile)]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class LadderChances:
    """How likely the overload rule raises an alarm within the horizon, float64 [n] each."""

    chance: Floats
    """Share of the paths that raise one."""
    raised_step: Floats
    """Step at whose end half of those have raised; NaN: none does."""
    peak: Floats
    """Highest load of the P50 path, per unit."""


def ladder_chances(recent_pu: Floats, ahead_pu: Ahead, profile: OverloadProfile) -> LadderChances:
    """Take whole paths (forecast plus past errors, per unit of the rating) through the overload ladder.

    recent_pu [n, windows]: what came before the forecast, so that a hold under way goes on. Steps are windows of the
    profile. An episode raised in `recent_pu` already is none of the forecast's.
    """
    n, paths, horizon = ahead_pu.errors.shape
    path = np.maximum(ahead_pu.forecast[:, None] + ahead_pu.errors, 0.0).reshape(n * paths, horizon)
    load = np.concatenate([np.repeat(recent_pu, paths, axis=0), path], axis=1).T
    before = recent_pu.shape[1]
    ladder, state = Ladder(profile), LadderState.cold(n * paths, len(profile.levels))
    ended: dict[int, list[Span]] = {}
    rows = np.arange(n * paths)
    ladder.fold(state, slice(0, n * paths), rows, 0, np.ascontiguousarray(load), np.ones(load.shape, np.bool_), ended)
    raised = np.full(n * paths, np.inf)
    lasting = state.latched.any(axis=1) & (state.raised >= before)
    raised[lasting] = state.raised[lasting] - before
    for row, spans in ended.items():
        ahead_of = [span.raised - before for span in spans if span.raised >= before]
        raised[row] = min([raised[row], *ahead_of])
    by_path = raised.reshape(n, paths)
    some = np.isfinite(by_path)
    chance = some.mean(axis=1)
    step = np.full(n, np.nan)
    for row in np.flatnonzero(some.any(axis=1)).tolist():
        step[row] = np.median(by_path[row, some[row]])
    return LadderChances(chance, step, ahead_pu.quantiles[1].max(axis=1))
