"""The thermal step: the published check values, a scalar oracle, and that an interval may be cut anywhere."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.errors import ConfigError
from rules import thermal
from rules.thermal import PARAMETERS, Level, Thermal, ThermalParameters, ThermalProfile, ThermalState, levels

PROFILE = ThermalProfile()
LOAD = st.floats(-2.5, 2.5)
TIME_S = st.floats(1, 20_000)
OWN = st.fixed_dictionaries(
    {
        "oil_rise_k": st.floats(20, 80),
        "hot_spot_rise_k": st.floats(5, 40),
        "loss_ratio": st.floats(1, 10),
        "oil_exponent": st.floats(0.5, 1),
        "winding_exponent": st.floats(0.5, 1),
        "oil_time_constant_s": st.floats(600, 40_000),
        "winding_time_constant_s": st.floats(30, 3000),
    }
)


def model(n: int = 1, own: dict[str, float] | None = None) -> Thermal:
    return Thermal(ThermalParameters.of(PROFILE, n, own))


def run(one: Thermal, state: ThermalState, *steps: tuple[float, float], ambient_c: float = 35.0) -> ThermalState:
    """`state` after steps of (seconds, load)."""
    for seconds, load in steps:
        one.step(state, seconds, np.full(len(state.load_pu), load), ambient_c)
    return state


class Oracle:
    """One transformer in plain arithmetic."""

    def __init__(self, own: dict[str, float], load: float, ambient_c: float) -> None:
        self.p = {name: getattr(PROFILE, name) for name in PARAMETERS} | own
        self.ambient_c, self.life_s = ambient_c, 0.0
        self.oil, self.winding = self.to(load)

    def to(self, load: float) -> tuple[float, float]:
        p = self.p
        loss = (load**2 * p["loss_ratio"] + 1) / (p["loss_ratio"] + 1)
        return p["oil_rise_k"] * loss ** p["oil_exponent"], p["hot_spot_rise_k"] * abs(load) ** (
            2 * p["winding_exponent"]
        )

    def at(self, seconds: float, load: float) -> tuple[float, float]:
        """Both rises after so long at this load."""
        oil_to, winding_to = self.to(load)
        return (
            oil_to + (self.oil - oil_to) * exp(-seconds / self.p["oil_time_constant_s"]),
            winding_to + (self.winding - winding_to) * exp(-seconds / self.p["winding_time_constant_s"]),
        )

    def hot_spot_c(self, seconds: float, load: float) -> float:
        return self.ambient_c + sum(self.at(seconds, load))

    def step(self, seconds: float, load: float) -> None:
        def ageing(part: float) -> float:
            return exp(15_000 / 383 - 15_000 / (self.hot_spot_c(seconds * part, load) + 273))

        self.life_s += seconds * (ageing(0) + 4 * ageing(0.5) + ageing(1)) / 6
        self.oil, self.winding = self.at(seconds, load)


# Check values


@pytest.mark.parametrize(("hot_spot_c", "factor"), [(110, 1.00), (120, 2.71), (140, 17.2)])
def test_the_ageing_factor_is_that_of_the_standard(hot_spot_c: float, factor: float) -> None:
    assert thermal.ageing_factor(np.array([hot_spot_c], float))[0] == pytest.approx(factor, rel=0.003)


@pytest.mark.parametrize(
    ("load", "hours", "hot_spot_c"), [(1.3, 1, 121), (1.3, 4, 141), (1.5, 1, 136), (2.0, 0.25, 152)]
)
def test_from_seven_tenths_at_35_c_the_hot_spot_is_where_it_was_computed(
    load: float, hours: float, hot_spot_c: float
) -> None:
    one = model()
    assert round(run(one, one.steady(0.7, 35.0), (hours * 3600, load)).hot_spot_c[0]) == hot_spot_c


def test_at_rated_load_the_rises_are_the_rated_ones() -> None:
    state = model().steady(1.0, PROFILE.ambient_c)
    assert (state.oil_rise_k[0], state.winding_rise_k[0]) == pytest.approx((55, 25))
    assert (state.top_oil_c[0], state.hot_spot_c[0]) == pytest.approx((85, 110))


# Laws


@given(OWN, LOAD, LOAD, TIME_S, st.floats(0.01, 0.99))
def test_cutting_an_interval_changes_no_temperature(
    own: dict[str, float], before: float, load: float, seconds: float, share: float
) -> None:
    one = model(1, own)
    whole = run(one, one.steady(before, 35.0), (seconds, load))
    cut = run(one, one.steady(before, 35.0), (seconds * share, load), (seconds * (1 - share), load))
    for column in ("oil_rise_k", "winding_rise_k"):
        assert getattr(cut, column) == pytest.approx(getattr(whole, column), abs=1e-9)


@pytest.mark.parametrize(("before", "load"), [(0.7, 0.9), (0.7, 1.3), (1.3, 0.7), (0.3, 2.0), (0.0, 1.5)])
def test_cutting_a_quarter_hour_changes_its_life_by_less_than_an_eighth(before: float, load: float) -> None:
    one = model()
    whole = run(one, one.steady(before, 35.0), (900, load), (900, load))
    fine = run(one, one.steady(before, 35.0), *[(1.0, load)] * 1800)
    assert whole.life_s == pytest.approx(fine.life_s, rel=0.125)


@settings(deadline=None)
@given(st.lists(st.tuples(OWN, LOAD), min_size=1, max_size=4), st.lists(st.tuples(TIME_S, LOAD), max_size=5))
def test_the_step_says_what_plain_arithmetic_says(
    fleet: list[tuple[dict[str, float], float]], steps: list[tuple[float, float]]
) -> None:
    own = {name: [one[name] for one, _ in fleet] for name in PARAMETERS}
    together = Thermal(ThermalParameters.of(PROFILE, len(fleet), own))
    state = together.steady([load for _, load in fleet], 20.0)
    oracles = [Oracle(one, load, 20.0) for one, load in fleet]
    run(together, state, *steps, ambient_c=20.0)
    for oracle in oracles:
        for seconds, load in steps:
            oracle.step(seconds, load)
    assert state.oil_rise_k == pytest.approx([oracle.oil for oracle in oracles], abs=1e-9)
    assert state.winding_rise_k == pytest.approx([oracle.winding for oracle in oracles], abs=1e-9)
    assert state.life_s == pytest.approx([oracle.life_s for oracle in oracles], rel=1e-9)


def test_a_fleet_longer_than_what_is_stepped_together_is_stepped_to_its_end() -> None:
    n = thermal.TOGETHER + 3
    one, load = model(n), np.linspace(0.1, 1.9, thermal.TOGETHER + 3)
    state = one.steady(0.7, 35.0)
    one.step(state, 900, load, 35.0)
    for i in (0, thermal.TOGETHER - 1, thermal.TOGETHER, n - 1):
        assert state.hot_spot_c[i] == pytest.approx(Oracle({}, 0.7, 35.0).hot_spot_c(900, float(load[i])))


def test_after_the_warm_up_nobody_sees_where_the_state_began() -> None:
    one = model()
    steps = [(900.0, 0.6 + 0.1 * (i % 7)) for i in range(round(PROFILE.warm_up_s / 900))]
    cold, hot = run(one, one.steady(0.0, 35.0), *steps), run(one, one.steady(1.0, 35.0), *steps)
    assert cold.hot_spot_c == pytest.approx(hot.hot_spot_c, abs=0.15)


def test_a_copy_steps_on_its_own() -> None:
    one = model()
    state = one.steady(0.7, 35.0)
    run(one, state.copy(), (3600, 2.0))
    assert state.hot_spot_c == pytest.approx(one.steady(0.7, 35.0).hot_spot_c)
    assert state.life_s[0] == 0


def test_an_unknown_load_goes_on_as_the_last_known_and_is_counted() -> None:
    one = model(2)
    state, known = one.steady(0.7, 35.0), one.steady(0.7, 35.0)
    one.step(state, 900, np.array([1.3, 1.3]), 35.0)
    one.step(state, 900, np.array([1.3, np.nan]), 35.0)
    run(one, known, (900, 1.3), (900, 1.3))
    assert state.hot_spot_c == pytest.approx(known.hot_spot_c)
    assert state.unknown_s.tolist() == [0, 900]
    run(one, state, (900, 1.0))
    assert state.unknown_s.tolist() == [0, 0]


def test_the_ambient_of_the_interval_is_added_as_it_is() -> None:
    one = model(2)
    state = one.steady(0.7, 35.0)
    one.step(state, 900, np.array([0.7, 0.7]), np.array([35.0, 25.0]))
    assert state.hot_spot_c[0] - state.hot_spot_c[1] == pytest.approx(10)


# Time to a limit


def reference_s(oracle: Oracle, load: float, limit_c: float) -> tuple[float, float]:
    """First time at or above the limit, and the step it is known to; by looking at every moment of a grid."""
    longest = max(oracle.p["oil_time_constant_s"], oracle.p["winding_time_constant_s"])
    grid = np.linspace(0, 12 * longest, 4001)
    there = [oracle.hot_spot_c(float(at_s), load) >= limit_c for at_s in grid]
    return (float(grid[there.index(True)]), float(grid[1])) if any(there) else (inf, float(grid[1]))


@settings(deadline=None)
@given(OWN, LOAD, st.lists(st.tuples(TIME_S, LOAD), max_size=2), LOAD, st.floats(40, 200))
def test_the_time_to_a_limit_is_when_it_is_first_met(
    own: dict[str, float], begin: float, steps: list[tuple[float, float]], load: float, limit_c: float
) -> None:
    one, oracle = model(1, own), Oracle(own, begin, 20.0)
    state = run(one, one.steady(begin, 20.0), *steps, (1e-6, load), ambient_c=20.0)
    for seconds, at in [*steps, (1e-6, load)]:
        oracle.step(seconds, at)
    seconds = float(one.seconds_to(state, limit_c)[0])
    expected_s, grid_s = reference_s(oracle, load, limit_c)
    if np.isfinite(expected_s):
        assert expected_s - grid_s - 1 <= seconds <= expected_s + 1
    elif np.isfinite(seconds):  # met between two looks, or after the last
        assert oracle.hot_spot_c(seconds, load) == pytest.approx(limit_c, abs=0.01)


def test_a_hot_spot_that_only_passes_the_limit_on_its_way_down_is_met_on_its_way_up() -> None:
    """Hot oil, cool winding, heavy load: it rises with the winding and then falls with the oil, for good."""
    one = model()
    state = run(one, one.steady(1.6, 35.0), (1800, 0.0), (1e-6, 1.2))
    assert one.ultimate(np.array([1.2]))[0][0] + one.ultimate(np.array([1.2]))[1][0] + 35 < 140
    [seconds] = one.seconds_to(state, 140.0).tolist()
    assert 0 < seconds < 1800
    assert run(one, state.copy(), (seconds, 1.2)).hot_spot_c[0] == pytest.approx(140, abs=0.01)


@pytest.mark.parametrize("below_k", [1e-4, 0.01, 1.0])
def test_a_limit_that_is_just_reached_at_the_turn_is_met_and_one_above_it_is_not(below_k: float) -> None:
    one = model()
    state = run(one, one.steady(1.6, 35.0), (1800, 0.0), (1e-6, 1.2))
    oil, winding = (float(rise[0]) for rise in (state.oil_rise_k, state.winding_rise_k))
    oil_to, winding_to = (float(rise[0]) for rise in one.ultimate(np.array([1.2])))
    grid_s = np.linspace(0, 10_000, 1_000_001)
    hot_spot_c = 35 + oil_to + winding_to + (oil - oil_to) * np.exp(-grid_s / 10_800)
    hot_spot_c += (winding - winding_to) * np.exp(-grid_s / 300)
    top_c, turn_s = float(hot_spot_c.max()), float(grid_s[hot_spot_c.argmax()])
    expected_s = float(grid_s[hot_spot_c >= top_c - below_k][0])
    assert 0 < expected_s < turn_s
    assert one.seconds_to(state, top_c - below_k)[0] == pytest.approx(expected_s, abs=0.05)
    assert one.seconds_to(state, top_c + 1e-6)[0] == inf


def test_the_time_is_zero_at_the_limit_and_never_below_what_the_load_leads_to() -> None:
    one = model()
    settled = one.steady(1.0, 30.0)
    assert one.seconds_to(settled, settled.hot_spot_c[0]).tolist() == [0]
    assert one.seconds_to(settled, settled.hot_spot_c[0] + 0.01).tolist() == [inf]


# Levels and numbers


@pytest.mark.parametrize(
    ("hot_spot_c", "seconds", "level"),
    [
        (119.9, inf, Level.NORMAL), (120, inf, Level.WARNING), (139.9, 3600, Level.WARNING),
        (80, 3599, Level.HIGH), (140, 0, Level.HIGH), (159.9, 0, Level.HIGH), (160, 0, Level.CRITICAL),
    ],
)  # fmt: skip
def test_a_level_begins_at_its_limit(hot_spot_c: float, seconds: float, level: Level) -> None:
    assert levels(PROFILE, np.array([hot_spot_c]), np.array([seconds])).tolist() == [level]


def test_a_transformer_has_its_own_numbers_where_they_are_given() -> None:
    parameters = ThermalParameters.of(PROFILE, 2, {"oil_rise_k": [np.nan, 40.0]})
    assert parameters.oil_rise_k.tolist() == [55, 40]
    assert parameters.loss_ratio.tolist() == [5, 5]


def test_numbers_that_do_not_fit_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        ThermalParameters.of(PROFILE, 2, {"oil_rise": 55, "loss_ratio": [5, -1], "oil_exponent": inf})
    assert len(refused.value.problems) == 3
    with pytest.raises(ConfigError) as refused:
        replace(PROFILE, oil_rise_k=0, warning_c=150)
    assert len(refused.value.problems) == 2
