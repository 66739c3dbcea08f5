"""Alarms.Subscribe: what one subscriber is sent, from its first message to its last.

Promise: from 0 a snapshot and then every transition after it; from n every transition after n, out of the hub's ring or
the log; a cursor the log does not hold is an error that says which it holds, never silence; a bookmark at least every
bookmark_s, also when nothing matches; who takes no message for unread_s_max has no place any more, whether he hears of
it or not. Who the caller is and what he may see is in the filter already.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, NoReturn, Protocol

import grpc

from alarm.hub import Coalesced, Hub, Subscription
from alarm.receipts import Ledger
from alarm.storm import Storms, no_storms, roots_first
from alarm.wire import RESPONSE_BYTES_MAX, Encoder, alarm_to_wire, coalesced_to_wire
from meterwatch.alarms import Alarm, AlarmFilter, Transition
from meterwatch.clock import Clock
from meterwatch.errors import Overloaded
from meterwatch.status import abort_in_time, abort_with, status_of
from meterwatch.v1 import alarms_pb2 as pb

SNAPSHOT_ALARMS_MAX: Final = 500
LOG_PAGE_MAX: Final = 1000
TRANSITIONS_MAX: Final = 1000
"""In one message; as in alarms.proto."""
BOOKMARK_S: Final = 5.0
TIMER_EARLY_S: Final = 0.002
"""A timer of the event loop may come early by a rounding to milliseconds; it is set later by this."""
AGE_S_MAX: Final = 4 * 3600.0
"""An abandoned client is never collected (grpcio 43462), so no subscription lasts for ever; clients resume."""
UNREAD_S_MAX: Final = 120.0
"""A message that is not taken for so long ends the subscription: at 9 kB/s the largest one is. AGE_S_MAX alone would
not, because nobody looks at it while a message is under way."""
STATUS_S: Final = 1.0
"""So long the end of a subscription waits for who did not read; later he gets it without anybody waiting."""


class Log(Protocol):
    """What is read of the log in the database."""

    async def log_after(self, seq: int, limit: int) -> list[Transition]: ...

    async def oldest_seq(self) -> int: ...

    async def newest_seq(self) -> int: ...


class _Taken:
    """A call as its subscriber takes it. Its patience is over when a message has been under way for unread_s_max.

    One timer a call, not one a message.
    """

    def __init__(self, context: Any, patience: asyncio.Timeout, unread_s_max: float) -> None:
        self._context, self._patience, self._unread_s_max = context, patience, unread_s_max
        self._loop = asyncio.get_running_loop()
        self._began = math.inf
        """When the message under way was begun; there is none."""
        self._timer = self._loop.call_later(unread_s_max, self._look)

    async def begin(self) -> None:
        """Open the call's answer: if that came with a message nobody reads, no status could follow."""
        await self._context.send_initial_metadata(())

    async def write(self, message: bytes) -> None:
        self._began = self._loop.time()
        await self._context.write(message)
        self._began = math.inf

    async def abort(self, *status: Any) -> None:
        await self._context.abort(*status)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._began >= self._unread_s_max:
            self._patience.reschedule(now)
        else:
            self._timer = self._loop.call_at(min(self._began, now) + self._unread_s_max, self._look)


