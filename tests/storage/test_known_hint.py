"""Where a unique index has the last word: what is known may be too much, never anything but what was taken."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.batch import Reads
from storage.known import Known
from storage.slot_bits import END_BYTES, Mask

Keys = list[tuple[int, int]]


def reads(keys: Keys) -> Reads:
    slot = np.array([slot for slot, _ in keys], np.int32)
    end_us = np.array([end for _, end in keys], np.int64)
    return Reads(slot, end_us, 900, np.zeros(len(keys), np.int32), {})


def written(known: Known, keys: Keys) -> Mask | None:
    """Its suspects, before it was written."""
    taken = known.take([reads(keys)])
    known.give_back(taken)
    return taken.suspects[0]


keys = st.lists(st.tuples(st.integers(0, 70) | st.integers(0, 100_000), st.integers(0, 5)), min_size=1, max_size=40)


@given(st.lists(keys, max_size=6), keys)
def test_what_was_written_is_suspected_and_nothing_else(added: list[Keys], asked: Keys) -> None:
    known = Known(None)
    for some in added:
        written(known, some)
    there = {key for some in added for key in some}
    mask = written(known, asked)
    assert (mask.tolist() if mask is not None else [False] * len(asked)) == [key in there for key in asked]


@given(st.lists(keys, min_size=1, max_size=6))
def test_batches_that_go_together_have_no_read_in_common(group: list[Keys]) -> None:
    taken = Known(None).take([reads(some) for some in group])
    together = [set(some) for number, some in enumerate(group) if number not in taken.apart]
    assert sum(map(len, together)) == len(set().union(*together))
    for number in taken.apart:  # and none is set apart without need
        assert set(group[number]) & set().union(*together)


def test_who_has_a_read_that_is_being_written_waits_and_nobody_else_does() -> None:
    known = Known(None)
    first = known.take([reads([(1, 10), (2, 10)])])
    known.give_back(known.take([reads([(3, 10), (1, 11)])]))
    came: list[Mask | None] = []
    other = threading.Thread(target=lambda: came.append(written(known, [(2, 10), (4, 10)])))
    other.start()
    other.join(0.05)
    assert other.is_alive()
    known.give_back(first)
    other.join(30)
    assert [mask.tolist() for mask in came if mask is not None] == [[True, False]]


def test_the_longest_unused_interval_ends_are_forgotten_first_and_copied_unseen_again() -> None:
    known = Known(None, bytes_max=2 * (10 + END_BYTES))
    written(known, [(79, 1)])  # 10 bytes
    written(known, [(79, 2)])
    assert written(known, [(79, 1)]) is not None  # used: now 2 is the longest unused
    written(known, [(79, 3)])
    assert len(known) == 2
    assert written(known, [(79, 2)]) is None


def test_the_ends_themselves_count_where_few_meters_have_each() -> None:
    known = Known(None, bytes_max=100 * (1 + END_BYTES))
    for end_us in range(10_000):
        written(known, [(3, end_us)])
        written(known, [(4, end_us)])  # one that is there already costs nothing
    assert len(known) == 100
    assert written(known, [(3, 9_900)]) is not None
    assert written(known, [(3, 9_899)]) is None


def test_nothing_is_a_question_too() -> None:
    assert written(Known(None), []) is None
