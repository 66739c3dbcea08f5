"""Laws of the alarm book."""

from __future__ import annotations

from dataclasses import replace

import pytest
from alarm_cases import ack, at, episode, names, verdict
from hypothesis import given
from hypothesis import strategies as st

from alarm.book import KEEP_US, NEXT, Book
from meterwatch.alarms import AlarmState, Draft
from meterwatch.episodes import Severity, Verdict
from meterwatch.errors import Missing, Rejected, Stale


def step(book: Book, *verdicts: Verdict, minute: float = 30) -> list[Draft]:
    drafts = book.reconcile(verdicts, at(minute))
    book.apply([draft.alarm for draft in drafts])
    return drafts


def kinds(drafts: list[Draft]) -> list[str]:
    return [draft.kind.value for draft in drafts]


def acknowledge(book: Book, alarm_id: str, version: int = 0) -> AlarmState:
    draft = book.act(ack(alarm_id), version, at(31))
    book.apply([draft.alarm])
    return draft.alarm.state


def test_the_same_verdict_twice_makes_no_transition() -> None:
    book = Book([], names())
    assert kinds(step(book, verdict(episode(10)))) == ["RAISED"]
    assert step(book, verdict(episode(10)), minute=40) == []


def test_reconcile_alone_changes_nothing() -> None:
    book = Book([], names())
    assert book.reconcile([verdict(episode(10))], at(30)) == book.reconcile([verdict(episode(10))], at(30))
    assert list(book) == []


def test_a_new_alarm_carries_names_and_a_deterministic_id() -> None:
    alarm = step(Book([], names()), verdict(episode(10), asset_id=2))[0].alarm
    again = step(Book([], names()), verdict(episode(10), asset_id=2), minute=55)[0].alarm
    assert (alarm.asset, alarm.feeder, alarm.district) == ("T2", "F0", "South")
    assert alarm.alarm_id == again.alarm_id
    assert alarm.alarm_id.startswith("OUT-")


def test_an_episode_already_over_is_born_closed() -> None:
    (draft,) = step(Book([], names()), verdict(episode(10, 20)))
    assert (draft.kind, draft.alarm.state) == ("RAISED", AlarmState.RTN_UNACK)


DAY = 24 * 60


def test_what_an_old_file_tells_is_history_and_pages_nobody() -> None:
    book = Book([], names())
    (ended,) = step(book, verdict(episode(10, 20)), minute=20 + DAY + 1)
    assert (ended.kind, ended.alarm.state) == ("RAISED", AlarmState.NORMAL)
    (never_ended,) = step(book, verdict(episode(10), asset_id=1), minute=46 * DAY)
    assert (never_ended.alarm.state, never_ended.alarm.cleared_us) == (AlarmState.NORMAL, None)
    assert step(book, verdict(episode(10), asset_id=1, since=46 * DAY), minute=60 * DAY) == []
    assert never_ended.alarm in list(book), "what lasts is not forgotten"
    (over,) = step(book, verdict(episode(10, 61 * DAY), asset_id=1), minute=61 * DAY)
    assert (over.kind, over.alarm.state, over.alarm.cleared_us) == ("CLEARED", AlarmState.NORMAL, at(61 * DAY))


def test_what_an_old_file_began_to_tell_pages_when_it_has_caught_up_with_now() -> None:
    book = Book([], names())
    (raised,) = step(book, verdict(episode(10, seen_us=at(100))), minute=50 * DAY)
    assert step(book, verdict(episode(10, seen_us=at(48 * DAY))), minute=50 * DAY) == []
    (live,) = step(book, verdict(episode(10, seen_us=at(50 * DAY))), minute=50 * DAY)
    assert (live.kind, live.alarm.state, live.alarm.alarm_id) == ("REOPENED", "UNACK_ACTIVE", raised.alarm.alarm_id)
    assert step(book, verdict(episode(10, seen_us=at(50 * DAY))), minute=99 * DAY) == []


def test_what_is_seen_now_pages_however_long_ago_it_was_raised() -> None:
    (draft,) = step(Book([], names()), verdict(episode(10, seen_us=at(50 * DAY))), minute=50 * DAY)
    assert (draft.kind, draft.alarm.state, draft.alarm.cleared_us) == ("RAISED", AlarmState.UNACK_ACTIVE, None)


