"""Grids of loads: laid out as cells say, gaps filled from likely places, temperatures as the kernel has them."""

from __future__ import annotations

import numpy as np
import pytest

from meterwatch.loads import Loads
from rules.ladder import OverloadProfile
from rules.load_curve import LoadCurves, filled, temperatures
from rules.thermal import Thermal, ThermalParameters, ThermalProfile

DAY = 96


def test_cells_lie_where_they_say() -> None:
    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    loads = Loads(ints(5, 2, 2), ints(11, 10, 12), ints(3000, -4000, 7), ints(4000, 0, 0), ints(900, 450, 0))
    curves = LoadCurves.of(loads, ints(900, 900, 900), ints(2, 5), 10, 13, OverloadProfile())
    assert np.nan_to_num(curves.kva, nan=-1).tolist() == [[16, -1, -1], [-1, 20, -1]]  # 4 kWh in a quarter-hour: 16 kW
    assert curves.coverage.tolist() == [[0.5, 0, 0], [0, 1, 0]]
    assert np.nan_to_num(curves.usable(0.9), nan=-1).tolist() == [[-1, -1, -1], [-1, 20, -1]]


def test_a_short_gap_is_a_straight_line_and_a_long_one_is_as_a_week_ago() -> None:
    load = (np.arange(21 * DAY) % (7 * DAY)).astype(float)[None]
    holed = load.copy()
    holed[0, 1000:1008] = np.nan  # two hours
    holed[0, 1500:1800] = np.nan  # three days
    assert filled(holed, 900).tolist() == load.tolist()


def test_every_gap_is_filled_and_what_is_known_stays() -> None:
    rng = np.random.default_rng(3)
    load = rng.uniform(0, 1, (4, 10 * DAY))
    holed = np.where(rng.random(load.shape) < 0.6, load, np.nan)
    holed[1], holed[2, : 5 * DAY], holed[3, DAY:] = np.nan, np.nan, np.nan
    full = filled(holed, 900)
    known = ~np.isnan(holed)
    assert np.isfinite(full).all()
    assert (full[known] == holed[known]).all()
    assert not full[1].any()
    assert np.isnan(holed).any()  # the input is left alone


def test_temperatures_are_those_of_the_kernel_step_by_step() -> None:
    profile = ThermalProfile()
    model = Thermal(ThermalParameters.of(profile, 2))
    load = np.array([[np.nan, 0.5, 1.2, np.nan], [0.9, 0.9, 0.9, 0.9]])
    found = temperatures(model, load, 900, 20.0)
    state = model.steady(np.array([0.5, 0.9]), 20.0)
    for window in range(4):
        model.step(state, 900, load[:, window], 20.0)
        assert found.hot_spot_c[:, window] == pytest.approx(state.hot_spot_c)
        assert found.top_oil_c[:, window] == pytest.approx(state.top_oil_c)
    more = temperatures(model, load, 900, 20.0, found.state)
    assert more.hot_spot_c[0, 0] != found.hot_spot_c[0, 0]  # goes on where the first ended
    assert more.hot_spot_c[1] == pytest.approx(found.hot_spot_c[1])
