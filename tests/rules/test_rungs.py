"""REVERSE of transformers, OVERLOAD of feeders: as the scalar ladder says, in any order, split, and after a restart."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import FULL_WH, QUICK, Row, Spoken, change, load_runs, now_after, oracle, rows_of, spoken, tree

from meterwatch.batch import ReadChange
from meterwatch.episodes import Severity, Verdict
from meterwatch.topology import Topology
from rules.ladder import Level, OverloadProfile
from rules.overload import Overload

UP = replace(QUICK, reverse_levels=(Level("REVERSE_HEAVY", 0.80, 1800, 0.75, 1800, Severity.MEDIUM),))
PER_FEEDER = 3
FEEDER = replace(QUICK, feeder_levels=QUICK.levels, feeder_loss_factor=1.0)


def signed(rows: list[Row], up: bool) -> ReadChange:
    """The rows as import, or as export."""
    one = change(rows)
    return replace(one, import_wh=one.export_wh, export_wh=one.import_wh) if up else one


def fed(topology: Topology, kva: float, feeders: int = 1) -> Topology:
    """The transformers dealt out to feeders of this rating in turn."""
    n = len(topology.transformer)
    amperes = np.full(feeders, kva / (sqrt(3) * OverloadProfile().feeder_nominal_kv), np.float32)
    return replace(
        topology,
        feeder_of=np.arange(n, dtype=np.int32) % feeders,
        feeder=[f"F{i}" for i in range(feeders)],
        feeder_district=[""] * feeders,
        feeder_ampacity_a=amperes,
    )


def said_of(verdicts: list[Verdict], rule: str, kind: str) -> dict[int, list[Spoken]]:
    return {v.asset_id: spoken(v.episodes) for v in verdicts if (v.rule, v.asset_kind) == (rule, kind)}


def noisy(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    """The rows in any order, with older versions that came and went."""
    found = list(rows)
    for slot, end_us, length, _, _ in rows:
        if rng.random() < 0.3:
            wrong = int(rng.integers(0, 3 * FULL_WH))
            found += [(slot, end_us, length, wrong, 1), (slot, end_us, length, wrong, -1)]
    return [found[i] for i in rng.permutation(len(found))]


def fed_to(rule: Overload, changes: list[ReadChange], windows: int) -> dict[tuple[str, str, int], list[Spoken]]:
    """The last that was said of each asset."""
    last: dict[tuple[str, str, int], list[Spoken]] = {}
    for one in changes:
        rule.observe(one, now_after(windows))
        for v in rule.judge(now_after(windows)):
            last[v.rule, v.asset_kind, v.asset_id] = spoken(v.episodes)
    return last


def cut(rows: list[Row], rng: np.random.Generator) -> list[list[Row]]:
    parts = np.split(np.arange(len(rows)), np.sort(rng.integers(0, len(rows) + 1, 4)))
    return [[rows[i] for i in part] for part in parts if len(part)]


@settings(max_examples=150, deadline=None)
@given(down=load_runs, up=load_runs, seed=st.integers(0, 2**32))
def test_what_a_transformer_delivers_upwards_is_judged_as_the_scalar_ladder_says(
    down: list[float | None], up: list[float | None], seed: int
) -> None:
    """In any order, with corrections: import first, then export; of each direction only its own windows count."""
    rng, n = np.random.default_rng(seed), len(down)
    late = [(slot, end_us + n * 900_000_000, length, wh, sign) for slot, end_us, length, wh, sign in rows_of(up)]
    changes = [signed(part, False) for part in cut(noisy(rows_of(down), rng), rng)]
    changes += [signed(part, True) for part in cut(noisy(late, rng), rng)]
    order = rng.permutation(len(changes))
    last = fed_to(Overload(tree(), UP), [changes[i] for i in order], n + len(up))
    if any(b is not None for b in [*down, *up]) and n + len(up) <= 190:
        still: list[float | None] = [None if b is None else 0.0 for b in down]
        levels = replace(UP, levels=UP.reverse_levels, page_from_level="REVERSE_HEAVY")
        assert last.get(("REVERSE", "transformer", 0), []) == oracle([*still, *up], levels)
        assert last.get(("OVERLOAD", "transformer", 0), []) == oracle([*down, *up], UP)


@settings(max_examples=100, deadline=None)
@given(each=st.lists(load_runs, min_size=PER_FEEDER, max_size=PER_FEEDER), seed=st.integers(0, 2**32))
def test_a_feeder_is_judged_by_the_sum_of_its_transformers(each: list[list[float | None]], seed: int) -> None:
    rng, windows = np.random.default_rng(seed), max(map(len, each))
    rows = [row for slot, loads in enumerate(each) for row in rows_of(loads, slot)]
    rule = Overload(fed(tree(PER_FEEDER, PER_FEEDER), PER_FEEDER * 100.0), FEEDER)
    last = fed_to(rule, [change(part) for part in cut(noisy(rows, rng), rng)], windows)
    sums: list[float | None] = []
    for i in range(windows):
        here = [loads[i] if i < len(loads) else None for loads in each]
        wh = [round(b * FULL_WH) for b in here if b is not None]
        ampere = np.float32(PER_FEEDER * 100.0 / (sqrt(3) * 10.0))
        rated = float(ampere) * 10.0 * sqrt(3) * 250
        sums.append(sum(wh) / rated if len(wh) == PER_FEEDER else None)
    if rows:
        assert last.get(("OVERLOAD", "feeder", 0), []) == oracle(sums, FEEDER)


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(load_runs, min_size=1, max_size=3), up=st.booleans())
def test_a_restart_in_the_middle_of_anything_says_what_the_live_rule_said(
    runs: list[list[float | None]], up: bool
) -> None:
    """The stored cells of all time, set in rising time, and then the rest of the reads."""
    loads = [b for part in runs for b in part]
    profile, topology = replace(FEEDER, reverse_levels=UP.reverse_levels), fed(tree(), 100.0)
    stored, split = rows_of(loads), len(rows_of(loads)) // 2
    live, fresh = Overload(topology, profile), Overload(topology, profile)
    last: dict[Any, list[Spoken]] = {}
    for row in stored:
        last |= fed_to(live, [signed([row], up)], len(loads))
    for first in range(0, split, 50):
        fresh.restore(fresh.members.cells(signed(stored[first : min(first + 50, split)], up))[0])
    again = fed_to(fresh, [signed([row], up) for row in stored[split:]], len(loads))
    assert {asset: said for asset, said in again.items() if said} == {a: said for a, said in last.items() if said}


def test_a_feeder_speaks_of_its_rating_and_its_transformers() -> None:
    rule = Overload(fed(tree(4, 4), 200.0, feeders=2))
    rows = [row for slot in (0, 2) for row in rows_of([1.2] * 8, slot)]
    rows += [row for slot in (1, 3) for row in rows_of([0.5] * 8, slot)]
    rule.observe(change(rows), now_after(8))
    feeders = [v for v in rule.judge(now_after(8)) if v.asset_kind == "feeder" and v.episodes]
    assert [v.asset_id for v in feeders] == [0]
    (episode,) = feeders[0].episodes
    assert episode.summary.startswith("Feeder F0 loaded 1.22 x its 200 kVA since ")
    assert (episode.evidence["transformers"], episode.evidence["rated_kva"]) == (2, 200.0)


def test_reverse_flow_says_so() -> None:
    rule = Overload(tree())
    rule.observe(signed(rows_of([0.9] * 8), True), now_after(8))
    (verdict,) = [v for v in rule.judge(now_after(8)) if v.episodes]
    assert (verdict.rule, verdict.episodes[0].level) == ("REVERSE", "REVERSE_HEAVY")
    assert verdict.episodes[0].summary.startswith("Transformer T0 delivers upwards 0.90 x its 100 kVA since ")


@pytest.mark.parametrize("kva", [0.0, float("nan")])
def test_a_feeder_without_a_rating_is_never_judged(kva: float) -> None:
    rule = Overload(fed(tree(), kva))
    rule.observe(change(rows_of([2.0] * 12)), now_after(12))
    assert not [v for v in rule.judge(now_after(12)) if v.asset_kind == "feeder"]


def test_transformers_of_a_restless_feeder_are_followed_though_they_rest() -> None:
    rule = Overload(fed(tree(2, 2), 100.0))
    low = rows_of([0.3], 0) + rows_of([0.2], 1)
    assert rule.restless(rule.members.cells(change(low))[0]).tolist() == []
    high = rows_of([0.5], 0) + rows_of([0.5], 1)
    assert rule.restless(rule.members.cells(change(high))[0]).tolist() == [0, 1]
    assert rule.restless(rule.members.cells(change(low[:1]))[0]).tolist() == [0, 1], "half of it is not known"
