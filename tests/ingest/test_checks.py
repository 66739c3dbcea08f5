"""Each check alone: where it fires, where its boundary is, and that absent values are never looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import checks
from ingest.checks import View
from meterwatch.channels import CHANNELS
from meterwatch.check_profile import Limits

DTYPE = {channel.name: channel.dtype for channel in CHANNELS}
LIMITS = Limits()
VOLTS = ("voltage_a_v", "voltage_b_v", "voltage_c_v")
AMPS = ("current_a_a", "current_b_a", "current_c_a")
NAN, INF = float("nan"), float("inf")


def below(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def over(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def view(
    present=None, *, interval_s=900, nominal_v=230.0, rated_a=100.0, contract_kw=10.0, phases=1, **columns
) -> View:
    """Columns of one meter's ratings."""
    rows = len(next(iter(columns.values())))
    return View(
        {name: np.array(values, DTYPE[name]) for name, values in columns.items()},
        None if present is None else {name: np.array(on, np.bool_) for name, on in present.items()},
        interval_s,
        np.full(rows, nominal_v, np.float64),
        np.full(rows, rated_a, np.float32),
        np.full(rows, contract_kw, np.float32),
        np.full(rows, phases, np.uint8),
    )


def all_checks(found: View) -> list[np.ndarray]:
    return [
        checks.not_finite(found),
        checks.negative_energy(found),
        checks.above_capacity(found, LIMITS),
        checks.out_of_range(found, LIMITS),
        checks.above_contract(found, LIMITS),
        checks.device_status(found),
        checks.power_mismatch(found, LIMITS),
        *checks.supply(found, LIMITS),
    ]


@pytest.mark.parametrize("name", [*VOLTS, *AMPS, "power_factor"])
def test_not_finite_fires_on_nan_and_infinities_of_every_float_channel(name):
    assert checks.not_finite(view(**{name: [0, NAN, INF, -INF, 3.4e38, -3.4e38]})).tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "fires"), [("import_wh", 1), ("export_wh", 1), ("import_varh", 0), ("export_varh", 0)]
)
def test_active_energy_may_not_be_negative(name, fires):
    assert checks.negative_energy(view(**{name: [0, -1, 1]})).tolist() == [0, fires, 0]


@pytest.mark.parametrize("name", ["import_wh", "export_wh", "import_varh", "export_varh"])
def test_capacity_is_rating_times_time_and_is_itself_allowed(name):
    found = checks.above_capacity(view(**{name: [6900, 6901, -6900, -6901, -(2**31)]}), LIMITS)
    assert found.tolist() == [0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("ratings", "limit"),
    [
        ({"phases": 7}, 20_700),
        ({"phases": 6}, 13_800),
        ({"phases": 0}, 20_700),
        ({"interval_s": 60}, 460),
        ({"interval_s": 86_400}, 662_400),
        ({"rated_a": 10.0, "nominal_v": 120.0}, 360),
    ],
)
def test_capacity_follows_phases_interval_and_rating(ratings, limit):
    assert checks.above_capacity(view(import_wh=[limit, limit + 1], **ratings), LIMITS).tolist() == [0, 1]


@settings(max_examples=300)
@given(st.data())
def test_a_rows_verdict_does_not_depend_on_its_neighbours(data):
    ratings = st.tuples(
        st.sampled_from([120.0, 230.0, 400.0]),
        st.sampled_from([40.0, 100.0, NAN]),
        st.sampled_from([1.0, 10.0, NAN]),
        st.sampled_from([0, 1, 3, 7]),
    )
    meters = data.draw(st.lists(ratings, min_size=1, max_size=5))
    volts, kinds = [0, 100, 180, 200, 320, 345, 600], st.sampled_from(["import_wh", "export_varh"])
    energy = data.draw(kinds), data.draw(st.sampled_from([[0, 5, 900], [1000, 3000, 7000, 8000], [2**31 - 1, 20_000]]))
    columns = {
        energy[0]: [data.draw(st.sampled_from(energy[1])) for _ in meters],
        "voltage_a_v": [data.draw(st.sampled_from(volts)) for _ in meters],
        "current_a_a": [data.draw(st.sampled_from([0, 0, 3])) for _ in meters],
    }
    together = view(**columns)
    together.nominal_v[:], together.rated_a[:], together.contract_kw[:], together.phases[:] = zip(*meters, strict=True)
    found = np.array([mask.tolist() for mask in all_checks(together)])
    for i, (nominal_v, rated_a, contract_kw, phases) in enumerate(meters):
        row = {name: values[i : i + 1] for name, values in columns.items()}
        alone = view(**row, nominal_v=nominal_v, rated_a=rated_a, contract_kw=contract_kw, phases=phases)
        assert found[:, i].tolist() == [bool(mask[0]) for mask in all_checks(alone)]


