"""A service that is slow, with the real engine behind the pipeline: no timer passes an event that has arrived."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadtest.world import World
from meterwatch import pipeline as subject
from meterwatch.batch import Batch, EventBatch, EventCode, Events, Reads, Rejects, Stored
from meterwatch.clock import US, SimulatedClock
from meterwatch.devtools.storm_score import START_US, topology_of
from meterwatch.episodes import Verdict
from meterwatch.pipeline import Pipeline
from meterwatch.unheard import REACH_US, stands_us
from rules.engine import Engine

WORLD = World(300, 1, 1)
METERS = np.flatnonzero(WORLD.transformer_of == 0).astype(np.int32)[:10]
NONE = np.zeros(0, np.int32)
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
CUT_S, BACK_S, SLOW_S = 5, 20, 90
"""Supply goes and comes back within the hold of 60 s; that it came back arrives after the hold."""


class HandClock(SimulatedClock):
    """Moved by hand."""

    at_us = START_US

    def now_us(self) -> int:
        return self.at_us


class SlowWriter:
    """Stores when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.let.set()
        self.began = threading.Event()

    def write(self, group: list[Batch], now_us: int) -> list[Stored]:
        return [_stored(one.seq) for one in group]

    def write_events(self, group: list[EventBatch], now_us: int) -> list[tuple[Stored, Events]]:
        self.began.set()
        assert self.let.wait(20)
        return [(_stored(one.seq), one.events) for one in group]

    def write_registers(self, request: Any, now_us: int) -> Any:
        raise AssertionError


class EngineAlone:
    """The engine; its history is what it has heard."""

    due = False

    def __init__(self) -> None:
        self.engine = Engine(topology_of(WORLD))
        self.heard = _events([], 0, EventCode.POWER_FAIL)
        self.told: set[tuple[str, int]] = set()

    def observe_reads(self, stored: Any, now_us: int) -> None: ...
    def observe_registers(self, change: Any) -> None: ...
    def head_end(self, head_end_id: int, connected: bool, now_us: int) -> None: ...
    def deaf_to(self, head_ends: frozenset[int], now_us: int) -> None: ...

    def observe_events(self, events: Events, now_us: int) -> None:
        self.heard = Events(
            np.concatenate([self.heard.slot, events.slot]),
            np.concatenate([self.heard.at_us, events.at_us]),
            np.concatenate([self.heard.code, events.code]),
        )
        self.engine.observe_events(events, now_us)

    async def evaluate(self, now_us: int) -> list[Verdict]:
        for wanted in self.engine.wanted():
            self.engine.given(wanted, [], self.heard)
        verdicts = [one for one in self.engine.evaluate(now_us) if one.rule == "OUTAGE"]
        self.told |= {(one.asset_kind, one.asset_id) for one in verdicts if one.episodes}
        return verdicts


def _stored(seq: int) -> Stored:
    return Stored(seq, seq, 1, 0, 0, NO_REJECTS.row, NO_REJECTS.reason, False, False, None)


def _events(slots: Any, at_s: int, code: EventCode) -> Events:
    slot = np.array(slots, np.int32)
    return Events(slot, np.full(len(slot), START_US + at_s * US, np.int64), np.full(len(slot), code, np.int16))


@asynccontextmanager
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A pipeline whose rules are asked when something was stored, and not by the machine's time."""
    monkeypatch.setattr(subject, "TICK_S", 60.0)
    clock, writers, rules = HandClock(0, 1.0), [SlowWriter(), SlowWriter()], EngineAlone()

    async def nothing(*_: Any) -> int:
        return 0

    made = Pipeline(clock, list(writers), rules, nothing, nothing, topology_of(WORLD))
    made.ready()
    core = asyncio.create_task(made.run())
    seq = iter(range(1, 100))

    async def tell(at_s: int, code: EventCode) -> None:
        batch = EventBatch(0, 1, next(seq), b"d", _events(METERS, at_s, code), NO_REJECTS, len(METERS))
        await made.submit_events(batch)

    async def judged() -> None:
        reads = Reads(NONE, NONE.astype(np.int64), 900, NONE, {})
        await made.submit(Batch(0, 2, next(seq), b"d", reads, NO_REJECTS, 0, 1))

    try:
        yield SimpleNamespace(
            clock=clock, events=writers[-1], rules=rules, tell=tell, judged=judged, metrics=made.metrics
        )
    finally:
        writers[-1].let.set()
        core.cancel()
        await asyncio.gather(core, return_exceptions=True)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_momentary_interruption_is_no_root_though_its_end_arrives_after_the_hold(
    comes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(monkeypatch) as s:
        s.clock.at_us = START_US + (CUT_S + 2) * US
        await s.tell(CUT_S, EventCode.POWER_FAIL)
        assert s.rules.told == set()
        s.clock.at_us = START_US + SLOW_S * US
        s.events.began.clear()
        s.events.let.clear()
        back = asyncio.create_task(s.tell(BACK_S, EventCode.POWER_RESTORED)) if comes_back else None
        if back is not None:
            assert await asyncio.to_thread(s.events.began.wait, 20)
        await s.judged()
        assert (("transformer", 0) in s.rules.told) is not comes_back
        s.events.let.set()
        if back is not None:
            await back
        delays = s.metrics.registry.get_sample_value("meterwatch_restored_delay_seconds_sum")
        assert delays == (SLOW_S - BACK_S if comes_back else 0)
        s.clock.at_us += 3600 * US
        await s.judged()
        assert (("transformer", 0) in s.rules.told) is not comes_back


def test_the_time_stands_before_what_stops_a_timer_and_for_nothing_of_long_ago() -> None:
    now_us = START_US + 1000 * US
    assert stands_us(_events([], 0, EventCode.POWER_FAIL), now_us) == now_us
    assert stands_us(_events([1], 900, EventCode.POWER_FAIL), now_us) == now_us
    for code in (EventCode.POWER_RESTORED, EventCode.PHASE_RETURN, EventCode.RELAY_OPEN):
        assert stands_us(_events([1], 900, code), now_us) == START_US + 900 * US - 1
        assert stands_us(_events([1], 1030, code), now_us) == now_us
        oldest_s = 1000 - REACH_US // US
        assert stands_us(_events([1], oldest_s, code), now_us) == now_us - REACH_US - 1
        assert stands_us(_events([1], oldest_s - 1, code), now_us) == now_us
