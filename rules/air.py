"""The air around transformers, window by window: as it was told, else the usual one of the profile.

Of windows that are over: the newest reading, else the season's, else the number of the profile. Of windows to come, in
this order: what was forecast for then; the season's; the reading at the same hour of the last day; the number of the
profile. A forecast says nothing of windows that are over, so no alarm of now rests on one.
Refuses to know: where readings and forecasts come from, the clock, transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.weather import Weather
from rules.seasons import usual_air_c
from rules.twin import DAY_S, HotSpotProfile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DAY_US = DAY_S * US


def air_was(
    profile: HotSpotProfile, told: Weather, areas: Sequence[str], first: int, stop: int, window_us: int
) -> Floats:
    """Celsius of areas in the windows first..stop-1, which are over: [windows, areas]."""
    end_us = np.arange(first + 1, stop + 1) * window_us
    return _else(_of_areas(told, areas, end_us, profile), _usual(profile, end_us - window_us))


def air_will_be(
    profile: HotSpotProfile, told: Weather, forecast: Weather, areas: Sequence[str], first: int, stop: int,
    window_us: int, now_us: int,
) -> Floats:  # fmt: skip
    """Celsius of areas in the windows first..stop-1, which end after now_us: [windows, areas]."""
    end_us = np.arange(first + 1, stop + 1) * window_us
    air = _of_areas(forecast, areas, end_us, profile)
    if not profile.air_seasons:
        days = -(-(end_us - now_us) // DAY_US)
        air = _else(air, _of_areas(told, areas, end_us - days * DAY_US, profile))
    return _else(air, _usual(profile, end_us - window_us))


def hottest_usual_c(profile: HotSpotProfile) -> float:
    """No air that nobody told is hotter."""
    return max([profile.thermal.ambient_c, *(season.ambient_c for season in profile.air_seasons)])


def _of_areas(weather: Weather, areas: Sequence[str], at_us: Ints, profile: HotSpotProfile) -> Floats:
    """NaN: nobody told it."""
    told = [weather.at(area, at_us, profile.ambient_max_age_s * US) for area in areas]
    return np.stack(told, axis=1) if told else np.zeros((len(at_us), 0))


def _usual(profile: HotSpotProfile, begin_us: Ints) -> Floats:
    """[windows, 1]"""
    else_c = profile.thermal.ambient_c
    if not profile.air_seasons:
        return np.full((len(begin_us), 1), else_c)
    days, of = np.unique(begin_us // DAY_US, return_inverse=True)
    return np.array([usual_air_c(profile.air_seasons, day, else_c) for day in days.tolist()])[of][:, None]


def _else(air: Floats, other: Floats) -> Floats:
    return np.where(np.isnan(air), other, air)
