"""Forecast alarms against the ladder: what comes every day is forecast, what never comes is not."""

from __future__ import annotations

import numpy as np

from meterwatch.devtools.forecast_alarms import judged, overloads
from rules.forecast import ForecastProfile
from rules.hindcast import days_needed
from rules.ladder import OverloadProfile

PROFILE = ForecastProfile(train_days=28)
DAYS = days_needed(PROFILE) + 3
HOUR = np.arange(DAYS * 96) // 4 % 24


def test_what_comes_every_evening_is_forecast_before_each_and_what_stays_below_never() -> None:
    evening = np.where((HOUR >= 17) & (HOUR < 22), 1.2, 0.5)
    calm = np.where((HOUR >= 17) & (HOUR < 22), 0.9, 0.5)
    found = judged(np.stack([evening, calm]), 0, PROFILE, OverloadProfile())
    assert (found.overloads, found.warned, found.withdrawn) == (3, 3, 0)
    assert found.alarms == 4  # the last one is of the day after
    assert found.leads_h is not None
    assert min(found.leads_h) > 12


def test_the_truth_is_two_hours_above_and_half_an_hour_below() -> None:
    load = np.full(60, 0.5)
    load[10:20] = 1.1
    load[40:] = 1.1
    spans = overloads(load, OverloadProfile())
    assert [(one.onset, one.raised, one.cleared) for one in spans] == [(10, 17, 21), (40, 47, None)]
