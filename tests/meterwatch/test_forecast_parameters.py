"""The temperatures of a forecast are those of each transformer's own numbers, where it has some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from meterwatch.clock import US, ReplayClock
from meterwatch.dated import Dated
from meterwatch.forecasts import PROFILE, Forecasts
from meterwatch.loads import Loads
from meterwatch.metrics import Metrics
from meterwatch.weather import Reading
from rules.hindcast import days_needed
from rules.ladder import OverloadProfile
from rules.seasons import AirSeason
from rules.thermal import Thermal, ThermalParameters, ThermalProfile
from rules.twin import HotSpotProfile
from storage.ambient import FORECAST
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
    transformer_district = ["N", "S", "S"]  # noqa: RUF012
    thermal = {  # noqa: RUF012
        "oil_rise_k": np.array([np.nan, 80.0, np.nan]), "oil_time_constant_s": np.array([np.nan, np.nan, 36_000.0]),
    }  # fmt: skip
    thermal_types: Dated | None = None
    thermal_type_names: list[str] = []  # noqa: RUF012


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


def scalar_hot_spots(
    load: list[float], state_load: list[float], own: dict[str, float], air: Callable[[int], float] = lambda step: 30.0
) -> list[float]:
    """One transformer by itself, stepped from long before; air: by step of the forecast."""
    model = Thermal(ThermalParameters.of(ThermalProfile(), 1, {name: [value] for name, value in own.items()}))
    state = model.steady(np.array(state_load[:1]), 30.0)
    for b in state_load:
        model.step(state, 900, np.array([b]), 30.0)
    found = []
    for step, b in enumerate(load):
        model.step(state, 900, np.array([b]), air(step))
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


class Typed(Topology):
    """The first one has a type, the second one's numbers are its own, the third one's type is of later."""

    thermal_types = Dated(
        np.array([0, 2], np.int32), np.array([0, NOW_US + 86_400 * US]), np.full(2, np.iinfo(np.int64).max),
        np.zeros(2, np.float32),
    )  # fmt: skip
    thermal_type_names = ["onan-large"]  # noqa: RUF012


class Ambient:
    """Storage of the air: what was measured, and what was forecast."""

    def __init__(self, told: list[Reading], forecast: list[Reading]) -> None:
        self.told, self.forecast = told, forecast

    async def readings(self, from_us: int, to_us: int | None = None, *, table: Any = None, **_: Any) -> list[Reading]:
        known = self.forecast if table is FORECAST else self.told
        return [one for one in known if from_us <= one.at_us and (to_us is None or one.at_us <= to_us)]


async def hot_spots(topology: type[Topology], profile: HotSpotProfile, ambient: Ambient) -> list[Forecast]:
    store = Store()
    job = Forecasts(
        store, Desk(), topology, ReplayClock(NOW_US), Metrics(), OverloadProfile(), hot_spot=profile, ambient=ambient
    )  # type: ignore[arg-type]  # fmt: skip  # doubles
    while await job.once():
        pass
    return [store.made[number] for number in range(3)]


def past_loads() -> list[float]:
    stop, loss = NOW_US // WINDOW_US, OverloadProfile().loss_factor
    return [(0.5 if window % PROFILE.day < PROFILE.day // 2 else 0.9) * loss for window in range(stop - 960, stop)]


async def test_each_transformer_is_heated_by_the_numbers_of_its_type() -> None:
    made = await hot_spots(Typed, HotSpotProfile(), Ambient([], []))
    large = {
        "oil_rise_k": 52.0, "hot_spot_rise_k": 26.0, "loss_ratio": 6.0, "winding_exponent": 0.65,
        "oil_time_constant_s": 6300.0, "winding_time_constant_s": 600.0,
    }  # fmt: skip
    for number, own in enumerate((large, {"oil_rise_k": 80.0}, {"oil_time_constant_s": 36_000.0})):
        expected = scalar_hot_spots(made[number].p50.tolist(), past_loads(), own)
        assert made[number].hot_spot_c.tolist() == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("known", ["forecast", "season", "last day", "nothing"])
async def test_the_air_to_come_is_what_was_forecast_else_the_season_s_else_that_of_the_last_day(known: str) -> None:
    """In the north; by step 0 .. 191 of the forecast."""
    hours = range(-30, 1)
    told = [Reading("N", NOW_US + hour * 3600 * US, 10.0 + hour % 24) for hour in hours] if known != "nothing" else []
    forecast = [Reading("", NOW_US + hour * 3600 * US, 20.0 + hour / 4) for hour in range(0, 50, 3)]
    season = (AirSeason("always", "01-01", 17.0),) if known in ("forecast", "season") else ()
    ambient = Ambient(told, forecast if known == "forecast" else [])
    [north, *_] = await hot_spots(Topology, HotSpotProfile(air_seasons=season), ambient)

    def air(step: int) -> float:
        end_h = (step + 1) / 4
        if known == "forecast":
            return 20.0 + end_h // 3 * 3 / 4
        if known == "season":
            return 17.0
        if known == "nothing":
            return 30.0
        back_h = end_h - 24 * np.ceil(end_h / 24)
        return float(10.0 + np.floor(back_h) % 24)

    expected = scalar_hot_spots(north.p50.tolist(), past_loads(), {}, air)
    assert north.hot_spot_c.tolist() == pytest.approx(expected, abs=0.3)
