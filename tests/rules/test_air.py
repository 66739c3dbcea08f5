"""The air of windows that are over and of windows to come: a scalar choice as oracle."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.weather import Reading, Weather
from rules.air import air_was, air_will_be
from rules.seasons import EPOCH, AirSeason, season_of
from rules.twin import HotSpotProfile

HOUR_US = 3_600_000_000
WINDOW_US = 900_000_000
DAY = 96
NOW = 20_000 * DAY + 50
"""The window under way."""
AREAS = ["N", "S"]
PROFILE = HotSpotProfile()
SEASONS = (AirSeason("a", "01-01", 4.0), AirSeason("b", (EPOCH + timedelta(days=20_001)).isoformat()[5:], 9.0))
readings = st.lists(
    st.builds(
        lambda area, quarter, celsius: Reading(area, (NOW + quarter) * WINDOW_US, celsius),
        st.sampled_from(["", "N", "S"]), st.integers(-150, 0), st.floats(-20, 40, width=32),
    ),
    max_size=30,
)  # fmt: skip
forecasts = st.lists(
    st.builds(
        lambda area, quarter, celsius: Reading(area, (NOW + quarter) * WINDOW_US, celsius),
        st.sampled_from(["", "N"]), st.integers(-12, 200), st.floats(-20, 40, width=32),
    ),
    max_size=20,
)  # fmt: skip


def newest(known: list[Reading], area: str, at_us: int) -> float | None:
    """Of this area, else of everywhere: the last one of the three hours before."""
    for asked in (area, ""):
        last: Reading | None = None
        for one in known:
            if one.area == asked and at_us - 3 * HOUR_US <= one.at_us <= at_us:
                last = one if last is None or one.at_us >= last.at_us else last
        if last is not None:
            return last.celsius
    return None


def usual(profile: HotSpotProfile, window: int) -> float | None:
    season = season_of(profile.air_seasons, EPOCH + timedelta(days=window // DAY))
    return None if season is None else season.ambient_c


@settings(max_examples=60, deadline=None)
@given(told=readings, forecast=forecasts, by_season=st.booleans(), into=st.integers(0, 899))
def test_the_air_is_that_of_the_first_who_knows_it(
    told: list[Reading], forecast: list[Reading], by_season: bool, into: int
) -> None:
    profile = replace(PROFILE, air_seasons=SEASONS if by_season else ())
    now_us = NOW * WINDOW_US + into * 1_000_000
    was = air_was(profile, Weather(told), AREAS, NOW - 100, NOW, WINDOW_US)
    will_be = air_will_be(profile, Weather(told), Weather(forecast), AREAS, NOW, NOW + 192, WINDOW_US, now_us)
    for column, area in enumerate(AREAS):
        for row in range(100):
            window = NOW - 100 + row
            known = [newest(told, area, (window + 1) * WINDOW_US), usual(profile, window), 30.0]
            assert was[row, column] == next(one for one in known if one is not None)
        for row in range(192):
            window, end_us = NOW + row, (NOW + row + 1) * WINDOW_US
            past_us = end_us
            while past_us > now_us:
                past_us -= 24 * HOUR_US
            known = [
                newest(forecast, area, end_us),
                usual(profile, window),
                None if by_season else newest(told, area, past_us),
                30.0,
            ]
            assert will_be[row, column] == next(one for one in known if one is not None), row


def test_no_area_no_air() -> None:
    assert air_was(PROFILE, Weather(), [], 0, 5, WINDOW_US).shape == (5, 0)


@pytest.mark.parametrize("windows", [0, 3])
def test_as_many_rows_as_windows(windows: int) -> None:
    assert air_was(PROFILE, Weather(), AREAS, 7, 7 + windows, WINDOW_US).shape == (windows, 2)
    assert np.all(air_was(PROFILE, Weather(), AREAS, 7, 7 + windows, WINDOW_US) == 30.0)
