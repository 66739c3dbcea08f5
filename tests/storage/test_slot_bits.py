"""The rows of a batch by interval end, whatever their order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.slot_bits import NO_BITS, SCATTER, by_end, distinct, has, put, roomy


@given(st.lists(st.integers(0, 5), max_size=40), st.booleans())
def test_every_row_is_under_its_end_and_no_end_comes_twice(ends: list[int], ordered: bool) -> None:
    end_us = np.array(sorted(ends) if ordered else ends, np.int64)
    found = [(end, np.arange(len(end_us))[rows].tolist()) for end, rows in by_end(end_us)]
    assert found == [(end, np.flatnonzero(end_us == end).tolist()) for end in sorted(set(ends))]


@given(st.lists(st.integers(0, 2000 * SCATTER) | st.integers(0, 30), min_size=1, max_size=40))
def test_slots_are_distinct_if_none_comes_twice(slots: list[int]) -> None:
    assert distinct(np.array(slots, np.int32)) == (len(set(slots)) == len(slots))


slots = st.lists(st.integers(0, 40) | st.integers(0, 3000), max_size=30)


@given(st.lists(slots, max_size=5), slots)
def test_bits_are_a_set_of_slots_however_far_apart_they_lie(added: list[list[int]], asked: list[int]) -> None:
    bits, there = NO_BITS, set[int]()
    for some in added:
        slot = np.array(some, np.int32)
        before, bits = bits, roomy(bits, slot)
        assert bits[: len(before)].tolist() == before.tolist()
        put(bits, slot)
        there.update(some)
    assert has(bits, np.array(asked, np.int32)).tolist() == [slot in there for slot in asked]
    assert np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist() == sorted(there)


def test_room_for_one_slot_more_is_room_for_twice_as_many_and_room_there_is_is_not_made_anew() -> None:
    bits = roomy(NO_BITS, np.array([7], np.int32))
    assert len(bits) == 1
    assert roomy(bits, np.array([7], np.int32)) is bits
    assert len(roomy(bits, np.array([8], np.int32))) == 2
    assert len(roomy(np.zeros(10, np.uint8), np.array([80], np.int32))) == 20
    assert len(roomy(np.zeros(10, np.uint8), np.array([799], np.int32))) == 100
