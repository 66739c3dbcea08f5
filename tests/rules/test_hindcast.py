"""A forecast with its errors: who errs least speaks, nothing is read from the future, paths go through the ladder."""

from __future__ import annotations

import numpy as np
import pytest

from meterwatch.errors import ConfigError
from rules.forecast import ForecastProfile, seasonal_naive
from rules.hindcast import PATHS_MIN, Ahead, Forecaster, ahead, days_needed, ladder_chances
from rules.ladder import Ladder, LadderState, OverloadProfile

PROFILE = ForecastProfile(step_s=3600, train_days=28)
DAY = PROFILE.day
NEEDED = days_needed(PROFILE)


def noise(days: int, rows: int = 1, seed: int = 1) -> np.ndarray:
    return 1 + np.random.default_rng(seed).normal(0, 0.1, (rows, days * DAY + 5))


def test_who_errs_least_on_the_past_days_speaks() -> None:
    steps = np.arange(60 * DAY)
    week = 1 + 0.5 * np.sin(2 * np.pi * steps / (7 * DAY))
    rng = np.random.default_rng(5)
    climbing = np.repeat(np.cumsum(rng.normal(0, 1, 60)), DAY) + 50  # each day as the one before, a week tells nothing
    said = ahead(np.stack([week, climbing]), 0, PROFILE)
    assert said.forecaster[0] == Forecaster.SEASONAL_NAIVE  # exact; ties go to the simplest
    assert said.forecast[0] == pytest.approx(seasonal_naive(week[None], np.array([len(week)]), PROFILE)[0, 0])
    assert said.forecaster[1] != Forecaster.SEASONAL_NAIVE


def test_a_load_after_the_end_changes_no_forecast_and_no_error() -> None:
    """The past days' forecasts are made from what lay before them: a changed last day leaves older errors alone."""
    load = noise(60, 3)
    other = load.copy()
    other[:, -DAY:] += 0.05
    one, two = ahead(load, 2, PROFILE), ahead(other, 2, PROFILE)
    assert (one.forecaster == Forecaster.REGRESSION).all()  # who learns could have learnt from the last day
    assert (two.forecaster == Forecaster.REGRESSION).all()
    old = slice(3, None)  # days whose 48 h ended before the last day
    assert one.errors[:, old] == pytest.approx(two.errors[:, old], rel=1e-12)
    assert one.errors[:, 0] != pytest.approx(two.errors[:, 0])


def test_errors_are_those_of_the_hour_of_now() -> None:
    """A load that is uncertain in the evening alone has a broad band in the evening alone."""
    days, hour = 60, np.arange(60 * DAY) % DAY
    rng = np.random.default_rng(7)
    evening = (hour >= 18) & (hour < 21)
    load = (1 + np.where(evening, rng.normal(0, 0.3, days * DAY), 0))[None, : 59 * DAY + 7]
    said = ahead(load, 0, PROFILE)
    breadth = said.quantiles[2, 0] - said.quantiles[0, 0]
    at = (load.shape[1] + np.arange(PROFILE.horizon)) % DAY
    assert breadth[(at >= 18) & (at < 21)].min() > 5 * breadth[(at >= 6) & (at < 12)].max()


def test_bands_are_in_order_and_hold_about_four_fifths() -> None:
    load = noise(75, 20)
    said = ahead(load, 0, PROFILE)
    p10, p50, p90 = said.quantiles
    assert (p10 <= p50).all()
    assert (p50 <= p90).all()
    real = noise(75, 20, seed=99)[:, : PROFILE.horizon]
    assert 0.7 < ((p10 <= real) & (real <= p90)).mean() < 0.9


def test_too_few_days_are_refused_and_just_enough_are_not() -> None:
    with pytest.raises(ConfigError, match=f"at least {NEEDED}"):
        ahead(noise(NEEDED - 1), 0, PROFILE)
    assert ahead(noise(NEEDED), 0, PROFILE).errors.shape[1] == PATHS_MIN


def test_ladder_chances_are_those_of_a_ladder_for_each_path() -> None:
    overload = OverloadProfile()
    rng = np.random.default_rng(11)
    horizon, paths = 192, 7
    base = np.repeat(rng.uniform(0.6, 1.3, (4, horizon // 8)), 8, axis=1)
    base[3] = 1.2
    errors = rng.normal(0, 0.05, (4, paths, horizon))
    said = Ahead(np.zeros(4, np.int8), base, errors, np.stack([base] * 3))
    recent = np.full((4, 12), 0.9)
    recent[2:, 2:] = 1.1  # an alarm was raised before the forecast begins; the last one goes on
    found = ladder_chances(recent, said, overload)
    assert found.chance[3] == 0
    for row in range(4):
        raised = []
        for path in range(paths):
            load = np.concatenate([recent[row], np.maximum(base[row] + errors[row, path], 0)])
            ladder, state = Ladder(overload), LadderState.cold(1, len(overload.levels))
            first = np.inf
            for window, b in enumerate(load):
                ladder.step(state, window, np.array([b]), np.array([True]))
                if state.latched.any() and state.raised[0] >= len(recent[row]):
                    first = min(first, state.raised[0] - len(recent[row]))
            raised.append(first)
        some = np.isfinite(raised)
        assert found.chance[row] == pytest.approx(some.mean())
        if some.any():
            assert found.raised_step[row] == np.median(np.array(raised)[some])
        else:
            assert np.isnan(found.raised_step[row])
    assert found.peak == pytest.approx(base.max(axis=1))
    assert found.chance.max() > 0
