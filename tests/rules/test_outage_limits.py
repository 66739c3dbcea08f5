"""OUTAGE to the second: where each limit lies, and what is on which side of it."""

from __future__ import annotations

import pytest
from test_outage import HOUR, ON, T0, P, Vote, evidence, told, town

from meterwatch.clock import US
from rules.groups import Tree
from rules.outage import CONFIRMED, DISCONNECTED, OFF, RESTORING, judge
from rules.supply import CLOSED, OPENED

TOWN = town(feeders=1, transformers=10, meters=30)
GONE = [(slot, 0, OFF) for slot in range(18)]
"""More than half of the first transformer's meters."""


def spans(votes: list[Vote], now_s: int = HOUR, asset: tuple[str, int] = ("meter", 7)) -> list[tuple[int, ...]]:
    """Onset, raised and cleared of an asset's episodes, seconds; no end: -1."""
    return [
        tuple(-1 if at_us is None else (at_us - T0) // US for at_us in (one.onset_us, one.raised_us, one.cleared_us))
        for one in told(votes, now_s, TOWN).get(asset, ())
    ]


@pytest.mark.parametrize(("on_s", "expected"), [(299, []), (300, [(0, 300, 360)]), (301, [(0, 300, 361)])])
def test_a_meter_off_for_300_s_is_told_and_is_over_60_s_after_its_supply_came_back(
    on_s: int, expected: list[tuple[int, ...]]
) -> None:
    assert spans([(7, 0, OFF), (7, on_s, ON)]) == expected


def test_a_meter_that_is_back_is_over_when_supply_has_held_for_60_s_and_not_before() -> None:
    votes = [(7, 0, OFF), (7, 400, ON)]
    assert spans(votes, 459) == [(0, 300, -1)]
    assert spans(votes, 460) == [(0, 300, 460)]


@pytest.mark.parametrize(("again_s", "expected"), [(459, [(0, 300, 960)]), (460, [(0, 300, 460), (460, 760, 960)])])
def test_less_than_60_s_of_supply_make_one_interruption_of_two(again_s: int, expected: list[tuple[int, ...]]) -> None:
    assert spans([(7, 0, OFF), (7, 400, ON), (7, again_s, OFF), (7, 900, ON)]) == expected


@pytest.mark.parametrize(("early_s", "alone"), [(120, False), (121, True)])
def test_what_goes_off_within_120_s_belongs_together(early_s: int, alone: bool) -> None:
    found = told([(20, -early_s, OFF), *GONE], HOUR, TOWN)
    assert (("meter", 20) in found) is alone
    assert found["transformer", 0][0].onset_us == T0 - (0 if alone else early_s) * US


@pytest.mark.parametrize(("late_s", "alone"), [(120, False), (200, False)])
def test_what_goes_off_while_the_outage_lasts_belongs_to_it(late_s: int, alone: bool) -> None:
    assert (("meter", 20) in told([(20, late_s, OFF), *GONE], HOUR, TOWN)) is alone


@pytest.mark.parametrize(("back_s", "expected"), [(60, []), (61, [(0, 60, 121)])])
def test_an_outage_that_is_over_when_it_could_be_told_never_was(back_s: int, expected: list[tuple[int, ...]]) -> None:
    votes = [*GONE, *((slot, back_s, ON) for slot in range(18))]
    assert spans(votes, asset=("transformer", 0)) == expected


@pytest.mark.parametrize(("opened_s", "why"), [(-100, DISCONNECTED), (60, DISCONNECTED), (61, "")])
def test_a_relay_that_opens_60_s_after_the_voltage_went_explains_it(opened_s: int, why: str) -> None:
    (one,) = told([(7, 0, OFF), (7, opened_s, OPENED)], HOUR, TOWN)["meter", 7]
    assert one.by_design == one.evidence.get("by_design", "") == why
    assert one.summary.endswith(f"; {why or 'no wider outage explains it'}")


def test_a_meter_alone_is_one_of_one() -> None:
    (one,) = told([(7, 0, OFF), (7, 700, ON)], HOUR, TOWN)["meter", 7]
    assert [one.evidence[name] for name in ("affected", "members", "meters")] == [1, 1, ["M7"]]
    assert one.summary == "Meter M7 was without supply for 11 min; no wider outage explains it"


@pytest.mark.parametrize(("closed_s", "why"), [(0, ""), (1, DISCONNECTED)])
def test_a_relay_that_is_closed_when_the_voltage_goes_explains_nothing(closed_s: int, why: str) -> None:
    (one,) = told([(7, -500, OPENED), (7, 0, OFF), (7, closed_s, CLOSED)], HOUR, TOWN)["meter", 7]
    assert one.by_design == why


def test_who_is_off_on_purpose_is_told_beside_an_outage_and_is_no_evidence_of_it() -> None:
    found = told([*GONE, (20, -500, OPENED), (20, 0, OFF)], HOUR, TOWN)
    assert found["meter", 20][0].by_design == DISCONNECTED
    assert found["transformer", 0][0].evidence["affected"] == 18


@pytest.mark.parametrize(("back", "stage"), [(8, CONFIRMED), (9, RESTORING)])
def test_supply_is_coming_back_when_half_of_those_off_have_it(back: int, stage: str) -> None:
    votes = [*GONE, *((slot, 1000, ON) for slot in range(back))]
    assert told(votes, HOUR, TOWN)["transformer", 0][0].evidence["stage"] == stage
    assert told(votes, 999, TOWN)["transformer", 0][0].evidence["stage"] == CONFIRMED


@pytest.mark.parametrize(("from_s", "episodes"), [(760, 1), (761, 0)])
def test_what_ended_before_the_span_asked_for_is_left_out(from_s: int, episodes: int) -> None:
    votes, members = evidence([(7, 0, OFF), (7, 700, ON)]), Tree(TOWN).members("feeder", 0)
    verdicts, due_us = judge(votes, members, TOWN, T0 + HOUR * US, P, T0 + from_s * US)
    assert [len(v.episodes) for v in verdicts if (v.asset_kind, v.asset_id) == ("meter", 7)] == [episodes]
    assert due_us is None


def test_when_to_ask_again_is_when_the_first_of_what_waits_is_told() -> None:
    members = Tree(TOWN).members("feeder", 0)
    votes = evidence([(7, 0, OFF), (40, 30, OFF), (7, 280, ON)])
    dues = [judge(votes, members, TOWN, T0 + now_s * US, P, T0 - HOUR * US)[1] for now_s in (0, 29, 30, 279, 280, 330)]
    assert [None if due is None else (due - T0) // US for due in dues] == [30, 30, 280, 280, 330, None]


def test_of_a_feeder_30_percent_of_its_transformers_and_two_at_least_make_its_outage() -> None:
    gone = [(slot, 0, OFF) for slot in range(90)]
    assert ("feeder", 0) in told(gone, HOUR, TOWN)
    assert ("feeder", 0) not in told(gone[:60], HOUR, TOWN)
    small = town(feeders=1, transformers=3, meters=30)
    assert ("feeder", 0) not in told(gone[:30], HOUR, small)
    assert ("feeder", 0) in told(gone[:60], HOUR, small)
