"""The service without its edges: desk, rules, evaluation and hub of the product, in one thread and under one clock.

Promise: nothing waits. A coroutine that would is an error here, so a run is a function of what it is given. A start is
the service's own: the book out of the table, `rebuild` of the rules out of what is stored, what was owed recorded. The
few names behind which the database is are replaced while a run lasts (`without_database`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast
from unittest.mock import patch

import numpy as np

from alarm.desk import AlarmDesk
from meterwatch import contract_reads, pipeline, steady_time, user_rules_at_work, wired_rules
from meterwatch.batch import Events, Stored
from meterwatch.clock import Clock
from meterwatch.devtools.simulation.kept_in_memory import (
    Memory,
    MemoryEvidence,
    MemoryHistory,
    MemoryLoads,
    memory_load_view,
)
from meterwatch.devtools.simulation.small_grid import Grid
from meterwatch.devtools.simulation.told_day import Rows
from meterwatch.episodes import Verdict
from meterwatch.errors import StorageUnavailable
from meterwatch.hearing import Hearing
from meterwatch.metrics import Metrics
from meterwatch.pipeline import Pipeline, _Committed
from meterwatch.steady_time import SteadyTime
from meterwatch.unheard import stands_us
from meterwatch.user_rules import RuleSet
from meterwatch.wired_rules import HEARD_US, WiredRules, judged_until_us, rebuild
from meterwatch.wired_user_rules import UserRules
from rules.engine import Engine
from storage.evidence import EvidenceStore
from storage.history import History

US: Final = 1_000_000
T = TypeVar("T")
STEPS_MAX: Final = 1_000
"""Bare steps of a coroutine: a commit tried again takes one."""
QUEUE_MAX, RING_MAX = 6, 24
"""Of the hub: small, so that subscribers are folded and have to resume from the log."""
TIMER_STEP_US: Final = 20 * US
"""Timers that end closer together are looked at together."""
TIMERS_MAX: Final = 400
JUDGED_MAX: Final = 20
ASKED_US: Final = 1200 * US
"""The rules are asked this often, whatever comes: who is silent has no timer that `until` could see."""
_METRICS: Final = Metrics()
_SILENT: Final = SimpleNamespace(warning=lambda *_, **__: None)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing but its own next step."""
    for _ in range(STEPS_MAX):
        try:
            waits = work.send(None)
        except StopIteration as end:
            return cast(T, end.value)
        assert waits is None, f"something waits: {waits!r}"
    raise AssertionError("a coroutine never ends")


class SteppedClock:
    """The clock of the machine: true time, and by how much it is wrong."""

    mode = "real"

    def __init__(self, start_us: int) -> None:
        self.true_us = start_us
        self.wrong_us = 0

    def now_us(self) -> int:
        return self.true_us + self.wrong_us

    def saw(self, stamp_us: int) -> None:
        pass

    def resume(self, stored_us: int) -> None:
        pass


class SomeOfThePast:
    """In place of meterwatch.time_share: whether the past is judged now or later is drawn, not measured."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.all = False

    def start(self) -> None:
        pass

    def goes_on(self) -> bool:
        return self.all or bool(self._rng.random() < 0.6)


@contextmanager
def without_database() -> Iterator[None]:
    """While this lasts what asks the database asks Memory, and nobody looks at the machine's clock."""
    with (
        patch.object(wired_rules, "load_view", memory_load_view),
        patch.object(wired_rules, "PastLoads", MemoryLoads),
        patch.object(user_rules_at_work, "PastLoads", MemoryLoads),
        patch.object(contract_reads, "EvidenceStore", MemoryEvidence),
        patch.object(user_rules_at_work, "time", SimpleNamespace(thread_time_ns=lambda: 0)),
        patch.object(pipeline, "time", SimpleNamespace(monotonic=lambda: 0.0)),
        patch.object(pipeline, "RETRY_S", 0),
        patch.object(pipeline, "_log", _SILENT),
        patch.object(steady_time, "_log", _SILENT),
        patch.object(steady_time, "STOOD_S", inf),  # nobody looks every second here
    ):
        yield


