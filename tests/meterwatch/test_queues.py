"""The queues of the pipeline: each has a limit, and how much waits in it can be seen."""

from __future__ import annotations

import asyncio

import pytest
from pipeline_world import asked, batch, event_batch, piped, until

from meterwatch import pipeline as subject


async def test_what_is_committed_and_not_judged_has_a_limit_and_then_nothing_more_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "COMMITTED_MAX", 1)
    async with piped() as p:
        p.record_gate.clear()
        work: list[asyncio.Task[object]] = []
        for seq in (1, 2, 3):  # before the rules; queued; written and waiting for room
            work.append(asyncio.create_task(p.pipeline.submit(batch(seq))))
            await until(lambda seq=seq: len(p.writer.groups) == seq)  # type: ignore[misc]
            if seq == 1:
                await until(lambda: p.pipeline.behind_s > 0)
        work.append(asyncio.create_task(p.pipeline.submit(batch(4))))
        await until(lambda: p.pipeline.waiting_rows == 1 and p.pipeline.waiting_requests == (0, 0, 1))
        for _ in range(100):
            await asyncio.sleep(0)
        assert p.writer.groups == [[1], [2], [3]]
        p.record_gate.set()
        assert [stored.seq for stored in await asked(*work)] == [1, 2, 3, 4]
        assert p.pipeline.waiting_requests == (0, 0, 0)


async def test_requests_of_events_that_wait_can_be_counted() -> None:
    async with piped() as p:
        p.events.gate.clear()
        work = [asyncio.create_task(p.pipeline.submit_events(event_batch(1)))]
        await until(p.events.began.is_set)
        work += [asyncio.create_task(p.pipeline.submit_events(event_batch(seq))) for seq in (2, 3)]
        await until(lambda: p.pipeline.waiting_requests == (2, 0, 0))
        p.events.gate.set()
        await asked(*work)
        assert p.pipeline.waiting_requests == (0, 0, 0)
