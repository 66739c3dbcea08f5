"""Laws of shelves over assets, over a store in memory."""

from __future__ import annotations

from typing import Any

import pytest
from alarm_cases import MINUTE_US, SinkStore, ack, act, clock, episode, names, verdict

from alarm.actions import SHELVE_S_MAX
from alarm.desk import ACT_ALARMS_MAX, AlarmDesk
from alarm.profile import AlarmProfile
from meterwatch.alarms import AssetShelf, TransitionKind
from meterwatch.clock import ReplayClock
from meterwatch.errors import Rejected, StorageUnavailable

HOUR_S = 3600


def shelf(action_id: str = "s1", *, asset: str = "T0", shelve_s: int = HOUR_S, **of: Any) -> AssetShelf:
    values = {"rule": "", "asset_kind": "transformer" if asset else "", "operator": "Kim", "reason": "crew"} | of
    return AssetShelf(action_id=action_id, asset=asset, shelve_s=shelve_s, **values)


async def opened(store: SinkStore, time: ReplayClock) -> AlarmDesk:
    return await AlarmDesk.open(store, names(), time, profile=AlarmProfile(classes=()))


def pass_minutes(time: ReplayClock, minutes: int) -> None:
    time.saw(time.now_us() + minutes * MINUTE_US)


def paging(store: SinkStore) -> list[str]:
    return [alarm.asset for alarm in store.alarms() if alarm.pages]


async def test_alarms_there_are_and_alarms_to_come_page_nobody_until_it_is_over() -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    await desk.record([verdict(episode(10)), verdict(episode(10), asset_id=1)], [])
    over, alarms = await desk.shelve_asset(shelf())
    assert ([a.asset for a in alarms], over.until_us) == (["T0"], time.now_us() + 60 * MINUTE_US)
    await desk.record([verdict(episode(10, 12), episode(20)), verdict(episode(10), asset_id=1)], [])
    assert paging(store) == ["T1"]
    assert sum(t.kind is TransitionKind.RAISED for t in store.log) == 3
    pass_minutes(time, 59)
    assert await desk.lift_shelves() == []
    pass_minutes(time, 1)
    assert {t.kind for t in await desk.lift_shelves()} == {TransitionKind.UNSHELVED}
    assert paging(store) == ["T0", "T1", "T0"]
    assert desk.book.shelves(time.now_us()) == []


async def test_a_shelf_over_a_type_covers_every_asset_and_no_other_type() -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    await desk.shelve_asset(shelf(asset="", rule="OVERLOAD"))
    await desk.record([verdict(episode(10))], [])
    assert paging(store) == ["T0"]
    await desk.shelve_asset(shelf("s2", asset="", rule="OUTAGE"))
    await desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
    assert paging(store) == []


async def test_an_alarm_that_comes_back_under_a_shelf_pages_nobody() -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    (raised,) = await desk.record([verdict(episode(10))], [])
    await desk.act(ack(raised.alarm.alarm_id), 0)
    await desk.record([verdict(episode(10, 20))], [])
    await desk.shelve_asset(shelf())
    (back,) = await desk.record([verdict(episode(10))], [])
    assert (back.kind, back.alarm.pages, back.alarm.shelved_by) == (TransitionKind.REOPENED, False, "Kim")


async def test_lifting_it_frees_what_it_put_aside_and_nothing_else() -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    first, second = await desk.record([verdict(episode(10, 12), episode(20))], [])
    await desk.shelve_asset(shelf())
    longer = act(second.alarm.alarm_id, TransitionKind.SHELVED, "a1", shelve_s=2 * HOUR_S)
    await desk.act(longer, 0)
    pass_minutes(time, 1)
    _, alarms = await desk.shelve_asset(shelf("s2", shelve_s=0))
    assert [alarm.alarm_id for alarm in alarms] == [first.alarm.alarm_id]
    await desk.record([verdict(episode(10, 12), episode(20), episode(25))], [])
    assert len(paging(store)) == 2


async def test_the_same_again_gets_the_same_answer_also_after_a_restart() -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    await desk.record([verdict(episode(10))], [])
    answer = await desk.shelve_asset(shelf())
    length = len(store.log)
    pass_minutes(time, 5)
    for again in (desk, await opened(store, time)):
        assert await again.shelve_asset(shelf()) == answer
        assert [one.over for one in again.book.shelves(time.now_us())] == [shelf().over]
    assert len(store.log) == length
    for other in (shelf(shelve_s=60), shelf(operator="Lee"), shelf(asset="T1")):
        with pytest.raises(Rejected) as refused:
            await desk.shelve_asset(other)
        assert refused.value.reason == "ACTION_ID_REUSED"


@pytest.mark.parametrize("held", [True, False])
async def test_a_commit_of_unknown_outcome_is_known_at_the_next_change(held: bool) -> None:
    store, time = SinkStore(), clock()
    desk = await opened(store, time)
    store.fail, store.fail_after = StorageUnavailable("gone"), held
    with pytest.raises(StorageUnavailable):
        await desk.shelve_asset(shelf())
    await desk.record([verdict(episode(10))], [])
    assert paging(store) == ([] if held else ["T0"])


@pytest.mark.parametrize(
    "wrong",
    [
        shelf(reason=" "),
        shelf(shelve_s=SHELVE_S_MAX + 1),
        shelf(shelve_s=-1),
        shelf(asset=""),
        shelf(asset_kind=""),
        shelf(asset="", asset_kind="meter", rule="OUTAGE"),
    ],
)
async def test_a_shelf_that_is_not_complete_is_refused(wrong: AssetShelf) -> None:
    store = SinkStore()
    with pytest.raises(Rejected) as refused:
        await (await opened(store, clock())).shelve_asset(wrong)
    assert (refused.value.reason, store.shelves) == ("ACTION_INVALID", {})


async def test_more_alarms_than_allowed_at_once_are_refused_untouched() -> None:
    store = SinkStore()
    desk = await opened(store, clock())
    await desk.record([verdict(*[episode(i * 0.01, i * 0.01 + 0.005) for i in range(ACT_ALARMS_MAX + 1)])], [])
    with pytest.raises(Rejected) as refused:
        await desk.shelve_asset(shelf())
    assert (refused.value.reason, store.shelves) == ("TOO_MANY_ALARMS", {})
