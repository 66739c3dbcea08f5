"""Laws of the desk, over a store in memory that fails on command."""

from __future__ import annotations

import pytest
from alarm_cases import SinkStore, ack, at, clock, episode, names, verdict

from alarm.desk import AlarmDesk
from meterwatch.errors import Overloaded, Rejected, StorageUnavailable


async def test_a_failed_commit_changes_nothing_and_nobody_hears_of_it() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock())
    store.fail = StorageUnavailable("down")
    with pytest.raises(StorageUnavailable):
        await desk.record([verdict(episode(10))], [7])
    assert (list(desk.book), desk.hub.seq, store.batches) == ([], 0, [])
    assert [t.seq for t in await desk.record([verdict(episode(10))], [7])] == [1]
    assert store.batches == [7]


async def test_a_commit_of_unknown_outcome_that_held_is_published_once() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock())
    _, _, subscription = desk.hub.subscribe_now(lambda _: True)
    store.fail, store.fail_after = StorageUnavailable("gone"), True
    with pytest.raises(StorageUnavailable):
        await desk.record([verdict(episode(10))], [7])
    assert desk.hub.seq == 0
    assert await desk.record([verdict(episode(10))], [7]) == []
    told = subscription.take(9)
    assert isinstance(told, list)
    assert [transition.seq for transition in told] == [1]
    assert len(store.log) == 1


async def test_an_action_repeated_gets_the_same_answer_and_another_is_refused() -> None:
    desk = await AlarmDesk.open(SinkStore(), names(), clock())
    (raised,) = await desk.record([verdict(episode(10))], [])
    answer = await desk.act(ack(raised.alarm.alarm_id), 1)
    assert await desk.act(ack(raised.alarm.alarm_id), 1) == answer
    with pytest.raises(Rejected) as refused:
        await desk.act(ack(raised.alarm.alarm_id, operator="Lee"), 2)
    assert refused.value.reason == "ACTION_ID_REUSED"


async def test_very_late_data_finds_the_stored_alarm_the_book_forgot() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock())
    (raised,) = await desk.record([verdict(episode(10, 20))], [])
    await desk.act(ack(raised.alarm.alarm_id), 0)
    later = AlarmDesk(type(desk.book)([], names()), store, desk.hub, clock(30 + 10 * 24 * 60))
    assert await later.record([verdict(episode(10, 20))], []) == []


async def test_an_alarm_amended_to_long_ago_keeps_its_identity_from_a_younger_one() -> None:
    day = 24 * 60
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock(5 * day))
    await desk.record([verdict(episode(4 * day, 4.5 * day))], [])
    await desk.record([verdict(episode(day, 4.5 * day))], [])
    await desk.record([verdict(episode(day, day + 60))], [])
    later = AlarmDesk(type(desk.book)([], names()), store, desk.hub, clock(6 * day))
    await later.record([verdict(episode(4 * day, 4.5 * day), since=3.9 * day)], [])
    assert sorted(alarm.onset_us for alarm in store.alarms()) == [at(day), at(4 * day)]


async def test_a_verdict_on_long_ago_amends_and_retracts_the_stored_alarms_and_leaves_those_around_it() -> None:
    store = SinkStore()
    desk = await AlarmDesk.open(store, names(), clock(1000))
    raised = await desk.record([verdict(episode(10, 20), episode(100, 130), episode(200, 210), episode(300, 310))], [])
    first, amended, gone, last = (transition.alarm.alarm_id for transition in raised)
    later = AlarmDesk(type(desk.book)([], names()), store, desk.hub, clock(30 * 24 * 60))
    told = await later.record([verdict(episode(105, 150), since=90, until_us=at(250))], [])
    assert [(t.kind.value, t.alarm.alarm_id) for t in told] == [("AMENDED", amended), ("RETRACTED", gone)]
    assert {first, last} & {alarm.alarm_id for alarm in later.book} == set()


async def test_the_hub_of_a_desk_takes_as_many_subscribers_as_it_was_told() -> None:
    desk = await AlarmDesk.open(SinkStore(), names(), clock(), subscribers_max=1)
    desk.hub.subscribe_now(lambda _: True)
    with pytest.raises(Overloaded):
        desk.hub.subscribe_now(lambda _: True)
