"""The thermal model beside a real transformer, and the fit beside one whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meterwatch.devtools import thermal_fit
from meterwatch.devtools.thermal_fit import Fit, Measured, compare, fit, measured, modelled
from rules.thermal import ThermalProfile

FILE = Path(__file__).parents[1] / "golden" / "etth1" / "ETTh1.csv.gz"


@pytest.fixture(scope="module")
def real() -> Measured:
    return measured(FILE)


def test_the_fit_finds_the_numbers_that_made_the_temperatures() -> None:
    rng = np.random.default_rng(1)
    load_pu = 0.6 + 0.3 * np.sin(2 * np.pi * np.arange(2000) / 24) + rng.normal(0, 0.1, 2000)
    made = Fit(
        replace(ThermalProfile(), oil_rise_k=40.0, oil_time_constant_s=4 * 3600.0, loss_ratio=8.0),
        np.array([8.0, 2.0, -3.0, 1.0]),
        17.0,
    )
    found = fit(load_pu, modelled(made, load_pu) + rng.normal(0, 0.05, 2000))
    assert found.profile.oil_time_constant_s == 4 * 3600
    assert found.profile.loss_ratio == 8
    assert found.profile.oil_rise_k == pytest.approx(40, rel=0.05)
    assert found.wave_k == pytest.approx(made.wave_k, abs=0.5)
    assert found.ambient_c == pytest.approx(17, abs=1)


def test_fitted_on_one_year_of_a_real_transformer_it_beats_persistence_on_the_next(real: Measured) -> None:
    fitted, ahead, alone = compare(real)
    for hours in thermal_fit.AHEAD_HOURS:
        assert ahead["fitted"][hours] < ahead["persistence"][hours]
        assert ahead["fitted"][hours] < ahead["defaults, not fitted"][hours]
    assert ahead["fitted"][6] < 0.95 * ahead["persistence"][6]
    assert 5 < fitted.profile.oil_rise_k < 30
    assert ahead["persistence"][48] < alone["fitted"] < alone["defaults, not fitted"]  # nobody knows its ambient


def test_the_second_year_does_not_change_the_fit(real: Measured) -> None:
    spoilt = Measured(real.load.copy(), real.oil_c.copy())
    spoilt.oil_c[thermal_fit.YEAR_HOURS :] = 0
    spoilt.load[thermal_fit.YEAR_HOURS :] = 0
    assert compare(spoilt)[0].profile == compare(real)[0].profile


def test_persistence_is_the_measurement_of_then() -> None:
    oil_c = np.array([1.0, 2.0, 4.0, 7.0])
    assert thermal_fit.ahead_rmse_k(np.zeros(4), oil_c, 1, 2) == pytest.approx(np.sqrt((2**2 + 3**2) / 2))
