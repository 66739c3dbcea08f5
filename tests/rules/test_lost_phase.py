"""Lost phases of which meters with several phases tell: runs and outages against scalar walks, the law, boundaries."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import EventCode, Events
from meterwatch.clock import US
from meterwatch.episodes import Episode
from meterwatch.topology import PHASE_A, PHASE_B, PHASE_C, PHASE_NAMES, TERMINAL, Topology
from rules.engine import Engine
from rules.groups import Tree
from rules.outage import PHASE_LOSS, judge
from rules.phase_votes import LOST, PHASES, RETURNED, SAID, heard_of, lost_runs, named_phases, on_phase
from rules.profile import OutageProfile
from rules.supply import OFF, ON, Evidence

P = OutageProfile()
DAY_S = 86_400
FAIL, BACK, LOSS, RETURN = (
    EventCode.POWER_FAIL, EventCode.POWER_RESTORED, EventCode.PHASE_LOSS, EventCode.PHASE_RETURN,
)  # fmt: skip
Event = tuple[int, int, EventCode, int]  # slot, seconds after T0, code, phases
Told = list[tuple[str, int, int, int | None]]  # phase, onset, raised, cleared in seconds after T0

STREET = town(feeders=1, transformers=4, meters=30)
POLY = replace(STREET, phases=np.full(STREET.slots, 7, np.uint8))
HALF = np.where(np.arange(STREET.slots) % 2, np.left_shift(1, np.arange(STREET.slots) // 2 % 3), 7).astype(np.uint8)
MIXED = replace(STREET, phases=HALF)
"""Even meters have three phases; odd ones hang on A, B, C in turn."""
ON_B = [slot for slot in range(30) if HALF[slot] == PHASE_B]


def events(told: list[Event]) -> Events:
    slot, at_s, code, phases = (np.array([one[i] for one in told], np.int64) for i in range(4))
    return Events(slot.astype(np.int32), T0 + at_s * US, code.astype(np.int16), phases.astype(np.uint8))


def episodes(told: list[Event], now_s: int, topology: Topology = MIXED) -> dict[tuple[str, int], tuple[Episode, ...]]:
    members = Tree(topology).members("feeder", 0)
    heard = heard_of(events(told), topology.phases)
    found, _ = judge(heard, members, topology, T0 + now_s * US, P, T0 - 3600 * US)
    return {(one.asset_kind, one.asset_id): one.episodes for one in found if one.episodes}


def lost(slots: list[int], phase: int = PHASE_B, at_s: int = 0) -> list[Event]:
    return [(slot, at_s + i, LOSS, phase) for i, slot in enumerate(slots)]


# Votes ---------------------------------------------------------


def test_a_meter_with_one_phase_that_loses_it_is_off_and_one_with_more_is_a_witness_of_the_phase() -> None:
    topology = replace(STREET, phases=np.array([PHASE_B, 7, 0] + [7] * (STREET.slots - 3), np.uint8))
    told = [
        (slot, slot, code, phases) for code in (LOSS, RETURN) for phases in (0, PHASE_B, PHASE_A) for slot in range(3)
    ]
    heard = heard_of(events(told), topology.phases)
    found = sorted(zip(heard.slot.tolist(), heard.vote.tolist(), strict=True))
    b, a = LOST | PHASE_B, LOST | PHASE_A
    back_b, back_a = RETURNED | PHASE_B, RETURNED | PHASE_A
    assert found == sorted(
        [(0, OFF), (0, OFF), (0, ON), (0, ON), *((slot, vote) for slot in (1, 2) for vote in (b, a, back_b, back_a))]
    )


def test_supply_restored_returns_all_phases_and_a_power_failure_names_the_phase_nobody_registered() -> None:
    topology = replace(STREET, phases=np.array([PHASE_B, 7, 0] + [7] * (STREET.slots - 3), np.uint8))
    heard = heard_of(events([(slot, 0, code, PHASE_C) for slot in range(3) for code in (FAIL, BACK)]), topology.phases)
    votes = sorted(zip(heard.slot.tolist(), heard.vote.tolist(), strict=True))
    said = SAID | PHASE_C
    assert votes == [
        (0, OFF),
        (0, ON),
        (1, OFF),
        (1, ON),
        (1, RETURNED),
        (2, OFF),
        (2, ON),
        (2, RETURNED),
        (2, said),
        (2, said),
    ]
    assert named_phases(heard, topology.phases)[:3].tolist() == [PHASE_B, 7, PHASE_C]
    two = heard_of(events([(2, 0, FAIL, PHASE_C), (2, 9, FAIL, PHASE_A)]), topology.phases)
    assert named_phases(two, topology.phases)[2] == 0


def test_for_its_account_a_lost_phase_reads_as_off_and_on() -> None:
    told = [(0, 0, LOSS, PHASE_B), (2, 0, LOSS, PHASE_A), (0, 9, RETURN, PHASE_B), (2, 9, BACK, 0)]
    found = on_phase(heard_of(events(told), MIXED.phases), "B")
    votes = sorted(zip(found.slot.tolist(), found.vote.tolist(), strict=True))
    assert votes == [(0, OFF), (0, ON), (2, ON), (2, ON), (2, LOST | PHASE_A)]


# Runs ---------------------------------------------------------

KEEP_S = 100
words = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 60).map(lambda i: i * 25),
        st.sampled_from([LOST | PHASE_A, LOST | PHASE_B, RETURNED | PHASE_A, RETURNED | PHASE_B, RETURNED, OFF, ON]),
    ),
    max_size=40,
)


def walk(said: list[tuple[int, bool]], keep_s: int) -> list[tuple[int, int]]:
    """Runs of one phase of one meter, word by word: (when, whether it is back)."""
    found: list[tuple[int, int]] = []
    start_s = last_s = None
    for at_s, back in sorted(said):
        if start_s is not None and last_s is not None and at_s > last_s + keep_s:
            found.append((start_s, last_s + keep_s))
            start_s = None
        if back and start_s is not None:
            found.append((start_s, at_s))
            start_s = None
        if not back:
            start_s, last_s = at_s if start_s is None else start_s, at_s
    if start_s is not None and last_s is not None:
        found.append((start_s, last_s + keep_s))
    return found


def walked(votes: list[tuple[int, int, int]], phase: int) -> set[tuple[int, int, int]]:
    """The same of all meters."""
    of_phase = (LOST | phase, RETURNED | phase, RETURNED)
    return {
        (slot, *run)
        for slot in range(3)
        for run in walk(
            [(at, vote != LOST | phase) for who, at, vote in votes if who == slot and vote in of_phase], KEEP_S
        )
    }


@settings(max_examples=300)
@given(words)
def test_runs_of_a_phase_are_those_of_a_walk_through_the_words(votes: list[tuple[int, int, int]]) -> None:
    slot, at_s, vote = (np.array([one[i] for one in votes], np.int64) for i in range(3))
    runs = lost_runs(Evidence(slot.astype(np.int32), at_s, vote.astype(np.int8)), KEEP_S)
    for phase in PHASES:
        found = runs.get(phase)
        rows = set() if found is None else set(zip(*(column.tolist() for column in found), strict=True))
        assert rows == walked(votes, phase)


# Outages ---------------------------------------------------------


def test_meters_with_three_phases_that_lost_the_same_one_are_a_lost_phase_of_their_transformer() -> None:
    told = episodes(lost([0, 2, 4]), 100)
    assert set(told) == {("transformer", 0)}
    [episode] = told["transformer", 0]
    assert (episode.level, episode.evidence["phase"], episode.evidence["affected"]) == (PHASE_LOSS, "B", 3)
    assert episode.summary.startswith("Transformer T0 without phase B: 3 of 30 meters")


def test_it_needs_as_many_meters_and_as_long_as_an_outage() -> None:
    assert episodes(lost([0, 2]), 1000) == {}
    assert episodes(lost([0, 2, 4]), 2 + P.root_hold_s - 1) == {}
    assert list(episodes(lost([0, 2, 4]), 2 + P.root_hold_s)) == [("transformer", 0)]
    late = [*lost([0, 2]), (4, P.onset_window_s + 1, LOSS, PHASE_B)]
    assert episodes(late, 1000) == {}
    momentary = [*lost([0, 2, 4]), *((slot, 50, RETURN, PHASE_B) for slot in (0, 2, 4))]
    assert episodes(momentary, 1000) == {}


def test_meters_with_one_phase_that_are_off_count_with_those_that_say_which() -> None:
    told = [(ON_B[0], 0, FAIL, 0), (ON_B[1], 1, LOSS, 0), (0, 2, LOSS, PHASE_B)]
    [episode] = episodes(told, 200)["transformer", 0]
    assert (episode.evidence["phase"], episode.evidence["affected"]) == ("B", 3)
    assert ("meter", ON_B[0]) not in episodes(told, 1000)  # explained


def test_single_phase_meters_of_the_phase_that_say_on_contradict_and_those_of_another_do_not() -> None:
    says_on = [(ON_B[0], 60, BACK, 0)]
    assert episodes(lost([0, 2, 4, 6]) + says_on, 500) == {}
    other = next(slot for slot in range(30) if HALF[slot] == PHASE_C)
    assert ("transformer", 0) in episodes([*lost([0, 2, 4, 6]), (other, 60, BACK, 0)], 500)


def test_meters_that_lost_all_phases_one_after_the_other_are_no_lost_phase() -> None:
    everything = [event for phase in PHASES for event in lost([0, 2, 4], phase)]
    assert episodes(everything, 500) == {}
    assert all(one.level != PHASE_LOSS for one in episodes(
        [*lost([0, 2, 4]), *((slot, 5, FAIL, 0) for slot in (6, 8, 10))], 500).get(("transformer", 0), ()))  # fmt: skip


def test_the_whole_transformer_going_ends_the_lost_phase() -> None:
    whole = [(slot, 1200, FAIL, 0) for slot in range(30)]
    first, second = episodes(lost([0, 2, 4]) + whole, 1500)["transformer", 0]
    assert [first.level, second.level] == [PHASE_LOSS, "SUSTAINED"]
    assert first.cleared_us == second.onset_us


@pytest.mark.parametrize("code", [RETURN, BACK])
def test_it_is_over_when_its_meters_have_the_phase_again_or_say_nothing_for_a_day(code: EventCode) -> None:
    back = [(slot, 600, code, PHASE_B if code == RETURN else 0) for slot in (0, 2, 4)]
    [episode] = episodes(lost([0, 2, 4]) + back, 2000)["transformer", 0]
    assert episode.cleared_us == T0 + (600 + P.restore_hold_s) * US
    [silent] = episodes(lost([0, 2, 4]), DAY_S - 1)["transformer", 0]
    assert silent.cleared_us is None
    [silent] = episodes(lost([0, 2, 4]), 2 * DAY_S)["transformer", 0]
    assert silent.cleared_us == T0 + (2 + DAY_S + P.restore_hold_s) * US


def test_reads_that_say_on_say_nothing_of_a_phase() -> None:
    members = Tree(MIXED).members("feeder", 0)
    slots = np.arange(0, 30, 2, dtype=np.int32)
    on = Evidence(slots, np.full(len(slots), T0 + 400 * US, np.int64), np.full(len(slots), ON, np.int8))
    heard = heard_of(events(lost([0, 2, 4])), MIXED.phases)
    both = Evidence(
        *(np.concatenate([getattr(one, name) for one in (heard, on)]) for name in ("slot", "at_us", "vote"))
    )
    found, _ = judge(both, members, MIXED, T0 + 2000 * US, P, T0 - 3600 * US)
    [episode] = next(one.episodes for one in found if one.asset_kind == "transformer" and one.episodes)
    assert (episode.level, episode.cleared_us) == (PHASE_LOSS, None)


def test_lost_phases_of_all_transformers_are_no_outage_of_the_feeder() -> None:
    told = episodes([event for first in range(0, 120, 30) for event in lost([first, first + 2, first + 4])], 500)
    assert set(told) == {("transformer", i) for i in range(4)}


def test_the_transformers_own_terminal_is_enough() -> None:
    witness = np.zeros(STREET.slots, np.uint8)
    witness[0] = TERMINAL
    told = episodes([(0, 0, LOSS, PHASE_B)], 400, replace(MIXED, witness=witness))
    assert [one.evidence["phase"] for one in told["transformer", 0]] == ["B"]


def test_meters_whose_phase_nobody_registered_are_told_apart_by_the_one_they_name() -> None:
    unknown = replace(STREET, phases=np.zeros(STREET.slots, np.uint8))
    told = [(slot, slot % 3, FAIL, PHASE_B) for slot in range(6)]
    told += [(slot, 300 + slot % 3, BACK, PHASE_A) for slot in range(6, 30)]
    [episode] = episodes(told, 500, unknown)["transformer", 0]
    assert (episode.level, episode.evidence["phase"]) == (PHASE_LOSS, "B")
    silent = [(slot, at_s, code, 0) for slot, at_s, code, _ in told]
    assert ("transformer", 0) not in episodes(silent, 500, unknown)


# The scalar rule, and the law ---------------------------------------------------------


def plain(told: list[Event]) -> Told:
    """Lost phases of a transformer of meters with three phases, all of them over, by plain loops."""
    runs = {
        phase: sorted(
            (start, end, slot)
            for slot in {event[0] for event in told}
            for start, end in walk(
                [(at, code == RETURN) for who, at, code, of in told if who == slot and of & phase], DAY_S
            )
            if end - start >= P.momentary_s
        )
        for phase in PHASES
    }
    found: list[tuple[int, int, int, int]] = []
    for phase, mine in runs.items():
        beside = [(start, slot) for other, those in runs.items() if other != phase for start, _, slot in those]
        free = -DAY_S
        for i, (onset, _, _) in enumerate(mine):
            near: dict[int, int] = {}
            for start, _, slot in mine[i:]:
                if start <= onset + P.onset_window_s:
                    near.setdefault(slot, start)
            if onset < free or len(near) < P.meters_min:
                continue
            others = {slot for start, slot in beside if abs(start - onset) <= P.onset_window_s}
            if len(near) < P.phase_share * (len(near) + len(others)):
                continue
            decided = sorted(near.values())[P.meters_min - 1]
            restored = _restored(mine[i:], decided)
            free = restored + P.restore_hold_s
            if restored > decided + P.root_hold_s:
                found.append((onset, phase, decided + P.root_hold_s, free))
    kept: list[tuple[int, int, int, int]] = []
    for one in sorted(found):
        if not any(other[0] <= one[0] < other[3] for other in kept):
            kept.append(one)
    return [(PHASE_NAMES[phase], onset, raised, cleared) for onset, phase, raised, cleared in kept]


def _restored(mine: list[tuple[int, int, int]], decided: int) -> int:
    """Since when everybody who was without it is back for the hold."""
    moments = sorted({at for start, end, _ in mine for at in (start, end)})
    calm_since = None
    for at, following in pairwise([*moments, 10**9]):
        seen = {slot for start, _, slot in mine if start <= at}
        off = sum(start <= at < end for start, end, _ in mine)
        if off > len(seen) * (1 - P.restored_share) + 1e-9:
            calm_since = None
            continue
        calm_since = at if calm_since is None else calm_since
        if following > decided and following - max(calm_since, decided) >= P.restore_hold_s:
            return max(calm_since, decided)
    raise AssertionError("somebody never comes back")


phase_events = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.integers(0, 40).map(lambda i: i * 20),
        st.sampled_from([LOSS, LOSS, RETURN]),
        st.sampled_from([PHASE_B, PHASE_B, PHASE_B, PHASE_A, PHASE_A | PHASE_B, PHASE_C]),
    ),
    max_size=30,
    unique_by=lambda event: event[:2],
)


@settings(max_examples=300, deadline=None)
@given(phase_events)
def test_the_lost_phases_are_those_of_a_scalar_rule(told: list[Event]) -> None:
    found = episodes(told, 3 * DAY_S, POLY).get(("transformer", 0), ())
    assert [
        (
            one.evidence["phase"], (one.onset_us - T0) // US, (one.raised_us - T0) // US,
            None if one.cleared_us is None else (one.cleared_us - T0) // US,
        )
        for one in found
    ] == plain(told)  # fmt: skip


mixed_events = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(0, 40).map(lambda i: i * 50),
        st.sampled_from([LOSS, LOSS, RETURN, FAIL, BACK]),
        st.sampled_from([0, PHASE_B, PHASE_B, PHASE_A | PHASE_B]),
    ),
    max_size=40,
    unique=True,
)


def known_in_the_end(parts: list[list[Event]], now_s: int) -> dict[tuple[str, int], tuple[Episode, ...]]:
    """What an engine knows that heard these requests one after the other."""
    engine, heard = Engine(MIXED), list[Event]()
    known: dict[tuple[str, int], tuple[Episode, ...]] = {}
    for part in parts:
        heard += part
        engine.observe_events(events(part), T0 + now_s * US)
        for wanted in engine.wanted():
            mine = [e for e in heard if e[0] in wanted.slots and T0 + e[1] * US >= wanted.from_us]
            engine.given(wanted, [], events(mine))
        known |= {(one.asset_kind, one.asset_id): one.episodes for one in engine.evaluate(T0 + now_s * US)}
    return {asset: found for asset, found in known.items() if found}


@settings(max_examples=100, deadline=None)
@given(mixed_events, st.integers(1, 5), st.randoms(use_true_random=False))
def test_order_parts_and_repeats_leave_the_same_lost_phases(told: list[Event], cut: int, order: random.Random) -> None:
    shuffled = told + told[: len(told) // 3]
    order.shuffle(shuffled)
    parts = [shuffled[at : at + cut] for at in range(0, len(shuffled), cut)]
    assert known_in_the_end(parts, 2400) == known_in_the_end([told] if told else [], 2400)


@settings(max_examples=60, deadline=None)
@given(mixed_events)
def test_asked_on_the_way_or_only_in_the_end_the_rules_know_the_same(told: list[Event]) -> None:
    engine = Engine(MIXED)
    heard: list[Event] = []
    known: dict[tuple[str, int], tuple[Episode, ...]] = {}
    for now_s in range(0, 2401, 50):
        came = [event for event in told if event[1] == now_s]
        heard += came
        if came:
            engine.observe_events(events(came), T0 + now_s * US)
        for wanted in engine.wanted():
            engine.given(wanted, [], events([e for e in heard if e[0] in wanted.slots]))
        known |= {(one.asset_kind, one.asset_id): one.episodes for one in engine.evaluate(T0 + now_s * US)}
    assert {asset: found for asset, found in known.items() if found} == known_in_the_end([told] if told else [], 2400)


def test_a_lost_phase_alone_begins_a_judgement() -> None:
    assert known_in_the_end([lost([0, 2, 4])], 200) == episodes(lost([0, 2, 4]), 200)
    assert ("transformer", 0) in known_in_the_end([lost([0, 2, 4])], 200)
