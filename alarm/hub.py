"""The hub: every committed transition to every subscriber, without ever waiting for one.

Argument. `publish`, `subscribe_now` and `subscribe_after` do not await, so on one event loop each is one step: a
snapshot and the subscription that continues it cannot have a transition between them. A subscriber that does not keep
up has its own queue folded to the newest version per alarm, and is told which cursors were folded; that costs the
others nothing. If even that is too much, its subscription ends with Overloaded and it resumes from the log.

No I/O, no clock, no wire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from meterwatch.alarms import Alarm, Transition
from meterwatch.errors import Overloaded

RING_MAX: Final = 10_000
"""Transitions kept for resuming without the database: minutes of a storm, days of a quiet grid."""
QUEUE_MAX: Final = 1024
"""Transitions waiting for one subscriber before they are folded."""
ALARMS_MAX: Final = 65_536
"""Different alarms waiting for one subscriber before it has to resume from the log."""
SUBSCRIBERS_MAX: Final = 256
"""Unless server.subscribers_max says otherwise."""


@dataclass(frozen=True, slots=True)
class Coalesced:
    """`merged` transitions with cursors in first_seq..last_seq were folded into newer ones of the same alarms."""

    merged: int
    first_seq: int
    last_seq: int


class Subscription:
    """What one subscriber has yet to receive: `wait` until something is there, `take` it."""

    def __init__(self, hub: Hub, position: int, wants: Callable[[Transition], bool], queue_max: int) -> None:
        self.position = position
        """Cursor up to which everything has been offered, wanted or not."""
        self.coalesced = 0
        """Transitions folded away so far."""
        self._hub = hub
        self._wants = wants
        self._queue: deque[Transition] = deque()
        self._queue_max = queue_max
        self._fold_at = queue_max
        self._folded: Coalesced | None = None
        self._overrun = False
        self._closed = False
        self._wake = asyncio.Event()

    def offer(self, transitions: Sequence[Transition]) -> None:
        """Queue those that are new and wanted; never waits. In rising order."""
        for transition in transitions:
            if transition.seq <= self.position or self._closed:
                continue
            self.position = transition.seq
            if not self._wants(transition):
                continue
            self._queue.append(transition)
            if len(self._queue) > self._fold_at:
                self._fold()
        if self._queue:
            self._wake.set()

    def resume(self, ring: Iterable[Transition]) -> None:
        """Queue what came before the subscriber; unfolded, because the subscriber was not slow."""
        missed = [transition for transition in ring if transition.seq > self.position]
        if missed:
            self.position = missed[-1].seq
            self._queue.extend(filter(self._wants, missed))
            self._fold_at = max(self._queue_max, 2 * len(self._queue))
            self._wake.set()

    @property
    def sent_seq(self) -> int:
        """Cursor a bookmark may name: nothing at or before it is still to be received."""
        if self._folded is not None:
            return self._folded.first_seq - 1
        return self._queue[0].seq - 1 if self._queue else self.position

    @property
    def waiting(self) -> int:
        """Transitions queued."""
        return len(self._queue)

    async def wait(self) -> bool:
        """Wait until something can be taken, or for a nudge. False: nothing comes any more. Cancelling loses nothing.

        Overloaded when the subscriber was left too far behind.
        """
        if self._folded or self._queue:
            return True
        if self._overrun:
            raise Overloaded(
                "SUBSCRIBER_TOO_SLOW",
                f"more than {ALARMS_MAX} alarms changed while this subscriber did not read; "
                "resume from its last cursor and read faster, or narrow the filter",
                retry_after_s=1.0,
            )
        if self._closed:
            return False
        self._wake.clear()
        await self._wake.wait()
        return True

    def nudge(self) -> None:
        """End a wait, so that whoever waits looks at the time."""
        self._wake.set()

    def take(self, most: int) -> Coalesced | list[Transition]:
        """What was folded, if it has not been told; else the next transitions, at most so many, maybe none."""
        if self._folded is not None:
            folded, self._folded = self._folded, None
            return folded
        queue = self._queue
        taken = [queue.popleft() for _ in range(min(most, len(queue)))]
        if not queue:
            self._fold_at = self._queue_max
        return taken

    def close(self) -> None:
        """Leave the hub. What is queued can still be taken."""
        self._closed = True
        self._hub.leave(self)
        self._wake.set()

    def _fold(self) -> None:
        """Keep the newest transition per alarm, in cursor order. Amortised: the next fold waits for twice as many."""
        newest: dict[str, Transition] = {}
        merged = [self._folded] if self._folded else []
        for transition in self._queue:
            older = newest.pop(transition.alarm.alarm_id, None)
            if older is not None:
                merged.append(Coalesced(1, older.seq, older.seq))
                transition = replace(transition, was=older.was)
            newest[transition.alarm.alarm_id] = transition
        if merged:
            self._folded = Coalesced(
                sum(m.merged for m in merged), min(m.first_seq for m in merged), max(m.last_seq for m in merged)
            )
            self.coalesced += len(self._queue) - len(newest)
        self._queue = deque(newest.values())
        self._fold_at = max(self._queue_max, 2 * len(newest))
        if len(newest) > ALARMS_MAX:
            self._queue.clear()
            self._folded, self._overrun = None, True
            self.close()


class Hub:
    """The alarms as of the last transition, the last transitions, and who listens."""

    def __init__(
        self,
        snapshot: Iterable[Alarm],
        seq: int,
        log_id: str,
        ring_max: int = RING_MAX,
        queue_max: int = QUEUE_MAX,
        subscribers_max: int = SUBSCRIBERS_MAX,
    ) -> None:
        self.seq = seq
        """Cursor of the last transition published."""
        self.log_id = log_id
        self._alarms = {alarm.alarm_id: alarm for alarm in snapshot if not alarm.finished}
        self._ring: deque[Transition] = deque(maxlen=ring_max)
        self._queue_max = queue_max
        self._subscribers_max = subscribers_max
        self._subscriptions: set[Subscription] = set()

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    @property
    def waiting(self) -> int:
        """Transitions queued for subscribers, of all of them."""
        return sum(one.waiting for one in tuple(self._subscriptions))  # asked in another thread

    def publish(self, transitions: Sequence[Transition]) -> None:
        """Hand committed transitions to everybody; never waits. Those already published are ignored."""
        fresh = [transition for transition in transitions if transition.seq > self.seq]
        for transition in fresh:
            self.seq = transition.seq
            self._ring.append(transition)
            if transition.alarm.finished:
                self._alarms.pop(transition.alarm.alarm_id, None)
            else:
                self._alarms[transition.alarm.alarm_id] = transition.alarm
        for subscription in tuple(self._subscriptions):
            subscription.offer(fresh)

    def subscribe_now(self, wants: Callable[[Transition], bool]) -> tuple[int, list[Alarm], Subscription]:
        """Cursor, the alarms not finished at it, and everything after it."""
        return self.seq, list(self._alarms.values()), self._join(self.seq, wants)

    def subscribe_after(self, seq: int, wants: Callable[[Transition], bool]) -> Subscription | None:
        """Everything after a cursor; None if the ring does not reach back to it (then read the log)."""
        first = self._ring[0].seq if self._ring else self.seq + 1
        if seq + 1 < first:
            return None
        subscription = self._join(seq, wants)
        subscription.resume(self._ring)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _join(self, seq: int, wants: Callable[[Transition], bool]) -> Subscription:
        if len(self._subscriptions) >= self._subscribers_max:
            raise Overloaded(
                "TOO_MANY_SUBSCRIBERS",
                f"{self._subscribers_max} subscribers are connected and that is the limit; close one, or try later",
                retry_after_s=5.0,
            )
        subscription = Subscription(self, seq, wants, self._queue_max)
        self._subscriptions.add(subscription)
        return subscription
