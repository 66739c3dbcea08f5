"""Receipts: what named subscribers were sent, and when they had it and showed it.

Argument. The service notes each message before it is written to a named subscriber, and the subscriber confirms by
cursor. A point (cursor, time) stands for every message sent before its time up to its cursor: a copy sent later, after
a reconnection, waits for a point of its own. So nothing is called received that was not, and one that came earlier than
its point is told later than it was, never earlier.

A receipt is committed before the call is answered; calls that come together share a transaction. What no subscriber
has confirmed is in memory alone: a stop forgets it, as if it had not been sent. No list here grows without bound.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from meterwatch.access.identity import owner_of
from meterwatch.clock import Clock
from meterwatch.errors import Overloaded
from meterwatch.receipts import Point, SentMessage

NAMES_MAX: Final = 1000
"""Subscribers known by name; beyond them the one that joined longest ago is forgotten."""
OWNER_NAMES_MAX: Final = 100
"""Of them of one certificate's or token's name: nobody has those of others forgotten by joining under many."""
UNCONFIRMED_MAX: Final = 1000
"""Messages of one subscriber that wait to be confirmed; the oldest is forgotten then."""
HELD_MAX: Final = 2_000_000
"""Weight of all messages that wait to be confirmed, of all subscribers: some 80 MB. Beyond it the one with the most
forgets the older half of its own, so that who confirms pays for nobody who does not."""
MESSAGE_WEIGHT: Final = 8
"""Of a message beside one for each transition in it: 300 bytes and 40 each."""
LOOK_WEIGHT: Final = HELD_MAX // 100
"""What is held is added up after so much more was sent."""
UNWRITTEN_MAX: Final = 50_000
"""Receipts that wait for the database."""
TOLD_MAX: Final = 200
"""Of one alarm; as alarms.proto says."""


class Store(Protocol):
    """What receipts need of the database."""

    async def last_number(self) -> int: ...

    async def write(self, receipts: Sequence[SentMessage]) -> None: ...

    async def of(self, seqs: Sequence[int], limit: int) -> list[SentMessage]: ...


@dataclass(slots=True)
class _Name:
    unreceived: deque[SentMessage] = field(default_factory=deque)
    unshown: deque[SentMessage] = field(default_factory=deque)
    reading: int = 0
    """Number of the subscription that has the name now."""
    held: int = 0
    """Weight of both."""

    def keep(self, queue: deque[SentMessage], message: SentMessage) -> int:
        """Add a message to one of the two; 1 if the oldest had to go."""
        queue.append(message)
        self.held += _weight(message)
        if len(queue) <= UNCONFIRMED_MAX:
            return 0
        self.held -= _weight(queue.popleft())
        return 1

    def covered(self, queue: deque[SentMessage], points: Sequence[Point]) -> Iterator[tuple[SentMessage, int]]:
        """Take the messages that a point stands for out of a queue, each with the time of the first such point."""
        for message, at_us in _covered(queue, points):
            self.held -= _weight(message)
            yield message, at_us

    def forget_half(self) -> int:
        """Forget the older half of both; how many of them had not been confirmed as received."""
        unreceived = -(-len(self.unreceived) // 2)
        for queue, count in ((self.unreceived, unreceived), (self.unshown, -(-len(self.unshown) // 2))):
            for _ in range(count):
                self.held -= _weight(queue.popleft())
        return unreceived


class Receipts:
    """All named subscribers of one service."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        last_number: int,
        took: Callable[[str, float], None] = lambda stage, s: None,
        machine_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """took is told of (stage, seconds): sent after the commit, received after sent, shown after received."""
        self.machine_us = machine_us
        """Clock of all receipts: the service's may stand still, or run fast."""
        self.forgotten = 0
        """Messages that were not confirmed before there were too many."""
        self._store = store
        self._clock = clock
        self._number = last_number
        self._weight_sent = 0
        """Since what is held was added up."""
        self._took = took
        self._names: dict[str, _Name] = {}
        self._subscription = 0
        self._unwritten: dict[int, SentMessage] = {}
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls, store: Store, clock: Clock, took: Callable[[str, float], None] = lambda stage, s: None
    ) -> Receipts:
        """Numbers go on where the table ends."""
        return cls(store, clock, await store.last_number(), took)

    def join(self, subscriber: str) -> Ledger:
        """A subscription under a name begins; one that has the name already is noted no more."""
        self._subscription += 1
        name = self._names.pop(subscriber, None) or _Name()
        self._names[subscriber] = name  # the last in the dict is the newest
        owner = owner_of(subscriber)
        own = [one for one in self._names if owner_of(one) == owner]
        if len(own) > OWNER_NAMES_MAX:
            self._forget(own[0])
        if len(self._names) > NAMES_MAX:
            self._forget(next(iter(self._names)))
        name.reading = self._subscription
        return Ledger(self, subscriber, name)

    def _forget(self, subscriber: str) -> None:
        self.forgotten += len(self._names.pop(subscriber).unreceived)

    async def confirm(self, subscriber: str, received: Iterable[Point], shown: Iterable[Point]) -> int:
        """Take what a subscriber says; how many messages it is news of. Overloaded, or as the store raises."""
        name = self._names.get(subscriber)
        if name is None:
            return 0
        if len(self._unwritten) > UNWRITTEN_MAX:
            raise Overloaded("QUEUE_FULL", f"{len(self._unwritten)} receipts wait for the database; confirm later", 5.0)
        shown = sorted(shown, key=_by_cursor)
        changed: dict[int, SentMessage] = {}
        for message, at_us in name.covered(name.unreceived, sorted([*received, *shown], key=_by_cursor)):
            changed[message.number] = one = replace(message, received_us=at_us)
            self._took("received", (at_us - message.sent_us) / 1e6)
            name.keep(name.unshown, one)
        for message, at_us in name.covered(name.unshown, shown):
            assert message.received_us is not None
            shown_us = max(at_us, message.received_us)
            changed[message.number] = replace(message, shown_us=shown_us)
            self._took("shown", (shown_us - message.received_us) / 1e6)
        self._unwritten |= changed
        await self._write()
        return len(changed)

    async def of(self, seqs: Sequence[int]) -> list[SentMessage]:
        """Messages with one of these transitions, the newest TOLD_MAX, oldest first; those not confirmed among them."""
        wanted = set(seqs)
        found = {one.number: one for one in await self._store.of(seqs, TOLD_MAX)}
        here = [one for name in self._names.values() for one in (*name.unreceived, *name.unshown)]
        found |= {one.number: one for one in (*here, *self._unwritten.values()) if not wanted.isdisjoint(one.seqs)}
        return [found[number] for number in sorted(found)[-TOLD_MAX:]]

    def sent(self, subscriber: str, name: _Name, seqs: tuple[int, ...], upto: int, committed_us: int | None) -> None:
        """Note a message that is about to be written."""
        self._number += 1
        message = SentMessage(self._number, subscriber, seqs, upto, self.machine_us())
        self.forgotten += name.keep(name.unreceived, message)
        self._weight_sent += _weight(message)
        if self._weight_sent >= LOOK_WEIGHT:
            self._forget_too_much()
        if committed_us is not None:
            self._took("sent", max(0, self._clock.now_us() - committed_us) / 1e6)

    def _forget_too_much(self) -> None:
        self._weight_sent = 0
        held = sum(name.held for name in self._names.values())
        while held > HELD_MAX:
            most = max(self._names.values(), key=lambda name: name.held)
            before = most.held
            self.forgotten += most.forget_half()
            held -= before - most.held

    async def _write(self) -> None:
        """Commit what waits, of others too, unless another call has done so meanwhile."""
        async with self._turn:
            if not self._unwritten:
                return
            rows = dict(self._unwritten)
            await self._store.write([rows[number] for number in sorted(rows)])
            for number, one in rows.items():  # what changed meanwhile waits still
                if self._unwritten[number] is one:
                    del self._unwritten[number]