def test_history_that_turns_out_to_last_is_told_so_and_pages_nobody() -> None:
    book = Book([], names())
    book.adopt(draft.alarm for draft in step(book, verdict(episode(10, 20)), minute=50 * DAY))  # the desk finds it
    (longer,) = step(book, verdict(episode(10)), minute=50 * DAY)
    assert (longer.kind, longer.alarm.state, longer.alarm.cleared_us) == ("REOPENED", AlarmState.NORMAL, None)
    step(book, verdict(), minute=50 * DAY)
    (again,) = step(book, verdict(episode(10)), minute=50 * DAY)
    assert (again.kind, again.alarm.state, again.alarm.cleared_us) == ("REOPENED", AlarmState.NORMAL, None)


@pytest.mark.parametrize("late_days", [0, 1, 3, 20, 44, 46, 400])
@pytest.mark.parametrize("cleared", [None, 40 * DAY])
def test_the_end_of_an_alarm_is_what_was_measured_whenever_it_is_told(late_days: int, cleared: int | None) -> None:
    book = Book([], names())
    step(book, verdict(episode(10)), minute=11 + late_days * DAY)
    step(book, verdict(episode(10, cleared)), minute=max(11 + late_days * DAY, 40 * DAY))
    [alarm] = list(book)
    assert (alarm.raised_us, alarm.cleared_us) == (at(11), None if cleared is None else at(cleared))


def test_an_alarm_that_lasts_stays_open_however_long() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    assert step(book, verdict(episode(10)), minute=100 * 24 * 60) == []
    assert [alarm.state for alarm in book] == [AlarmState.UNACK_ACTIVE]


def test_a_late_onset_amends_the_alarm_and_raises_no_second_one() -> None:
    book = Book([], names())
    first = step(book, verdict(episode(10)))[0].alarm
    (draft,) = step(book, verdict(episode(5)))
    assert (draft.kind, draft.alarm.alarm_id, draft.alarm.onset_us) == ("AMENDED", first.alarm_id, at(5))
    assert step(book, verdict(episode(5))) == []


@pytest.mark.parametrize(("acknowledged", "state"), [(False, "RTN_UNACK"), (True, "NORMAL")])
def test_clearing_ends_only_an_acknowledged_alarm(acknowledged: bool, state: str) -> None:
    book = Book([], names())
    alarm = step(book, verdict(episode(10)))[0].alarm
    if acknowledged:
        assert acknowledge(book, alarm.alarm_id) is AlarmState.ACK_ACTIVE
    (draft,) = step(book, verdict(episode(10, 20)))
    assert (draft.kind, draft.alarm.state) == ("CLEARED", state)
    (draft,) = step(book, verdict(episode(10)))
    assert (draft.kind, draft.alarm.state, draft.alarm.acknowledged_by) == ("REOPENED", "UNACK_ACTIVE", None)


def test_worse_than_acknowledged_needs_acknowledging_again() -> None:
    book = Book([], names())
    alarm = step(book, verdict(episode(10)))[0].alarm
    acknowledge(book, alarm.alarm_id)
    (draft,) = step(book, verdict(episode(10, severity=Severity.CRITICAL)))
    assert (draft.kind, draft.alarm.state) == ("SEVERITY", AlarmState.UNACK_ACTIVE)
    acknowledge(book, alarm.alarm_id)
    (draft,) = step(book, verdict(episode(10, severity=Severity.LOW)))
    assert (draft.kind, draft.alarm.state) == ("SEVERITY", AlarmState.ACK_ACTIVE)


def test_a_fault_that_never_was_is_retracted_once_and_may_come_back() -> None:
    book = Book([], names())
    first = step(book, verdict(episode(10)))[0].alarm
    assert step(book, verdict(retract=False)) == []
    assert kinds(step(book, verdict())) == ["RETRACTED"]
    assert step(book, verdict()) == []
    (draft,) = step(book, verdict(episode(10)))
    assert (draft.kind, draft.alarm.alarm_id, draft.alarm.version) == ("REOPENED", first.alarm_id, 3)


def test_what_ended_before_the_span_of_the_verdict_stays() -> None:
    book = Book([], names())
    step(book, verdict(episode(10, 20)))
    assert step(book, verdict(since=25)) == []


def test_two_episodes_of_one_asset_are_two_alarms() -> None:
    book = Book([], names())
    assert kinds(step(book, verdict(episode(1, 5), episode(10)))) == ["RAISED", "RAISED"]
    (draft,) = step(book, verdict(episode(1, 5), episode(10, 20)))
    assert (draft.kind, draft.alarm.onset_us) == ("CLEARED", at(10))


def test_evidence_alone_is_no_transition_until_it_grows_by_a_tenth() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    assert step(book, verdict(episode(10, evidence={"affected": 109}, summary="109"))) == []
    assert step(book, verdict(episode(10, evidence={"affected": 50}))) == []
    assert kinds(step(book, verdict(episode(10, evidence={"affected": 110})))) == ["AMENDED"]


