"""OUTAGE: lost phases, few reports, witnesses that weigh more, what is off by design, what is taken back and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import EventCode, Events
from meterwatch.clock import US
from meterwatch.delivery import Learnt
from meterwatch.episodes import Episode, Verdict
from meterwatch.planned import PlannedWork
from meterwatch.topology import BELLWETHER, PHASE_A, TERMINAL, Topology
from rules.by_design import Plans
from rules.groups import Tree
from rules.load import Members
from rules.outage import DISCONNECTED, NESTED, PHASE_LOSS, judge
from rules.profile import OutageProfile
from rules.supply import CLOSED, OFF, ON, OPENED, Evidence, evidence_of_events
from rules.witness import Delivery, Witnesses

P = OutageProfile()
HOUR = 3600
Vote = tuple[int, int, int]  # slot, seconds after T0, vote


def evidence(votes: list[Vote]) -> Evidence:
    return Evidence(
        np.array([v[0] for v in votes], np.int32),
        np.array([T0 + v[1] * US for v in votes], np.int64),
        np.array([v[2] for v in votes], np.int8),
    )


def verdicts_of(
    votes: list[Vote],
    now_s: int,
    topology: Topology,
    works: list[PlannedWork] | None = None,
    previously: frozenset[tuple[str, int]] = frozenset(),
) -> dict[tuple[str, int], Verdict]:
    members = Tree(topology).members("feeder", 0)
    plans = Plans(topology, P, works or [])
    found, _ = judge(
        evidence(votes), members, topology, T0 + now_s * US, P, T0 - HOUR * US, previously,
        Witnesses.of(topology, P), plans,
    )  # fmt: skip
    return {(verdict.asset_kind, verdict.asset_id): verdict for verdict in found}


def told(
    votes: list[Vote], now_s: int, topology: Topology, works: list[PlannedWork] | None = None
) -> dict[tuple[str, int], tuple[Episode, ...]]:
    found = verdicts_of(votes, now_s, topology, works)
    return {asset: verdict.episodes for asset, verdict in found.items() if verdict.episodes}


def three_phases(topology: Topology) -> Topology:
    """Meters on A, B, C in turn."""
    return replace(topology, phases=np.left_shift(1, np.arange(topology.slots) % 3).astype(np.uint8))


def off(slots: list[int], at_s: int = 0) -> list[Vote]:
    return [(slot, at_s + slot % 5, OFF) for slot in slots]


def on(slots: list[int], at_s: int) -> list[Vote]:
    return [(slot, at_s + slot % 5, ON) for slot in slots]


STREET = town(feeders=1, transformers=6, meters=30)
ONE = three_phases(STREET)
FIRST = list(range(30))
ON_A = [slot for slot in FIRST if slot % 3 == 0]


# Lost phases ---------------------------------------------------------


def test_meters_of_one_phase_off_while_the_others_have_supply_are_a_lost_phase() -> None:
    others = [slot for slot in FIRST if slot % 3]
    votes = off(ON_A[:4]) + on(others, 400)
    [episode] = told(votes, 500, ONE)["transformer", 0]
    assert (episode.level, episode.evidence["phase"]) == (PHASE_LOSS, "A")
    assert set(told(votes, 500, ONE)) == {("transformer", 0)}


def test_many_meters_of_one_phase_and_none_of_another_are_a_lost_phase_before_anybody_says_on() -> None:
    [episode] = told(off(ON_A), 100, ONE)["transformer", 0]
    assert episode.level == PHASE_LOSS


def test_few_meters_that_happen_to_be_of_one_phase_are_an_outage_of_the_whole_until_contradicted() -> None:
    [episode] = told(off(ON_A[:3]), 200, ONE)["transformer", 0]
    assert episode.level != PHASE_LOSS


def test_a_three_phase_meter_off_speaks_against_a_lost_phase() -> None:
    phases = ONE.phases.copy()
    phases[[1, 2]] = 7
    [episode] = told(off([*ON_A, 1, 2]), 100, replace(ONE, phases=phases))["transformer", 0]
    assert episode.level != PHASE_LOSS


def test_the_whole_transformer_lost_after_a_phase_ends_the_one_and_begins_the_other() -> None:
    votes = off(ON_A) + off([slot for slot in FIRST if slot % 3], 1200)
    first, second = told(votes, 1400, ONE)["transformer", 0]
    assert [first.level, second.level] == [PHASE_LOSS, "SUSTAINED"]
    assert first.cleared_us == second.onset_us


def test_a_meter_on_another_phase_is_not_explained_by_a_lost_one() -> None:
    votes = off([*ON_A, 1]) + on([slot for slot in FIRST if slot % 3 and slot != 1], 400)
    assert ("meter", 1) in told(votes, 500, ONE)


# Few reports ---------------------------------------------------------

LARGE = town(feeders=1, transformers=4, meters=100)


def test_three_restless_meters_of_a_hundred_are_no_outage_of_the_transformer() -> None:
    votes = [(slot, start + slot * 7, vote) for slot in (1, 2, 3) for start, vote in ((0, OFF), (85, ON), (190, OFF))]
    for now_s in range(0, 400, 10):
        heard = [vote for vote in votes if vote[1] <= now_s]
        assert ("transformer", 0) not in told(heard, now_s, LARGE)


def test_three_meters_of_a_hundred_that_stay_off_are_told_later() -> None:
    votes = off([1, 2, 3])
    assert ("transformer", 0) not in told(votes, P.root_hold_s + 10, LARGE)
    [episode] = told(votes, P.thin_hold_s + 10, LARGE)["transformer", 0]
    assert episode.raised_us == T0 + (3 + P.thin_hold_s) * US


def test_an_interruption_shorter_than_a_minute_is_no_evidence_on_the_transformer() -> None:
    votes = off([1, 2, 3, 4, 5]) + [(slot, 50, ON) for slot in (1, 2, 3)]
    assert ("transformer", 0) not in told(votes, 200, STREET)


# Witnesses ---------------------------------------------------------


def witness(topology: Topology, kind: int, *slots: int) -> Topology:
    column = np.zeros(topology.slots, np.uint8)
    column[list(slots)] = kind
    return replace(topology, witness=column)


def test_the_transformers_own_terminal_is_enough_and_an_ordinary_meter_is_not() -> None:
    assert ("transformer", 0) not in told(off([4]), 200, STREET)
    [episode] = told(off([4]), 200, witness(STREET, TERMINAL, 4))["transformer", 0]
    assert episode.evidence["posterior"] >= P.posterior_min


def test_a_terminal_with_supply_denies_what_its_meters_report() -> None:
    votes = [*off(list(range(5, 20))), (4, 100, ON)]
    assert ("transformer", 0) in told(votes, 300, STREET)
    found = verdicts_of(votes, 300, witness(STREET, TERMINAL, 4))["transformer", 0]
    assert not found.episodes
    assert "terminal" in found.withdrawn


def test_a_bellwether_counts_for_two() -> None:
    assert ("transformer", 0) not in told(off([1, 2]), 300, STREET)
    assert ("transformer", 0) in told(off([1, 2]), 300, witness(STREET, BELLWETHER, 1))


def test_learnt_delivery_holds_for_onsets_from_its_moment_on_and_no_earlier() -> None:
    delivery = Delivery(P, ["PLC", "4G", "RF mesh"], [Learnt(T0 + 5, "PLC", 0.3), Learnt(T0 + 9, "4G", 0.5)])
    assert delivery.at(T0 + 4).tolist() == [P.p_gasp_plc, P.p_gasp_cellular, P.p_gasp, P.p_gasp]
    assert delivery.at(T0 + 5).tolist() == [0.3, P.p_gasp_cellular, P.p_gasp, P.p_gasp]
    assert delivery.at(T0 + 9).tolist() == [0.3, 0.5, P.p_gasp, P.p_gasp]


# By design ---------------------------------------------------------


def work(kind: str = "transformer", asset_id: int = 0, from_s: int = 0, to_s: int = HOUR) -> PlannedWork:
    return PlannedWork("W-1", kind, asset_id, T0 + from_s * US, T0 + to_s * US, "new fuse")


@pytest.mark.parametrize("kind", ["transformer", "feeder"])
def test_planned_work_on_the_asset_or_what_feeds_it_explains_an_outage_by_design(kind: str) -> None:
    [episode] = told(off(FIRST), 200, STREET, [work(kind)])["transformer", 0]
    assert "W-1 (new fuse)" in episode.by_design
    assert not told(off(FIRST), 200, STREET, [work(kind, from_s=2 * HOUR, to_s=3 * HOUR)])["transformer", 0][
        0
    ].by_design


def test_what_outlasts_the_planned_work_speaks_for_itself() -> None:
    late_s = HOUR + P.planned_late_s
    assert told(off(FIRST), late_s - 1, STREET, [work()])["transformer", 0][0].by_design
    assert not told(off(FIRST), late_s, STREET, [work()])["transformer", 0][0].by_design
    over = off(FIRST) + on(FIRST, HOUR)
    assert told(over, 2 * HOUR, STREET, [work()])["transformer", 0][0].by_design


def test_transformers_that_are_worked_on_make_no_outage_of_their_feeder() -> None:
    votes = off(list(range(90)))
    assert ("feeder", 0) in told(votes, 200, STREET)
    assert ("feeder", 0) not in told(votes, 200, STREET, [work(asset_id=0), work(asset_id=1)])


def test_a_single_meter_under_planned_work_is_kept_and_calls_nobody() -> None:
    [episode] = told(off([1]), 400, STREET, [work()])["meter", 1]
    assert episode.by_design


def test_a_customer_whose_relay_is_open_is_off_by_design_and_no_evidence() -> None:
    opened = [(slot, 0, OPENED) for slot in (1, 2, 3)]
    votes = opened + [(slot, 20, OFF) for slot in (1, 2, 3)]
    assert ("transformer", 0) in told(votes[3:], 400, STREET)
    found = told(votes, 400, STREET)
    assert {asset: episodes[0].by_design for asset, episodes in found.items()} == {
        ("meter", slot): DISCONNECTED for slot in (1, 2, 3)
    }


def test_a_relay_that_was_closed_again_explains_nothing_that_comes_later() -> None:
    votes = [(1, 0, OPENED), (1, 50, CLOSED), (1, 500, OFF)]
    [episode] = told(votes, 900, STREET)["meter", 1]
    assert not episode.by_design


def test_events_of_supply_and_relay_are_votes_and_no_others() -> None:
    codes = list(EventCode)
    slots = np.arange(len(codes), dtype=np.int32)
    found = evidence_of_events(Events(slots, np.full(len(codes), T0), np.array(codes, np.int16)))
    assert {codes[slot]: vote for slot, vote in zip(found.slot.tolist(), found.vote.tolist(), strict=True)} == {
        EventCode.POWER_FAIL: OFF,
        EventCode.POWER_RESTORED: ON,
        EventCode.RELAY_OPEN: OPENED,
        EventCode.RELAY_CLOSED: CLOSED,
    }


# Stages, nests, and what is taken back ---------------------------------------------------------


def test_a_transformer_left_off_when_its_feeder_is_back_is_nested() -> None:
    everybody = list(range(STREET.slots))
    back = [slot for slot in everybody if slot >= 30]
    votes = off(everybody) + on(back, 1800) + on(FIRST[:25], 1800)
    votes += [(slot, 1900, OFF) for slot in FIRST[:25]]
    found = told(votes, 1800 + 700, STREET)
    assert found["feeder", 0][0].cleared_us is not None
    assert found["transformer", 0][-1].level == NESTED
    assert "F0" in found["transformer", 0][-1].summary


def test_the_stage_says_when_half_are_back() -> None:
    votes = off(FIRST) + on(FIRST[:15], 1000)
    assert told(votes, 900, STREET)["transformer", 0][0].evidence["stage"] == "CONFIRMED"
    assert told(votes, 1100, STREET)["transformer", 0][0].evidence["stage"] == "RESTORING"


def test_what_is_taken_back_says_what_contradicts_it() -> None:
    asset = ("transformer", 0)
    votes = off(FIRST[:4]) + on(FIRST[4:20], 300)
    found = verdicts_of(votes, 400, STREET, previously=frozenset({asset}))[asset]
    assert not found.episodes
    assert found.withdrawn == "16 of 20 meters heard from had supply meanwhile"
    brief = verdicts_of(off(FIRST) + on(FIRST, 90), 400, STREET, previously=frozenset({asset}))
    assert asset in brief


# The law of event time, over all of it ---------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 35),
            st.integers(0, 60).map(lambda i: i * 40),
            st.sampled_from([OFF, OFF, OFF, ON, OPENED, CLOSED]),
        ),
        max_size=80,
    ),
    st.randoms(use_true_random=False),
    st.integers(0, 2400),
)
def test_order_and_repeats_do_not_matter_and_next_due_misses_no_change(votes, random, now_s) -> None:  # type: ignore[no-untyped-def]
    topology = witness(three_phases(town(feeders=1, transformers=3, meters=12)), TERMINAL, 0)
    members, witnesses = Tree(topology).members("feeder", 0), Witnesses.of(topology, P)
    plans = Plans(topology, P, [work(asset_id=1, from_s=600, to_s=1200), work("meter", 30, 0, 900)])

    def ask(votes: list[Vote], now_us: int) -> tuple[list[Verdict], int | None]:
        return judge(evidence(votes), members, topology, now_us, P, T0 - HOUR * US, frozenset(), witnesses, plans)

    now_us = T0 + now_s * US
    verdicts, due = ask(votes, now_us)
    shuffled = votes + votes[: len(votes) // 2]
    random.shuffle(shuffled)
    assert ask(shuffled, now_us) == (verdicts, due)
    until = due if due is not None else now_us + 48 * HOUR * US
    assert ask(votes, (now_us + until) // 2)[0] == verdicts
    assert ask(votes, until - 1)[0] == verdicts
    for verdict in verdicts:
        for one, two in zip(verdict.episodes, verdict.episodes[1:], strict=False):
            assert one.cleared_us is not None
            assert one.cleared_us <= two.onset_us
        for episode in verdict.episodes:
            assert episode.onset_us <= episode.raised_us <= now_us
            assert episode.cleared_us is None or episode.raised_us <= episode.cleared_us <= now_us


def test_all_meters_on_one_phase_lose_no_phase() -> None:
    assert STREET.phases.tolist() == [PHASE_A] * STREET.slots
    votes = off(FIRST[:3]) + on(FIRST[3:], 400)
    assert ("transformer", 0) not in told(votes, 500, STREET)


def test_the_transformers_own_terminal_adds_nothing_to_its_load() -> None:
    assert Members(STREET, 900, 0.95).count()[0] == 30
    assert Members(witness(STREET, TERMINAL, 4), 900, 0.95).count()[0] == 29
