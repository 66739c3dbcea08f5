"""Whom we could not hear: those that wait for us, everybody while nothing is stored, everybody where time leapt."""

from __future__ import annotations

from meterwatch.hearing import BEHIND_S, Hearing


class Time:
    s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_head_end_is_not_heard_while_its_oldest_batch_waits_too_long() -> None:
    time = Time()
    hearing = Hearing(monotonic=time)
    hearing.sent(1)
    time.s += BEHIND_S
    hearing.sent(1)
    hearing.sent(2)
    assert hearing.deaf_to([1, 2]) == frozenset()
    time.s += 0.1
    assert hearing.deaf_to([1, 2]) == {1}
    hearing.answered(1)
    assert hearing.deaf_to([1, 2]) == frozenset()


def test_nobody_is_heard_while_nothing_can_be_stored() -> None:
    hearing = Hearing()
    hearing.failing = True
    assert hearing.deaf_to([1, 2]) == {1, 2}
    hearing.failing = False
    assert hearing.deaf_to([1, 2]) == frozenset()


def test_nobody_was_heard_where_time_leapt() -> None:
    hearing = Hearing()
    assert hearing.deaf_to([1, 2], leapt=True) == {1, 2}
    assert hearing.deaf_to([1, 2]) == frozenset()
