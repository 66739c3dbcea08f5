"""Multipliers over time, beside a walk through the entries one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.dated import first_changes
from meterwatch.multipliers import Multipliers

Entry = tuple[int, int, int, float]
"""slot, from, to, multiplier."""


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    found: list[Entry] = []
    for slot in draw(st.lists(st.integers(0, 9), unique=True).map(sorted)):
        borders = draw(st.lists(st.integers(0, 50), min_size=2, max_size=7, unique=True).map(sorted))
        for since, until in pairwise(borders):
            if draw(st.booleans()):  # else 1 in between
                found.append((slot, since, until, draw(st.sampled_from([2.0, 40.0, 0.5]))))
    return found


def by_hand(history: list[Entry], slot: int, end: int) -> float:
    return next((value for of, since, until, value in history if of == slot and since < end <= until), 1.0)


def multipliers_of(history: list[Entry]) -> Multipliers:
    columns = list(zip(*history, strict=True)) or [[], [], [], []]
    return Multipliers(
        np.array(columns[0], np.int32),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.int64),
        np.array(columns[3], np.float32),
    )


@given(histories(), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 55)), max_size=40))
def test_a_read_is_taken_with_the_multiplier_of_its_own_time(
    history: list[Entry], reads: list[tuple[int, int]]
) -> None:
    multipliers = multipliers_of(history)
    slot, end_us = (np.array([read[i] for read in reads], np.int64) for i in (0, 1))
    assert multipliers.at(slot, end_us).tolist() == [by_hand(history, *read) for read in reads]


@given(histories(), histories())
def test_what_changes_of_a_meter_is_known_from_its_first_moment_on(before: list[Entry], after: list[Entry]) -> None:
    slots, from_us = first_changes(multipliers_of(before), multipliers_of(after))
    expected = {}
    for slot in range(10):
        differ = [end for end in range(1, 52) if by_hand(before, slot, end) != by_hand(after, slot, end)]
        if differ:
            expected[slot] = differ[0] - 1
    assert dict(zip(slots.tolist(), from_us.tolist(), strict=True)) == expected
