"""The truth of a heatwave: its temperatures are those of the service's closed form, its rule that of ten lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.heat import AMBIENT_C, HOT_C, STEP_S, heat, hot_spots_c
from rules.thermal import Thermal, ThermalParameters, ThermalProfile

INTERVAL_S = 900
LOADS = st.lists(st.floats(0.2, 2.2), min_size=1, max_size=40).map(np.array)


@given(LOADS)
def test_steps_of_seconds_agree_with_the_closed_form(load: np.ndarray) -> None:
    model = Thermal(ThermalParameters.of(ThermalProfile(), 1))
    state = model.steady(load[:1], AMBIENT_C)
    by_interval = hot_spots_c(load, INTERVAL_S)[round(INTERVAL_S / STEP_S) - 1 :: round(INTERVAL_S / STEP_S)]
    for b, truth in zip(load, by_interval, strict=True):
        model.step(state, INTERVAL_S, np.array([b]), AMBIENT_C)
        assert state.hot_spot_c[0] == pytest.approx(truth, abs=0.2)


@given(LOADS)
def test_the_moment_of_140_c_is_the_first_above_it(load: np.ndarray) -> None:
    found, hot = heat(load, INTERVAL_S), hot_spots_c(load, INTERVAL_S)
    if found.hot_s is None:
        assert hot.max() <= HOT_C
    else:
        at = round(found.hot_s / STEP_S) - 1
        assert hot[at] > HOT_C
        assert (hot[:at] <= HOT_C).all()


def test_two_hours_above_the_rating_warn_once_and_anew_after_an_interval_below() -> None:
    above, below = [1.01], [1.0]
    assert heat(np.array(above * 7), INTERVAL_S).rule_s == ()
    assert heat(np.array(below + above * 12), INTERVAL_S).rule_s == (9 * 900 + 300,)
    assert heat(np.array(above * 8 + below + above * 8), INTERVAL_S).rule_s == (8 * 900 + 300, 17 * 900 + 300)
