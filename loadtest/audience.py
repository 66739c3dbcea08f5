"""Many subscribers to alarms in a process of their own, each on its own connection; they count, and note when.

Some may stall: they take their snapshot and read nothing more until they are told to. Promises: what a subscriber was
told was folded away counts apart from what it received; a cursor that does not rise is an error. Refuses to look at an
alarm beyond the name of its asset.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import grpc

from loadtest.child import Child
from meterwatch.client.feed import SUBSCRIBE, TRANSITIONS_MAX
from meterwatch.client.retry import CHANNEL_OPTIONS
from meterwatch.v1.alarms_pb2 import SubscribeRequest, SubscribeResponse, Transition

TIMEOUT_S: Final = 300.0
TOGETHER: Final = 50
"""Connections opened at a time: a thousand at once would meet the handshake's time limit on a busy machine."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What all subscribers together received since they were last asked."""

    transitions: int
    merged: int
    """Transitions folded into newer ones of the same alarm."""
    messages: int
    """Messages that carried transitions."""
    cpu_s: float
    at_s: float
    """time.monotonic() when the last of them came."""
    arrivals: dict[str, list[float]]
    """By asset, time.monotonic() at each subscriber that notes it."""


class Audience:
    """The process, seen from the bench. Close it."""

    def __init__(self, address: str, subscribers: int, *, stalled: int = 0, notes: bool = False) -> None:
        """stalled: so many more, who do not read. notes: those who read note when each alarm came."""
        self._child = Child("audience", _main, address, subscribers, stalled, notes, answers_in_s=TIMEOUT_S)
        self._child.answer(str)

    def heard(self, each: int) -> Heard:
        """Wait until every subscriber has received so many transitions, folded ones included, since the last call."""
        return self._child.ask((each, False), Heard)

    def resumed(self, each: int) -> Heard:
        """Let the stalled ones read; wait until each has received so many transitions, folded ones included."""
        return self._child.ask((each, True), Heard)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _main(pipe: Connection, address: str, subscribers: int, stalled: int, notes: bool) -> None:
    asyncio.run(
        _listen(pipe, address, [_Seat(notes) for _ in range(subscribers)], [_Seat(False) for _ in range(stalled)])
    )


async def _listen(pipe: Connection, address: str, seats: list[_Seat], stalled: list[_Seat]) -> None:
    for seat in seats:
        seat.reads.set()
    gate = asyncio.Semaphore(TOGETHER)
    calls = [asyncio.create_task(seat.follow(address, gate)) for seat in (*seats, *stalled)]
    asked = asyncio.create_task(_answer(pipe, seats, stalled))
    done, _ = await asyncio.wait({asked, *calls}, return_when=asyncio.FIRST_COMPLETED)
    if asked not in done:
        error = done.pop().exception()
        pipe.send(f"{type(error).__name__}: {error}" if error else "a subscription has ended")
    for task in (asked, *calls):
        task.cancel()
    await asyncio.gather(asked, *calls, return_exceptions=True)


async def _answer(pipe: Connection, seats: list[_Seat], stalled: list[_Seat]) -> None:
    """Serve the bench until it closes its end."""
    for seat in (*seats, *stalled):
        await seat.seated.wait()
    pipe.send("")
    while True:
        cpu_s = time.process_time()
        try:
            each, resume = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        asked = stalled if resume else seats
        for seat in asked:
            seat.reads.set()
        for seat in asked:
            await seat.until(each)
        arrivals: dict[str, list[float]] = {}
        for seat in asked:
            for asset, at_s in seat.arrivals:
                arrivals.setdefault(asset, []).append(at_s)
        heard = Heard(
            sum(seat.transitions for seat in asked),
            sum(seat.merged for seat in asked),
            sum(seat.messages for seat in asked),
            time.process_time() - cpu_s,
            max((seat.at_s for seat in asked), default=0.0),
            arrivals,
        )
        for seat in asked:
            seat.start()
        pipe.send(heard)


class _Seat:
    """One subscriber."""

    def __init__(self, notes: bool) -> None:
        self.seated = asyncio.Event()
        self.reads = asyncio.Event()
        self._notes = notes
        self._changed = asyncio.Event()
        self._seq = 0
        self.start()

    def start(self) -> None:
        self.transitions = self.merged = self.messages = 0
        self.at_s = 0.0
        self.arrivals: list[tuple[str, float]] = []

    async def until(self, each: int) -> None:
        while self.transitions + self.merged < each:
            self._changed.clear()
            await self._changed.wait()

    async def follow(self, address: str, gate: asyncio.Semaphore) -> None:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            subscribe = channel.unary_stream(
                SUBSCRIBE,
                request_serializer=SubscribeRequest.SerializeToString,
                response_deserializer=SubscribeResponse.FromString,
            )
            async with gate:
                messages = aiter(subscribe(SubscribeRequest(transitions_max=TRANSITIONS_MAX)))
                while not (await anext(messages)).snapshot.complete:
                    pass
            self.seated.set()
            await self.reads.wait()
            async for message in messages:
                self._take(message)

    def _take(self, message: SubscribeResponse) -> None:
        match message.WhichOneof("message"):
            case "transition":
                self._count([message.transition])
            case "transitions":
                self._count(message.transitions.transition)
            case "coalesced":
                self.merged += message.coalesced.merged
            case _:
                return
        self.messages += 1
        self.at_s = time.monotonic()
        self._changed.set()

    def _count(self, transitions: Sequence[Transition]) -> None:
        self.transitions += len(transitions)
        for one in transitions:
            if one.seq <= self._seq:
                raise RuntimeError(f"cursor {one.seq} came after {self._seq}")
            self._seq = one.seq
        if self._notes:
            now_s = time.monotonic()
            self.arrivals += [(one.alarm.asset, now_s) for one in transitions]
