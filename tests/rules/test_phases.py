"""PHASE and UNBALANCE: the scalar ladder over loads worked out by hand, in any order, split, and after a restart."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import hypot

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import FULL_WH, START, Row, Spoken, change, now_after, oracle, spoken, tree

from meterwatch.episodes import Severity
from meterwatch.topology import Topology
from rules.ladder import Level, OverloadProfile
from rules.overload import Overload
from rules.phases import phase_of

A, B, C, ABC, UNKNOWN = 1, 2, 4, 7, 0
PROFILE = OverloadProfile(
    phase_levels=(Level("PHASE", 1.00, 1800, 0.95, 1800, Severity.HIGH),),
    unbalance_levels=(Level("UNBALANCE", 1.00, 1800, 0.95, 1800, Severity.LOW, strictly_above=True),),
)
MEMBERS = (A, A, B, C, ABC)


def town(phases: tuple[int, ...] = MEMBERS, winding: str = "Dyn11") -> Topology:
    """All of them on one transformer."""
    return replace(tree(meters=len(phases)), phases=np.array(phases, np.uint8), winding=[winding])


WH = st.sampled_from([None, 0, 1000, 4000, 6000, 8000, 8600, 9000, 15_000])
steady = st.lists(st.tuples(st.tuples(*[WH] * len(MEMBERS)), st.integers(1, 5)), min_size=1, max_size=8).map(
    lambda runs: [wh for wh, length in runs for _ in range(length)]
)


def by_hand(each: list[tuple[int | None, ...]], limit: float) -> tuple[list[float | None], list[float | None]]:
    """(PHASE, UNBALANCE) of each window; None: a gap. Five members of one weight, so one that is missing is a gap."""
    load: list[float | None] = []
    unbalance: list[float | None] = []
    for wh in each:
        if None in wh:
            load.append(None)
            unbalance.append(None)
            continue
        a1, a2, b, c, abc = (one or 0 for one in wh)
        phases = [one + abc / 3 for one in (a1 + a2, b, c)]
        load.append(max(phases) * 3 / FULL_WH)
        share = (max(phases) - min(phases)) / max(phases) if max(phases) else 0.0
        unbalance.append(1 + share - limit if sum(wh) / FULL_WH >= 0.3 else 0.0)  # type: ignore[arg-type]
    return load, unbalance


def rows(each: list[tuple[int | None, ...]]) -> list[Row]:
    return [
        (slot, now_after(i + 1), 900, wh, 1)
        for i, all_of in enumerate(each)
        for slot, wh in enumerate(all_of)
        if wh is not None
    ]


def told(rule: Overload, parts: list[list[Row]], windows: int) -> dict[str, list[Spoken]]:
    """The last that was said by each rule."""
    last: dict[str, list[Spoken]] = {}
    for part in parts:
        if part:
            rule.observe(change(part), now_after(windows))
            last |= {v.rule: spoken(v.episodes) for v in rule.judge(now_after(windows))}
    return last


def exact(loads: list[float | None]) -> bool:
    """No load so near a limit that the order of additions decides."""
    return all(b is None or min(abs(b - limit) for limit in (0.95, 1.0)) > 1e-9 or b in (0.95, 1.0) for b in loads)


@settings(max_examples=150, deadline=None)
@given(each=steady, seed=st.integers(0, 2**32), winding=st.sampled_from(["Yyn0", "Dyn11", ""]))
def test_phases_are_judged_as_the_scalar_ladder_says_in_any_order(
    each: list[tuple[int | None, ...]], seed: int, winding: str
) -> None:
    rng, truth = np.random.default_rng(seed), rows(each)
    load, unbalance = by_hand(each, 0.25 if winding == "Dyn11" else 0.15)
    if not truth or not exact(load) or not exact(unbalance):
        return
    sent = list(truth)
    for slot, end_us, length, _, _ in truth:
        if rng.random() < 0.2:
            wrong = int(rng.integers(0, 30_000))
            sent += [(slot, end_us, length, wrong, 1), (slot, end_us, length, wrong, -1)]
    order = rng.permutation(len(sent))
    cuts = [0, *np.sort(rng.integers(0, len(sent), 3)).tolist(), len(sent)]
    parts = [[sent[i] for i in order[first:stop]] for first, stop in pairwise(cuts)]
    last = told(Overload(town(winding=winding), PROFILE), parts, len(each))
    assert last.get("PHASE", []) == oracle(load, PROFILE.of_phases)
    assert last.get("UNBALANCE", []) == oracle(unbalance, PROFILE.of_unbalance)


@settings(max_examples=50, deadline=None)
@given(each=steady, share=st.floats(0, 1))
def test_a_restart_in_the_middle_of_a_hold_changes_nothing(each: list[tuple[int | None, ...]], share: float) -> None:
    truth = rows(each)
    split = int(share * len(truth))
    live, fresh = Overload(town(), PROFILE), Overload(town(), PROFILE)
    said = told(live, [[row] for row in truth], len(each))
    if split:
        fresh.restore(fresh.members.cells(change(truth[:split]))[0])
    again = told(fresh, [[row] for row in truth[split:]], len(each))
    if split < len(truth):
        assert {k: v for k, v in again.items() if v} == {k: v for k, v in said.items() if v}


def test_long_reads_are_shared_out_over_their_windows_by_phase_too() -> None:
    rule = Overload(town(), PROFILE)
    cells, _ = rule.members.cells(change([(0, now_after(4), 3600, 4001, 1), (2, now_after(2), 900, 77, -1)]))
    assert cells.phase_wh is not None
    assert cells.phase_wh.sum(axis=0).tolist() == [4001, -77, 0]
    assert (cells.phase_wh.sum(axis=1) == cells.wh).all()


def test_what_is_not_single_phase_is_on_all_three_and_makes_no_unbalance() -> None:
    rule = Overload(town((ABC, ABC)), PROFILE)
    last = told(rule, [[(slot, now_after(i + 1), 900, 12_000, 1) for i in range(12) for slot in (0, 1)]], 12)
    assert not {"PHASE", "UNBALANCE"} & set(last), "there is no single-phase member to judge by"


@pytest.mark.parametrize(("members", "known"), [((A, B, UNKNOWN), False), ((A, *[B] * 9, UNKNOWN), True)])
def test_a_transformer_with_many_members_of_unknown_phase_is_not_judged(members: tuple[int, ...], known: bool) -> None:
    town_of = town(members)
    weight = np.full(len(members), 4000)
    assert bool((phase_of(town_of, town_of.member_of, weight, 0.9) >= 0).any()) is known


def test_reactive_energy_is_shared_by_the_phases() -> None:
    rule = Overload(town((A,)), PROFILE)
    one = replace(change([(0, now_after(1), 900, 6000, 1)]), import_varh=np.array([4500], np.int32))
    rule.observe(one, now_after(1))
    assert rule._phases is not None
    [[b]], _ = rule._phases.rungs[0]._load(np.array([0]), START, START + 1)
    assert b == pytest.approx(hypot(6000, 1500) * 3 / FULL_WH)


def test_without_levels_of_phases_nothing_is_counted_by_phase() -> None:
    rule = Overload(town())
    assert rule.members.cells(change(rows([(1, 1, 1, 1, 1)])))[0].phase_wh is None
    assert rule.members.digest().tolist() != Overload(town(), PROFILE).members.digest().tolist(), (
        "so it is counted anew"
    )


def test_what_is_told_says_what_is_measured() -> None:
    rule = Overload(town((A, B, C)), PROFILE)
    sent = [(slot, now_after(i + 1), 900, wh, 1) for i in range(4) for slot, wh in enumerate((9000, 8000, 4500))]
    rule.observe(change(sent), now_after(4))
    told = {v.rule: v.episodes[0].summary for v in rule.judge(now_after(4)) if v.episodes}
    assert told["PHASE"].startswith("Transformer T0 carries on one phase 1.08 x a third of its 100 kVA since ")
    assert told["UNBALANCE"].startswith("Transformer T0 unbalanced +25.0% beyond the limit of its winding since ")
    assert "(peak +25.0%)" in told["UNBALANCE"]
