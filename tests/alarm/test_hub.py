"""Laws of the hub."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from alarm_cases import episode, names, verdict

from alarm import hub as hub_module
from alarm.book import Book
from alarm.hub import Coalesced, Hub, Subscription
from meterwatch.alarms import AlarmFilter, AlarmState, Draft, Transition, TransitionKind
from meterwatch.errors import Overloaded

ALARM = Book([], names()).reconcile([verdict(episode(1))], 0)[0].alarm


def change(seq: int, alarm_id: str = "A", version: int = 1) -> Transition:
    alarm = replace(ALARM, alarm_id=alarm_id, version=version)
    return Draft(TransitionKind.AMENDED, alarm).numbered(seq, 0)


def everything(_: Transition) -> bool:
    return True


async def taken(subscription: Subscription, most: int = 7) -> list[int | Coalesced]:
    """What is queued now: cursors, and what was folded."""
    subscription.close()
    found: list[int | Coalesced] = []
    while await subscription.wait():
        items = subscription.take(most)
        found += [items] if isinstance(items, Coalesced) else [item.seq for item in items]
    return found


async def one(subscription: Subscription) -> int:
    """Cursor of the next transition, waited for."""
    assert await subscription.wait()
    items = subscription.take(1)
    assert not isinstance(items, Coalesced)
    return items[0].seq


async def test_a_snapshot_and_its_subscription_have_no_gap_and_no_overlap() -> None:
    hub = Hub([], 0, "log")
    hub.publish([change(1)])
    seq, alarms, subscription = hub.subscribe_now(everything)
    hub.publish([change(2, "B")])
    assert (seq, [alarm.seq for alarm in alarms]) == (1, [1])
    assert await taken(subscription) == [2]


async def test_the_ring_resumes_exactly_after_a_cursor_or_not_at_all() -> None:
    hub = Hub([], 0, "log", ring_max=3)
    hub.publish([change(seq) for seq in range(1, 6)])
    assert hub.subscribe_after(1, everything) is None
    resumed = hub.subscribe_after(2, everything)
    assert resumed is not None
    assert await taken(resumed) == [3, 4, 5]


async def test_a_long_backlog_is_not_folded_for_one_who_resumes() -> None:
    hub = Hub([], 0, "log", queue_max=4)
    hub.publish([change(seq, version=seq) for seq in range(1, 51)])
    resumed = hub.subscribe_after(1, everything)
    assert resumed is not None
    assert await taken(resumed) == list(range(2, 51))


async def test_a_stalled_subscriber_costs_others_nothing_and_learns_what_it_missed() -> None:
    hub = Hub([], 0, "log", queue_max=4)
    _, _, stalled = hub.subscribe_now(everything)
    _, _, brisk = hub.subscribe_now(everything)
    for seq in range(1, 101):
        hub.publish([change(seq, "AB"[seq % 2], seq)])
        assert await one(brisk) == seq
    told = await taken(stalled)
    assert told[-1] == 100
    folded = told[0]
    assert isinstance(folded, Coalesced)
    assert folded.merged + len(told) - 1 == 100
    assert (folded.first_seq, stalled.coalesced) == (1, folded.merged)


async def test_a_bookmark_never_names_a_cursor_still_queued() -> None:
    hub = Hub([], 0, "log")
    _, _, subscription = hub.subscribe_now(lambda t: t.alarm.alarm_id == "A")
    hub.publish([change(1), change(2, "B")])
    assert subscription.sent_seq == 0
    await one(subscription)
    assert subscription.sent_seq == 2


async def test_a_filter_lets_through_the_change_by_which_an_alarm_leaves_it() -> None:
    unacknowledged = AlarmFilter(states=frozenset({AlarmState.UNACK_ACTIVE}))
    after = replace(ALARM, state=AlarmState.ACK_ACTIVE, version=2)
    left = Draft(TransitionKind.ACKNOWLEDGED, after, was=ALARM).numbered(1, 0)
    assert unacknowledged.wants(left)
    assert not unacknowledged.wants(replace(left, was=after))


async def test_too_many_different_alarms_end_the_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ALARMS_MAX", 8)
    hub = Hub([], 0, "log", queue_max=2)
    _, _, stalled = hub.subscribe_now(everything)
    hub.publish([change(seq, f"A{seq}") for seq in range(1, 40)])
    assert hub.subscribers == 0
    with pytest.raises(Overloaded):
        await stalled.wait()


async def test_subscribers_are_limited_and_leaving_makes_room() -> None:
    hub = Hub([], 0, "log", subscribers_max=1)
    _, _, first = hub.subscribe_now(everything)
    with pytest.raises(Overloaded):
        hub.subscribe_now(everything)
    first.close()
    hub.subscribe_now(everything)


@pytest.mark.parametrize("most", [1, 3, 100])
async def test_what_is_taken_together_is_what_is_taken_one_by_one(most: int) -> None:
    hub = Hub([], 0, "log", queue_max=4)
    _, _, subscription = hub.subscribe_now(lambda t: t.seq != 3)
    hub.publish([change(seq, f"A{seq}") for seq in range(1, 11)])
    assert await taken(subscription, most) == [1, 2, *range(4, 11)]


async def test_a_nudge_ends_a_wait_with_nothing_to_take() -> None:
    hub = Hub([], 0, "log")
    _, _, subscription = hub.subscribe_now(everything)
    waiting = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)  # lets it begin to wait
    subscription.nudge()
    assert await waiting
    assert subscription.take(5) == []
    hub.publish([change(1)])
    assert await one(subscription) == 1


async def test_a_queue_that_cannot_be_folded_may_double_before_it_is_tried_again() -> None:
    hub = Hub([], 0, "log", queue_max=4)
    _, _, subscription = hub.subscribe_now(everything)
    hub.publish([change(seq, f"A{seq}") for seq in range(1, 6)])
    hub.publish([change(seq, f"A{seq - 5}", 2) for seq in range(6, 11)])
    assert subscription.coalesced == 0
    hub.publish([change(11, "A1", 3)])
    assert await taken(subscription) == [Coalesced(6, 1, 6), 7, 8, 9, 10, 11]


async def test_what_is_folded_twice_is_told_once_from_the_first_cursor_to_the_last() -> None:
    hub = Hub([], 0, "log", queue_max=2)
    _, _, subscription = hub.subscribe_now(everything)
    for seq in range(1, 10):
        hub.publish([change(seq, "AB"[seq == 4], seq)])
    folded, *rest = await taken(subscription)
    assert isinstance(folded, Coalesced)
    assert (folded.first_seq, folded.merged) == (1, subscription.coalesced)
    assert folded.last_seq < 9
    assert folded.merged + len(rest) == 9
    assert {4, 9} <= set(rest)


@pytest.mark.parametrize(("alarms", "left"), [(8, False), (9, True)])
async def test_so_many_different_alarms_may_wait_for_one_subscriber_and_not_one_more(
    monkeypatch: pytest.MonkeyPatch, alarms: int, left: bool
) -> None:
    monkeypatch.setattr(hub_module, "ALARMS_MAX", 8)
    hub = Hub([], 0, "log", queue_max=alarms - 1)
    hub.subscribe_now(everything)
    hub.publish([change(seq, f"A{seq}") for seq in range(1, alarms + 1)])
    assert (hub.subscribers == 0) is left


async def test_what_was_published_already_and_what_a_subscriber_has_had_is_ignored() -> None:
    hub = Hub([], 3, "log")
    _, _, subscription = hub.subscribe_now(everything)
    hub.publish([change(3), change(4)])
    hub.publish([change(4), change(5)])
    subscription.offer([change(5), change(6)])
    assert await taken(subscription) == [4, 5, 6]
    assert hub.seq == 5
    assert hub.subscribe_after(3, everything) is not None
    assert hub.subscribe_after(2, everything) is None
