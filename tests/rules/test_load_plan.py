"""Laws of a load plan, for any load and any customers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.errors import ConfigError
from rules.load_plan import TINY_KW, Customers, LoadPlan, Measure, PlanProfile, load_plan

PROFILE = PlanProfile(turn_s=1800)
NONE = np.nan


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, float, Customers]:
    n, windows = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    own = rng.uniform(0, 10, (n, windows)) * (rng.random((n, windows)) < 0.9)
    spare = [rng.uniform(0, 5, n) * (rng.random(n) < 0.5) for _ in range(2)]
    limit_to = np.where(rng.random(n) < 0.5, rng.uniform(0, 5, n), NONE)
    customers = Customers(own, rng.random(n) < 0.3, *spare, limit_to, rng.integers(0, 4, n))
    load = own.sum(axis=0) + draw(st.sampled_from([0.0, 3.0]))
    return load, float(draw(st.floats(0.1, 1.1)) * max(load.max(), 1.0)), customers


def account(
    plan: LoadPlan, customers: Customers, measure: Measure, who: int, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """What measures up to this one took off a customer in a turn, and what this one could still take; step by step."""
    steps = [one for one in plan.steps if one.customer == who and one.first == first]
    taken = {m: sum(one.kw for one in steps if one.measure == m) for m in Measure}
    load = customers.load_kw[who, first:stop]
    left, limit = load.copy(), customers.limit_to_kw[who]
    for one in Measure:
        most = {
            Measure.SHIFT: np.minimum(left, customers.shift_kw[who]),
            Measure.AVOID: np.minimum(left, customers.avoid_kw[who]),
            Measure.LIMIT: np.zeros(len(left)) if np.isnan(limit) else np.maximum(left - limit, 0),
            Measure.DISCONNECT: left,
        }[one]
        left = left - np.minimum(most, taken[one])
        if one is measure:
            return load - left, np.maximum(most - taken[one], 0)
    raise AssertionError(measure)


@given(cases())
def test_a_protected_customer_is_in_no_step(case: tuple[np.ndarray, float, Customers]) -> None:
    load, limit, customers = case
    assert not any(customers.protected[one.customer] for one in load_plan(load, limit, customers, PROFILE).steps)


@given(cases())
def test_the_need_is_met_or_the_shortfall_says_by_how_much_not(case: tuple[np.ndarray, float, Customers]) -> None:
    load, limit, customers = case
    plan = load_plan(load, limit, customers, PROFILE)
    assert plan.load_kw - plan.shortfall_kw == pytest.approx(np.minimum(plan.load_kw, limit), abs=1e-5)
    violated = plan.need_kw > TINY_KW
    assert plan.need_kw == pytest.approx(np.maximum(load - limit, 0))
    assert plan.load_kw[violated] == pytest.approx(load[violated] - plan.relief_kw[violated])
    assert (plan.load_kw[~violated] <= np.maximum(limit, load[~violated]) + 1e-6).all()  # what is shifted has room
    assert not plan.relief_kw[~violated].any()
    short = plan.shortfall_kw > 0
    open_ = ~customers.protected
    assert plan.relief_kw[short] == pytest.approx(customers.load_kw[open_][:, short].sum(axis=0))  # nobody is left


@given(cases())
def test_a_graver_measure_begins_when_the_milder_ones_are_used_up(case: tuple[np.ndarray, float, Customers]) -> None:
    load, limit, customers = case
    plan = load_plan(load, limit, customers, PROFILE)
    keys = [(one.first, one.measure) for one in plan.steps]
    assert keys == sorted(keys)
    everybody = np.flatnonzero(~customers.protected).tolist()
    for first, stop in {(one.first, one.stop) for one in plan.steps}:
        worst = max(one.measure for one in plan.steps if one.first == first)
        for measure in (Measure.AVOID, Measure.LIMIT):  # what could be shifted may lack room
            if everybody and measure < worst:
                parts = [account(plan, customers, measure, who, first, stop) for who in everybody]
                missing = plan.need_kw[first:stop] - sum(taken for taken, _ in parts)
                assert all((left[missing > 1e-5] <= 1e-5).all() for _, left in parts)


@given(cases())
def test_who_was_limited_least_lately_is_asked_first(case: tuple[np.ndarray, float, Customers]) -> None:
    """Within a turn and measure, in the order of (turns asked before, limited last)."""
    load, limit, customers = case
    plan = load_plan(load, limit, customers, PROFILE)
    turns = sorted({one.first for one in plan.steps})
    asked = np.zeros(len(customers), int)
    for turn in turns:
        mine = [one for one in plan.steps if one.first == turn]
        for measure in Measure:
            keys = [
                (asked[s.customer], customers.limited_us[s.customer], s.customer) for s in mine if s.measure == measure
            ]
            assert keys == sorted(keys)
        cut = {step.customer for step in mine if step.measure == Measure.DISCONNECT}
        if cut:  # who was to be asked before them and is on has nothing left to give
            key = max((asked[who], customers.limited_us[who], who) for who in cut)
            for who in set(np.flatnonzero(~customers.protected).tolist()) - cut:
                if (asked[who], customers.limited_us[who], who) < key:
                    assert account(plan, customers, Measure.DISCONNECT, who, turn, mine[0].stop)[1].max() <= 1e-5
        asked[[*{s.customer for s in mine}]] += 1


def test_a_long_need_goes_round() -> None:
    n = 4
    load = np.full((n, 8), 5.0)
    customers = Customers(load, np.zeros(n, np.bool_), np.zeros(n), np.zeros(n), np.full(n, 2.0), np.zeros(n, np.int64))
    plan = load_plan(load.sum(axis=0), 17.0, customers, PROFILE)
    assert [one.measure for one in plan.steps] == [Measure.LIMIT] * 4
    assert sorted(one.customer for one in plan.steps) == [0, 1, 2, 3]
    assert all(one.stop == two.first for one, two in pairwise(plan.steps))
    recent = replace(customers, limited_us=np.array([3, 1, 2, 0]))
    assert [one.customer for one in load_plan(load.sum(axis=0), 17.0, recent, PROFILE).steps] == [3, 1, 2, 0]


def test_what_is_shifted_comes_back_where_there_is_room() -> None:
    load = np.array([[6.0, 6.0, 2.0, 2.0]])
    one = np.zeros(1)
    customers = Customers(load, np.zeros(1, np.bool_), one + 3, one, one + NONE, np.zeros(1, np.int64))
    plan = load_plan(load[0], 4.0, customers, PROFILE)
    assert plan.load_kw.tolist() == [4.0, 4.0, 4.0, 4.0]
    assert plan.load_kw.sum() == load.sum()
    tight = load_plan(np.array([6.0, 6.0, 4.0, 4.0]), 4.0, customers, PROFILE)
    assert [step.measure for step in tight.steps] == [Measure.DISCONNECT]  # no room, and nothing milder


def test_below_the_limit_there_is_nothing_to_do() -> None:
    one = np.zeros(1)
    customers = Customers(np.ones((1, 4)), np.zeros(1, np.bool_), one, one, one, np.zeros(1, np.int64))
    plan = load_plan(np.ones(4), 1.0, customers, PROFILE)
    assert plan.steps == ()
    assert not plan.shortfall_kw.any()


def test_numbers_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError) as refused:
        PlanProfile(turn_s=1000, target_pu=0)
    assert len(refused.value.problems) == 2
