"""OUTAGE: laws of the inference, and scalar oracles beside the vector code."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import EventCode, Events, ReadChange
from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.quality import Quality
from meterwatch.topology import Topology
from rules.groups import Tree
from rules.outage import (
    NEVER,
    OFF,
    ON,
    Evidence,
    evidence_of_events,
    evidence_of_reads,
    groups_of,
    join,
    judge,
    off_runs,
)
from rules.profile import OutageProfile
from rules.supply import HEARD, Outage, Runs, feeder_outages, transformer_outages
from rules.witness import Witnesses

P = OutageProfile()
ORDINARY = Witnesses.of(town(feeders=1, transformers=1, meters=40), P)
"""Meters that weigh the same, all on one phase."""
HOUR = 3600
Vote = tuple[int, int, int]  # slot, seconds after T0, vote


def evidence(votes: list[Vote]) -> Evidence:
    return Evidence(
        np.array([v[0] for v in votes], np.int32),
        np.array([T0 + v[1] * US for v in votes], np.int64),
        np.array([v[2] for v in votes], np.int8),
    )


def told(
    votes: list[Vote], now_s: int, topology: Topology, group: tuple[str, int] = ("feeder", 0)
) -> dict[tuple[str, int], tuple[Episode, ...]]:
    verdicts, _ = judge(evidence(votes), Tree(topology).members(*group), topology, T0 + now_s * US, P, T0 - HOUR * US)
    assert len({(v.asset_kind, v.asset_id) for v in verdicts}) == len(verdicts)
    assert all(e.raised_us <= T0 + now_s * US for v in verdicts for e in v.episodes)
    return {(v.asset_kind, v.asset_id): v.episodes for v in verdicts if v.episodes}


def cut(topology: Topology, at_s: int, share: float, seed: int = 1) -> list[Vote]:
    """All meters lose supply; this share of the last gasps arrives."""
    rng = np.random.default_rng(seed)
    gasped = np.flatnonzero(rng.random(topology.slots) < share)
    return [(int(slot), at_s + int(rng.integers(0, 20)), OFF) for slot in gasped]


def back(topology: Topology, at_s: int) -> list[Vote]:
    return [(slot, at_s + slot % 10, ON) for slot in range(topology.slots)]


# OFF runs ---------------------------------------------------------


def runs_by_hand(votes: list[Vote]) -> list[tuple[int, int, int]]:
    found, since = [], {}
    for slot, at, vote in sorted(set(votes)):
        if vote == OFF:
            since.setdefault(slot, at)
        elif slot in since:
            found.append((slot, T0 + since.pop(slot) * US, T0 + at * US))
    return sorted(found + [(slot, T0 + at * US, NEVER) for slot, at in since.items()])


few_votes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.sampled_from([OFF, ON])), max_size=60)


@given(few_votes)
def test_off_runs_equal_a_scalar_walk(votes: list[Vote]) -> None:
    runs = off_runs(evidence(votes))
    assert list(zip(*(column.tolist() for column in runs), strict=True)) == runs_by_hand(votes)


# transformer and feeder, beside a scalar oracle ------------------------------------------------------------


def restored_by_hand(runs: list[tuple[int, int, int]], decided: int) -> int:
    """The first stamp from which <= 5 % of the meters off so far are off, for 60 s without a break."""
    stamps = sorted({t for _, start, end in runs for t in (start, end) if t < NEVER})

    def fine(t: int) -> bool:
        seen = {slot for slot, start, _ in runs if start <= t}
        off = sum(start <= t < end for _, start, end in runs)
        return off * 100 <= len(seen) * 5

    for t in sorted({decided, *(t for t in stamps if t >= decided)}):
        if all(fine(u) for u in [t, *(u for u in stamps if t < u < t + 60 * US)]):
            return t
    return NEVER


def transformer_by_hand(votes: list[Vote], members: int) -> list[tuple[int, ...]]:
    runs = sorted(runs_by_hand(votes), key=lambda run: (run[1], run[0]))
    on = [(slot, T0 + at * US) for slot, at, vote in set(votes) if vote == ON]
    need = 1 if members <= 2 else 2 if members <= 10 else 3
    found, free = [], 0
    for i, (_, onset, _) in enumerate(runs):
        early = [run for run in runs[i:] if run[1] <= onset + 120 * US]
        first: dict[int, int] = {}
        for slot, start, _ in early:
            first.setdefault(slot, start)
        if onset < free or len(first) < need:
            continue
        decided = sorted(first.values())[need - 1]
        restored = restored_by_hand(runs[i:], decided)
        cleared = restored + 60 * US if restored < NEVER else NEVER
        affected = {slot for slot, start, _ in runs[i:] if start < cleared}
        last_end = {slot: end for slot, _, end in early}
        against = {s for s, t in on if onset + 30 * US <= t < min(last_end.values()) - 30 * US} - set(first)
        if len(against) * 10 > len(affected | against):
            continue
        found.append((onset, decided, restored, len(affected), len(against)))
        free = cleared
    return found


def summary(outage: Outage) -> tuple[int, ...]:
    return (outage.onset_us, outage.decided_us, outage.restored_us, len(outage.affected), outage.observed_on)


many_votes = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 60).map(lambda i: i * 13), st.sampled_from([OFF, OFF, ON])),
    max_size=80,
)


@settings(max_examples=300)
@given(many_votes, st.sampled_from([2, 8, 40]))
def test_transformer_outages_equal_a_scalar_walk(votes: list[Vote], members: int) -> None:
    runs = off_runs(evidence(votes))
    runs = runs.where(np.argsort(runs.start_us, kind="stable"))
    on = evidence([vote for vote in votes if vote[2] == ON])
    found = transformer_outages(0, np.arange(members, dtype=np.int32), runs, on.slot, on.at_us, P, ORDINARY)
    assert [summary(outage) for outage in found] == transformer_by_hand(votes, members)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(0, 100)), max_size=12),
    st.sampled_from([2, 6, 12]),
)
def test_feeder_outages_equal_a_scalar_walk(transformers: list[tuple[int, int, int]], size: int) -> None:
    none = np.empty(0, np.int32)
    below = [
        Outage("transformer", t, T0 + at * US, T0 + (at + late) * US, NEVER, NEVER, none, 0, 1.0)
        for t, at, late in transformers
    ]
    starts = sorted(T0 + at * US for _, at, _ in transformers)
    runs = Runs(np.arange(len(starts), dtype=np.int32), np.array(starts, np.int64), np.full(len(starts), NEVER))
    expected = []
    for onset in starts:
        first: dict[int, int] = {}
        for t, at, late in transformers:
            if onset <= T0 + at * US <= onset + 120 * US:
                first[t] = min(first.get(t, NEVER), T0 + (at + late) * US)
        need = max(2, math.ceil(size * 0.3 - 1e-9))
        if len(first) >= need and not expected:  # nothing is ever restored here, so the first one absorbs the rest
            expected.append((onset, sorted(first.values())[need - 1], sum(s >= onset for s in starts)))
    found = feeder_outages(0, size, below, runs, P, ORDINARY)
    assert [(o.onset_us, o.decided_us, len(o.affected)) for o in found] == expected


# laws ---------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 29), st.integers(0, 40).map(lambda i: i * 40), st.sampled_from([OFF, OFF, ON])),
        max_size=80,
    ),
    st.randoms(use_true_random=False),
    st.integers(0, 2400),
)
def test_order_and_repeats_of_votes_do_not_matter_and_next_due_misses_no_change(votes, random, now_s) -> None:  # type: ignore[no-untyped-def]
    topology = town(feeders=1, transformers=3, meters=10)
    members = Tree(topology).members("feeder", 0)

    def ask(votes: list[Vote], now_us: int) -> tuple[list[Verdict], int | None]:
        return judge(evidence(votes), members, topology, now_us, P, T0 - HOUR * US)

    now_us = T0 + now_s * US
    verdicts, due = ask(votes, now_us)
    shuffled = votes + votes[: len(votes) // 2]
    random.shuffle(shuffled)
    assert ask(shuffled, now_us) == (verdicts, due)
    until = due if due is not None else now_us + 48 * HOUR * US
    assert due is None or due > now_us
    assert ask(votes, (now_us + until) // 2)[0] == verdicts
    assert ask(votes, until - 1)[0] == verdicts
    for verdict in verdicts:
        for one, two in pairwise(verdict.episodes):
            assert one.cleared_us is not None
            assert one.cleared_us <= two.onset_us
        for episode in verdict.episodes:
            assert episode.onset_us <= episode.raised_us <= now_us
            assert episode.cleared_us is None or episode.raised_us <= episode.cleared_us <= now_us


@pytest.mark.parametrize("seed", range(5))
def test_a_feeder_cut_with_60_percent_of_gasps_is_exactly_one_root(seed: int) -> None:
    topology = town(feeders=2, transformers=9, meters=40)
    votes = [v for v in cut(topology, 0, 0.6, seed) if v[0] < 360]
    found = told(votes, 120, topology)
    roots = [(asset, e) for asset, episodes in found.items() for e in episodes if e.parent is None]
    assert [asset for asset, _ in roots] == [("feeder", 0)]
    assert sum(asset[0] == "transformer" for asset in found) == 9
    root = roots[0][1]
    assert root.severity is Severity.CRITICAL
    assert root.raised_us - T0 <= 90 * US
    assert root.summary == f"Feeder F0 without supply: {len(votes)} of 360 meters reported off on 9 transformers"
    assert sum(root.evidence["transformers"].values()) == root.evidence["affected"] == len(votes)
    later = told(votes, 3 * HOUR, topology)
    assert [a for a, es in later.items() for e in es if e.parent is None] == [("feeder", 0)]


def test_restored_clears_once_supply_has_held() -> None:
    topology = town(feeders=1, transformers=4, meters=30)
    votes = cut(topology, 0, 0.6) + back(topology, 1200)
    before, after = told(votes, 1260, topology), told(votes, 1280, topology)
    assert before["feeder", 0][0].cleared_us is None
    cleared_us = after["feeder", 0][0].cleared_us
    assert cleared_us is not None
    assert T0 + 1260 * US <= cleared_us <= T0 + 1270 * US
    assert "was without supply for 20 min" in after["feeder", 0][0].summary


def test_a_momentary_dip_is_nothing() -> None:
    topology = town(feeders=1, transformers=4, meters=30)
    votes = [(slot, 0, OFF) for slot in range(topology.slots)] + back(topology, 20)
    assert told(votes, 50, topology) == told(votes, 2 * HOUR, topology) == {}


def test_one_transformer_is_a_root_of_its_own_and_stands_for_its_meters() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    found = told([v for v in cut(topology, 0, 0.6) if v[0] < 30], HOUR, topology)
    assert list(found) == [("transformer", 0)]
    assert found["transformer", 0][0].parent is None


def test_a_meter_of_another_transformer_is_not_explained_by_a_transformer_outage() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    votes = [v for v in cut(topology, 0, 0.6) if v[0] < 30]
    assert set(told([*votes, (45, 30, OFF)], HOUR, topology)) == {("transformer", 0), ("meter", 45)}


def test_a_retired_meter_is_not_off_any_longer() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    retired_us = topology.retired_us.copy()
    retired_us[7] = T0 + 900 * US
    topology = dataclasses.replace(topology, retired_us=retired_us)
    assert told([(7, 0, OFF)], 899, topology)["meter", 7][0].cleared_us is None
    assert told([(7, 0, OFF)], 1000, topology)["meter", 7][0].cleared_us == T0 + 960 * US


def test_meters_that_say_on_take_a_transformer_outage_back() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    off = [(0, 0, OFF), (1, 5, OFF), (2, 9, OFF)]
    assert list(told(off, 120, topology)) == [("transformer", 0)]
    members = Tree(topology).members("feeder", 0)
    against = evidence(off + [(slot, 300, ON) for slot in range(3, 30)])
    verdicts, _ = judge(against, members, topology, T0 + 299 * US, P, T0)
    assert any(v.episodes for v in verdicts)
    verdicts, _ = judge(against, members, topology, T0 + 300 * US, P, T0)
    by_asset = {(v.asset_kind, v.asset_id): v for v in verdicts}
    assert by_asset["transformer", 0].episodes == ()
    assert by_asset["transformer", 0].retract
    assert set(told(off + [(slot, 300, ON) for slot in range(3, 30)], 600, topology)) == {
        ("meter", 0), ("meter", 1), ("meter", 2)
    }  # fmt: skip


def test_on_votes_of_a_clock_a_little_off_do_not_hide_an_outage() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    votes = [(slot, slot % 4, OFF) for slot in range(18)] + [(slot, 12, ON) for slot in range(18, 30)]
    votes += [(slot, 900, ON) for slot in range(18)] + [(29, 880, ON)]
    assert list(told(votes, HOUR, topology)) == [("transformer", 0)]


def test_a_false_gasp_before_an_outage_does_not_hide_it() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    votes = [(0, -100, OFF)] + [(slot, -50, ON) for slot in range(1, 30)] + [(slot, 0, OFF) for slot in range(5, 20)]
    assert list(told(votes, HOUR, topology)) == [("transformer", 0)]


def test_a_single_meter_is_raised_after_5_minutes_and_a_shorter_run_never() -> None:
    topology = town(feeders=1, transformers=10, meters=30)
    off = [(7, 0, OFF)]
    assert told(off, 299, topology) == {}
    found = told(off, 300, topology)["meter", 7][0]
    assert (found.raised_us, found.cleared_us, found.severity) == (T0 + 300 * US, None, Severity.MEDIUM)
    assert told([*off, (7, 299, ON)], HOUR, topology) == {}
    assert told([*off, (7, 700, ON)], HOUR, topology)["meter", 7][0].cleared_us == T0 + 760 * US


def test_what_stays_off_ten_minutes_after_the_root_is_told_by_itself() -> None:
    topology = town(feeders=1, transformers=4, meters=30)
    votes = [(slot, 0, OFF) for slot in range(120)] + [(slot, 1200, ON) for slot in range(3, 120)]
    during, nested = told(votes, 1859, topology), told(votes, 1860, topology)
    roots = lambda found: {a for a, es in found.items() for e in es if e.parent is None}  # noqa: E731
    assert roots(during) == {("feeder", 0)}
    assert during["transformer", 0][0].parent == ("feeder", 0)
    assert roots(nested) == {("feeder", 0), ("transformer", 0)}
    assert nested["transformer", 0][0].cleared_us is None


def test_what_was_told_before_and_is_gone_gets_an_empty_verdict() -> None:
    topology = town(feeders=1, transformers=2, meters=5)
    members = Tree(topology).members("feeder", 0)
    verdicts, due = judge(evidence([]), members, topology, T0, P, T0 - US, {("meter", 3), ("feeder", 0)})
    assert {(v.asset_kind, v.asset_id) for v in verdicts} == {
        ("feeder", 0), ("transformer", 0), ("transformer", 1), ("meter", 3)
    }  # fmt: skip
    assert not any(v.episodes for v in verdicts)
    assert due is None


def test_a_small_transformer_goes_with_its_feeder_though_its_one_meter_is_not_enough_alone() -> None:
    topology = town(feeders=1, transformers=4, meters=1)
    assert told([(0, 0, OFF)], 200, topology) == {}
    assert list(told([(0, 0, OFF), (1, 3, OFF)], 200, topology)) == [("feeder", 0)]


def test_votes_come_from_supply_events_and_from_new_reads_only() -> None:
    codes = [EventCode.POWER_FAIL, EventCode.TAMPER, EventCode.POWER_RESTORED]
    events = Events(np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int64), np.array(codes, np.int16))
    heard = evidence_of_events(events)
    assert (heard.slot.tolist(), heard.vote.tolist()) == ([0, 2], [OFF, ON])
    quality = np.array([0, Quality.SUPPLY_OFF, Quality.SUPPLY_ON, Quality.SUPPLY_OFF], np.int32)
    zero, yes = np.zeros(4, np.int32), np.ones(4, np.bool_)
    change = ReadChange(
        np.arange(4, dtype=np.int32), np.arange(4, dtype=np.int64), zero + 900, quality, zero, zero, zero, zero,
        yes, yes, np.array([1, 1, 1, -1], np.int8),
    )  # fmt: skip
    read = evidence_of_reads(change)
    assert (read.slot.tolist(), read.vote.tolist()) == ([0, 1, 2], [HEARD, OFF, ON])
    assert join([heard, read]).slot.tolist() == [0, 2, 0, 1, 2]


def test_groups_follow_the_tree_up() -> None:
    topology = town(feeders=1, transformers=2, meters=3, loose_transformers=1, loose_meters=1)
    assert groups_of(topology, np.array([0, 5, 6, 9], np.int32)) == {("feeder", 0), ("transformer", 2), ("meter", 9)}
    assert Tree(topology).members("feeder", 0).slot.tolist() == [0, 1, 2, 3, 4, 5]
    assert Tree(topology).members("transformer", 2).slot.tolist() == [6, 7, 8]
    assert list(told([(6, 0, OFF), (7, 0, OFF)], 100, topology, ("transformer", 2))) == [("transformer", 2)]
    assert list(told([(9, 0, OFF)], 300, topology, ("meter", 9))) == [("meter", 9)]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.lists(st.integers(-1, 3), min_size=6, max_size=6))
def test_the_members_of_an_asset_are_all_that_hang_below_it(transformer_of: list[int], feeder_of: list[int]) -> None:
    parents = (np.array(transformer_of, np.int32), np.array(feeder_of, np.int32))
    tree = Tree(SimpleNamespace(transformer_of=parents[0], feeder_of=parents[1]))
    for feeder in range(5):
        below = [slot for slot, t in enumerate(transformer_of) if t >= 0 and feeder_of[t] == feeder]
        members = tree.members("feeder", feeder)
        assert members.slot.tolist() == below
        assert members.transformer.tolist() == [transformer_of[slot] for slot in below]
    for transformer in range(7):
        below = [slot for slot, t in enumerate(transformer_of) if t == transformer]
        assert tree.members("transformer", transformer).slot.tolist() == below
    assert tree.members("meter", 0).slot.tolist() == [0]
    with pytest.raises(KeyError):
        tree.members("district", 0)
