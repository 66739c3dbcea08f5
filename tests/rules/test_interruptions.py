"""Interruptions against a scalar oracle, and the law of event time for them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from towns import town

from meterwatch.clock import US
from rules.interruptions import Heard, interruptions
from rules.profile import OutageProfile
from rules.supply import CLOSED, NEVER, OFF, ON, OPENED, Evidence

PROFILE = OutageProfile(restore_hold_s=60)
METERS = 4
NOW_S = 100_000
Vote = tuple[int, int, int]
"""slot, seconds, vote"""
TOWN = town(feeders=1, transformers=1, meters=METERS)
votes = st.lists(
    st.tuples(st.integers(0, METERS - 1), st.integers(0, 40).map(lambda n: 1_000 + 20 * n), st.sampled_from([OFF, ON])),
    max_size=30,
)


def heard(told: list[Vote], now_s: int = NOW_S, from_s: int = 0) -> Heard:
    slot, at_s, vote = (np.array(column) for column in zip(*told, strict=True)) if told else (np.zeros(0),) * 3
    evidence = Evidence(slot.astype(np.int32), at_s.astype(np.int64) * US, vote.astype(np.int8))
    slots = np.arange(METERS, dtype=np.int32)
    return Heard(("feeder", 0), slots, from_s * US, evidence, TOWN, now_s * US)


def found(one: Heard) -> list[tuple[int, int, int | None]]:
    slot, start_us, end_us = interruptions(one, PROFILE)
    return [
        (s, a // US, None if b == NEVER else b // US)
        for s, a, b in zip(slot.tolist(), start_us.tolist(), end_us.tolist(), strict=True)
    ]


def oracle(told: list[Vote]) -> list[tuple[int, int, int | None]]:
    """Meter by meter, vote by vote: off at the first OFF, on again when an ON has held for restore_hold."""
    out = []
    for slot in range(METERS):
        off_s: int | None = None
        back_s: int | None = None
        for at_s, vote in sorted({(at_s, vote) for s, at_s, vote in told if s == slot}):
            if vote == OFF:
                if off_s is not None and back_s is not None and at_s >= back_s + PROFILE.restore_hold_s:
                    out.append((slot, off_s, back_s))
                    off_s = None
                back_s = None
                if off_s is None:
                    off_s = at_s
            elif off_s is not None and back_s is None:
                back_s = at_s
        if off_s is not None:
            out.append((slot, off_s, back_s))
    return out


@given(votes)
def test_interruptions_are_those_of_a_meter_looked_at_vote_by_vote(told: list[Vote]) -> None:
    assert found(heard(told)) == oracle(told)


@given(votes, st.integers(0, 9))
def test_order_and_repeats_of_votes_change_no_interruption(told: list[Vote], seed: int) -> None:
    shuffled = [*told, *told]
    random.Random(seed).shuffle(shuffled)
    assert found(heard(shuffled)) == found(heard(told))


def test_votes_of_the_future_are_not_heard_yet() -> None:
    told = [(0, 1_000, OFF), (0, 2_000, ON)]
    assert found(heard(told, now_s=1_500)) == [(0, 1_000, None)]
    assert found(heard(told, now_s=2_000)) == [(0, 1_000, 2_000)]


def test_a_meter_taken_away_is_interrupted_no_longer() -> None:
    retired_us = TOWN.retired_us.copy()
    retired_us[1] = 5_000 * US
    told = replace(heard([(1, 1_000, OFF)]), topology=replace(TOWN, retired_us=retired_us))
    assert found(told) == [(1, 1_000, 5_000)]
    assert found(replace(told, now_us=4_000 * US)) == [(1, 1_000, None)]


def test_a_customer_whose_relay_is_open_is_not_interrupted() -> None:
    cut_off = [(0, 1_000, OPENED), (0, 1_010, OFF), (0, 3_000, CLOSED), (0, 3_010, ON)]
    assert found(heard(cut_off)) == []
    assert found(heard([*cut_off, (1, 1_010, OFF), (0, 5_000, OFF)])) == [(0, 5_000, None), (1, 1_010, None)]
