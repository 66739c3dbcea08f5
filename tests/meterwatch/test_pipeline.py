"""Laws of the path behind the endpoint, with writers and rules that fail on purpose; no database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest
from pipeline_world import REJECTS, FakeRules, asked, batch, event_batch, piped, started, until

from meterwatch import pipeline as subject
from meterwatch import reads_queue
from meterwatch.batch import EventBatch, Events, Stored
from meterwatch.errors import Overloaded, StorageUnavailable


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
    monkeypatch.setattr(reads_queue, "GROUP_ROWS_MAX", 10)
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
    monkeypatch.setattr(reads_queue, "SECOND_COPY_ROWS", 0)
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
    monkeypatch.setattr(reads_queue, "QUEUE_ROWS_MAX", 10)
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
    monkeypatch.setattr(reads_queue, "QUEUE_ROWS_MAX", 10)
    monkeypatch.setattr(reads_queue, "GROUP_ROWS_MAX", 4)
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
    monkeypatch.setattr(subject, "QUEUE_EVENTS_MAX", 2)
    async with piped() as p:
        p.events.gate.clear()
        work = [asyncio.create_task(p.pipeline.submit_events(event_batch(1)))]
        await started(p.events)
        more = [event_batch(seq) for seq in (2, 3)]
        work += [asyncio.create_task(p.pipeline.submit_events(one)) for one in more]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await p.pipeline.submit_events(event_batch(4))
        p.events.gate.set()
        assert all(isinstance(a, Stored) for a in await asked(*work))


async def test_events_told_to_come_again_hold_the_timers_until_they_do() -> None:
    async with piped() as p:
        p.pipeline.put_off(event_batch(1))
        assert p.pipeline._unheard.oldest_us(time.monotonic()) is not None
        await p.pipeline.submit_events(event_batch(1))
        assert p.pipeline._unheard.oldest_us(time.monotonic()) is None


async def test_a_defect_in_events_fails_only_them() -> None:
    async with piped() as p:
        p.events.poison = {1: ValueError("poison")}
        several = [event_batch(seq) for seq in (1, 2)]
        answers = await asked(*(p.pipeline.submit_events(one) for one in several))
        assert [type(a) for a in answers] == [ValueError, Stored]


async def test_requests_of_events_that_wait_go_into_one_transaction() -> None:
    async with piped() as p:
        p.events.gate.clear()
        work = [asyncio.create_task(p.pipeline.submit_events(event_batch(1)))]
        await started(p.events)
        more = [event_batch(seq) for seq in (2, 3, 4)]
        work += [asyncio.create_task(p.pipeline.submit_events(one)) for one in more]
        await asyncio.sleep(0)
        p.events.gate.set()
        assert [a.seq for a in await asked(*work)] == [1, 2, 3, 4]
        assert p.events.groups == [[1], [2, 3, 4]]


async def test_when_the_rules_die_the_core_ends_and_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better dead than deaf."""
    monkeypatch.setattr(reads_queue, "SECOND_COPY_ROWS", 0)
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
            p.pipeline.replace(SimpleNamespace(), FakeRules(log), [], 0)
        assert log == [("head-end", 3, True)]


async def test_what_new_rules_know_is_recorded_though_the_database_was_away_when_they_came() -> None:
    async with piped() as p:
        known: list[Any] = ["an outage is over"]
        async with p.pipeline.paused():
            p.pipeline.replace(SimpleNamespace(), p.rules, known, 0)
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
