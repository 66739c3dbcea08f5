"""The hint: it may say too much, never anything but what was added; and its memory has an end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.batch import Reads
from storage.seen import Seen
from storage.slot_bits import END_BYTES

Keys = list[tuple[int, int]]


def reads(keys: Keys) -> Reads:
    slot = np.array([slot for slot, _ in keys], np.int32)
    end_us = np.array([end for _, end in keys], np.int64)
    return Reads(slot, end_us, 900, np.zeros(len(keys), np.int32), {})


keys = st.lists(st.tuples(st.integers(0, 70) | st.integers(0, 100_000), st.integers(0, 5)), min_size=1, max_size=40)


@given(st.lists(keys, max_size=6), keys)
def test_what_was_added_is_suspected_and_nothing_else(added: list[Keys], asked: Keys) -> None:
    seen = Seen()
    for some in added:
        seen.add(reads(some))
    known = {key for some in added for key in some}
    mask = seen.ask(reads(asked))
    assert (mask.tolist() if mask is not None else [False] * len(asked)) == [key in known for key in asked]


def test_the_longest_unused_interval_ends_are_forgotten_first() -> None:
    seen = Seen(bytes_max=2 * (10 + END_BYTES))
    seen.add(reads([(79, 1)]))  # 10 bytes
    seen.add(reads([(79, 2)]))
    assert seen.ask(reads([(79, 1)])) is not None  # used: now 2 is the longest unused
    seen.add(reads([(79, 3)]))
    assert seen.ask(reads([(79, 2)])) is None
    assert seen.ask(reads([(79, 1)])) is not None
    assert len(seen) == 2


def test_the_ends_themselves_count_where_few_meters_have_each() -> None:
    seen = Seen(bytes_max=100 * (1 + END_BYTES))
    for end_us in range(10_000):
        seen.add(reads([(3, end_us)]))
        seen.add(reads([(4, end_us)]))  # one that is there already costs nothing
    assert len(seen) == 100
    assert [seen.ask(reads([(3, end_us)])) is not None for end_us in (9_899, 9_900)] == [False, True]


def test_nothing_is_a_question_too() -> None:
    seen = Seen()
    seen.add(reads([]))
    assert seen.ask(reads([])) is None
