"""Overdue reads as evidence: what they add, what they must not, and a scalar oracle beside the vector code."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import EventCode, Events, ReadChange
from meterwatch.clock import US
from meterwatch.episodes import Episode, Verdict
from meterwatch.quality import Quality
from meterwatch.topology import Topology
from rules import engine as engine_module
from rules.engine import Engine
from rules.groups import Tree
from rules.outage import judge
from rules.overdue import Paths, Spoken, overdue_outages
from rules.profile import OutageProfile, SilenceProfile
from rules.supply import HEARD, NEVER, OFF, ON, Evidence, off_runs
from rules.witness import Witnesses

P = OutageProfile()
Vote = tuple[int, int, int]  # slot, seconds after T0, vote
FIRST_END_S = 900 - (T0 // US) % 900
"""End of the first quarter-hour after T0."""
GRACE_S = SilenceProfile().grace_s
CUT_S = FIRST_END_S + 900 + 200
NEXT_END_S = FIRST_END_S + 1800
DUE_S = NEXT_END_S + GRACE_S


def evidence(votes: list[Vote]) -> Evidence:
    slot, at_s, vote = (np.array([row[i] for row in votes], np.int64) for i in range(3))
    return Evidence(slot.astype(np.int32), T0 + at_s * US, vote.astype(np.int8))


def reads(slots: list[int], first: int, last: int, vote: int = ON) -> list[Vote]:
    """Of the quarter-hours first to last."""
    return [(slot, FIRST_END_S + 900 * k, vote) for slot in slots for k in range(first, last + 1)]


def told(votes: list[Vote], now_s: int, topology: Topology) -> dict[tuple[str, int], tuple[Episode, ...]]:
    verdicts, _ = judge(
        evidence(votes), Tree(topology).members("feeder", 0), topology, T0 + now_s * US, P, T0 - 3600 * US
    )
    return {(v.asset_kind, v.asset_id): v.episodes for v in verdicts if v.episodes}


TOWN = town(feeders=1, transformers=4, meters=4)
DARK = [0, 1, 2, 3]
LIT = list(range(4, 16))
ONE_GASP = [(0, CUT_S, OFF), *reads(DARK, 0, 1), *reads(LIT, 0, 8)]
"""Transformer 0 goes off after its second quarter-hour; one of four last gasps arrives."""


def test_one_last_gasp_and_overdue_reads_beside_it_make_the_outage_of_the_transformer() -> None:
    before = told(ONE_GASP, DUE_S + P.root_hold_s - 1, TOWN)
    assert ("transformer", 0) not in before
    assert before["meter", 0][0].parent is None
    (episode,) = told(ONE_GASP, DUE_S + P.root_hold_s, TOWN)["transformer", 0]
    assert (episode.onset_us, episode.raised_us) == (T0 + CUT_S * US, T0 + (DUE_S + P.root_hold_s) * US)
    assert (episode.evidence["affected"], episode.evidence["overdue"]) == (1, 2)
    assert episode.evidence["posterior"] >= P.posterior_min
    assert episode.summary.endswith("1 of 4 meters reported off, the reads of 2 others are overdue")


def test_the_alarm_of_the_one_meter_is_of_the_outage_then() -> None:
    assert ("meter", 0) not in told(ONE_GASP, DUE_S + P.root_hold_s, TOWN)


def test_overdue_reads_alone_are_no_outage() -> None:
    assert told([*reads(DARK, 0, 1), *reads(LIT, 0, 8)], DUE_S + 3600, TOWN) == {}


def test_one_meter_off_and_the_others_heard_is_no_outage_of_the_transformer() -> None:
    votes = [(0, CUT_S, OFF), *reads([0], 0, 1), *reads([1, 2, 3, *LIT], 0, 8)]
    assert set(told(votes, DUE_S + 3600, TOWN)) == {("meter", 0)}


@pytest.mark.parametrize("vote", [ON, HEARD])
def test_a_read_that_comes_late_takes_its_evidence_back(vote: int) -> None:
    late = [(slot, NEXT_END_S, vote) for slot in (1, 2)]
    assert ("transformer", 0) in told(ONE_GASP, DUE_S + 3600, TOWN)
    assert set(told([*ONE_GASP, *late], DUE_S + 3600, TOWN)) == {("meter", 0)}


def test_a_dead_concentrator_is_no_outage() -> None:
    """Its meters hang on two transformers; of one a meter is off."""
    topology = town(feeders=1, transformers=4, meters=4, concentrator_meters=8)
    dead, others = list(range(8)), list(range(8, 16))
    votes = [(0, CUT_S, OFF), *reads(dead, 0, 1), *reads(others, 0, 8)]
    assert set(told(votes, DUE_S + 3600, topology)) == {("meter", 0)}
    lives = [*votes, *reads([4, 5, 6, 7], 2, 8)]
    assert ("transformer", 0) in told(lives, DUE_S + 3600, topology)


def test_a_concentrator_with_meters_of_this_transformer_alone_proves_nothing() -> None:
    topology = town(feeders=1, transformers=4, meters=4, concentrator_meters=4)
    assert set(told(ONE_GASP, DUE_S + 3600, topology)) == {("meter", 0)}


def test_meters_that_were_silent_before_are_not_missed() -> None:
    votes = [(0, CUT_S, OFF), *reads([0], 0, 1), *reads(LIT, 0, 8)]
    assert set(told(votes, DUE_S + 3600, TOWN)) == {("meter", 0)}


def test_supply_that_came_back_before_the_reads_were_overdue_makes_no_outage_of_the_transformer() -> None:
    votes = [*ONE_GASP, (0, DUE_S - 60, ON)]
    assert ("transformer", 0) not in told(votes, DUE_S + 3600, TOWN)


def test_it_is_over_when_who_reported_off_is_on_again() -> None:
    back_s = DUE_S + 2000
    votes = [*ONE_GASP, *((slot, back_s, ON) for slot in DARK)]
    (episode,) = told(votes, back_s + 3600, TOWN)["transformer", 0]
    assert episode.cleared_us == T0 + (back_s + P.restore_hold_s) * US


def test_the_default_of_hourly_reads_waits_for_the_hour() -> None:
    topology = dataclasses.replace(TOWN, interval_s=np.full(TOWN.slots, 3600, np.int32))
    hour_s = 3600 - (T0 // US) % 3600
    cut_s = hour_s + 1500
    hours = [(slot, hour_s, ON) for slot in DARK] + [(slot, hour_s + k * 3600, ON) for slot in LIT for k in range(4)]
    (episode,) = told([(0, cut_s, OFF), *hours], hour_s + 4 * 3600, topology)["transformer", 0]
    assert episode.raised_us == T0 + (hour_s + 3600 + GRACE_S + P.root_hold_s) * US


# beside a scalar oracle ------------------------------------------------------------


def by_hand(votes: list[Vote], topology: Topology, transformer: int) -> list[tuple[int, ...]]:
    """(onset, decided, meters off, overdue) of the outages that overdue reads make, meter by meter."""
    said = {(slot, T0 + at * US, vote) for slot, at, vote in votes}
    mine = [s for s in range(topology.slots) if topology.transformer_of[s] == transformer]
    runs = []
    for slot in mine:
        since = None
        for at, vote in sorted((at, vote) for s, at, vote in said if s == slot and vote in (OFF, ON)):
            if vote == OFF and since is None:
                since = at
            elif vote == ON and since is not None:
                runs.append((since, slot, at))
                since = None
        if since is not None:
            runs.append((since, slot, NEVER))
    runs.sort()
    found, free = [], 0
    for onset, _, _ in runs:
        if onset < free:
            continue
        early = [run for run in runs if onset <= run[0] <= onset + 120 * US]
        while early and early[0][0] == onset:
            back = min(run[2] for run in early)
            off = {run[1] for run in early}

            def spoke(slot: int, low: int, high: int) -> bool:
                return any(s == slot and low < at <= high for s, at, _ in said)

            def path(slot: int) -> int:
                return int(topology.concentrator_of[slot])

            end = ((onset + 30 * US) // (900 * US) + 1) * 900 * US
            before = {s for s in range(topology.slots) if spoke(s, onset - 3600 * US, onset)}
            carried = {s for s in range(topology.slots) if spoke(s, onset + 30 * US, end)}
            silent = {
                s for s in mine
                if s in before - carried - off and not spoke(s, onset + 30 * US, back - 30 * US - 1)
            }  # fmt: skip
            overdue = []
            for s in silent:
                others = [o for o in before if o not in mine and path(o) == path(s)]
                if others and sum(o not in carried for o in others) <= 0.2 * len(others):
                    overdue.append(s)
            against = {
                s for s, at, vote in said if vote == ON and s in mine and onset + 30 * US <= at < back - 30 * US
            } - off  # fmt: skip
            if len(against) > 0.1 * (len(off) + len(against)):
                break
            odds = math.log(1e-5 / (1 - 1e-5)) + len(off) * math.log(0.6 / 1e-4) + len(against) * math.log(1e-3)
            need = next(
                (
                    k for k in range(1, len(overdue) + 1)
                    if len(off) + k >= 3 and odds + k * math.log(0.98 / 0.02) >= math.log(99)
                ),
                None,
            )  # fmt: skip
            if need is None:
                break
            decided = end + GRACE_S * US
            lasting = [run for run in early if run[2] > decided + 60 * US]
            if len(lasting) == len(early):
                found.append((onset, decided, len(off), need))
                free = NEVER  # one at a time is enough here
                break
            early = lasting
    return found


BIG = town(feeders=1, transformers=3, meters=12, concentrator_meters=18)


@st.composite
def stories(draw: st.DrawFn) -> list[Vote]:
    """Quarter-hours of all meters with holes, and some of transformer 0 off."""
    votes: list[Vote] = []
    for slot in range(BIG.slots):
        last = draw(st.sampled_from([1, 1, 9])) if slot < 12 else draw(st.sampled_from([1, 9, 9, 9, 9, 9, 9]))
        votes += reads([slot], 0, last, draw(st.sampled_from([ON, ON, ON, HEARD])))
    for slot in draw(st.lists(st.integers(0, 11), min_size=1, max_size=3)):
        at_s = CUT_S + draw(st.sampled_from([0, 5, 60, 130, 700]))
        votes.append((slot, at_s, OFF))
        if draw(st.booleans()):
            votes.append((slot, at_s + draw(st.sampled_from([40, 3000, DUE_S - CUT_S + 60, 9000])), ON))
    return votes


@settings(max_examples=300)
@given(stories())
def test_overdue_outages_equal_a_scalar_walk(votes: list[Vote]) -> None:
    heard = evidence(votes)
    paths, witnesses = Paths.of(BIG, SilenceProfile()), Witnesses.of(BIG, P)
    slots = np.arange(BIG.slots, dtype=np.int32)
    spoken = Spoken.of(heard, slots, BIG.transformer_of, paths)
    runs = off_runs(heard)
    runs = runs.where(BIG.transformer_of[runs.slot] == 0)
    runs = runs.where(np.lexsort((runs.slot, runs.start_us)))
    found = [
        (one.onset_us, one.decided_us, one.posterior >= P.posterior_min, len(one.overdue))
        for one in overdue_outages(0, runs, [], spoken, P, witnesses)
    ]
    expected = [(onset, decided, True, need) for onset, decided, _, need in by_hand(votes, BIG, 0)]
    assert [one[:3] for one in found[:1]] == [one[:3] for one in expected[:1]]


# the law of event time ------------------------------------------------------------


def observe(engine: Engine, votes: list[Vote], now_us: int) -> None:
    """Reads as reads, the rest as events, in the order given, one at a time if it is one."""
    for as_read in (True, False):
        part = [row for row in votes if (row[2] != OFF) is as_read]
        if not part:
            continue
        said = evidence(part)
        if not as_read:
            code = np.full(len(part), EventCode.POWER_FAIL, np.int16)
            engine.observe_events(Events(said.slot, said.at_us, code), now_us)
            continue
        zero, no = np.zeros(len(part), np.int32), np.zeros(len(part), np.bool_)
        quality = np.where(said.vote == ON, int(Quality.SUPPLY_ON), 0).astype(np.int32)
        engine.observe_reads(
            ReadChange(
                said.slot, said.at_us, zero + 900, quality, zero, zero, zero, zero, no, no, np.ones(len(part), np.int8)
            ),
            now_us,
        )  # fmt: skip


def answered(engine: Engine, everything: list[Vote], now_us: int) -> list[Verdict]:
    for wanted in engine.wanted():
        mine = set(wanted.slots.tolist())
        engine.given(wanted, [], Events(*(np.zeros(0, t) for t in (np.int32, np.int64, np.int16))))
        observe(engine, [row for row in everything if row[0] in mine], now_us)
    return engine.evaluate(now_us)


def standing(verdicts: list[Verdict]) -> set[tuple[object, ...]]:
    return {
        (v.asset_kind, v.asset_id, e.onset_us, e.raised_us, e.cleared_us, tuple(e.evidence.get("overdue_meters", ())))
        for v in verdicts if v.rule == "OUTAGE"
        for e in v.episodes
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(stories(), st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 3 * 3600))
def test_order_splits_and_restarts_do_not_change_the_outages(
    votes: list[Vote], seed: int, part: int, after_s: int
) -> None:
    now_us = T0 + (DUE_S + after_s) * US
    votes = [row for row in votes if T0 + row[1] * US <= now_us and row[2] in (OFF, ON, HEARD)]
    votes = [row for row in votes if row[2] != OFF] + [row for row in votes if row[2] == OFF]
    at_once = Engine(BIG)
    observe(at_once, votes, now_us)
    expected = standing(answered(at_once, votes, now_us))
    shuffled = list(votes)
    random.Random(seed).shuffle(shuffled)
    live, last = Engine(BIG), {}
    for first in range(0, len(shuffled), part):
        observe(live, shuffled[first : first + part], now_us)
        verdicts = answered(live, shuffled[: first + part], now_us)
        last |= {(v.asset_kind, v.asset_id): v for v in verdicts if v.rule == "OUTAGE"}
    assert standing(list(last.values())) == expected


def test_an_outage_of_days_is_not_forgotten_when_old_votes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PRUNE_ROWS", 10)
    engine = Engine(TOWN)
    votes = [(0, CUT_S, OFF), *reads(DARK, 0, 1), *reads(LIT, 0, 300)]
    for day in (0.2, 1.0, 2.0, 3.0):
        now_s = int(day * 86_400)
        now = [row for row in votes if row[1] <= now_s]
        observe(engine, now, T0 + now_s * US)
        verdicts = answered(engine, now, T0 + now_s * US)
        mine = [v for v in verdicts if (v.asset_kind, v.asset_id) == ("transformer", 0)]
        assert [len(v.episodes) for v in mine] in ([1], []), day
