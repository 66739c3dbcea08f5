"""What alarms that come and go leave in memory, whoever subscribes and acknowledges: objects counted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import pytest
from alarm_cases import SinkStore, ack, at, clock, episode, names, verdict
from test_service import serving

from alarm.book import KEEP_US, LAPSED_TOGETHER, Book
from alarm.desk import AlarmDesk
from alarm.profile import AlarmProfile
from alarm.subscriptions import SNAPSHOT_ALARMS_MAX, Subscriptions
from meterwatch.alarms import Alarm, AlarmState, Transition, TransitionKind
from meterwatch.clock import ReplayClock
from meterwatch.episodes import Verdict
from meterwatch.errors import Rejected
from meterwatch.v1 import alarms_pb2 as pb

KEEP_H = KEEP_US // 3_600_000_000
UNACKNOWLEDGED_MAX = 7
OURS = "USER/kept"


def fault(hour: int) -> Verdict:
    """The fault of an hour, of one transformer after the other; over after a minute."""
    return verdict(episode(60 * hour, 60 * hour + 1), asset_id=hour % 4, since=60 * hour)


async def desk_of(unacknowledged_max: int = UNACKNOWLEDGED_MAX) -> tuple[AlarmDesk, ReplayClock]:
    now = clock(0)
    desk = await AlarmDesk.open(SinkStore(), names(), now)
    desk.book = Book([], names(), AlarmProfile(classes=()), unacknowledged_max)
    return desk, now


async def hours_pass(desk: AlarmDesk, now: ReplayClock, hours: range) -> list[Transition]:
    """A fault each hour, and nobody acknowledges; what lapsed."""
    lapsed = []
    for hour in hours:
        now.saw(at(60 * hour + 2))
        await desk.record([fault(hour)], [])
        lapsed += await desk.lapse()
    return lapsed


async def test_alarms_that_come_and_go_and_nobody_acknowledges_leave_book_and_hub() -> None:
    desk, now = await desk_of()
    lapsed = await hours_pass(desk, now, range(30 * 24))
    waiting = [alarm for alarm in desk.book if alarm.state is AlarmState.RTN_UNACK]
    assert sorted(alarm.onset_us for alarm in waiting) == [at(60 * hour) for hour in range(713, 720)]
    _, snapshot, _ = desk.hub.subscribe_now(lambda _: True)
    assert {alarm.alarm_id for alarm in snapshot} == {alarm.alarm_id for alarm in waiting}
    assert len(list(desk.book)) <= UNACKNOWLEDGED_MAX + KEEP_H + 1
    assert len(lapsed) == 30 * 24 - UNACKNOWLEDGED_MAX


async def test_of_too_many_that_wait_those_that_ended_first_lapse_and_the_log_says_so() -> None:
    desk, now = await desk_of()
    lapsed = await hours_pass(desk, now, range(9))
    assert [(t.kind, t.alarm.state, t.alarm.onset_us) for t in lapsed] == [
        (TransitionKind.LAPSED, AlarmState.NORMAL, at(0)),
        (TransitionKind.LAPSED, AlarmState.NORMAL, at(60)),
    ]
    assert [t for t in await desk.log_after(0, 99) if t.kind is TransitionKind.LAPSED] == lapsed
    with pytest.raises(Rejected, match="NORMAL"):
        await desk.act(ack(lapsed[0].alarm.alarm_id), 0)


async def test_what_lapsed_and_lasts_after_all_is_an_alarm_again() -> None:
    desk, now = await desk_of(0)
    (lapsed,) = await hours_pass(desk, now, range(1))
    (again,) = await desk.record([verdict(episode(0), since=0)], [])
    assert (again.kind, again.alarm.alarm_id) == (TransitionKind.REOPENED, lapsed.alarm.alarm_id)
    assert again.alarm.state is AlarmState.UNACK_ACTIVE


async def test_active_alarms_never_lapse_and_so_many_at_once() -> None:
    desk, _ = await desk_of(0)
    await desk.record([verdict(episode(0), asset_id=3)], [])
    (standing,) = list(desk.book)
    over = replace(standing, state=AlarmState.RTN_UNACK, cleared_us=at(1))
    desk.book.adopt(replace(over, alarm_id=f"OUT-{number}") for number in range(LAPSED_TOGETHER + 3))
    assert [len(await desk.lapse()) for _ in range(3)] == [LAPSED_TOGETHER, 3, 0]
    assert [alarm for alarm in desk.book if not alarm.finished] == [standing]


def held() -> int:
    """Our alarms that anything in this process holds."""
    gc.collect()
    return sum(type(one) is Alarm and one.rule == OURS for one in gc.get_objects())


@pytest.mark.parametrize("together", [0, 100])
@pytest.mark.parametrize("from_log", [False, True])
async def test_a_subscription_that_lasts_holds_no_alarm_that_it_was_sent(
    dsn: str, from_log: bool, together: int
) -> None:
    async with serving(dsn, ring_max=1) as world:
        ours = [replace(verdict(episode(minute), asset_id=minute), rule=OURS) for minute in range(4)]
        before_seq = world.desk.hub.seq
        await world.desk.record(ours, [])
        request = pb.SubscribeRequest(transitions_max=together)
        if from_log:
            request.MergeFrom(pb.SubscribeRequest(from_seq=before_seq, log_id=world.desk.hub.log_id))
        call: Any = world.stub.Subscribe(request)
        while not (await call.read()).HasField("bookmark"):
            pass
        assert held() > 0, "the book has them"
        world.desk.book = Book([], names())
        world.desk.hub._alarms.clear()
        (last,) = await world.desk.record([verdict(episode(10))], [])  # the ring has one place
        seq = 0
        while seq < last.seq:
            message = await call.read()
            seq = max([seq, message.transition.seq, *(t.seq for t in message.transitions.transition)])
        async with asyncio.timeout(60):
            while held():  # noqa: ASYNC110  (nothing tells when the handler has taken its next step)
                await asyncio.sleep(0.01)
        call.cancel()


class Counted(Sequence[Alarm]):
    """So many of one alarm, and how many were looked at."""

    def __init__(self, alarm: Alarm, count: int) -> None:
        self._alarm, self._count, self.looked = alarm, count, 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Alarm: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Alarm]: ...
    def __getitem__(self, index: int | slice) -> Alarm | Sequence[Alarm]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Alarm]:
        for _ in range(self._count):
            self.looked += 1
            yield self._alarm


async def test_a_snapshot_that_is_not_read_is_not_made() -> None:
    desk, _ = await desk_of()
    (raised,) = await desk.record([fault(0)], [])
    subscriptions = Subscriptions(desk.hub, Any, clock(), lambda: True)  # type: ignore[arg-type]  # asks no log
    alarms = Counted(raised.alarm, 10 * SNAPSHOT_ALARMS_MAX)
    parts = subscriptions._snapshot(1, alarms)
    assert len(next(parts).alarm) == SNAPSHOT_ALARMS_MAX
    assert alarms.looked == SNAPSHOT_ALARMS_MAX + 1
    rest = [(len(part.alarm), part.complete) for part in parts]
    assert rest == [(SNAPSHOT_ALARMS_MAX, False)] * 8 + [(SNAPSHOT_ALARMS_MAX, True)]
