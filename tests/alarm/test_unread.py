"""Who subscribes and never reads gives up his place after a limit; who reads slowly keeps his.

Once in virtual time, with a caller who takes each message as late as the test says, and once over gRPC, with an HTTP/2
window that lets no message past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from alarm_cases import clock, episode, verdict
from raw_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Http2, frame, headers, message
from test_hub import change
from test_service import serving
from virtual_loop import VirtualLoop

from alarm.hub import Hub
from alarm.subscriptions import AGE_S_MAX, UNREAD_S_MAX, Subscriptions
from meterwatch.alarms import AlarmFilter, Transition
from meterwatch.v1 import alarms_pb2 as pb

LOGGED = 4
FOR_EVER_S = 1e6
STEP_BYTES = 40
"""Less than a message: none passes at once."""


class Log:
    """The transitions 1 to LOGGED."""

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        return [change(number) for number in range(seq + 1, LOGGED + 1)][:limit]

    async def oldest_seq(self) -> int:
        return 1

    async def newest_seq(self) -> int:
        return LOGGED


class Caller:
    """Takes message number n after `late_s(n)`; takes no status while a message is under way, as gRPC."""

    def __init__(self, late_s: Callable[[int], float]) -> None:
        self._late_s = late_s
        self.messages = 0
        self.status: tuple[Any, ...] = ()
        self._free = asyncio.Event()
        self._free.set()

    async def send_initial_metadata(self, _: Any) -> None:
        pass

    async def write(self, _: bytes) -> None:
        self._free.clear()
        self._under_way = asyncio.ensure_future(self._take(self._late_s(self.messages + 1)))
        await asyncio.shield(self._under_way)  # it stays under way, whoever waits for it

    async def _take(self, late_s: float) -> None:
        await asyncio.sleep(late_s)  # virtual
        self.messages += 1
        self._free.set()

    async def abort(self, code: grpc.StatusCode, text: str, _: Any) -> None:
        await self._free.wait()
        self.status = code, text
        raise grpc.aio.AbortError

    def peer(self) -> str:
        return "nobody"


def subscribed(
    request: pb.SubscribeRequest, late_s: Callable[[int], float]
) -> tuple[Caller, Hub, BaseException, float]:
    """The caller, the hub, how the call ended, and when."""

    async def lives() -> tuple[Caller, Hub, BaseException, float]:
        hub, caller = Hub([], LOGGED, "log"), Caller(late_s)
        subscriptions = Subscriptions(hub, Log(), clock(), lambda: True)
        asyncio.get_running_loop().call_later(1, hub.publish, [change(LOGGED + 1)])
        with pytest.raises((grpc.aio.AbortError, asyncio.CancelledError)) as ended:
            await subscriptions.write(request, AlarmFilter(), None, caller)
        return caller, hub, ended.value, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(lives())


FROM_NOW, FROM_LOG = pb.SubscribeRequest(), pb.SubscribeRequest(from_seq=1)


@pytest.mark.parametrize(
    ("request_", "number"),
    [(FROM_NOW, 1), (FROM_NOW, 2), (FROM_NOW, 3), (FROM_LOG, 1), (FROM_LOG, LOGGED - 1), (FROM_LOG, LOGGED)],
)
def test_a_message_nobody_takes_ends_the_subscription_whichever_it_is(
    request_: pb.SubscribeRequest, number: int
) -> None:
    """Of a snapshot, a bookmark, a transition; of the log."""
    caller, hub, ended, at_s = subscribed(request_, lambda n: FOR_EVER_S if n == number else 0.0)
    assert isinstance(ended, asyncio.CancelledError)
    assert (caller.messages, hub.subscribers) == (number - 1, 0)
    assert UNREAD_S_MAX <= at_s < UNREAD_S_MAX + 10


@pytest.mark.parametrize("request_", [FROM_NOW, FROM_LOG])
def test_who_takes_each_message_a_little_before_the_limit_is_never_ended_for_it(request_: pb.SubscribeRequest) -> None:
    late_s = UNREAD_S_MAX - 1
    caller, _, ended, at_s = subscribed(request_, lambda _: late_s)
    assert isinstance(ended, grpc.aio.AbortError)
    assert caller.status[0] is grpc.StatusCode.UNAVAILABLE  # of its age
    assert AGE_S_MAX <= at_s < AGE_S_MAX + 10 * UNREAD_S_MAX
    assert caller.messages > 100


def test_who_does_not_read_and_then_does_within_a_second_gets_the_status() -> None:
    caller, hub, ended, _ = subscribed(FROM_NOW, lambda n: UNREAD_S_MAX + 0.5 if n == 2 else 0.0)
    assert (type(ended), hub.subscribers) == (grpc.aio.AbortError, 0)
    code, text = caller.status
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text == (
        "no message was read for 120 s; expected them to be read as they come; subscribe again from the last cursor"
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the other side is a connection by hand
            await asyncio.sleep(0.02)


def begin(connection: Http2) -> None:
    connection.send(frame(HEADERS, END_HEADERS, 1, headers("/meterwatch.v1.Alarms/Subscribe")))
    connection.send(frame(DATA, END_STREAM, 1, message(pb.SubscribeRequest().SerializeToString())))


@pytest.mark.parametrize("window", [0, 30])
async def test_a_place_is_free_though_the_connection_lasts_and_the_status_comes_when_it_reads_on(
    dsn: str, window: int
) -> None:
    async with serving(dsn, unread_s_max=0.5, bookmark_s=0.05) as world:
        await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        with Http2(world.address, window=window) as stalled:
            begin(stalled)
            await until(lambda: world.desk.hub.subscribers == 1)
            await until(lambda: world.desk.hub.subscribers == 0)
            other = world.stub.Subscribe(pb.SubscribeRequest())
            assert (await other.read()).snapshot.complete
            await until(lambda: sum("Subscribe" in task.get_name() for task in asyncio.all_tasks()) == 1)
            stalled.widen(1, 1_000_000)
            assert await asyncio.to_thread(stalled.end) == "RESOURCE_EXHAUSTED"
            other.cancel()


async def test_a_connection_that_reads_slowly_keeps_its_place_for_longer_than_the_limit(dsn: str) -> None:
    limit_s = 3.0
    async with serving(dsn, unread_s_max=limit_s, bookmark_s=0.01) as world:
        with Http2(world.address, window=0) as slow:
            begin(slow)
            await until(lambda: world.desk.hub.subscribers == 1)
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() < began + 1.3 * limit_s:
                slow.widen(1, STEP_BYTES)
                await asyncio.sleep(0.1)  # slowness is what is tried
            assert world.desk.hub.subscribers == 1
            world.desk.hub.close()
            slow.widen(1, 1_000_000)
            assert await asyncio.to_thread(slow.end) == "UNAVAILABLE"
