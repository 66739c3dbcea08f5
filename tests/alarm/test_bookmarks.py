"""When bookmarks come and a subscription ends, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from alarm_cases import clock
from test_hub import change
from test_unread import LOGGED, Caller, Log
from virtual_loop import VirtualLoop

from alarm.hub import Hub
from alarm.subscriptions import Subscriptions
from meterwatch.alarms import AlarmFilter
from meterwatch.v1 import alarms_pb2 as pb

WRITTEN = list[tuple[float, pb.SubscribeResponse]]


class Scribe(Caller):
    """Takes each message at once and notes when."""

    def __init__(self) -> None:
        super().__init__(lambda _: 0.0)
        self.written: WRITTEN = []

    async def write(self, message: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), pb.SubscribeResponse.FromString(message)))
        await super().write(message)


def written(
    changes: int, wanted: AlarmFilter, age_s_max: float, most: int = 0
) -> tuple[WRITTEN, tuple[Any, ...], float, Hub]:
    """What comes after the snapshot while so many transitions come, one each 100 ms; the status, and when it came."""

    async def lives() -> tuple[WRITTEN, tuple[Any, ...], float, Hub]:
        hub, scribe, loop = Hub([], LOGGED, "log"), Scribe(), asyncio.get_running_loop()
        for number in range(changes):
            loop.call_later(1 + 0.1 * number, hub.publish, [change(LOGGED + 1 + number, f"A{number}")])
        subscriptions = Subscriptions(hub, Log(), clock(), lambda: True, age_s_max=age_s_max)
        with pytest.raises(grpc.aio.AbortError):
            await subscriptions.write(pb.SubscribeRequest(transitions_max=most), wanted, None, scribe)
        return scribe.written[1:], scribe.status, loop.time(), hub

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(lives())


@pytest.mark.parametrize("changes", [0, 20, 130])
@pytest.mark.parametrize("wanted", [AlarmFilter(), AlarmFilter(rules=frozenset({"NONE"}))])
def test_a_bookmark_comes_at_once_and_every_5_s_whatever_comes_between(changes: int, wanted: AlarmFilter) -> None:
    messages, _, _, hub = written(changes, wanted, 60)
    marks = [(int(at_s), message.bookmark.seq) for at_s, message in messages if message.HasField("bookmark")]
    told = [message.transition.seq for _, message in messages if message.HasField("transition")]
    assert [at_s for at_s, _ in marks] == list(range(0, 60, 5))
    assert told == ([] if wanted.rules else list(range(LOGGED + 1, LOGGED + 1 + changes)))
    assert [seq for _, seq in marks] == sorted(seq for _, seq in marks)
    assert marks[-1][1] == hub.seq == LOGGED + changes


def test_a_subscription_ends_when_it_is_old_and_not_before() -> None:
    _, (code, *_), at_s, hub = written(0, AlarmFilter(), 3600)
    assert (code, int(at_s), hub.subscribers) == (grpc.StatusCode.UNAVAILABLE, 3600, 0)


@pytest.mark.parametrize(("most", "kind"), [(0, "transition"), (1, "transitions"), (9, "transitions")])
def test_who_says_how_many_transitions_he_takes_gets_them_as_a_list_though_it_be_one(most: int, kind: str) -> None:
    messages, *_ = written(3, AlarmFilter(), 60, most)
    changes = [message for _, message in messages if not message.HasField("bookmark")]
    assert [message.WhichOneof("message") for message in changes] == [kind] * 3
