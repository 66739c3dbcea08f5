"""Laws of the time the rules live in: it does not pass what has arrived and waits to be stored."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pipeline_world import REJECTS, asked, batch, event_batch, piped, started, until

from meterwatch import pipeline as subject
from meterwatch.batch import Stored
from meterwatch.clock import ReplayClock, SimulatedClock
from meterwatch.errors import StorageUnavailable


class HandClock(SimulatedClock):
    """Moved by hand."""

    at_us = 1_000_000_000

    def now_us(self) -> int:
        return self.at_us


HOUR_US = 3_600_000_000
"""Longer than any timer of the rules."""


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


async def test_rules_on_a_replay_clock_live_by_what_is_stored_and_not_by_what_has_only_arrived() -> None:
    clock = ReplayClock(1)
    async with piped(clock=clock) as p:
        clock.saw(5_000)  # something arrived and waits
        change: Any = SimpleNamespace(end_us=np.array([900, 1800]), quality=np.zeros(2, np.int32))
        p.writer._one = lambda epoch, seq: Stored(seq, seq, 1, 0, 0, REJECTS.row, REJECTS.reason, False, False, change)
        await p.pipeline.submit(batch(1))
        assert p.rules.asked_us[-1] == 1800
        assert max(p.rules.asked_us) == 1800