def test_a_parent_suppresses_an_alarm_and_its_end_releases_it() -> None:
    book = Book([], names())
    child = step(book, verdict(episode(10)))[0].alarm
    folded = episode(10, parent=("feeder", 0))
    drafts = step(book, verdict(folded), verdict(episode(9), kind="feeder"), verdict(folded, asset_id=1))
    assert kinds(drafts) == ["RAISED", "SUPPRESSED"]
    assert drafts[1].alarm.alarm_id == child.alarm_id
    assert drafts[1].alarm.parent_id == drafts[0].alarm.alarm_id
    assert step(book, verdict(folded), verdict(episode(9), kind="feeder")) == []
    (draft,) = step(book, verdict(episode(10)))
    assert (draft.kind, draft.alarm.state, draft.alarm.parent_id) == ("UNSUPPRESSED", AlarmState.UNACK_ACTIVE, None)


def test_a_suppressed_alarm_that_clears_needs_nobody() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    step(book, verdict(episode(10, parent=("feeder", 0))))
    over = verdict(episode(10, 20, parent=("feeder", 0)))
    (draft,) = step(book, over)
    assert (draft.kind, draft.alarm.state) == ("CLEARED", AlarmState.NORMAL)
    assert step(book, over) == []


def test_what_is_over_comes_out_from_under_a_root_that_never_was_and_goes_under_one_known_late() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    root = verdict(episode(9), kind="feeder")
    folded = verdict(episode(10, 20, parent=("feeder", 0)))
    step(book, root, verdict(episode(10, parent=("feeder", 0))))
    step(book, root, folded)
    drafts = step(book, verdict(kind="feeder"), verdict(episode(10, 20)))
    assert kinds(drafts) == ["UNSUPPRESSED", "RETRACTED"]
    assert (drafts[0].alarm.state, drafts[0].alarm.parent_id) == (AlarmState.NORMAL, None)
    assert step(book, verdict(kind="feeder"), verdict(episode(10, 20))) == []
    drafts = step(book, root, folded)
    assert kinds(drafts) == ["REOPENED", "SUPPRESSED"]
    assert drafts[1].alarm.parent_id == drafts[0].alarm.alarm_id
    assert step(book, root, folded) == []


def test_the_onset_of_another_alarms_first_verdict_makes_a_new_id() -> None:
    book = Book([], names())
    first = step(book, verdict(episode(10)))[0].alarm
    step(book, verdict(episode(2)))
    step(book, verdict(episode(2, 5)))
    (draft,) = step(book, verdict(episode(2, 5), episode(10)))
    assert draft.kind == "RAISED"
    assert draft.alarm.alarm_id != first.alarm_id


def test_acknowledging_refuses_unknown_stale_and_finished() -> None:
    book = Book([], names())
    alarm = step(book, verdict(episode(10, 20)))[0].alarm
    with pytest.raises(Missing):
        acknowledge(book, "OUT-0")
    with pytest.raises(Stale):
        acknowledge(book, alarm.alarm_id, version=7)
    assert acknowledge(book, alarm.alarm_id, version=1) is AlarmState.NORMAL
    with pytest.raises(Rejected) as refused:
        acknowledge(book, alarm.alarm_id)
    assert refused.value.reason == "NOT_ACKNOWLEDGEABLE"


def test_finished_alarms_are_forgotten_after_the_horizon_and_open_ones_never() -> None:
    book = Book([], names())
    over, still = step(book, verdict(episode(1, 5)), verdict(episode(1, 5), asset_id=1))
    acknowledge(book, over.alarm.alarm_id)
    step(book, minute=30 + KEEP_US / 60_000_000)
    assert [alarm.alarm_id for alarm in book] == [still.alarm.alarm_id]


def test_every_state_but_retracted_can_be_retracted() -> None:
    assert {state for state, given_ in NEXT if given_.name == "RETRACT"} == set(AlarmState) - {AlarmState.RETRACTED}


attributes = st.tuples(st.sampled_from(Severity), st.none() | st.just(("feeder", 0)), st.integers(1, 300))
shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), attributes), max_size=4)


def disjoint(shape: list, last_open: bool) -> Verdict:  # type: ignore[type-arg]
    """A verdict of episodes with gaps between them, as rules state them."""
    minute, episodes = 0, []
    for i, (gap, lasts, (severity, parent, affected)) in enumerate(shape):
        onset, minute = minute + gap, minute + gap + lasts
        cleared = None if last_open and i == len(shape) - 1 else minute
        evidence = {"affected": affected}
        episodes.append(episode(onset, cleared, severity=severity, parent=parent, evidence=evidence))
    return verdict(*episodes)


