"""Laws of the tables of the routes, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import psycopg_pool
import pytest

from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, Draft, Priority, TransitionKind
from meterwatch.episodes import Severity
from meterwatch.notices import Change, Changes, Claim, Delivery, DeliveryState, Item, Notice, NoticeState, Told
from storage.alarms import AlarmStore
from storage.outbox import Outbox

NOW_US = 1_700_000_000_123_457
S = 1_000_000


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[psycopg_pool.AsyncConnectionPool]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "TRUNCATE alarms, alarm_log, alarm_actions, route_cursor, route_claims, notices, deliveries, "
            "delivery_alarms"
        )
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
        yield pool


@pytest.fixture
def outbox(pool: psycopg_pool.AsyncConnectionPool) -> Outbox:
    return Outbox(pool)


@pytest.fixture
async def alarm(pool: psycopg_pool.AsyncConnectionPool) -> Alarm:
    made = Alarm(
        "A", "OUTAGE", "transformer", 0, "T0", "F0", "North", AlarmState.UNACK_ACTIVE, Severity.HIGH, "SUSTAINED",
        NOW_US - 60, NOW_US - 30, None, NOW_US, 1, 0, None, "out", {"affected": 3},
    )  # fmt: skip
    store = AlarmStore(pool)
    (seq,) = await store.commit([Draft(TransitionKind.RAISED, made)], [], now_us=NOW_US)
    return replace(made, seq=seq)


def step(alarm: Alarm, number: int = 1, target: str = "hook") -> Changes:
    """One alarm told to one target."""
    told = Told(alarm.seq, alarm.state, alarm.severity, alarm.pages, NOW_US, number, alarm.priority)
    notice = Notice(target, alarm, "r", "noc", 0, "feeder=F0", due_us=None, told=told)
    items = (Item("A", alarm.seq, Change.NEW, None, True), Item("A2", alarm.seq, Change.OVER, Severity.LOW, False))
    return Changes(
        cursor=alarm.seq,
        next_number=number + 1,
        notices={notice.key: notice},
        claims={("r", "A"): Claim("r", "A", NOW_US, 1)},
        deliveries=[Delivery(number, target, "r", "noc", 0, "feeder=F0", items, 7, NOW_US)],
    )


async def test_what_a_step_changed_is_kept(outbox: Outbox, alarm: Alarm) -> None:
    assert (await outbox.load(0)).cursor is None
    changes = step(alarm)
    await outbox.commit(changes, NOW_US + 1)
    kept = await outbox.load(NOW_US - 1)
    assert (kept.cursor, kept.next_number) == (alarm.seq, 2)
    assert kept.notices == tuple(changes.notices.values())
    assert kept.claims == (Claim("r", "A", NOW_US, 1),)
    assert (kept.made_us, kept.waiting) == ({"hook": [NOW_US]}, {"hook": 1})
    assert (await outbox.load(NOW_US)).made_us == {}


async def test_a_step_is_all_or_nothing(outbox: Outbox, alarm: Alarm) -> None:
    await outbox.commit(step(alarm), NOW_US)
    again = step(alarm)
    again.cursor = alarm.seq + 5
    with pytest.raises(psycopg.errors.UniqueViolation):
        await outbox.commit(again, NOW_US)
    assert (await outbox.load(0)).cursor == alarm.seq


async def test_what_is_over_is_not_loaded_again(outbox: Outbox, alarm: Alarm) -> None:
    changes = step(alarm)
    await outbox.commit(changes, NOW_US)
    over = {key: replace(notice, state=NoticeState.TOLD) for key, notice in changes.notices.items()}
    await outbox.commit(Changes(notices=over, claims={("r", "A"): None}), NOW_US)
    kept = await outbox.load(0)
    assert (kept.notices, kept.claims, kept.next_number) == ((), (), 2)


async def test_messages_of_a_target_come_in_order_each_until_it_is_ended(outbox: Outbox, alarm: Alarm) -> None:
    await outbox.commit(step(alarm, 1), NOW_US)
    await outbox.commit(step(alarm, 2), NOW_US)
    first = await outbox.next_parcel("hook")
    assert first is not None
    assert first.delivery == step(alarm, 1).deliveries[0]
    assert first.alarms == ((first.delivery.items[0], alarm),)
    await outbox.tried(1, DeliveryState.WAITING, NOW_US + S, NOW_US + 2 * S, NOW_US + 3 * S, "no answer\0")
    await outbox.tried(1, DeliveryState.WAITING, NOW_US + S, NOW_US + 2 * S, NOW_US + 3 * S, "written again")
    first = await outbox.next_parcel("hook")
    assert first is not None
    assert (first.delivery.number, first.attempts, first.next_try_us) == (1, 1, NOW_US + 3 * S)
    await outbox.tried(1, DeliveryState.SENT, NOW_US + 4 * S, NOW_US + 5 * S, NOW_US + 5 * S, "")
    second = await outbox.next_parcel("hook")
    assert second is not None
    assert second.delivery.number == 2
    assert await outbox.next_parcel("other") is None


async def test_a_receipt_has_every_time(outbox: Outbox, alarm: Alarm, dsn: str) -> None:
    await outbox.commit(step(alarm), NOW_US + 1)
    await outbox.tried(1, DeliveryState.WAITING, NOW_US + S, NOW_US + 2 * S, NOW_US + 3 * S, "no answer")
    await outbox.tried(1, DeliveryState.SENT, NOW_US + 3 * S, NOW_US + 4 * S, NOW_US + 4 * S, "")
    (one,) = await outbox.receipts(alarm_id="A")
    assert (one.change, one.shown, one.target, one.department, one.state) == ("NEW", True, "hook", "noc", "SENT")
    assert (one.made_us, one.queued_us) == (NOW_US, NOW_US + 1)
    assert (one.first_try_us, one.last_try_us, one.ended_us) == (NOW_US + S, NOW_US + 3 * S, NOW_US + 4 * S)
    assert (one.next_try_us, one.attempts) == (None, 2)
    assert [r.shown for r in await outbox.receipts(alarm_id="A2")] == [False]
    assert await outbox.receipts(target="other") == await outbox.receipts(state="DEAD") == []
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT recorded_at < ended_at FROM alarm_deliveries WHERE alarm_id = 'A'"
        ).fetchall()
    assert found == [(True,)]


async def test_dead_messages_wait_again_when_told_to(outbox: Outbox, alarm: Alarm) -> None:
    await outbox.commit(step(alarm), NOW_US)
    await outbox.tried(1, DeliveryState.DEAD, NOW_US, NOW_US, NOW_US, "HTTP 400")
    (count,) = await outbox.counts()
    assert (count.waiting, count.sent, count.dead, count.oldest_us) == (0, 0, 1, None)
    assert [notice.told.lost for notice in (await outbox.load(0)).notices if notice.told] == [True]
    assert await outbox.retry("hook", NOW_US + S) == 1
    (count,) = await outbox.counts()
    assert (count.waiting, count.dead, count.oldest_us, count.last_error) == (1, 0, NOW_US + S, "HTTP 400")
    assert [notice.told.lost for notice in (await outbox.load(0)).notices if notice.told] == [False]


async def test_what_waits_for_a_target_that_is_gone_is_given_up_visibly(outbox: Outbox, alarm: Alarm) -> None:
    await outbox.commit(step(alarm), NOW_US)
    await outbox.commit(Changes(targets=frozenset({"other"})), NOW_US)
    (receipt,) = await outbox.receipts(alarm_id="A")
    assert receipt.state == "DEAD"
    assert "no longer" in receipt.last_error


async def test_active_alarms_are_told_as_they_were_told(outbox: Outbox, alarm: Alarm, pool: object) -> None:
    await outbox.commit(step(alarm), NOW_US)
    assert await outbox.told_active("hook", "", 10) == [alarm]
    assert await outbox.told_active("hook", "A", 10) == await outbox.told_active("other", "", 10) == []
    over = replace(alarm, state=AlarmState.RTN_UNACK, cleared_us=NOW_US)
    await outbox.commit(step(over, 2), NOW_US)
    assert await outbox.told_active("hook", "", 10) == []


async def test_a_list_is_of_the_alarms_that_concern_a_department(
    pool: psycopg_pool.AsyncConnectionPool, alarm: Alarm
) -> None:
    store = AlarmStore(pool)
    south = replace(alarm, alarm_id="B", district="South", severity=Severity.LOW, priority=Priority.LOW)
    await store.commit([Draft(TransitionKind.RAISED, south)], [], now_us=NOW_US)
    matches = (
        AlarmFilter(districts=frozenset({"North"})),
        AlarmFilter(feeders=frozenset({"F9"})),
        AlarmFilter(districts=frozenset({"South"}), severity_min=Severity.HIGH),
    )
    for several in (matches[:1], matches[1:2], matches[1:], matches, ()):
        for least in (Priority.LOW, Priority.HIGH):
            wanted = AlarmFilter(any_of=several, priority_min=least)
            found = await store.list_page(wanted, active_only=False, limit=10)
            assert {a.alarm_id for a in found} == {a.alarm_id for a in (alarm, south) if wanted.matches(a)}