@pytest.mark.parametrize("rating", ["nominal_v", "rated_a"])
def test_the_smaller_meter_keeps_its_own_limit_beside_a_larger_one(rating):
    mixed = view(import_wh=[6000, 6000])
    getattr(mixed, rating)[0] /= 2
    assert checks.above_capacity(mixed, LIMITS).tolist() == [1, 0]


def test_a_meter_of_unknown_rating_has_no_capacity_limit():
    assert not checks.above_capacity(view(import_wh=[2**31 - 1], rated_a=NAN), LIMITS).any()


@pytest.mark.parametrize("name", VOLTS)
def test_voltage_is_in_0_to_one_and_a_half_nominal(name):
    found = checks.out_of_range(view(**{name: [0, -0.0, 345, over(345), below(0), INF]}), LIMITS)
    assert found.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", AMPS)
@pytest.mark.parametrize("rated_a", [100.0, float(np.float32(63.7))])
def test_current_is_in_0_to_20_times_the_rated_one(name, rated_a):
    most_a = 20 * rated_a
    sent = [0, -0.0, below(most_a), over(most_a), below(0), 1e38]
    assert checks.out_of_range(view(rated_a=rated_a, **{name: sent}), LIMITS).tolist() == [0, 0, 0, 1, 1, 1]
    assert not checks.out_of_range(view(rated_a=rated_a, **{name: [0, below(most_a)]}), LIMITS).any()


def test_a_current_of_a_meter_of_unknown_rating_is_not_negative():
    assert checks.out_of_range(view(current_a_a=[1e38, below(0)], rated_a=NAN), LIMITS).tolist() == [0, 1]


def test_power_factor_is_in_minus_1_to_1():
    found = checks.out_of_range(view(power_factor=[1, -1, over(1), below(-1)]), LIMITS)
    assert found.tolist() == [0, 0, 1, 1]


def test_nan_is_for_not_finite_alone():
    broken = view(voltage_a_v=[NAN], current_a_a=[NAN], power_factor=[NAN])
    assert not checks.out_of_range(broken, LIMITS).any()
    assert [mask.tolist() for mask in checks.supply(broken, LIMITS)] == [[True], [False]]  # a rejected row's votes go


def test_contract_is_exceeded_above_three_times():
    assert checks.above_contract(view(import_wh=[7500, 7501]), LIMITS).tolist() == [0, 1]
    assert checks.above_contract(view(import_wh=[500, 501], interval_s=60), LIMITS).tolist() == [0, 1]
    assert not checks.above_contract(view(export_wh=[10**6]), LIMITS).any()


def test_no_contract_is_never_exceeded_beside_one_that_is():
    mixed = view(import_wh=[10**6, 10**6])
    mixed.contract_kw[0] = NAN
    assert checks.above_contract(mixed, LIMITS).tolist() == [0, 1]
    mixed.contract_kw[1] = NAN
    assert not checks.above_contract(mixed, LIMITS).any()


@pytest.mark.parametrize("bit", range(32))
def test_every_status_bit_but_daylight_saving_is_a_finding(bit):
    assert checks.device_status(view(device_status=[0, 1 << bit])).tolist() == [False, bit != 3]


def test_supply_votes_at_their_boundaries():
    off, on = checks.supply(view(voltage_a_v=[0, below(138), 138, below(184), 184, 230]), LIMITS)
    assert off.tolist() == [1, 1, 0, 0, 0, 0]
    assert on.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_current_contradicts_a_missing_voltage():
    off, on = checks.supply(view(voltage_a_v=[0, 0, 0], current_c_a=[0.05, over(0.05), 9]), LIMITS)
    assert off.tolist() == [1, 0, 0]
    assert not on.any()


def test_off_needs_every_phase_and_on_needs_one():
    off, on = checks.supply(view(voltage_a_v=[0, 0, 150], voltage_b_v=[0, 230, 150], voltage_c_v=[0, 0, 0]), LIMITS)
    assert off.tolist() == [1, 0, 0]
    assert on.tolist() == [0, 1, 0]


def test_no_voltage_is_no_vote():
    for mask in checks.supply(view(current_a_a=[0, 5]), LIMITS):
        assert not mask.any()


BAD = {"voltage_a_v": NAN, "current_a_a": -INF, "power_factor": 9.0, "import_wh": -(2**31), "device_status": 1}


def test_absent_values_are_never_looked_at():
    found = view({name: [False] for name in BAD}, **{name: [value] for name, value in BAD.items()})
    assert not any(mask.any() for mask in all_checks(found))


