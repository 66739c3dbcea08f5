"""Whom we could not hear: those that wait for us, everybody while nothing is stored, everybody after a sleep."""

from __future__ import annotations

from meterwatch.hearing import BEHIND_S, STOOD_STILL_US, Hearing


class Time:
    s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_head_end_is_not_heard_while_its_oldest_batch_waits_too_long() -> None:
    time = Time()
    hearing = Hearing(real=True, monotonic=time)
    hearing.sent(1)
    time.s += BEHIND_S
    hearing.sent(1)
    hearing.sent(2)
    assert hearing.deaf_to([1, 2], 0) == frozenset()
    time.s += 0.1
    assert hearing.deaf_to([1, 2], 0) == {1}
    hearing.answered(1)
    assert hearing.deaf_to([1, 2], 0) == frozenset()


def test_nobody_is_heard_while_nothing_can_be_stored() -> None:
    hearing = Hearing(real=True)
    hearing.failing = True
    assert hearing.deaf_to([1, 2], 0) == {1, 2}
    hearing.failing = False
    assert hearing.deaf_to([1, 2], 0) == frozenset()


def test_nobody_was_heard_while_the_machine_slept() -> None:
    hearing = Hearing(real=True)
    assert hearing.deaf_to([1], 10) == frozenset()
    assert hearing.deaf_to([1], 10 + STOOD_STILL_US) == frozenset()
    assert hearing.deaf_to([1], 11 + 2 * STOOD_STILL_US) == {1}
    assert hearing.deaf_to([1], 12 + 2 * STOOD_STILL_US) == frozenset()


def test_a_replayed_clock_may_jump() -> None:
    hearing = Hearing(real=False)
    assert hearing.deaf_to([1], 0) == frozenset()
    assert hearing.deaf_to([1], 10 * STOOD_STILL_US) == frozenset()
