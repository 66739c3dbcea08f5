"""Every rule that rests on loads says of reads weeks late what its scalar ladder says of the true loads.

REVERSE, OVERLOAD of feeders, PHASE and UNBALANCE; OVERLOAD of transformers is in test_past, HOT_SPOT in test_hot_spot.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from heat_world import PROFILE as HEAT
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from overload_world import FULL_WH, PALETTE, QUICK, Row, Spoken, change, now_after, oracle, rows_of, spoken, tree
from test_past import LOW, Of, Table, Told, as_sent, flat, hear
from test_phases import MEMBERS, PROFILE, WH, by_hand, exact, rows, town
from test_rungs import FEEDER, UP, fed

from meterwatch.episodes import Verdict
from meterwatch.known_loads import KnownLoads
from meterwatch.late_loads import judged, judged_turn, waiting
from rules import past
from rules.engine import Engine
from rules.ladder import OverloadProfile
from rules.overload import Overload
from rules.profile import RuleProfile

Loaded = list[float | None]
FEEDERS, PER_FEEDER = 2, 3
long_runs = st.lists(st.tuples(st.sampled_from([*PALETTE, LOW, LOW, LOW]), st.integers(1, 60)), min_size=5, max_size=40)


async def told_late(rule: Overload, sent: list[Row], seed: int, now_us: int) -> dict[Of, Told]:
    """What stands in the end of each rule; loads are stored now and then, and there is not always time."""
    rng, table, told, at = np.random.default_rng(seed), Table(), dict[Of, Told](), 0
    loads, all_turns = KnownLoads(rule, table), rng.random() < 0.5

    def heard(verdicts: list[Verdict]) -> None:
        for of in {(one.rule, one.asset_kind) for one in verdicts}:
            hear(told.setdefault(of, {}), [one for one in verdicts if (one.rule, one.asset_kind) == of])

    while at < len(sent):
        some = int(rng.integers(1, 400))
        rule.observe(change(sent[at : at + some]), now_us)
        at += some
        go_on = (lambda: True) if all_turns else lambda: bool(rng.random() < 0.5)
        heard(await judged(rule.past, rule, loads, now_us, lambda: rule.judge(now_us), go_on))
        if rng.random() < 0.5:
            table.save(rule)
    heard(await judged(rule.past, rule, loads, now_us, lambda: rule.judge(now_us)))
    assert judged_turn(rule.past, rule.turn) == rule.turn
    assert waiting(rule.past) == 0
    return told


def standing(told: dict[Of, Told], rule: str, kind: str, asset: int) -> list[Spoken]:
    return spoken(tuple(told.get((rule, kind), {}).get(asset, [])))


@settings(max_examples=10, deadline=None)
@given(
    each=st.lists(st.lists(st.tuples(long_runs, st.booleans()), min_size=1, max_size=2), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
async def test_reverse_flow_told_weeks_late(
    each: list[list[tuple[list[tuple[float | None, int]], bool]]], seed: int
) -> None:
    """Import and export by turns: both directions of one transformer are judged out of the same loads."""
    loads: list[Loaded] = [[b and (-b if up else b) for runs, up in parts for b in flat(runs)] for parts in each]
    sent = as_sent([row for slot, mine in enumerate(loads) for row in rows_of(mine, slot)], np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(past, "TRANSFORMERS_TOGETHER", 1 + seed % 3)
        now_us = now_after(max(map(len, loads)) + 1)
        told = await told_late(Overload(tree(len(loads), len(loads)), UP), sent, seed, now_us)
    for transformer, mine in enumerate(loads):
        upwards = [b if b is None else max(-b, 0.0) for b in mine]
        assert standing(told, "REVERSE", "transformer", transformer) == oracle(upwards, UP.of_reverse)
        either = [b if b is None else abs(b) for b in mine]
        assert standing(told, "OVERLOAD", "transformer", transformer) == oracle(either, UP)


@settings(max_examples=6, deadline=None)
@given(
    each=st.lists(long_runs, min_size=FEEDERS * PER_FEEDER, max_size=FEEDERS * PER_FEEDER),
    seed=st.integers(0, 2**32),
    together=st.integers(1, 8),
)
async def test_feeders_told_weeks_late(each: list[list[tuple[float | None, int]]], seed: int, together: int) -> None:
    loads = [flat(runs) for runs in each]
    windows = max(map(len, loads))
    sent = as_sent([row for slot, mine in enumerate(loads) for row in rows_of(mine, slot)], np.random.default_rng(seed))
    topology = fed(tree(len(loads), len(loads)), PER_FEEDER * 100.0, FEEDERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(past, "TRANSFORMERS_TOGETHER", together)
        told = await told_late(Overload(topology, FEEDER), sent, seed, now_after(windows + 1))
    rated = float(topology.feeder_ampacity_a[0]) * 10.0 * sqrt(3) * 250
    for feeder in range(FEEDERS):
        sums: Loaded = []
        for i in range(windows):
            here = [mine[i] if i < len(mine) else None for mine in loads[feeder::FEEDERS]]
            wh = [round(b * FULL_WH) for b in here if b is not None]
            sums.append(sum(wh) / rated if len(wh) == PER_FEEDER else None)
        assert standing(told, "OVERLOAD", "feeder", feeder) == oracle(sums, FEEDER)


days = st.lists(st.tuples(st.tuples(*[WH] * len(MEMBERS)), st.integers(1, 60)), min_size=5, max_size=25).map(
    lambda runs: [wh for wh, length in runs for _ in range(length)]
)


@settings(max_examples=6, deadline=None)
@given(each=days, seed=st.integers(0, 2**32), winding=st.sampled_from(["Yyn0", "Dyn11"]))
async def test_phases_told_weeks_late(each: list[tuple[int | None, ...]], seed: int, winding: str) -> None:
    load, unbalance = by_hand(each, 0.25 if winding == "Dyn11" else 0.15)
    assume(exact(load) and exact(unbalance))
    sent = as_sent(rows(each), np.random.default_rng(seed))
    told = await told_late(Overload(town(winding=winding), PROFILE), sent, seed, now_after(len(each) + 1))
    assert standing(told, "PHASE", "transformer", 0) == oracle(load, PROFILE.of_phases)
    assert standing(told, "UNBALANCE", "transformer", 0) == oracle(unbalance, PROFILE.of_unbalance)


async def test_an_overload_of_a_feeder_that_lasts_is_joined_with_what_came_twenty_days_late() -> None:
    """Of three transformers one was not heard for a day; its reads join two alarms to one."""
    rule, table, told = Overload(fed(tree(3, 3), 300.0), FEEDER), Table(), Told()
    high: Loaded = [0.5] * 10 + [1.05] * 96 * 22
    late = rows_of(high, 2)[96:192]
    now = now_after(len(high))
    loads = KnownLoads(rule, table)
    in_time = [row for slot in range(3) for row in rows_of(high, slot) if row not in late]
    for sent in (sorted(in_time, key=lambda row: row[1]), [(*row[:3], 0, 1) for row in late]):
        rule.observe(change(sent), now)
        said = await judged(rule.past, rule, loads, now, lambda: rule.judge(now))
        hear(told, [one for one in said if one.asset_kind == "feeder"])
        table.save(rule)
    assert [cleared is None for _, _, cleared, _ in spoken(tuple(told[0]))] == [False, True]
    rule.observe(change([(*row[:3], 0, -1) for row in late] + late), now)
    said = await judged(rule.past, rule, loads, now, lambda: rule.judge(now))
    hear(told, [one for one in said if one.asset_kind == "feeder"])
    assert spoken(tuple(told[0])) == oracle(high, FEEDER)


async def test_reverse_flow_that_only_the_past_has_reached_ends_in_the_ring() -> None:
    """What is in the ring never reached a level; the late reads before it did, and the next one in time ends it."""
    rule, table, told = Overload(tree(), UP), Table(), Told()
    truth: Loaded = [-0.3] * 8 + [-0.9] * 10 + [-0.78] * 300 + [-0.3] * 8
    rows = rows_of(truth)
    now = now_after(len(truth))
    loads = KnownLoads(rule, table)
    for sent in ([*rows[:8], *rows[18:318]], rows[8:18], rows[318:]):
        rule.observe(change(sent), now)
        said = await judged(rule.past, rule, loads, now, lambda: rule.judge(now))
        hear(told, [one for one in said if one.rule == "REVERSE"])
        table.save(rule)
    upwards: Loaded = [b if b is None else -b for b in truth]
    assert spoken(tuple(told[0])) == oracle(upwards, UP.of_reverse)
    assert [cleared is None for _, _, cleared, _ in spoken(tuple(told[0]))] == [False]


async def test_the_loads_of_all_rules_over_a_kind_are_read_once() -> None:
    """A calm day that comes twenty days late: four rules, and as many pieces as one of them takes."""
    truth = [(100,) * len(MEMBERS)] * 96 * 25
    now = now_after(len(truth))

    async def pieces(profile: OverloadProfile) -> int:
        rule, table = Overload(town(), profile), Table()
        some = [row for row in rows(truth) if not 0 <= row[1] - now_after(300) < 96 * 900 * 10**6]
        for sent in (some, sorted(set(rows(truth)).difference(some))):
            rule.observe(change(sent), now)
            await judged(rule.past, rule, KnownLoads(rule, table), now, lambda: rule.judge(now))
            table.save(rule)
        return table.pieces

    assert await pieces(QUICK) == await pieces(replace(PROFILE, reverse_levels=UP.reverse_levels)) > 0


def test_the_engine_names_every_rule_that_judges_the_past() -> None:
    """A rule over loads that is in no list stays as it was told."""
    topology = replace(fed(town(), 100.0), transformer_district=["N"])
    engine = Engine(topology, RuleProfile(overload=PROFILE, hot_spot=HEAT))
    ladders = {(one.rungs.rule, one.rungs.asset_kind) for rules in engine.overload.past for one in rules.ladders()}
    assert ladders == {
        *((rule, "transformer") for rule in ("OVERLOAD", "REVERSE", "PHASE", "UNBALANCE")),
        ("OVERLOAD", "feeder"),
    }
    assert ladders == {(one.rule, one.asset_kind) for one in engine.overload._ladders}
    assert len(engine.past) == len(engine.overload.past) + 1
    assert engine.past[-1].late is engine.hot_spot.late
    assert len(Engine(tree()).overload.past) == 1, "no feeder has a rating"
    assert OverloadProfile().by_phase is False
