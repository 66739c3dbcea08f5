"""The watchdog: it goes the way of all batches, and what stands still on that way keeps it from coming through."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from pipeline_world import asked, piped, until
from structlog.testing import capture_logs

from meterwatch import watchdog as subject
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.watchdog import BY_WATCHDOG, Watchdog


class Time:
    s = 100.0

    def __call__(self) -> float:
        return self.s


def of(p: Any, time: Time) -> Watchdog:
    return Watchdog(p.pipeline.submit, p.pipeline.submit_events, time)


async def test_what_came_through_was_written_and_its_evaluation_committed() -> None:
    async with piped() as p:
        time = Time()
        watchdog = of(p, time)
        time.s += 50
        assert watchdog.age_s == 50
        await watchdog.once()
        assert watchdog.age_s == 0
        assert p.writer.groups == [[1]]
        assert ("recorded", [1]) in p.log
        assert not p.pipeline.visited, "it is no head-end"
        await watchdog.once()
        assert p.writer.groups == [[1], [2]], "each is new: an answer of the ledger would show nothing"


@pytest.mark.parametrize("what", ["writer", "record", "rules"])
async def test_whatever_stands_still_it_does_not_come_through(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ANSWER_S", 0.05)
    async with piped() as p:
        time = Time()
        watchdog = of(p, time)
        time.s += 91
        lock = p.pipeline.paused()
        if what == "rules":
            await lock.acquire()
        else:
            (p.writer.gate if what == "writer" else p.record_gate).clear()
        with pytest.raises(TimeoutError):
            await watchdog.once()
        assert watchdog.age_s == 91
        if what == "rules":
            lock.release()
        else:
            (p.writer.gate if what == "writer" else p.record_gate).set()
        monkeypatch.setattr(subject, "ANSWER_S", 20.0)
        await watchdog.once()
        assert watchdog.age_s == 0


async def test_where_reads_are_refused_it_goes_as_events() -> None:
    async with piped() as p:
        watchdog = of(p, Time())
        p.pipeline.refuse_reads("the disk is low")
        await watchdog.once()
        assert (p.writer.groups, p.events.groups) == ([], [[1]])


async def test_it_goes_on_whatever_becomes_of_one_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "EVERY_S", 0.001)
    faults: list[Exception] = [StorageUnavailable("away"), Overloaded("DATABASE_FULL", "full", 1.0), KeyError("ours")]
    sent: list[int] = []

    async def take(batch: Any) -> Any:
        sent.append(batch.seq)
        assert (batch.head_end_id, batch.rows_sent) == (BY_WATCHDOG, 0)
        if faults:
            raise faults.pop(0)
        return SimpleNamespace()

    time = Time()
    watchdog = Watchdog(take, take, time)
    time.s += 1
    with capture_logs() as logs:
        job = asyncio.create_task(watchdog.run())
        await until(lambda: len(sent) >= 4 and len(logs) >= 2)
        time.s += 7
        await until(lambda: watchdog.age_s == 0)
        job.cancel()
        await asked(job)
    assert [line["event"] for line in logs] == ["the watchdog did not come through", "the watchdog failed"]
    assert sent == sorted(sent)
