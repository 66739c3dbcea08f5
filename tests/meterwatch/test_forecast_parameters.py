"""The temperatures of a forecast are those of each transformer's own numbers, where it has some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meterwatch.clock import US, ReplayClock
from meterwatch.forecasts import PROFILE, Forecasts
from meterwatch.loads import Loads
from meterwatch.metrics import Metrics
from rules.hindcast import days_needed
from rules.ladder import OverloadProfile
from rules.thermal import Thermal, ThermalParameters, ThermalProfile
from storage.forecasts import Forecast
from tests.meterwatch.test_forecasts_job import NOW_US, Desk

WINDOW_US = 900 * US
KVA = 100.0


class Topology:
    """Three rated transformers; the second one's oil gets hotter, the third one's is slow."""

    rated_kva = np.full(3, KVA)
    transformer = ["A", "B", "C"]  # noqa: RUF012 - a stub
    head_end: list[str] = []  # noqa: RUF012
    head_end_zone: list[str] = []  # noqa: RUF012
    thermal = {  # noqa: RUF012
        "oil_rise_k": np.array([np.nan, 80.0, np.nan]), "oil_time_constant_s": np.array([np.nan, np.nan, 36_000.0]),
    }  # fmt: skip


class Store:
    """The same load for all: by day 0.9 of the rating, by night 0.5."""

    made: dict[int, Forecast]

    async def loads(self, transformers: np.ndarray, first: int, stop: int) -> tuple[Loads, np.ndarray]:
        first = max(first, stop - days_needed(PROFILE) * PROFILE.day - stop % PROFILE.day)
        window, at = np.indices((stop - first, len(transformers))).reshape(2, -1)
        vah = np.where((window + first) % PROFILE.day < PROFILE.day // 2, 0.5, 0.9) * KVA * 1000 / 4
        some = np.ones(len(window), np.int64)
        wh = np.rint(vah).astype(np.int64)
        return Loads(transformers[at], window + first, wh, some * 0, some), some

    async def oldest_us(self) -> int | None:
        return 0

    async def store(self, made: dict[int, Any]) -> None:
        self.made = made


def scalar_hot_spots(load: list[float], state_load: list[float], own: dict[str, float]) -> list[float]:
    """One transformer by itself, stepped from long before."""
    model = Thermal(ThermalParameters.of(ThermalProfile(), 1, {name: [value] for name, value in own.items()}))
    state = model.steady(np.array(state_load[:1]), 30.0)
    for b in state_load:
        model.step(state, 900, np.array([b]), 30.0)
    found = []
    for b in load:
        model.step(state, 900, np.array([b]), 30.0)
        found.append(float(state.hot_spot_c[0]))
    return found


async def test_each_transformer_is_heated_by_its_own_numbers() -> None:
    store = Store()
    job = Forecasts(store, Desk(), Topology, ReplayClock(NOW_US), Metrics(), OverloadProfile())  # type: ignore[arg-type]
    while await job.once():
        pass
    stop = NOW_US // WINDOW_US
    loss = OverloadProfile().loss_factor
    past = [(0.5 if window % PROFILE.day < PROFILE.day // 2 else 0.9) * loss for window in range(stop - 960, stop)]
    for number, own in enumerate(({}, {"oil_rise_k": 80.0}, {"oil_time_constant_s": 36_000.0})):
        made = store.made[number]
        expected = scalar_hot_spots(made.p50.tolist(), past, own)
        assert made.hot_spot_c.tolist() == pytest.approx(expected, abs=0.3)
    assert store.made[1].hot_spot_c.max() > store.made[0].hot_spot_c.max() + 15
