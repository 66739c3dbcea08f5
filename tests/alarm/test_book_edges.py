"""The alarm book to the moment: where each of its limits lies, and which alarm an episode is taken for."""

from __future__ import annotations

import pytest
from alarm_cases import at, episode, names, verdict
from test_book import DAY, acknowledge, kinds, step

from alarm.book import Book
from meterwatch.alarms import AlarmState


@pytest.mark.parametrize(("late_us", "state"), [(0, "RTN_UNACK"), (1, "NORMAL")])
def test_what_ended_a_day_ago_calls_for_somebody_and_a_moment_more_is_history(late_us: int, state: str) -> None:
    (draft,) = Book([], names()).reconcile([verdict(episode(10, 20))], at(20 + DAY) + late_us)
    assert (draft.kind, draft.alarm.state) == ("RAISED", state)


@pytest.mark.parametrize(("late_us", "state"), [(0, "UNACK_ACTIVE"), (1, "NORMAL")])
def test_what_lasts_calls_for_somebody_for_45_days_unseen_and_then_is_history(late_us: int, state: str) -> None:
    for unseen in (episode(10), episode(10, seen_us=at(10.5))):
        (draft,) = Book([], names()).reconcile([verdict(unseen)], at(11 + 45 * DAY) + late_us)
        assert (draft.kind, draft.alarm.state) == ("RAISED", state)


def test_history_that_lasts_calls_once_it_was_seen_within_a_day() -> None:
    book = Book([], names())
    step(book, verdict(episode(10, seen_us=at(100))), minute=50 * DAY)
    seen = verdict(episode(10, seen_us=at(49 * DAY)))
    assert book.reconcile([seen], at(50 * DAY) + 1) == []
    assert kinds(book.reconcile([seen], at(50 * DAY))) == ["REOPENED"]


def test_what_is_folded_goes_under_the_root_that_stands_or_else_under_the_latest() -> None:
    book = Book([], names())
    early, late = (draft.alarm for draft in step(book, verdict(episode(1), episode(10, 20), kind="feeder")))
    child = verdict(episode(10, parent=("feeder", 0)))
    step(book, verdict(episode(10)))
    assert book.reconcile([child], at(30))[0].alarm.parent_id == early.alarm_id
    step(book, verdict(episode(1, 8), episode(10, 20), kind="feeder"))
    assert book.reconcile([child], at(30))[0].alarm.parent_id == late.alarm_id


def test_what_is_finished_stays_for_72_hours_after_its_end_and_is_forgotten_then() -> None:
    book = Book([], names())
    (draft,) = step(book, verdict(episode(1, 5)))
    acknowledge(book, draft.alarm.alarm_id)
    step(book, minute=5 + 72 * 60)
    assert len(list(book)) == 1
    step(book, minute=5 + 72 * 60 + 61)
    assert list(book) == []


def test_an_alarm_held_open_for_longer_than_its_rule_says_is_compared_by_what_the_rule_says() -> None:
    book = Book([], names())
    step(book, verdict(episode(10, 20, evidence={"affected": 100, "held_s": 300})))
    assert step(book, verdict(since=16)) == []
    assert kinds(step(book, verdict(since=15))) == ["RETRACTED"]


def test_what_touches_is_the_same_fault_and_what_does_not_is_another() -> None:
    book = Book([], names())
    first = step(book, verdict(episode(10, 20)))[0].alarm
    (draft,) = book.reconcile([verdict(episode(20, 30))], at(40))
    assert (draft.kind, draft.alarm.alarm_id) == ("AMENDED", first.alarm_id)
    assert kinds(book.reconcile([verdict(episode(20.1, 30))], at(40))) == ["RAISED", "RETRACTED"]


def test_a_verdict_on_a_span_takes_back_what_began_in_it_alone() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    assert book.reconcile([verdict(until_us=at(10))], at(30)) == []
    assert kinds(book.reconcile([verdict(until_us=at(10) + 1)], at(30))) == ["RETRACTED"]


def test_of_two_alarms_the_one_that_began_as_the_episode_did_is_its_and_else_the_one_that_shares_more() -> None:
    book = Book([], names())
    early, late = (draft.alarm for draft in step(book, verdict(episode(1, 10), episode(12, 14))))
    (same, gone) = book.reconcile([verdict(episode(12, 20))], at(30))
    assert (same.alarm.alarm_id, gone.alarm.alarm_id) == (late.alarm_id, early.alarm_id)
    (more, gone) = book.reconcile([verdict(episode(2, 13))], at(30))
    assert (more.alarm.alarm_id, gone.alarm.alarm_id) == (early.alarm_id, late.alarm_id)


def test_of_those_that_wait_to_be_acknowledged_the_ones_that_ended_first_lapse_beyond_the_limit() -> None:
    book = Book([], names(), unacknowledged_max=2)
    step(book, *(verdict(episode(1, 10 - i), asset_id=i) for i in range(2)))
    assert book.lapse() == []
    step(book, verdict(episode(1, 9.5), asset_id=2))
    (draft,) = book.lapse()
    assert (draft.kind, draft.alarm.asset, draft.alarm.state) == ("LAPSED", "T1", AlarmState.NORMAL)
    book.apply([draft.alarm])
    assert book.lapse() == []
