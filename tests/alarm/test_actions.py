"""Laws of what operators do to an alarm."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from alarm_cases import SinkStore, ack, act, at, clock, episode, names, verdict

from alarm.actions import ACTIONS, SHELVE_S_MAX, WITH_REASON, acted, check_action
from alarm.desk import ACT_ALARMS_MAX, AlarmDesk
from alarm.lifecycle import KIND, NEXT, SERVICE_NEXT, SHELF_NEXT, Input
from alarm.profile import AlarmProfile
from alarm.wire import ACTION_OF_WIRE
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, TransitionKind
from meterwatch.episodes import Severity
from meterwatch.errors import Rejected, StorageUnavailable
from meterwatch.v1 import alarms_pb2 as pb

K = TransitionKind


async def opened() -> tuple[AlarmDesk, Alarm]:
    """A desk at minute 30 with one open alarm."""
    desk = await AlarmDesk.open(SinkStore(), names(), clock())
    (raised,) = await desk.record([verdict(episode(10))], [])
    return desk, raised.alarm


def test_every_input_has_a_transition_and_every_action_a_number_on_the_wire() -> None:
    used = {given for table in (NEXT, SHELF_NEXT, SERVICE_NEXT) for _, given in table}  # type: ignore[attr-defined]  # three key types
    assert used | {Input.COMMENT, Input.ASSIGN} == set(Input) == set(KIND)
    assert set(ACTION_OF_WIRE.values()) == ACTIONS
    assert set(ACTION_OF_WIRE) == set(pb.ActionKind.values()) - {0}


@pytest.mark.parametrize("kind", sorted(WITH_REASON))
def test_an_action_that_takes_something_away_needs_a_reason(kind: TransitionKind) -> None:
    with pytest.raises(Rejected) as refused:
        check_action(act("A", kind, note=" ", shelve_s=1 if kind is K.SHELVED else 0))
    assert refused.value.reason == "ACTION_INVALID"


@pytest.mark.parametrize(
    "wrong",
    [
        act("A", K.SHELVED),
        act("A", K.SHELVED, shelve_s=SHELVE_S_MAX + 1),
        act("A", K.SHELVED, once=True, shelve_s=SHELVE_S_MAX + 1),
        act("A", K.COMMENTED, shelve_s=1),
        act("A", K.COMMENTED, once=True),
        act("A", K.COMMENTED, assignee="Lee"),
    ],
)
def test_an_action_with_the_wrong_fields_is_refused(wrong: object) -> None:
    with pytest.raises(Rejected):
        check_action(wrong)  # type: ignore[arg-type]  # parametrize loses the type


async def test_a_shelved_alarm_is_judged_and_pages_nobody() -> None:
    desk, alarm = await opened()
    shelved = await desk.act(act(alarm.alarm_id, K.SHELVED, shelve_s=3600), 1)
    assert (shelved.shelved_until_us, shelved.shelved_by, shelved.shelved_reason) == (at(90), "Kim", "why")
    (worse,) = await desk.record([verdict(episode(10, severity=Severity.CRITICAL))], [])
    assert (worse.alarm.severity, worse.alarm.pages) == (Severity.CRITICAL, False)
    (over,) = await desk.record([verdict(episode(10, 20, severity=Severity.CRITICAL))], [])
    assert (over.alarm.state, over.alarm.pages) == (AlarmState.RTN_UNACK, False)
    assert (await desk.act(act(alarm.alarm_id, K.UNSHELVED, "a2"), 0)).pages


async def test_a_one_shot_shelf_ends_with_the_return_to_normal() -> None:
    desk, alarm = await opened()
    shelved = await desk.act(act(alarm.alarm_id, K.SHELVED, once=True), 0)
    assert shelved.shelved_until_us == at(30) + SHELVE_S_MAX * 1_000_000
    (over,) = await desk.record([verdict(episode(10, 20))], [])
    assert (over.kind, over.alarm.shelved_until_us, over.alarm.shelved_reason) == ("CLEARED", None, None)
    with pytest.raises(Rejected):
        await desk.act(act(alarm.alarm_id, K.SHELVED, "a2", once=True), 0)


async def test_out_of_service_lasts_until_it_is_put_back() -> None:
    desk, alarm = await opened()
    out = await desk.act(act(alarm.alarm_id, K.OUT_OF_SERVICE), 0)
    assert (out.out_of_service_by, out.state, out.pages) == ("Kim", AlarmState.UNACK_ACTIVE, False)
    with pytest.raises(Rejected) as refused:
        await desk.act(act(alarm.alarm_id, K.OUT_OF_SERVICE, "a2"), 0)
    assert refused.value.reason == "ACTION_IMPOSSIBLE"
    assert (await desk.act(act(alarm.alarm_id, K.RETURNED_TO_SERVICE, "a3"), 0)).pages


async def test_a_comment_changes_nothing_but_the_version_and_assigning_names_somebody() -> None:
    desk, alarm = await opened()
    said = await desk.act(act(alarm.alarm_id, K.COMMENTED), 0)
    assert said == replace(alarm, version=2, seq=2)
    assert (await desk.act(act(alarm.alarm_id, K.ASSIGNED, "a2", assignee="Lee"), 0)).assigned_to == "Lee"
    assert (await desk.act(act(alarm.alarm_id, K.ASSIGNED, "a3"), 0)).assigned_to is None


@pytest.mark.parametrize("kind", [K.SHELVED, K.OUT_OF_SERVICE, K.ASSIGNED])
def test_what_is_over_and_done_is_left_alone(kind: TransitionKind) -> None:
    done = asyncio.run(opened())[1]
    for state in (AlarmState.NORMAL, AlarmState.RETRACTED):
        with pytest.raises(Rejected):
            acted(replace(done, state=state), act(done.alarm_id, kind, shelve_s=1), at(30))
        acted(replace(done, state=state), act(done.alarm_id, K.COMMENTED), at(30))


async def test_a_repeat_with_another_time_is_another_action() -> None:
    desk, alarm = await opened()
    answer = await desk.act(act(alarm.alarm_id, K.SHELVED, shelve_s=60), 1)
    assert await desk.act(act(alarm.alarm_id, K.SHELVED, shelve_s=60), 1) == answer
    for other in (act(alarm.alarm_id, K.SHELVED, shelve_s=61), ack(alarm.alarm_id)):
        with pytest.raises(Rejected) as refused:
            await desk.act(other, 0)
        assert refused.value.reason == "ACTION_ID_REUSED"


async def test_time_lifts_a_shelf_once_the_database_is_back() -> None:
    store, hands = SinkStore(), clock()
    desk = await AlarmDesk.open(store, names(), hands)
    (raised,) = await desk.record([verdict(episode(10))], [])
    await desk.act(act(raised.alarm.alarm_id, K.SHELVED, shelve_s=60), 0)
    assert await desk.lift_shelves() == []
    hands.saw(at(31))
    store.fail = StorageUnavailable("down")
    _, _, heard = desk.hub.subscribe_now(lambda _: True)
    ticking = asyncio.create_task(desk.keep_time(tick_s=0.001))
    assert await heard.wait()
    (lifted,) = heard.take(1)  # type: ignore[misc]  # nothing was folded
    ticking.cancel()
    with suppress(asyncio.CancelledError):
        await ticking
    assert (lifted.kind, lifted.alarm.pages, lifted.action) == ("UNSHELVED", True, None)
    assert await desk.lift_shelves() == []


async def test_a_shelved_alarm_is_not_forgotten_before_its_shelf_ends() -> None:
    hands = clock()
    desk = await AlarmDesk.open(SinkStore(), names(), hands)
    (raised,) = await desk.record([verdict(episode(10, 20))], [])
    for day in (1, 2, 3):
        hands.saw(at(30 + day * 24 * 60))
    hands.saw(at(30 + 79 * 60))
    await desk.act(act(raised.alarm.alarm_id, K.SHELVED, shelve_s=SHELVE_S_MAX), 0)
    await desk.act(ack(raised.alarm.alarm_id, "a2"), 0)
    await desk.record([verdict(episode(79 * 60), asset_id=1)], [])
    assert raised.alarm.alarm_id in desk.book
    hands.saw(at(30 + 88 * 60))
    assert [t.kind for t in await desk.lift_shelves()] == ["UNSHELVED"]


async def test_one_action_on_many_alarms_is_done_where_it_can_be_and_once() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock())
    raised = [t.alarm for t in await desk.record([verdict(episode(10), asset_id=i) for i in range(3)], [])]
    await desk.act(ack(raised[0].alarm_id), 0)
    targets = {raised[0].alarm_id: 0, raised[1].alarm_id: 9, raised[2].alarm_id: 1, "OUT-0": 0}
    answers = await desk.act_on_many(ack("", "a2"), targets)
    assert list(answers) == list(targets)
    assert [getattr(a, "reason", "done") for a in answers.values()] == [
        "NOT_ACKNOWLEDGEABLE", "ALARM_CHANGED", "done", "ALARM_UNKNOWN",
    ]  # fmt: skip
    length = len(store.log)
    assert (await desk.act_on_many(ack("", "a2"), targets))[raised[2].alarm_id] == answers[raised[2].alarm_id]
    assert len(store.log) == length
    with pytest.raises(Rejected) as refused:
        await desk.act_on_many(ack("", "a2"), {raised[1].alarm_id: 0})
    assert refused.value.reason == "ACTION_ID_REUSED"


async def test_an_action_by_filter_repeated_means_those_it_was_done_to() -> None:
    desk = await AlarmDesk.open(SinkStore(), names(), clock())
    await desk.record([verdict(episode(10), asset_id=i) for i in range(2)], [])
    paging, shelve = AlarmFilter(paging_only=True), act("", K.SHELVED, shelve_s=60)
    answers = await desk.act_on_many(shelve, paging)
    assert [isinstance(answer, Alarm) for answer in answers.values()] == [True, True]
    await desk.record([verdict(episode(10), asset_id=2)], [])
    assert await desk.act_on_many(shelve, paging) == answers
    assert len(await desk.act_on_many(act("", K.COMMENTED, "a2"), AlarmFilter())) == 3


async def test_more_alarms_than_allowed_at_once_are_refused_untouched() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock(), profile=AlarmProfile(classes=()))
    await desk.record([verdict(*[episode(i * 0.01, i * 0.01 + 0.005) for i in range(ACT_ALARMS_MAX + 1)])], [])
    with pytest.raises(Rejected) as refused:
        await desk.act_on_many(ack(""), AlarmFilter())
    assert refused.value.reason == "TOO_MANY_ALARMS"
    assert len(store.log) == ACT_ALARMS_MAX + 1
