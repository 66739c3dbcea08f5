"""The forecast: nothing of the future in it, exact where the past repeats, and a band and chances that count right."""

from __future__ import annotations

import numpy as np
import pytest

from meterwatch.errors import ConfigError
from rules.forecast import FOLDS, ForecastProfile, Regression, band, calibrated, chances, known, seasonal_naive
from rules.thermal import Thermal, ThermalParameters, ThermalProfile

PROFILE = ForecastProfile(step_s=3600, days=2)
ORIGIN = 40 * 24
ORIGINS = np.array([ORIGIN - 60, ORIGIN - 24, ORIGIN])


def week_of(days: int, transformers: int = 3) -> np.ndarray:
    """Loads [transformers, hours] that repeat every week."""
    rng = np.random.default_rng(1)
    return np.tile(rng.uniform(0.2, 0.8, (transformers, 7 * 24)), days // 7 + 1)[:, : days * 24]


def noisy(days: int) -> np.ndarray:
    return week_of(days) + np.random.default_rng(2).normal(0, 0.1, (3, days * 24))


def test_a_load_that_repeats_every_week_is_forecast_as_it_is() -> None:
    load = week_of(45)
    learnt = Regression.learn(load[:, :ORIGIN], ORIGIN, 0, PROFILE)
    said = learnt.forecast(load[:, :ORIGIN], np.array([ORIGIN]), 0, PROFILE)[:, 0]
    assert said == pytest.approx(load[:, ORIGIN : ORIGIN + 48], abs=1e-6)


def test_no_load_at_or_after_an_origin_is_read() -> None:
    load = noisy(45)
    changed = load.copy()
    changed[:, ORIGIN:] = np.nan
    learnt, again = (Regression.learn(one, ORIGIN, 0, PROFILE) for one in (load, changed))
    assert again.weights.tolist() == learnt.weights.tolist()
    for origin in ORIGINS:
        cut = load.copy()
        cut[:, origin:] = np.nan
        at = np.array([origin])
        assert np.array_equal(learnt.forecast(cut, at, 0, PROFILE), learnt.forecast(load, at, 0, PROFILE))
        assert np.array_equal(seasonal_naive(cut, at, PROFILE), seasonal_naive(load, at, PROFILE))


def test_what_an_origin_knows_is_what_is_looked_up_one_by_one() -> None:
    load, step = noisy(45), 29  # the second day ahead
    columns = known(load, np.array([ORIGIN]), 0, PROFILE)[1, 0, step]
    own, at = load[1], ORIGIN + step
    base = own[at - 168]
    error = [own[at] - own[at - 168] for at in range(ORIGIN - 24, ORIGIN)]
    assert columns[0] == pytest.approx((own[at - 336] - base) / 2)
    assert columns[1] == pytest.approx(own[at - 48] - base)
    assert columns[2] == pytest.approx(np.mean([own[at - 48 - 24 * back] for back in range(7)]) - base)
    assert columns[3] == pytest.approx(np.mean(error))
    assert columns[4:6] == pytest.approx([error[-1] * np.exp(-step), error[-1] * np.exp(-step / 6)])


def test_a_transformer_is_forecast_as_if_it_were_alone_and_in_any_unit() -> None:
    load = noisy(45)
    at = np.array([ORIGIN])
    together = Regression.learn(load, ORIGIN, 0, PROFILE).forecast(load, at, 0, PROFILE)
    alone = load[1:2] * 400
    assert Regression.learn(alone, ORIGIN, 0, PROFILE).forecast(alone, at, 0, PROFILE)[0] == pytest.approx(
        400 * together[1]
    )


def test_where_weeks_differ_by_chance_it_is_nearer_than_the_week_before() -> None:
    load = noisy(60)
    at = np.arange(45 * 24, 57 * 24, 12)
    learnt = Regression.learn(load, 45 * 24, 0, PROFILE)
    real = load[:, at[:, None] + np.arange(48)]
    missed = [np.abs(said - real).mean() for said in (
        learnt.forecast(load, at, 0, PROFILE), seasonal_naive(load, at, PROFILE),
    )]  # fmt: skip
    assert missed[0] < 0.85 * missed[1]


def test_too_short_a_past_is_refused_with_what_is_needed() -> None:
    needed = PROFILE.history + PROFILE.horizon
    Regression.learn(noisy(45)[:, :needed], needed, 0, PROFILE)
    with pytest.raises(ConfigError, match=f"expected at least {needed}"):
        Regression.learn(noisy(45)[:, : needed - 1], needed - 1, 0, PROFILE)


def test_a_band_is_the_quantiles_of_the_errors_of_its_hours() -> None:
    errors = np.random.default_rng(3).normal(0, 1, (2, 20, 48))
    found = band(errors, np.array([0.1, 0.9]), PROFILE)
    assert found.shape == (2, 2, 48)
    for step in (0, 2, 3, 47):
        first = step // 3 * 3
        assert found[:, 1, step] == pytest.approx(np.quantile(errors[1, :, first : first + 3], [0.1, 0.9]))


def test_a_calibrated_band_is_that_of_one_transformer_and_fold_at_a_time() -> None:
    profile, levels = ForecastProfile(days=1), np.array([0.1, 0.5, 0.9])
    errors = np.random.default_rng(5).gamma(2.0, 1.0, (2, 9, profile.horizon)) - 2
    found = calibrated(errors, levels, profile)
    for row, mine in enumerate(errors):
        apart = []
        for path, one in enumerate(mine):
            others = [other for n, other in enumerate(mine) if n * FOLDS // 9 != path * FOLDS // 9]
            low, middle, high = band(np.stack(others)[None], levels, profile)[:, 0]
            for step, error in enumerate(one):
                up = error >= middle[step]
                width = high[step] - middle[step] if up else middle[step] - low[step]
                apart.append(abs(error - middle[step]) / width)
        scale = np.quantile(apart, 0.8 * 10 / 9)
        low, middle, high = band(mine[None], levels, profile)[:, 0]
        expected = [middle - scale * (middle - low), middle, middle + scale * (high - middle)]
        assert np.allclose(found[:, row], expected)


def test_a_calibrated_band_holds_what_it_says_where_past_days_are_few() -> None:
    """Days are higher or lower as a whole: the quantiles of twelve are too narrow, and it is not."""
    profile, levels = ForecastProfile(days=1), np.array([0.1, 0.5, 0.9])
    rng, n, paths = np.random.default_rng(6), 300, 12
    day = rng.normal(0, 1, (n, paths + 1, 1)) + rng.normal(0, 0.3, (n, paths + 1, profile.horizon))
    past, to_come = day[:, 1:], day[:, 0]

    def held(of: np.ndarray) -> float:
        return float(((to_come >= of[0]) & (to_come <= of[2])).mean())

    assert held(band(past, levels, profile)) < 0.77
    assert 0.78 < held(calibrated(past, levels, profile)) < 0.88


def test_the_chances_are_the_shares_of_the_paths() -> None:
    forecast, errors = np.full((2, 48), 0.9), np.zeros((2, 4, 48))
    errors[0, 0, 10:12] = 0.2  # an hour or two above the rating: no heat of it
    errors[0, 1, 20:36] = 0.7  # and 16 h of 1.6, after which it cools
    parameters = ThermalParameters.of(ThermalProfile(), 2)
    state = Thermal(parameters).steady(0.9, 30.0)
    over, hot = chances(forecast, errors, parameters, state, np.full((2, 48), 30.0), 140.0, PROFILE)
    assert over[0, [9, 10, 11, 12, 19, 20, 35, 36]].tolist() == [0, 0.25, 0.25, 0, 0, 0.25, 0.25, 0]
    assert hot[0, 19] == 0
    assert hot[0, -1] == 0.25
    assert np.all(np.diff(hot, axis=1) >= 0)
    assert not over[1].any()
    assert not hot[1].any()
    alone = Thermal(ThermalParameters.of(ThermalProfile(), 1))
    one, met = alone.steady(0.9, 30.0), 20
    while True:
        alone.step(one, 3600, np.array([1.6]), 30.0)
        if one.hot_spot_c[0] > 140:
            break
        met += 1
    # 20 h at 0.9 before it leave the steady state where it was
    assert int(np.argmax(hot[0] > 0)) == met


def test_numbers_that_do_not_fit_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        ForecastProfile(step_s=7000, days=8, ridge=0)
    assert len(refused.value.problems) == 3
