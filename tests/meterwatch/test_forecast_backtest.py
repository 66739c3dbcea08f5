"""The back-test: on the real transformer the regression earns its place; no score sees the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meterwatch.devtools.forecast_backtest import FRIDAY, scores
from meterwatch.devtools.thermal_fit import measured
from rules.forecast import ForecastProfile

FILE = Path(__file__).parents[1] / "golden" / "etth1" / "ETTh1.csv.gz"
PROFILE = ForecastProfile(step_s=3600, days=1)


@pytest.fixture(scope="module")
def load() -> np.ndarray:
    return measured(FILE).load[None, : 150 * 24]


def test_on_a_real_transformer_the_regression_beats_seasonal_naive(load: np.ndarray) -> None:
    found = scores(load, FRIDAY, PROFILE)
    assert found["seasonal-naive"].rmae == 1
    for better in ("rmae", "pinball", "peak_error"):
        assert getattr(found["regression"], better) < getattr(found["seasonal-naive"], better)
    assert 0.7 < found["regression"].covered < 0.9


def test_a_load_that_cannot_be_known_is_not_forecast() -> None:
    """Noise about a mean: the best anybody can say is the mean, at 1 / sqrt(2) of the error of one week ago."""
    noise = 1 + np.random.default_rng(1).normal(0, 0.1, (2, 120 * 24))
    assert 0.69 < scores(noise, FRIDAY, PROFILE)["regression"].rmae < 0.85
