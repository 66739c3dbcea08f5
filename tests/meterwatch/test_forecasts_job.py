"""The job: who is forecast, from how many days, and what a failure does to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from meterwatch import background
from meterwatch.clock import US, ReplayClock
from meterwatch.errors import StorageUnavailable
from meterwatch.forecasts import DAYS_MAX, KNOWN_SHARE, PROFILE, TOGETHER, Forecasts, usable_days
from meterwatch.loads import Loads
from meterwatch.metrics import Metrics
from rules.hindcast import days_needed
from rules.ladder import OverloadProfile

DAY = PROFILE.day
NEEDED = days_needed(PROFILE)
STEPS = DAYS_MAX * DAY + 50
NOW_US = 1_772_449_200 * US


def known_for(days: int) -> np.ndarray:
    load = np.full(STEPS, np.nan)
    load[(DAYS_MAX - days) * DAY :] = 0.5
    return load


def test_days_count_from_the_first_load_in_steps_of_a_week() -> None:
    rows = [known_for(days) for days in (DAYS_MAX, NEEDED + 7, NEEDED + 6, NEEDED, NEEDED - 1, 0)]
    most = NEEDED + (DAYS_MAX - NEEDED) // 7 * 7
    assert usable_days(np.stack(rows), DAY).tolist() == [most, NEEDED + 7, NEEDED, NEEDED, 0, 0]


def test_gaps_and_silence_forbid_a_forecast() -> None:
    gaps, silent, late = known_for(NEEDED), known_for(NEEDED), known_for(NEEDED)
    used = np.flatnonzero(~np.isnan(gaps))
    gaps[used[1 : round(len(used) * (1 - KNOWN_SHARE)) + 2]] = np.nan
    silent[-8:] = np.nan
    late[-7:] = np.nan
    assert usable_days(np.stack([gaps, silent, late]), DAY).tolist() == [0, 0, NEEDED]


class Topology:
    """Twenty rated transformers and one without a rating."""

    rated_kva = np.array([100.0] * 20 + [0.0])
    transformer = [f"T{i}" for i in range(21)]  # noqa: RUF012 - a stub
    head_end: list[str] = []  # noqa: RUF012
    head_end_zone: list[str] = []  # noqa: RUF012
    transformer_district = [""] * 21
    thermal: dict[str, np.ndarray] = {}  # noqa: RUF012
    thermal_types = None
    thermal_type_names: list[str] = []  # noqa: RUF012


class Store:
    """Nothing is stored; it fails as often as it is told to."""

    def __init__(self, *errors: Exception, days: int = NEEDED) -> None:
        self.oldest = NOW_US - days * 86_400 * US
        self.errors = list(errors)
        self.asked: list[list[int]] = []
        self.all_asked = asyncio.Event()

    async def loads(self, transformers: np.ndarray, first: int, stop: int) -> tuple[Loads, np.ndarray]:
        if self.errors:
            raise self.errors.pop(0)
        self.asked.append(transformers.tolist())
        if transformers[-1] == 19:
            self.all_asked.set()
        return Loads.none(), np.zeros(0, np.int64)

    async def oldest_us(self) -> int | None:
        return self.oldest

    async def store(self, made: dict[int, Any]) -> None:
        assert made == {}


class Book:
    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def of(self, *_: object) -> list[Any]:
        return []


class Desk:
    book = Book()


def job_of(store: Store, clock: ReplayClock, metrics: Metrics | None = None) -> Forecasts:
    return Forecasts(store, Desk(), Topology, clock, metrics or Metrics(), OverloadProfile())  # type: ignore[arg-type]


async def test_a_pass_asks_for_every_rated_transformer_once_an_hour() -> None:
    store, clock = Store(), ReplayClock(NOW_US)
    job = job_of(store, clock)
    while await job.once():
        pass
    assert store.asked == [list(range(TOGETHER)), list(range(TOGETHER, 20))]
    assert await job.once() is False
    clock.saw(NOW_US + 3600 * US)
    while await job.once():
        pass
    assert len(store.asked) == 4


async def test_with_too_few_days_nobody_is_asked_for() -> None:
    store = Store(days=NEEDED - 1)
    job = job_of(store, ReplayClock(NOW_US))
    assert await job.once() is False
    assert (store.asked, job.behind_s) == ([], 0)


async def test_a_step_waits_for_the_database_and_an_error_of_ours_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "EVERY_S", 0.0)
    store, metrics = Store(StorageUnavailable("away"), RuntimeError("ours")), Metrics()
    task = asyncio.create_task(job_of(store, ReplayClock(NOW_US), metrics).run())
    async with asyncio.timeout(60):
        await store.all_asked.wait()
    task.cancel()
    assert store.asked == [list(range(TOGETHER, 20))]  # the first ones had an error of ours: again in an hour
    assert metrics.registry.get_sample_value("meterwatch_forecast_steps_failed_total") == 1
