"""Laws of the queue: order within a stream, fairness between streams, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.turns import Turns

sent = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=60)


def filled(items: list[tuple[int, int]]) -> Turns[int]:
    turns: Turns[int] = Turns()
    for number, (stream, rows) in enumerate(items):
        turns.add((stream, 1), number, rows)
    return turns


@given(sent)
def test_everything_leaves_once_and_each_stream_in_its_order(items: list[tuple[int, int]]) -> None:
    turns = filled(items)
    out = []
    while turns:
        first, _ = turns.peek()
        out.append(turns.take())
        assert out[-1] == first
    assert sorted(out) == list(range(len(items)))
    for stream in range(4):
        own = [number for number in out if items[number][0] == stream]
        assert own == sorted(own)
        assert turns.rows_of((stream, 1)) == 0


@given(sent)
def test_of_streams_that_wait_none_is_more_than_a_batch_ahead(items: list[tuple[int, int]]) -> None:
    turns = filled(items)
    left = {stream: [rows for s, rows in items if s == stream] for stream in range(4)}
    served, most = dict.fromkeys(range(4), 0), max((rows for _, rows in items), default=0)
    while turns:
        stream, rows = items[turns.take()]
        served[stream] += rows
        left[stream].pop(0)
        waiting = [served[s] for s in range(4) if left[s]]
        assert not waiting or max(waiting) - min(waiting) <= most


def test_a_stream_that_floods_delays_another_by_one_batch() -> None:
    turns = filled([(0, 10_000)] * 100)
    turns.take()
    turns.add((1, 1), -1, 1_000)
    assert -1 in (turns.take(), turns.take())


def test_who_comes_back_after_a_pause_has_saved_nothing_up() -> None:
    turns = filled([(0, 10)] * 50)
    for _ in range(40):
        turns.take()
    for _ in range(40):
        turns.add((1, 1), -1, 10)
    assert [turns.take() for _ in range(8)].count(-1) in (4, 5)


def test_what_is_put_back_is_next_of_its_stream() -> None:
    turns = filled([(0, 1), (0, 1)])
    turns.put_back((0, 1), [(7, 1), (8, 1)])
    assert [turns.take() for _ in range(4)] == [7, 8, 0, 1]
    turns.put_back((0, 1), [])
    assert not turns
    with pytest.raises(IndexError):
        turns.peek()
