"""Knowledge of what is stored: what it calls absent is absent, whatever was forgotten, rolled back or loaded late."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.batch import Reads
from meterwatch.errors import StorageUnavailable
from storage import known as module
from storage.known import Doubtful, End, Known, Taken

Key = tuple[int, int]
"""slot, interval end"""
Keys = set[Key]
HORIZON_US = 3


def reads(keys: Keys) -> Reads:
    ordered = sorted(keys)
    slot = np.array([slot for slot, _ in ordered], np.int32)
    end_us = np.array([end for _, end in ordered], np.int64)
    return Reads(slot, end_us, 900, np.zeros(len(ordered), np.int32), {})


def suspected(keys: Keys, taken: Taken, number: int = 0) -> Keys:
    mask = taken.suspects[number]
    return set() if mask is None else {key for key, hit in zip(sorted(keys), mask, strict=True) if hit}


@dataclass
class World:
    """The table, and the groups and loads under way; the oracle is a plain set."""

    known: Known
    stored: Keys
    open: list[tuple[Keys, Taken]] = field(default_factory=list)
    loads: list[tuple[End, list[int]]] = field(default_factory=list)

    def begin(self, group: list[Keys]) -> None:
        held = set[Key]().union(*(keys for keys, _ in self.open))
        try:
            taken = self.known.take([reads(keys) for keys in group], wait_s=0)
        except StorageUnavailable:
            assert held & set().union(*group)
            return
        assert not held & set().union(*(keys for i, keys in enumerate(group) if i not in taken.apart))
        mine: Keys = set()
        for i, keys in enumerate(group):
            assert (i in taken.apart) == bool(keys & mine)
            if i not in taken.apart:
                assert keys & self.stored <= suspected(keys, taken, i)
                mine |= keys
        self.open.append((mine, taken))

    def end(self, number: int, commit: bool) -> None:
        keys, taken = self.open.pop(number % len(self.open))
        if commit:
            self.stored |= keys
        self.known.give_back(taken)

    def ask(self, keys: Keys) -> None:
        self.loads += [
            (end, [slot for slot, at in sorted(self.stored) if at == end_us])
            for end_us, end in self.known.to_load([reads(keys)])
        ]

    def answer(self, number: int, well: bool) -> None:
        end, slots = self.loads.pop(number % len(self.loads))
        self.known.loaded(end, np.array(slots, np.int32) if well else None)


keys = st.sets(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=12)
steps = st.one_of(
    st.tuples(st.just("begin"), st.lists(keys, min_size=1, max_size=3)),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("ask"), keys),
    st.tuples(st.just("answer"), st.integers(0, 9), st.booleans()),
)


@settings(max_examples=400, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 40), st.integers(0, HORIZON_US))),
    st.lists(steps, max_size=40),
    st.sampled_from([0, 600, 1 << 20]),
)
def test_what_is_not_suspected_is_not_stored(stored: Keys, done: list[tuple[object, ...]], bytes_max: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOAD_ROWS", 4)
        world = World(Known(HORIZON_US, bytes_max), set(stored))
        for step in done:
            match step:
                case ("begin", list() as group):
                    world.begin(group)
                case ("end", int() as number, bool() as commit) if world.open:
                    world.end(number, commit)
                case ("ask", set() as some):
                    world.ask(some)
                case ("answer", int() as number, bool() as well) if world.loads:
                    world.answer(number, well)


def test_a_new_end_is_known_to_be_empty_and_an_old_one_is_not() -> None:
    known = Known(HORIZON_US)
    assert known.take([reads({(1, HORIZON_US + 1)})]).suspects == [None]
    assert suspected({(1, HORIZON_US)}, known.take([reads({(1, HORIZON_US)})])) == {(1, HORIZON_US)}


def test_a_loaded_end_tells_the_stored_from_the_absent() -> None:
    known, some = Known(HORIZON_US), {(slot, 1) for slot in range(module.LOAD_ROWS)}
    [(_, end)] = known.to_load([reads(some)])
    known.loaded(end, np.array([7, 9], np.int32))
    assert suspected(some, known.take([reads(some)])) == {(7, 1), (9, 1)}
    assert known.to_load([reads(some)]) == []


def test_who_wants_a_read_that_is_being_written_waits_for_its_end() -> None:
    known, wanted = Known(0), {(1, 1)}
    first = known.take([reads(wanted | {(2, 1)})])
    other = known.take([reads({(3, 1)})])  # no read in common: no wait
    found: list[Taken] = []
    waiter = threading.Thread(target=lambda: found.append(known.take([reads(wanted)])))
    waiter.start()
    known.give_back(other)
    waiter.join(0.05)
    assert waiter.is_alive()
    known.give_back(first)
    waiter.join(10)
    assert suspected(wanted, found[0]) == wanted


def test_a_read_whose_commit_is_in_doubt_is_refused_until_that_is_settled() -> None:
    known, wanted = Known(0), reads({(1, 1)})
    taken = known.take([wanted])
    known.lose(taken)
    with pytest.raises(Doubtful):
        known.take([wanted])
    lost = known.lost()
    known.settled(lost)
    known.settled(lost)  # two writers may settle the same doubt
    assert known.take([wanted]).suspects[0] is not None


def test_memory_has_an_end_and_what_is_forgotten_is_not_called_absent() -> None:
    known = Known(0, bytes_max=1_000)
    for end_us in range(1, 100):
        known.give_back(known.take([reads({(79, end_us)})]))
    assert len(known) <= 4
    assert suspected({(5, 1)}, known.take([reads({(5, 1)})])) == {(5, 1)}
    assert known.take([reads({(5, 200)})]).suspects == [None]


def many(end_us: int, count: int, first: int = 0) -> Reads:
    return reads({(slot, end_us) for slot in range(first, first + count)})


def test_an_end_is_loaded_once_a_thousand_of_its_rows_were_asked_for_in_one_group_or_in_many() -> None:
    known = Known(HORIZON_US)
    assert known.to_load([many(1, 600), many(2, 999)]) == []
    assert [end_us for end_us, _ in known.to_load([many(1, 399, 600)])] == []
    assert [end_us for end_us, _ in known.to_load([many(1, 1), many(2, 1), many(HORIZON_US + 1, 2000)])] == [1, 2]


def test_of_ends_to_load_the_eight_with_most_rows_come_first() -> None:
    known = Known(100)
    group = [many(end_us, 1000 + end_us) for end_us in range(1, 11)]
    assert [end_us for end_us, _ in known.to_load(group)] == [10, 9, 8, 7, 6, 5, 4, 3]


def test_a_load_that_failed_tells_nothing_and_is_asked_for_again() -> None:
    known, some = Known(HORIZON_US), many(1, 1000)
    [(_, end)] = known.to_load([some])
    known.loaded(end, None)
    taken = known.take([some])
    assert taken.suspects[0] is not None
    assert taken.suspects[0].all()
    known.give_back(taken)
    assert [end_us for end_us, _ in known.to_load([some])] == [1]


def test_what_was_written_while_an_end_was_loaded_is_stored_though_the_answer_lacks_it() -> None:
    known, some = Known(HORIZON_US), many(1, 1000)
    [(_, end)] = known.to_load([some])
    known.give_back(known.take([reads({(4000, 1)})]))
    known.loaded(end, np.array([7], np.int32))
    asked = {(7, 1), (8, 1), (4000, 1)}
    assert suspected(asked, known.take([reads(asked)])) == {(7, 1), (4000, 1)}


def test_an_end_that_is_loaded_or_written_is_not_forgotten_and_is_when_nobody_holds_it() -> None:
    known = Known(HORIZON_US, bytes_max=0)
    [(_, end)] = known.to_load([many(1, 1000)])
    taken = known.take([reads({(1, 2)}), reads({(2, 2), (3, 1)})])
    assert len(known) == 2
    known.loaded(end, np.array([7], np.int32))
    assert len(known) == 2, "its rows are being written"
    known.give_back(taken)
    assert len(known) == 0
    later = known.take([reads({(1, HORIZON_US + 1)})])
    known.give_back(later)
    again = {(1, HORIZON_US + 1)}
    assert suspected(again, known.take([reads(again)])) == again, "forgotten, so not called absent"
