"""A pipeline over writers and rules that write down what they are told, and fail on purpose; no database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from meterwatch.batch import Batch, EventBatch, Events, Reads, Rejects, Stored
from meterwatch.clock import Clock, SimulatedClock
from meterwatch.pipeline import Pipeline
from meterwatch.registers import RegisterBatch, RegisterChange

NONE = np.zeros(0, np.int32)
REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
NO_EVENTS = Events(NONE, NONE.astype(np.int64), NONE.astype(np.int16))


class Change(int):
    """A change known by a number, without reads."""

    quality = np.zeros(0, np.int32)


def batch(seq: int, rows: int = 1, epoch: int = 1) -> Batch:
    return Batch(1, epoch, seq, b"d", Reads(NONE, NONE.astype(np.int64), 900, NONE, {}), REJECTS, 0, rows)


def event_batch(seq: int) -> EventBatch:
    return EventBatch(1, 1, seq, b"d", NO_EVENTS, REJECTS, 1)


def stored(seq: int, batch_id: int, *, replayed: bool = False) -> Stored:
    change: Any = None if replayed else Change(seq)  # the rules below only write it down
    return Stored(seq, batch_id, 1, 0, 0, REJECTS.row, REJECTS.reason, replayed, False, change)


class FakeWriter:
    """Keeps a ledger in memory; `poison` seqs raise whenever they are written; `gate` holds writes back."""

    def __init__(self, ledger: dict[tuple[int, int], int]) -> None:
        self.ledger = ledger
        self.groups: list[list[int]] = []
        self.poison: dict[int, Exception] = {}
        self.fail: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def _one(self, epoch: int, seq: int) -> Stored:
        known = self.ledger.get((epoch, seq))
        if known is not None:
            return stored(seq, known, replayed=True)
        self.ledger[epoch, seq] = len(self.ledger) + 1
        return stored(seq, len(self.ledger))

    def write(self, group: list[Batch], now_us: int) -> list[Stored]:
        self.groups.append([b.seq for b in group])
        self.began.set()
        assert self.gate.wait(20)
        if self.fail:
            raise self.fail.pop(0)
        for b in group:
            if b.seq in self.poison:
                raise self.poison[b.seq]
        return [self._one(b.epoch, b.seq) for b in group]

    def write_events(self, group: list[EventBatch], now_us: int) -> list[tuple[Stored, Events]]:
        self.groups.append([one.seq for one in group])
        self.began.set()
        assert self.gate.wait(20)
        for one in group:
            if one.seq in self.poison:
                raise self.poison[one.seq]
        return [(self._one(-one.epoch, one.seq), one.events) for one in group]

    def write_registers(self, request: RegisterBatch, now_us: int) -> tuple[Stored, RegisterChange]:
        self.groups.append([request.seq])
        if request.seq in self.poison:
            raise self.poison[request.seq]
        self.began.set()
        assert self.gate.wait(20)
        return self._one(-request.epoch, request.seq), RegisterChange(request.reads.slot, request.reads.at_us)


class FakeRules:
    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.fail: list[Exception] = []
        self.due = False
        self.asked_us: list[int] = []
        self.connected_us: list[int] = []
        self.deaf: frozenset[int] = frozenset()

    def observe_reads(self, stored: Sequence[Stored], now_us: int) -> None:
        self.log += [("saw", one.change) for one in stored]

    def observe_events(self, events: Events, now_us: int) -> None:
        self.log.append(("saw events", events.rows))

    def observe_registers(self, change: RegisterChange) -> None:
        self.log.append(("saw registers", len(change.slot)))

    def deaf_to(self, head_ends: frozenset[int], now_us: int) -> None:
        if head_ends != self.deaf:
            self.deaf = head_ends
            self.log.append(("deaf to", set(head_ends)))

    def head_end(self, head_end_id: int, connected: bool, now_us: int) -> None:
        self.log.append(("head-end", head_end_id, connected))
        self.connected_us.append(now_us)

    async def evaluate(self, now_us: int) -> list[Any]:
        self.asked_us.append(now_us)
        if self.fail:
            raise self.fail.pop(0)
        return []


@asynccontextmanager
async def piped(writers: int = 1, clock: Clock | None = None) -> AsyncIterator[Any]:
    """A running pipeline; at its end nobody is left waiting."""
    log: list[Any] = []
    ledger: dict[tuple[int, int], int] = {}
    reads, events = [FakeWriter(ledger) for _ in range(writers)], FakeWriter(ledger)
    shown = FakeWriter(ledger)
    rules = FakeRules(log)
    record_gate = asyncio.Event()
    record_gate.set()
    faults: list[Exception] = []
    told: list[Any] = []

    async def record(verdicts: list[Any], ids: list[int]) -> None:
        await record_gate.wait()
        if faults:
            raise faults.pop(0)
        told.extend(verdicts)
        log.append(("recorded", ids))

    async def last_acked(head_end_id: int, epoch: int) -> int:
        return 0

    topology: Any = SimpleNamespace()
    made = Pipeline(
        clock or SimulatedClock(1, 1.0), [*reads, events], rules, record, last_acked, topology, registers=shown
    )
    made.ready()
    core = asyncio.create_task(made.run())
    try:
        yield SimpleNamespace(
            pipeline=made, writer=reads[0], writers=reads, events=events, shown=shown, rules=rules, log=log, core=core,
            record_gate=record_gate, faults=faults, told=told,
        )  # fmt: skip
    finally:
        for writer in (*reads, events, shown):
            writer.gate.set()
        core.cancel()
        await asyncio.gather(core, return_exceptions=True)
        assert not made._owed


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.001)


async def started(writer: FakeWriter) -> None:
    assert await asyncio.to_thread(writer.began.wait, 20)
    writer.began.clear()


async def asked(*work: Any) -> list[Any]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*work, return_exceptions=True)
