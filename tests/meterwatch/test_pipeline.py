"""Laws of the path behind the endpoint, with writers and rules that fail on purpose; no database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest

from meterwatch import pipeline as subject
from meterwatch.batch import Batch, EventBatch, Events, Reads, Rejects, Stored
from meterwatch.clock import Clock, ReplayClock, SimulatedClock
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.pipeline import Pipeline
from meterwatch.registers import RegisterBatch, RegisterChange

NONE = np.zeros(0, np.int32)
REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])


class Change(int):
    """A change known by a number, without reads."""

    quality = np.zeros(0, np.int32)


def batch(seq: int, rows: int = 1, epoch: int = 1) -> Batch:
    return Batch(1, epoch, seq, b"d", Reads(NONE, NONE.astype(np.int64), 900, NONE, {}), REJECTS, 0, rows)


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

    def head_end(self, head_end_id: int, connected: bool) -> None:
        self.log.append(("head-end", head_end_id, connected))

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


async def test_every_batch_is_answered_whatever_fails() -> None:
    async with piped(2) as p:
        for writer in p.writers:
            writer.poison = {7: ValueError("poison"), 8: StorageUnavailable("gone")}
        answers = await asked(*(p.pipeline.submit(batch(seq)) for seq in range(1, 40)))
    assert len(answers) == 39
    assert all(isinstance(a, Stored | ValueError | StorageUnavailable) for a in answers)
    assert isinstance(answers[6], ValueError | StorageUnavailable)


async def test_a_poison_batch_fails_alone() -> None:
    async with piped() as p:
        p.writer.gate.clear()
        p.writer.poison = {4: psycopg.errors.NumericValueOutOfRange("poison")}
        work = [asyncio.create_task(p.pipeline.submit(batch(seq))) for seq in range(1, 8)]
        await started(p.writer)
        p.writer.gate.set()
        answers = await asked(*work)
    assert [type(a) for a in answers].count(Stored) == 6
    assert isinstance(answers[3], psycopg.DataError)


async def test_an_unreachable_database_fails_the_group_and_is_asked_once() -> None:
    async with piped() as p:
        p.writer.fail = [StorageUnavailable("away")]
        first = await asked(*(p.pipeline.submit(batch(seq)) for seq in (1, 2, 3)))
        assert all(isinstance(a, StorageUnavailable) for a in first)
        assert p.writer.groups == [[1, 2, 3]]
        again = await asked(*(p.pipeline.submit(batch(seq)) for seq in (1, 2, 3)))
        assert all(isinstance(a, Stored) for a in again)


async def test_an_answer_waits_for_the_record() -> None:
    async with piped() as p:
        p.record_gate.clear()
        work = asyncio.create_task(p.pipeline.submit(batch(1)))
        await until(lambda: ("saw", 1) in p.log)
        await asyncio.sleep(0)
        assert not work.done()
        p.record_gate.set()
        assert (await asked(work))[0].seq == 1
        assert p.log == [("saw", 1), ("recorded", [1])]


@pytest.mark.parametrize("fault", [StorageUnavailable("away"), Overloaded("DATABASE_FULL", "full", 1.0)])
async def test_a_record_is_tried_until_it_succeeds(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "RETRY_S", 0)
    async with piped() as p:
        p.faults += [fault] * 3
        assert isinstance((await asked(p.pipeline.submit(batch(1))))[0], Stored)
        assert p.log == [("saw", 1), ("recorded", [1])]


async def test_a_group_stays_below_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "GROUP_ROWS_MAX", 10)
    async with piped() as p:
        await asked(*(p.pipeline.submit(batch(seq, rows=4)) for seq in range(1, 6)), p.pipeline.submit(batch(6, 99)))
    assert p.writer.groups == [[1, 2], [3, 4], [5], [6]]


async def test_the_rules_see_batches_in_the_order_of_their_commits() -> None:
    async with piped() as p:
        await asked(*(p.pipeline.submit(batch(seq)) for seq in range(1, 30)))
    assert [what for kind, what in p.log if kind == "saw"] == list(range(1, 30))


async def test_a_sender_that_left_before_the_write_stores_nothing() -> None:
    async with piped() as p:
        p.writer.gate.clear()
        first = asyncio.create_task(p.pipeline.submit(batch(1)))
        await started(p.writer)
        left, stays = (asyncio.create_task(p.pipeline.submit(batch(seq, rows=5))) for seq in (2, 3))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        p.writer.gate.set()
        assert [a.seq for a in await asked(first, stays)] == [1, 3]
        assert p.pipeline.waiting_rows == 0
    assert p.writer.groups == [[1], [3]]


@pytest.mark.parametrize("kind", ["reads", "events"])
async def test_what_is_stored_reaches_the_rules_though_its_sender_left(kind: str) -> None:
    events = Events(np.zeros(2, np.int32), np.zeros(2, np.int64), np.ones(2, np.int16))
    async with piped() as p:
        writer = p.writer if kind == "reads" else p.events

        def submit(seq: int) -> Any:
            if kind == "reads":
                return p.pipeline.submit(batch(seq))
            return p.pipeline.submit_events(EventBatch(1, 1, seq, b"d", events, REJECTS, 2))

        writer.gate.clear()
        left = asyncio.create_task(submit(1))
        await started(writer)
        left.cancel()
        after = asyncio.create_task(submit(2))
        await asyncio.gather(left, return_exceptions=True)
        assert writer.groups == [[1]]  # one call at a time in one writer
        writer.gate.set()
        assert (await asked(after))[0].seq == 2
        assert [entry[0] for entry in p.log if entry[0] != "recorded"][:1] != []
        assert {i for entry in p.log if entry[0] == "recorded" for i in entry[1]} == {1, 2}


async def test_small_batches_wait_for_the_running_copy_and_go_together() -> None:
    async with piped(2) as p:
        for writer in p.writers:
            writer.gate.clear()
        first = asyncio.create_task(p.pipeline.submit(batch(1)))
        await until(lambda: any(writer.groups for writer in p.writers))
        others = [asyncio.create_task(p.pipeline.submit(batch(seq))) for seq in range(2, 6)]
        await asyncio.sleep(0.05)  # nothing happens, and there is no event for that
        assert [group for writer in p.writers for group in writer.groups] == [[1]]
        for writer in p.writers:
            writer.gate.set()
        await asked(first, *others)
        assert sorted(group for writer in p.writers for group in writer.groups) == [[1], [2, 3, 4, 5]]


async def test_a_replay_is_not_answered_before_what_it_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SECOND_COPY_ROWS", 0)
    async with piped(2) as p:
        for writer in p.writers:
            writer.gate.clear()
        p.record_gate.clear()
        first = asyncio.create_task(p.pipeline.submit(batch(1)))
        await until(lambda: any(writer.groups for writer in p.writers))
        again = asyncio.create_task(p.pipeline.submit(batch(1)))
        other = asyncio.create_task(p.pipeline.submit(batch(2)))
        await until(lambda: sum(len(writer.groups) for writer in p.writers) == 2)
        assert sorted(seq for writer in p.writers for group in writer.groups for seq in group) == [1, 2]
        next(writer for writer in p.writers if [1] in writer.groups).gate.set()
        await until(lambda: ("saw", 1) in p.log)
        assert not again.done()
        for writer in p.writers:
            writer.gate.set()
        p.record_gate.set()
        answers = await asked(first, again, other)
    assert [a.replayed for a in answers] == [False, True, False]


async def test_a_full_queue_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "QUEUE_ROWS_MAX", 10)
    async with piped() as p:
        p.writer.gate.clear()
        first = asyncio.create_task(p.pipeline.submit(batch(1)))
        await started(p.writer)
        waiting = asyncio.create_task(p.pipeline.submit(batch(2, rows=11)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await p.pipeline.submit(batch(3))
        assert refused.value.reason == "QUEUE_FULL"
        assert refused.value.retry_after_s > 0
        p.writer.gate.set()
        await asked(first, waiting)
        assert isinstance((await asked(p.pipeline.submit(batch(3))))[0], Stored)


async def test_a_full_queue_refuses_those_who_filled_it_and_takes_the_others_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "QUEUE_ROWS_MAX", 10)
    monkeypatch.setattr(subject, "GROUP_ROWS_MAX", 4)
    async with piped() as p:
        p.writer.gate.clear()
        flood = [asyncio.create_task(p.pipeline.submit(batch(1, rows=4)))]
        await started(p.writer)
        flood += [asyncio.create_task(p.pipeline.submit(batch(seq, rows=4))) for seq in (2, 3, 4)]
        await until(lambda: p.pipeline.waiting_rows == 12)
        assert p.pipeline.crowded
        with pytest.raises(Overloaded):
            await p.pipeline.submit(batch(9, rows=4))
        other = asyncio.create_task(p.pipeline.submit(batch(99, epoch=2)))
        await asyncio.sleep(0)
        p.writer.gate.set()
        await asked(*flood, other)
        assert p.writer.groups.index([99]) <= 2
        assert not p.pipeline.crowded


async def test_a_full_queue_of_events_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Events(NONE, NONE.astype(np.int64), NONE.astype(np.int16))
    monkeypatch.setattr(subject, "QUEUE_EVENTS_MAX", 2)
    async with piped() as p:
        p.events.gate.clear()
        work = [asyncio.create_task(p.pipeline.submit_events(EventBatch(1, 1, 1, b"d", none, REJECTS, 1)))]
        await started(p.events)
        more = [EventBatch(1, 1, seq, b"d", none, REJECTS, 1) for seq in (2, 3)]
        work += [asyncio.create_task(p.pipeline.submit_events(one)) for one in more]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await p.pipeline.submit_events(EventBatch(1, 1, 4, b"d", none, REJECTS, 1))
        p.events.gate.set()
        assert all(isinstance(a, Stored) for a in await asked(*work))


async def test_a_defect_in_events_fails_only_them() -> None:
    none = Events(NONE, NONE.astype(np.int64), NONE.astype(np.int16))
    async with piped() as p:
        p.events.poison = {1: ValueError("poison")}
        several = [EventBatch(1, 1, seq, b"d", none, REJECTS, 1) for seq in (1, 2)]
        answers = await asked(*(p.pipeline.submit_events(one) for one in several))
        assert [type(a) for a in answers] == [ValueError, Stored]


async def test_requests_of_events_that_wait_go_into_one_transaction() -> None:
    none = Events(NONE, NONE.astype(np.int64), NONE.astype(np.int16))
    async with piped() as p:
        p.events.gate.clear()
        work = [asyncio.create_task(p.pipeline.submit_events(EventBatch(1, 1, 1, b"d", none, REJECTS, 1)))]
        await started(p.events)
        more = [EventBatch(1, 1, seq, b"d", none, REJECTS, 1) for seq in (2, 3, 4)]
        work += [asyncio.create_task(p.pipeline.submit_events(one)) for one in more]
        await asyncio.sleep(0)
        p.events.gate.set()
        assert [a.seq for a in await asked(*work)] == [1, 2, 3, 4]
        assert p.events.groups == [[1], [2, 3, 4]]


class HandClock(SimulatedClock):
    """Moved by hand."""

    at_us = 1_000_000_000

    def now_us(self) -> int:
        return self.at_us


HOUR_US = 3_600_000_000
"""Longer than any timer of the rules."""


def event_batch(seq: int) -> EventBatch:
    none = Events(NONE, NONE.astype(np.int64), NONE.astype(np.int16))
    return EventBatch(1, 1, seq, b"d", none, REJECTS, 1)


async def test_the_timers_of_the_rules_wait_for_events_that_have_arrived_however_long_storing_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "TICK_S", 0.001)
    clock = HandClock(0, 1.0)
    arrived_us = clock.at_us
    async with piped(clock=clock) as p:
        p.events.gate.clear()
        work = asyncio.create_task(p.pipeline.submit_events(event_batch(1)))
        await started(p.events)
        clock.at_us += HOUR_US
        asked_before = len(p.rules.asked_us)
        await until(lambda: len(p.rules.asked_us) > asked_before + 2)
        assert max(p.rules.asked_us) == arrived_us
        p.events.gate.set()
        await asked(work)
        assert p.rules.asked_us[-1] == clock.at_us
        assert p.rules.asked_us == sorted(p.rules.asked_us)


@pytest.mark.parametrize("why", ["away", "full", "gone"])
async def test_the_timers_of_the_rules_wait_for_events_that_were_told_to_come_again_or_whose_sender_left(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "TICK_S", 0.001)
    clock = HandClock(0, 1.0)
    arrived_us = clock.at_us
    async with piped(clock=clock) as p:
        if why == "away":
            p.events.poison[1] = StorageUnavailable("away")
        if why == "full":
            monkeypatch.setattr(p.pipeline._waiting_events, "full", lambda: True)
        p.events.gate.clear()
        work = asyncio.create_task(p.pipeline.submit_events(event_batch(1)))
        if why == "gone":
            await asyncio.sleep(0)
            work.cancel()
        p.events.gate.set()
        await asked(work)
        clock.at_us += HOUR_US
        asked_before = len(p.rules.asked_us)
        await until(lambda: len(p.rules.asked_us) > asked_before + 2)
        assert max(p.rules.asked_us) == arrived_us
        p.events.poison.clear()
        monkeypatch.undo()
        await p.pipeline.submit_events(event_batch(1))
        assert p.rules.asked_us[-1] == clock.at_us


async def test_the_timers_of_the_rules_do_not_wait_for_events_that_are_refused_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "TICK_S", 0.001)
    clock = HandClock(0, 1.0)
    async with piped(clock=clock) as p:
        p.events.poison[1] = ValueError("a defect")
        await asked(p.pipeline.submit_events(event_batch(1)))
        clock.at_us += HOUR_US
        await until(lambda: p.rules.asked_us[-1:] == [clock.at_us])


async def test_when_the_rules_die_the_core_ends_and_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better dead than deaf."""
    monkeypatch.setattr(subject, "SECOND_COPY_ROWS", 0)
    async with piped(2) as p:
        p.writers[0].gate.clear()
        p.writers[1].gate.clear()
        first = asyncio.create_task(p.pipeline.submit(batch(1)))
        await until(lambda: any(writer.groups for writer in p.writers))
        second = asyncio.create_task(p.pipeline.submit(batch(2)))
        await until(lambda: all(writer.groups for writer in p.writers))
        waits = asyncio.create_task(p.pipeline.submit(batch(3)))
        await asyncio.sleep(0)
        p.rules.fail.append(ZeroDivisionError("a rule"))
        next(writer for writer in p.writers if writer.groups == [[1]]).gate.set()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait({p.core}, timeout=20)
        assert p.core.done()
        assert p.core.exception() is not None
        answers = await asked(first, second, waits, p.pipeline.submit(batch(4)))
        assert all(isinstance(a, StorageUnavailable) for a in answers)
        with pytest.raises(StorageUnavailable):
            p.pipeline.check_ready()


