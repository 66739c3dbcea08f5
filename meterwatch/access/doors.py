"""Requests on their way in: how many bytes are received at once, and whose; the others stay with their senders.

gRPC receives a message when it is asked for, and of one that nobody asks for HTTP/2 lets its sender send 64 KiB. So a
flood of requests costs what is received at once. How long a request is is known when it is here: until then it counts
as the longest there may be (server.message_bytes_max). That of a call without a place of its own (room.py), above all
what head-ends send, counts with its length until it is answered.

A *door* is for methods of one kind, so that no person waits behind what head-ends send. At a door each name has a share
and a line; the lines are served in turn, and who has waited WAIT_S is told to come again. Where nobody is asked who he
is there are no shares: there whoever has been on his way longest *makes way* for the next, because an honest request
comes with its call.

Knows no method, no identity and no message.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from meterwatch.config import Server
from meterwatch.errors import Overloaded

ALL_BYTES_MAX: Final = 32 * 1024 * 1024
"""Behind a door: eight of the longest requests; more where server.message_bytes_max lets them be longer. In the process
each is there up to three times: as gRPC has it, as bytes and as a message. (ours)"""
OWN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of one name: two of the longest."""
_LONGEST, _OWN_LONGEST = 8, 2
WAITING_MAX: Final = 1024
"""Requests that wait at a door: 64 MiB of what their senders may send unasked."""
OWN_WAITING_MAX: Final = 256
"""Of them of one name."""
WAIT_S: Final = 10.0
RETRY_S: Final = 1.0

_Turn = asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Load:
    """What somebody has behind a door. share: his name has one."""

    door: Door
    name: str
    share: bool
    size: int

    def leave(self) -> None:
        """Give it back; once more gives back nothing."""
        self.door.weigh(self, 0)


class Door:
    """Bytes received and being received, and who waits. receive_s: so long a request may take; TimeoutError beyond."""

    def __init__(self, message_bytes_max: int, receive_s: float, makes_way: bool = False) -> None:
        self.size = 0
        self.waiting = 0
        self.receive_s: Final = receive_s
        self._longest = message_bytes_max
        self._bytes_max = max(ALL_BYTES_MAX, _LONGEST * message_bytes_max)
        self._own_bytes_max = max(OWN_BYTES_MAX, _OWN_LONGEST * message_bytes_max)
        self._makes_way = makes_way
        self._own = Counter[str]()
        self._lines: dict[str, dict[_Turn, Load]] = {}
        self._on_their_way: dict[asyncio.Timeout, None] = {}
        """The ends of those that are being received, longest on its way first; who makes way is in it no more."""

    async def receive(self, name: str, read: Callable[[], Awaitable[Any]], share: bool = True) -> tuple[Any, Load]:
        """What `read` brings, when it is its turn, and what it weighs, to be left. name: whose line it stands in.

        Overloaded, named QUEUE_FULL: too many wait, its turn has not come, or it had to make way.
        """
        load = Load(self, name, share, self._longest)
        if self._has_room(load):
            self._take(load)
        else:
            await self._turn(load)
        end = asyncio.timeout(self.receive_s)
        if self._makes_way and self.waiting:
            self._end_oldest()
        self._on_their_way[end] = None
        try:
            async with end:
                request = await read()
        except BaseException as error:
            load.leave()
            if isinstance(error, TimeoutError) and end not in self._on_their_way:
                raise _full("the request did not come with its call, and those of others did") from None
            raise
        finally:
            self._on_their_way.pop(end, None)
        self.weigh(load, len(request) if isinstance(request, bytes) else 0)
        return request, load

    async def _turn(self, load: Load) -> None:
        """Wait in line, and have the place taken."""
        own = len(self._lines.get(load.name, ()))
        if self.waiting >= WAITING_MAX or (load.share and own >= OWN_WAITING_MAX):
            raise _full(f"{self.waiting} requests wait to be received, {own} of them of this caller")
        if self._makes_way:
            self._end_oldest()
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(load.name, {})[turn] = load
        self.waiting += 1
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                load.leave()  # it came, and nobody is there any more to take it
            else:
                self._out_of_line(load.name, turn)
            if isinstance(error, TimeoutError):
                raise _full(f"it was not this request's turn to be received for {WAIT_S:.0f} s") from None
            raise

    def _has_room(self, load: Load) -> bool:
        own = self._own[load.name] if load.share else 0
        return self.size + self._longest <= self._bytes_max and own + self._longest <= self._own_bytes_max

    def _take(self, load: Load) -> None:
        self._own[load.name] += load.size
        self.size += load.size

    def weigh(self, load: Load, size: int) -> None:
        """Have it weigh less, and let the next lines have what that leaves."""
        self.size += size - load.size
        self._own[load.name] += size - load.size
        load.size = size
        if not self._own[load.name]:
            del self._own[load.name]
        self._let_one_in()

    def _let_one_in(self) -> None:
        """Let the first of the next line in that may come. What one gives back is never room for two."""
        for name, line in self._lines.items():
            turn = next((one for one in line if not one.done()), None)
            if turn is not None and self._has_room(load := line[turn]):
                self._out_of_line(name, turn)
                if line:
                    self._lines[name] = self._lines.pop(name)  # to the end
                self._take(load)
                turn.set_result(None)
                return

    def _out_of_line(self, name: str, turn: _Turn) -> None:
        del self._lines[name][turn]
        if not self._lines[name]:
            del self._lines[name]
        self.waiting -= 1

    def _end_oldest(self) -> None:
        oldest = next((end for end in self._on_their_way if not end.expired()), None)
        if oldest is not None:
            del self._on_their_way[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())


class Doors(NamedTuple):
    """One for each kind of caller."""

    head_ends: Door
    people: Door
    anybody: Door
    """For what asks nobody who he is."""

    @classmethod
    def of(cls, limits: Server) -> Doors:
        """Nobody in them yet."""
        longest, receive_s = limits.message_bytes_max, limits.idle_timeout_s
        return cls(Door(longest, receive_s), Door(longest, receive_s), Door(longest, receive_s, makes_way=True))

    @property
    def waiting(self) -> int:
        """Requests that wait to be received."""
        return sum(door.waiting for door in self)


def _full(what: str) -> Overloaded:
    return Overloaded("QUEUE_FULL", f"{what}; expected fewer at a time; send again later", RETRY_S)