class Service:
    """What runs between two crashes; `start` begins the next life. Killed goes to whoever called."""

    def __init__(self, grid: Grid, memory: Memory, clock: SteppedClock, rules: RuleSet, seed: Sequence[int]) -> None:
        self.clock = clock
        self.memory = memory
        self._grid = grid
        self._user_rules = rules
        self._past = SomeOfThePast(np.random.default_rng(seed))
        self._connected = set(range(len(grid.topology.head_end)))
        self._events = 0
        self._asked_us = clock.now_us()
        self.starts = 0
        self.evaluations = 0
        self.start()

    def start(self) -> None:
        """A start of the service, or one again: what was in memory is gone."""
        memory, topology, clock = self.memory, self._grid.topology, self.clock
        self.starts += 1
        self.desk = at_once(AlarmDesk.open(memory, topology, clock))
        hub = self.desk.hub
        hub._queue_max, hub._ring = QUEUE_MAX, type(hub._ring)(maxlen=RING_MAX)
        self.engine = Engine(topology, self._grid.profile)
        self.engine.replan(memory.day.works)
        history = cast(History, MemoryHistory(memory))
        user = None
        if self._user_rules.rules:
            user = UserRules([], cast(EvidenceStore, MemoryEvidence(memory)), clock.now_us)
            user._set = self._user_rules
        self.rules = WiredRules(self.engine, history, clock, user=user)
        self.rules._past = cast(Any, self._past)
        self._pipeline = Pipeline(
            clock, [cast(Any, None)], self.rules, self._record, cast(Any, None), topology, _METRICS
        )  # fmt: skip
        self._pipeline._hearing = Hearing(monotonic=lambda: 0.0)
        self._pipeline.steady = SteadyTime(cast(Clock, clock), lambda: clock.true_us / US)
        self.desk.time_us = self._pipeline.steady.now_us
        now_us = self._pipeline.steady.begin(at_once(judged_until_us(history, self.desk.book)))
        verdicts, owed = at_once(rebuild(self.rules, topology, history, self.desk, now_us))
        at_once(self._record(verdicts, owed))
        slots = np.arange(topology.slots, dtype=np.int32)
        self.engine.heard(*at_once(history.last_heard(slots, clock.now_us() - HEARD_US)))
        for head_end in sorted(self._connected):
            self._pipeline.connected(head_end)

    def head_end(self, head_end: int, *, comes: bool) -> None:
        """A head-end opens its stream, or is gone."""
        if comes:
            self._connected.add(head_end)
            self._pipeline.connected(head_end)
        else:
            self._connected.discard(head_end)
            self._pipeline.gone(head_end)

    def take_reads(self, batches: Sequence[Rows]) -> None:
        """Store batches of reads and evaluate them together."""
        self.evaluate([(self.store_reads(rows), None) for rows in batches])

    def store_reads(self, rows: Rows) -> Stored:
        """Store them, and no more."""
        return self.memory.store_reads(rows, self.clock.now_us())

    def take_events(self, rows: Rows, *, asked_meanwhile: bool = False) -> None:
        """Store events and evaluate them. asked_meanwhile: the rules are asked while these wait to be stored."""
        self._events += 1
        key = (0, 1, self._events)
        arrived = self.memory.events(rows)
        self._pipeline._unheard.arrived(key, stands_us(arrived, self.clock.now_us()))
        if asked_meanwhile:
            self.evaluate([])
        stored, fresh = self.memory.store_events(rows, self.clock.now_us())
        self.evaluate([(stored, fresh)], key)

    def evaluate(self, came: Sequence[tuple[Stored, Events | None]], key: tuple[int, int, int] | None = None) -> None:
        """One turn of the service's evaluation."""
        self.evaluations += 1
        self._asked_us = self.clock.true_us
        answer = cast(Any, None)
        at_once(self._pipeline._judge([_Committed(stored, events, answer, 0.0, key=key) for stored, events in came]))

    def until(self, true_us: int) -> None:
        """Time passes; whenever a timer ends, the rules and the desk are asked."""
        for _ in range(TIMERS_MAX):
            ahead_us = self._pipeline.steady.now_us() - self.clock.true_us
            due_us = max(self.engine.due_us - ahead_us, self.clock.true_us + TIMER_STEP_US)
            if due_us >= true_us:
                break
            self.clock.true_us = due_us
            self.evaluate([])
        self.clock.true_us = max(true_us, self.clock.true_us)
        if self.clock.true_us - self._asked_us > ASKED_US:
            self.evaluate([])
        for work in (self.desk.lift_shelves, self.desk.end_delays, self.desk.announce_again, self.desk.lapse):
            with suppress(StorageUnavailable):  # it keeps time again later
                at_once(work())

    def judge_all(self) -> None:
        """Judge what of the past still waits."""
        self._past.all = True
        self.evaluate([])
        for _ in range(JUDGED_MAX):
            if not (self.rules.past_owed or self.rules.due):
                break
            self.evaluate([])
        else:
            raise AssertionError("the past is never judged")
        self._past.all = False

    def set_clock(self, wrong_us: int) -> None:
        """The clock of the machine is set: from now on it is so wrong."""
        self._pipeline.steady.now_us()
        self.clock.wrong_us = wrong_us
        self._pipeline.steady.now_us()

    async def _record(self, verdicts: list[Verdict], batch_ids: list[int]) -> None:
        await self.rules.record(self.desk, verdicts, batch_ids)