async def test_rules_put_in_place_while_head_ends_are_connected_know_who_they_are() -> None:
    async with piped() as p:
        p.pipeline.connected(3)
        p.pipeline.connected(3)
        p.pipeline.connected(4)
        p.pipeline.gone(4)
        assert p.log == [("head-end", 3, True), ("head-end", 4, True), ("head-end", 4, False)]
        log: list[Any] = []
        async with p.pipeline.paused():
            p.pipeline.replace(SimpleNamespace(), FakeRules(log), [])
        assert log == [("head-end", 3, True)]


async def test_what_new_rules_know_is_recorded_though_the_database_was_away_when_they_came() -> None:
    async with piped() as p:
        known: list[Any] = ["an outage is over"]
        async with p.pipeline.paused():
            p.pipeline.replace(SimpleNamespace(), p.rules, known)
            p.faults.append(StorageUnavailable("away"))
            with pytest.raises(StorageUnavailable):
                await p.pipeline.settle()
        assert p.told == []
        await until(lambda: p.told == known)
        await p.pipeline.submit(batch(1))
        assert p.told == known, "once is enough"


async def test_while_nothing_can_be_stored_the_rules_are_deaf_to_everybody() -> None:
    async with piped() as p:
        p.pipeline.connected(1)
        p.writer.fail.append(StorageUnavailable("away"))
        with pytest.raises(StorageUnavailable):
            await p.pipeline.submit(batch(1))
        await until(lambda: ("deaf to", {1}) in p.log)
        await p.pipeline.submit(batch(2))
        await until(lambda: p.log.count(("deaf to", set())) == 1)


async def test_rules_on_a_replay_clock_live_by_what_is_stored_and_not_by_what_has_only_arrived() -> None:
    clock = ReplayClock(1)
    async with piped(clock=clock) as p:
        clock.saw(5_000)  # something arrived and waits
        change: Any = SimpleNamespace(end_us=np.array([900, 1800]), quality=np.zeros(2, np.int32))
        p.writer._one = lambda epoch, seq: Stored(seq, seq, 1, 0, 0, REJECTS.row, REJECTS.reason, False, False, change)
        await p.pipeline.submit(batch(1))
        assert p.rules.asked_us[-1] == 1800
        assert max(p.rules.asked_us) == 1800