def test_a_healthy_neighbour_does_not_vote_for_an_absent_voltage():
    found = view({"voltage_a_v": [True, False]}, voltage_a_v=[230, 230])
    assert [mask.tolist() for mask in checks.supply(found, LIMITS)] == [[False, False], [True, False]]


def scalar_mismatch(u, i, pf, imported, exported, interval_s=900) -> bool:
    """V11 of one row, in double precision; None: absent."""
    pairs = list(zip(u, i, strict=True))
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if pf is None or imported is None or not whole or any((a is None) != (b is None) for a, b in pairs):
        return False
    measured, mean = abs(sum(a * b for a, b in whole) * pf), abs((imported - (exported or 0)) * (3600 / interval_s))
    return abs(measured - mean) > max(mean * 0.05, 20)


@st.composite
def loads(draw) -> list[float | int | None]:
    """Voltages, currents, power factor, import and export of a row; near the limit more often than not."""
    maybe = st.sampled_from([True] * 9 + [False])
    u = [draw(st.integers(200, 250)) if draw(maybe) else None for _ in VOLTS]
    i = [draw(st.integers(0, 80)) / 8 if draw(maybe) else None for _ in AMPS]
    pf = draw(st.sampled_from([1.0, 0.5, -0.75, 0.0])) if draw(maybe) else None
    watts = abs(sum((a or 0) * (b or 0) for a, b in zip(u, i, strict=True)) * (pf or 0))
    edge = draw(st.sampled_from([watts, watts / 1.05, watts / 0.95, watts + 20, watts - 20]))
    imported = max(0, round(edge / 4) + draw(st.integers(-2, 2)))
    exported = draw(st.integers(0, 3)) if draw(maybe) else None
    return [*u, *i, pf, imported + (exported or 0) if draw(maybe) else None, exported]


@settings(max_examples=300, deadline=None)
@given(st.lists(loads(), min_size=1, max_size=30), st.booleans())
def test_power_mismatch_is_that_of_one_row_in_double_precision(rows, whole):
    names = [*VOLTS, *AMPS, "power_factor", "import_wh", "export_wh"]
    if whole:
        rows = [[0 if value is None else value for value in row] for row in rows]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    present = None if whole else {name: [value is not None for value in columns[name]] for name in names}
    filled = {name: [2**31 - 1 if value is None else value for value in columns[name]] for name in names}
    found = checks.power_mismatch(view(present, **filled), LIMITS)
    assert found.tolist() == [scalar_mismatch(row[:3], row[3:6], *row[6:]) for row in rows]


def test_power_mismatch_is_exact_at_its_limit():
    """20 W at little power, 5 % at much: U I PF is 100 W + 20 W, and 1000 W + 50 W."""
    found = view(
        voltage_a_v=[240] * 4, current_a_a=[0.5, over(0.5), 4.375, over(4.375)], power_factor=[1] * 4,
        import_wh=[25, 25, 250, 250],
    )  # fmt: skip
    assert checks.power_mismatch(found, LIMITS).tolist() == [0, 1, 0, 1]


def test_power_is_not_judged_with_a_phase_half_known():
    assert not checks.power_mismatch(
        view(voltage_a_v=[230], current_a_a=[9], voltage_b_v=[230], power_factor=[1], import_wh=[0]), LIMITS
    ).any()


def test_a_forgotten_multiplier_or_unit_is_told_from_a_jump_in_load():
    """U I PF is 4000 W; the energy says 100 W (multiplier 40), 160 W, 4 W (kWh for Wh), 160 kW (applied twice)."""
    found = view(voltage_a_v=[250] * 4, current_a_a=[16] * 4, power_factor=[1] * 4, import_wh=[25, 40, 1, 40_000])
    mismatch = checks.power_mismatch(found, LIMITS)
    assert mismatch.tolist() == [1, 1, 1, 1]
    assert checks.unit_mismatch(found, mismatch, LIMITS).tolist() == [0, 0, 1, 0]
    rated = replace(found, multiplier=np.full(4, 40, np.float32))
    assert checks.unit_mismatch(rated, mismatch, LIMITS).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(("watts", "fires"), [(4000 * 1.05, True), (4000 * 1.0501, False), (0, False)])
def test_a_unit_is_suspected_within_five_percent_of_the_factor(watts, fires):
    found = view(voltage_a_v=[250], current_a_a=[watts / 250], power_factor=[1], import_wh=[1])
    assert checks.unit_mismatch(found, np.array([True]), LIMITS).tolist() == [fires]


def test_a_clock_is_ahead_when_a_read_comes_a_minute_before_its_end():
    lateness_us = np.array([0, -60_000_000, -60_000_001])
    assert checks.clock_ahead(lateness_us, LIMITS).tolist() == [0, 0, 1]