class Subscriptions:
    """Writes the streams of subscribers, out of a hub and its log."""

    def __init__(
        self,
        hub: Hub,
        log: Log,
        clock: Clock,
        rules_ready: Callable[[], bool],
        bookmark_s: float = BOOKMARK_S,
        age_s_max: float = AGE_S_MAX,
        storms: Callable[[], Storms] = no_storms,
        unread_s_max: float = UNREAD_S_MAX,
        watchdog_age_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._watchdog_age_s = watchdog_age_s
        self._hub = hub
        self._log = log
        self._clock = clock
        self._rules_ready = rules_ready
        self._encoder = Encoder()
        self._bookmark_s = bookmark_s
        self._age_s_max = age_s_max
        self._storms = storms
        self._unread_s_max = unread_s_max

    async def write(
        self, request: pb.SubscribeRequest, wanted: AlarmFilter, ledger: Ledger | None, context: Any
    ) -> None:
        """Write the stream of one subscriber until it leaves, does not read, is too old, or the service drains."""
        try:
            async with asyncio.timeout(None) as patience:
                taken = _Taken(context, patience, self._unread_s_max)
                with closing(taken):
                    await taken.begin()
                    await self._write(request, wanted, ledger, taken)
        except TimeoutError:
            if not patience.expired():
                raise
        await abort_in_time(context, STATUS_S, *status_of(_unread(self._unread_s_max)))

    async def _write(
        self, request: pb.SubscribeRequest, wanted: AlarmFilter, ledger: Ledger | None, context: _Taken
    ) -> None:
        most = request.transitions_max
        if request.from_seq == 0 and not request.log_id:
            subscription = await self._begun(wanted, context, ledger)
        else:
            await self._check_cursor(request.from_seq, request.log_id, context)
            subscription = await self._resumed(request.from_seq, wanted, most, context, ledger)
        with closing(subscription):
            await self._follow(subscription, most, context, ledger)

    async def _begun(self, wanted: AlarmFilter, context: _Taken, ledger: Ledger | None) -> Subscription:
        """A subscription with its snapshot written.

        This call, as `_resumed`, is over when the subscription is followed: what it sent is not held for hours.
        """
        seq, alarms, subscription = self._hub.subscribe_now(wanted.wants)
        try:
            alarms = [alarm for alarm in alarms if wanted.matches(alarm)]
            if self._storms().lasting():
                alarms.sort(key=roots_first)
            sent = 0
            for part in self._snapshot(seq, alarms):
                if ledger is not None:
                    ledger.sent(tuple(alarm.seq for alarm in alarms[sent : sent + len(part.alarm)]), seq)
                sent += len(part.alarm)
                await context.write(pb.SubscribeResponse(snapshot=part).SerializeToString())
        except BaseException:
            subscription.close()
            raise
        return subscription

    async def _resumed(
        self, position: int, wanted: AlarmFilter, most: int, context: _Taken, ledger: Ledger | None
    ) -> Subscription:
        """A subscription from a cursor on, with what the log has and the ring has not written."""
        while (joined := self._hub.subscribe_after(position, wanted.wants)) is None:
            page = await self._log.log_after(position, LOG_PAGE_MAX)
            if not page or page[0].seq != position + 1:
                await self._too_old(position, context)
            found = [transition for transition in page if wanted.wants(transition)]
            for at in range(0, len(found), most or LOG_PAGE_MAX):
                _note(ledger, found[at : at + (most or LOG_PAGE_MAX)], None)
                for response in self._encoder.responses(found[at : at + (most or LOG_PAGE_MAX)], most > 0):
                    await context.write(response)
            position = page[-1].seq
            await context.write(self._bookmark(position))
        return joined

    async def _follow(
        self, subscription: Subscription, transitions_max: int, context: _Taken, ledger: Ledger | None
    ) -> NoReturn:
        """Everything from here on; transitions one by one (0), or as many together as wait and are allowed."""
        loop, write = asyncio.get_running_loop(), context.write
        joined_seq = self._hub.seq
        ends_at = loop.time() + self._age_s_max
        bookmark_at = 0.0
        alarm_clock: asyncio.TimerHandle | None = None  # one a bookmark, not one a wait
        try:
            while (now := loop.time()) < ends_at:
                if now >= bookmark_at:
                    await write(self._bookmark(subscription.sent_seq))
                    bookmark_at = loop.time() + self._bookmark_s
                    if alarm_clock is not None:
                        alarm_clock.cancel()
                    alarm_clock = loop.call_at(min(bookmark_at, ends_at) + TIMER_EARLY_S, subscription.nudge)
                if not await subscription.wait():
                    break
                await self._tell(subscription.take(transitions_max or 1), transitions_max, joined_seq, context, ledger)
        finally:
            if alarm_clock is not None:
                alarm_clock.cancel()
        await abort_with(
            context,
            grpc.StatusCode.UNAVAILABLE,
            "DRAINING",
            "this subscription has reached its end; subscribe again from the last cursor",
            retry_after_s=0.0,
        )

    async def _tell(
        self, taken: Coalesced | list[Transition], most: int, joined_seq: int, context: _Taken, ledger: Ledger | None
    ) -> None:
        """Write what was taken. A call of its own: while the subscription waits nothing holds what it was sent last."""
        if isinstance(taken, Coalesced):
            await context.write(coalesced_to_wire(taken))
            return
        _note(ledger, taken, joined_seq)
        for response in self._encoder.responses(taken, most > 0):
            await context.write(response)

    def _snapshot(self, seq: int, alarms: Sequence[Alarm]) -> Iterator[pb.Snapshot]:
        """The parts of a snapshot, each made when the one before is written: who does not read costs one of them."""
        part, size = pb.Snapshot(seq=seq, log_id=self._hub.log_id), 0
        for alarm in alarms:
            message = alarm_to_wire(alarm)
            size += message.ByteSize()
            if len(part.alarm) == SNAPSHOT_ALARMS_MAX or (part.alarm and size > RESPONSE_BYTES_MAX):
                yield part
                part, size = pb.Snapshot(seq=seq, log_id=self._hub.log_id), message.ByteSize()
            part.alarm.append(message)
        part.complete = True
        yield part

    def _bookmark(self, seq: int) -> bytes:
        return pb.SubscribeResponse(
            bookmark=pb.Bookmark(
                seq=seq,
                log_id=self._hub.log_id,
                now_us=self._clock.now_us(),
                rules_ready=self._rules_ready(),
                watchdog_age_s=round(self._watchdog_age_s()),
            )
        ).SerializeToString()

    async def _check_cursor(self, seq: int, log_id: str, context: _Taken) -> None:
        """End the call unless the cursor is of this log and not ahead of it."""
        newest = self._hub.seq
        if seq > newest:  # the table is ahead of the hub while a change is under way
            newest = await self._log.newest_seq()
        if log_id and log_id != self._hub.log_id:
            reason, arrived = "OTHER_LOG", f"from_seq {seq} is a cursor of log {log_id[:64]}"
        elif seq > newest:
            reason, arrived = "CURSOR_TOO_NEW", f"from_seq is {seq}"
        else:
            return
        await abort_with(
            context,
            grpc.StatusCode.FAILED_PRECONDITION,
            reason,
            f"{arrived}; this is log {self._hub.log_id} and its newest cursor is {newest}; "
            "subscribe from 0 for a new snapshot",
            metadata={"newest_seq": str(newest), "log_id": self._hub.log_id},
        )

    async def _too_old(self, seq: int, context: _Taken) -> None:
        oldest = await self._log.oldest_seq()
        await abort_with(
            context,
            grpc.StatusCode.OUT_OF_RANGE,
            "CURSOR_TOO_OLD",
            f"from_seq is {seq}; the oldest transition in the log is {oldest}; subscribe from 0 for a new snapshot",
            metadata={"oldest_seq": str(oldest), "log_id": self._hub.log_id},
        )


def _unread(unread_s: float) -> Overloaded:
    return Overloaded(
        "SUBSCRIBER_TOO_SLOW",
        f"no message was read for {unread_s:g} s; expected them to be read as they come; subscribe again from the last "
        "cursor",
        retry_after_s=1.0,
    )


def _note(ledger: Ledger | None, transitions: Sequence[Transition], live_after: int | None) -> None:
    """Note transitions that are about to be written; those after a cursor as news."""
    if ledger is None or not transitions:
        return
    seqs = tuple(transition.seq for transition in transitions)
    live = live_after is not None and seqs[0] > live_after
    ledger.sent(seqs, seqs[-1], transitions[0].recorded_us if live else None)