@given(st.lists(st.tuples(shapes, st.booleans()), min_size=1, max_size=8))
def test_after_any_history_the_last_verdict_again_makes_nothing(history: list) -> None:  # type: ignore[type-arg]
    book = Book([], names())
    for shape, last_open in history:
        stated = disjoint(shape, last_open)
        versions = {alarm.alarm_id: alarm.version for alarm in book}
        for draft in step(book, stated, minute=60):
            assert draft.alarm.version == versions.get(draft.alarm.alarm_id, 0) + 1
        assert step(book, stated, minute=60) == []
        assert step(Book(list(book), names()), stated, minute=60) == []


def standing(book: Book) -> set[tuple[object, ...]]:
    """Alarms that are not retracted and speak for themselves, as the law of event time sees them."""
    return {
        (a.asset_kind, a.asset_id, a.onset_us, a.raised_us, a.cleared_us, a.severity)
        for a in book
        if a.state is not AlarmState.RETRACTED and a.parent_id is None
    }


@given(st.lists(st.tuples(shapes, st.booleans(), st.none() | st.integers(0, 9)), min_size=1, max_size=8))
def test_whatever_was_told_before_the_last_verdicts_alone_decide_what_stands(history: list) -> None:  # type: ignore[type-arg]
    book = Book([], names())
    for shape, last_open, root_minute in history:
        stated = disjoint(shape, last_open)
        if root_minute is None:
            episodes = tuple(replace(one, parent=None) for one in stated.episodes)
            verdicts = (verdict(kind="feeder"), replace(stated, episodes=episodes))
        else:
            verdicts = (verdict(episode(root_minute), kind="feeder"), stated)
        step(book, *verdicts, minute=60)
        fresh = Book([], names())
        step(fresh, *verdicts, minute=60)
        assert standing(book) == standing(fresh)


def test_an_alarm_taken_back_says_why() -> None:
    book = Book([], names())
    step(book, verdict(episode(10)))
    (draft,) = step(book, verdict(withdrawn="16 of 19 meters had supply"))
    assert draft.alarm.evidence["retracted_because"] == "16 of 19 meters had supply"
    assert draft.alarm.summary.startswith("Taken back: 16 of 19 meters had supply.")


def test_what_is_off_by_design_is_kept_pages_nobody_and_comes_out_when_it_is_not_any_more() -> None:
    book = Book([], names())
    (draft,) = step(book, verdict(episode(10, by_design="planned work W-1")))
    assert (draft.kind, draft.alarm.state, draft.alarm.pages) == ("RAISED", AlarmState.SUPPRESSED, False)
    assert step(book, verdict(episode(10, by_design="planned work W-1"))) == []
    (draft,) = step(book, verdict(episode(10)))
    assert (draft.kind, draft.alarm.state) == ("UNSUPPRESSED", AlarmState.UNACK_ACTIVE)
    (draft,) = step(book, verdict(episode(10, by_design="planned work W-1")))
    assert (draft.kind, draft.alarm.state) == ("SUPPRESSED", AlarmState.SUPPRESSED)
    (draft,) = step(book, verdict(episode(10, 20, by_design="planned work W-1")))
    assert (draft.kind, draft.alarm.state) == ("CLEARED", AlarmState.NORMAL)


def test_what_planned_work_hid_first_is_folded_into_the_feeder_that_is_known_later() -> None:
    book = Book([], names())
    planned = {"by_design": "planned work W-1"}
    step(book, verdict(episode(10, **planned)))
    root, folded = verdict(episode(10, **planned), kind="feeder"), verdict(episode(10, parent=("feeder", 0), **planned))
    drafts = {draft.alarm.asset_kind: draft for draft in step(book, root, folded)}
    assert drafts["transformer"].kind == "AMENDED"
    assert drafts["transformer"].alarm.parent_id == drafts["feeder"].alarm.alarm_id
    assert step(book, root, folded) == []


def test_what_was_off_by_design_and_is_over_needs_nobody() -> None:
    (draft,) = step(Book([], names()), verdict(episode(10, 20, by_design="planned work W-1")))
    assert (draft.kind, draft.alarm.state) == ("RAISED", AlarmState.NORMAL)


def test_a_step_of_the_stage_is_told() -> None:
    book = Book([], names())
    step(book, verdict(episode(10, evidence={"affected": 100, "stage": "CONFIRMED"})))
    (draft,) = step(book, verdict(episode(10, evidence={"affected": 100, "stage": "RESTORING"})))
    assert draft.kind == "AMENDED"
