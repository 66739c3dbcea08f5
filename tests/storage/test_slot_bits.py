"""The rows of a batch by interval end, whatever their order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.slot_bits import SCATTER, by_end, distinct


@given(st.lists(st.integers(0, 5), max_size=40), st.booleans())
def test_every_row_is_under_its_end_and_no_end_comes_twice(ends: list[int], ordered: bool) -> None:
    end_us = np.array(sorted(ends) if ordered else ends, np.int64)
    found = [(end, np.arange(len(end_us))[rows].tolist()) for end, rows in by_end(end_us)]
    assert found == [(end, np.flatnonzero(end_us == end).tolist()) for end in sorted(set(ends))]


@given(st.lists(st.integers(0, 2000 * SCATTER) | st.integers(0, 30), min_size=1, max_size=40))
def test_slots_are_distinct_if_none_comes_twice(slots: list[int]) -> None:
    assert distinct(np.array(slots, np.int32)) == (len(set(slots)) == len(slots))
