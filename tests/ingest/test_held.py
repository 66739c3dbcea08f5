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


def refused(held: Held, head_end: str) -> bool:
    refusal = held.refusal(head_end)
    if refusal is None:
        with held.room(head_end):
            return False
    with pytest.raises(Overloaded) as raised, held.room(head_end):
        pass
    assert raised.value.reason == refusal.reason == "QUEUE_FULL"
    assert refusal.retry_after_s > 0
    return True


def test_a_head_end_has_so_many_calls_and_others_have_theirs() -> None:
    held = Held()
    with ExitStack() as taken:
        for _ in range(module.CALLS_MAX):
            taken.enter_context(held.room("HES-1"))
        assert refused(held, "HES-1")
        assert not refused(held, "HES-2")
    assert not refused(held, "HES-1")


def test_one_head_end_cannot_fill_the_queue_of_events() -> None:
    assert QUEUE_EVENTS_MAX >= 2 * module.CALLS_MAX


@given(st.lists(st.sampled_from("abc"), max_size=40), st.randoms())
def test_what_is_left_is_forgotten(steps: list[str], order: object) -> None:
    held, stacks = Held(), []
    for head_end in steps:
        stack = ExitStack()
        stack.enter_context(held.room(head_end))
        stacks.append(stack)
    order.shuffle(stacks)  # type: ignore[attr-defined]
    for stack in stacks:
        stack.close()
    assert not held._calls


def test_a_call_that_fails_gives_its_room_back() -> None:
    held = Held()
    with pytest.raises(KeyError), held.room("HES-1"):
        raise KeyError
    assert not held._calls