class Ledger:
    """Notes what one subscription is sent, as long as it has its name."""

    def __init__(self, receipts: Receipts, subscriber: str, name: _Name) -> None:
        self._receipts = receipts
        self._subscriber = subscriber
        self._name = name
        self._reading = name.reading

    def sent(self, seqs: tuple[int, ...], upto: int, committed_us: int | None = None) -> None:
        """A message is about to be written. committed_us: since when it could be; None: it is news of the past."""
        if seqs and self._name.reading == self._reading:
            self._receipts.sent(self._subscriber, self._name, seqs, upto, committed_us)


def _by_cursor(point: Point) -> tuple[int, int]:
    return point.seq, point.at_us


def _weight(message: SentMessage) -> int:
    return MESSAGE_WEIGHT + len(message.seqs)


def _covered(queue: deque[SentMessage], points: Sequence[Point]) -> Iterator[tuple[SentMessage, int]]:
    """Take the messages that a point stands for out of a queue, each with the time of the first such point."""
    left = []
    cursors = [point.seq for point in points]
    while queue and points:
        message = queue.popleft()
        far = points[bisect_left(cursors, message.upto) :]
        at_us = min((point.at_us for point in far if point.at_us >= message.sent_us), default=None)
        if at_us is None:
            left.append(message)
        else:
            yield message, at_us
    queue.extendleft(reversed(left))
