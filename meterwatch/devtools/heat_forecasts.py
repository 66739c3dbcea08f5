"""Forecasts beside a simulated heatwave: the service's own job, over weeks that were and what has been heard since.

Each day of the weeks before the run is what the fleet draws by nature on its first, a little more or less, with noise;
in the last DAYS_BEFORE of them the same transformers were loaded at the same hours, by factors of their own. What comes
in the run is what the rules have counted by then, so that a forecast reads nothing that has not arrived. Refuses to
know the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from alarm.book import Book
from alarm.desk import AlarmDesk
from loadtest.plan import Plan
from loadtest.world import INTERVAL_S, VARH_PER_WH
from meterwatch.alarms import Alarm, Transition
from meterwatch.clock import US, ReplayClock
from meterwatch.episodes import Verdict
from meterwatch.forecasts import EVERY_US, Forecasts
from meterwatch.loads import LoadChange, Loads
from meterwatch.metrics import Metrics
from meterwatch.topology import Topology
from rules.overload import Overload
from storage.forecasts import Forecast, ForecastStore

WEEKS: Final = 6
"""Of loads before the run: enough for four weeks of past errors."""
DAYS_BEFORE: Final = 3
"""Of heat before the run."""
NOISE: Final = 0.03
"""Of a transformer's load in a window, as a share of it."""
DAY_NOISE: Final = 0.05
"""The same of a whole day."""
DAY_WINDOWS: Final = 86_400 // INTERVAL_S
Ints = NDArray[np.int64]


class HeatForecasts:
    """The job over one run. tell: takes every alarm as it changes."""

    def __init__(
        self, plan: Plan, topology: Topology, overload: Overload, book: Book, tell: Callable[[Alarm], None]
    ) -> None:
        self._clock = ReplayClock(0)
        desk = _Desk(book, self._clock, tell)
        store = _Loads(plan, overload)
        self._forecasts = Forecasts(store, desk, lambda: topology, self._clock, Metrics(), overload.profile)
        self._hour = plan.start_us // EVERY_US

    def at(self, now_us: int) -> None:
        """Forecast everybody if an hour has begun since the last call."""
        if now_us // EVERY_US == self._hour:
            return
        self._hour = now_us // EVERY_US
        self._clock.resume(now_us)
        asyncio.run(self._pass())

    async def _pass(self) -> None:
        while await self._forecasts.once():
            pass


class _Desk(AlarmDesk):
    """Takes verdicts into the book; there is no database."""

    def __init__(self, book: Book, clock: ReplayClock, tell: Callable[[Alarm], None]) -> None:
        self.book = book
        self._clock = clock
        self._tell_alarm = tell

    async def record(
        self, verdicts: Sequence[Verdict], batch_ids: Sequence[int], loads: LoadChange | None = None
    ) -> list[Transition]:
        drafts = self.book.reconcile(verdicts, self._clock.now_us())
        self.book.apply([draft.alarm for draft in drafts])
        for draft in drafts:
            self._tell_alarm(draft.alarm)
        return []


class _Loads(ForecastStore):
    """Loads of the weeks before, and of what the overload rule has counted."""

    def __init__(self, plan: Plan, overload: Overload) -> None:
        self._overload = overload
        self._start = overload.window_of(plan.start_us)
        """First window of the run."""
        self._first = (self._start // DAY_WINDOWS - 7 * WEEKS) * DAY_WINDOWS
        self._wh = _weeks(plan, self._first, self._start)

    async def oldest_us(self) -> int | None:
        return self._first * self._overload.window_us

    async def loads(self, transformers: Ints, first: int, stop: int) -> tuple[Loads, Ints]:
        first, middle = max(first, self._first), min(max(stop, self._first), self._start)
        past = self._wh[first - self._first : middle - self._first, transformers]
        reached = max(min(stop, self._overload.head + 1), middle)
        heard = self._overload.sums(transformers, middle, reached)
        expected = np.stack([self._overload.members.expected(window)[transformers] for window in range(first, reached)])
        window, at = np.indices(expected.shape).reshape(2, -1)
        told = [np.concatenate([past, heard.wh]), np.concatenate([np.rint(past * VARH_PER_WH), heard.varh])]
        told.append(np.concatenate([expected[: len(past)], heard.covered]))
        wh, varh, covered = (column.reshape(-1).astype(np.int64) for column in told)
        return Loads(transformers[at], window + first, wh, varh, covered), expected.reshape(-1)

    async def store(self, forecasts: dict[int, Forecast]) -> None:
        pass


def _weeks(plan: Plan, first: int, stop: int) -> Ints:
    """Wh [windows, transformers] before the run."""
    world, rng = plan.world, np.random.default_rng((plan.world.seed, 101))
    everyone, nothing = np.arange(world.meters, dtype=np.int32), np.zeros(world.meters, np.int32)

    def drawn(window: int) -> NDArray[np.float64]:
        end_us = np.full(world.meters, (window + 1) * INTERVAL_S * US)
        wh = world.channels(everyone, end_us, nothing)["import_wh"]
        return np.bincount(world.transformer_of, wh, world.transformers).astype(np.float64)

    day = np.stack([drawn(stop + window) for window in range(DAY_WINDOWS)])
    level = rng.normal(1.0, DAY_NOISE, (stop // DAY_WINDOWS - first // DAY_WINDOWS + 1, 1, world.transformers))
    wh = (day * level).reshape(-1, world.transformers)[: stop - first]
    trouble, members = plan.trouble, np.diff(world.first_of_transformer)
    more = trouble.extra_wh[trouble.hot_row].T * members
    for days in range(1, DAYS_BEFORE + 1):
        at = stop - first - days * DAY_WINDOWS + np.arange(min(len(more), DAY_WINDOWS))
        wh[at] += more[: len(at)] * rng.uniform(0.8, 1.05, world.transformers)
    return np.rint(wh * rng.normal(1.0, NOISE, wh.shape)).astype(np.int64)
