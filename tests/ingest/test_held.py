"""Room for single calls: where each limit is, that room comes back, and that nobody takes another's."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import held as module
from ingest.held import Held
from meterwatch.errors import Overloaded
from meterwatch.pipeline import QUEUE_EVENTS_MAX


def refused(held: Held, head_end: str, size: int) -> bool:
    refusal = held.refusal(head_end, size)
    if refusal is None:
        with held.room(head_end, size):
            return False
    with pytest.raises(Overloaded) as raised, held.room(head_end, size):
        pass
    assert raised.value.reason == refusal.reason == "QUEUE_FULL"
    assert refusal.retry_after_s > 0
    return True


def test_a_head_end_has_so_many_calls_and_others_have_theirs() -> None:
    held = Held()
    with ExitStack() as taken:
        for _ in range(module.CALLS_MAX):
            taken.enter_context(held.room("HES-1", 1))
        assert refused(held, "HES-1", 1)
        assert not refused(held, "HES-2", 1)
    assert not refused(held, "HES-1", 1)


def test_a_head_end_and_all_together_have_so_many_bytes() -> None:
    held = Held()
    with ExitStack() as taken:
        for number in range(module.ALL_BYTES_MAX // module.BYTES_MAX):
            assert not refused(held, f"HES-{number}", module.BYTES_MAX)
            taken.enter_context(held.room(f"HES-{number}", module.BYTES_MAX))
            assert refused(held, f"HES-{number}", 1)
        assert refused(held, "HES-other", 1)
    assert not refused(held, "HES-other", module.BYTES_MAX)


def test_one_head_end_cannot_fill_the_queue_of_events() -> None:
    assert QUEUE_EVENTS_MAX >= 2 * module.CALLS_MAX


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40), st.randoms())
def test_what_is_left_is_forgotten(steps: list[tuple[str, int]], order: object) -> None:
    held, stacks = Held(), []
    for head_end, size in steps:
        stack = ExitStack()
        stack.enter_context(held.room(head_end, size))
        stacks.append(stack)
    order.shuffle(stacks)  # type: ignore[attr-defined]
    for stack in stacks:
        stack.close()
    assert not held._calls
    assert not held._bytes


def test_a_call_that_fails_gives_its_room_back() -> None:
    held = Held()
    with pytest.raises(KeyError), held.room("HES-1", 5):
        raise KeyError
    assert not held._calls
