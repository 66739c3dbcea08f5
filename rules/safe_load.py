"""Loads that make no transformer hot, however long they last: who stays below costs HOT_SPOT nothing but its step."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.weather import Weather
from rules.air import hottest_usual_c
from rules.plates import Plates
from rules.thermal import Thermal, ThermalParameters
from rules.twin import HotSpotProfile

Floats = NDArray[np.float64]
HOT_AIR_C: Final = 40.0
"""Air as hot as this is reckoned with always; hotter by AIR_STEP_C at a time as it is told. (ours)"""
AIR_STEP_C: Final = 5.0
BISECTIONS: Final = 30
"""10 comes down to 1e-8."""


def reckoned_c(profile: HotSpotProfile, weather: Weather) -> float:
    """Air that is never hotter than this."""
    over = max(weather.hottest_c - HOT_AIR_C, hottest_usual_c(profile) - HOT_AIR_C, 0.0)
    return HOT_AIR_C + AIR_STEP_C * float(np.ceil(over / AIR_STEP_C))


def safe_pu(profile: HotSpotProfile, plates: Plates, air_c: float) -> Floats:
    """Loads up to this make nobody hot on any day; 0 where the begin alone may. float64 [n]."""
    limit_k = min(profile.thermal.warning_c - profile.clear_k, profile.thermal.high_c) - 1.0 - air_c
    safe = np.full(len(plates), np.inf)
    for parameters in plates.ever():
        np.minimum(safe, _up_to(limit_k, parameters, profile.begin_pu), out=safe)
    return safe


def _up_to(limit_k: float, parameters: ThermalParameters, begin_pu: float) -> Floats:
    """Where the hot spot in the end is below the air and limit_k."""
    kernel, n = Thermal(parameters), len(parameters)

    def below(load_pu: Floats) -> NDArray[np.bool_]:
        oil, winding = kernel.ultimate(load_pu)
        cool: NDArray[np.bool_] = oil + winding < limit_k
        return cool

    low, high = np.full(n, begin_pu), np.full(n, 10.0)
    fits = below(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        cool = below(middle)
        low, high = np.where(cool, middle, low), np.where(cool, high, middle)
    return np.where(fits, low, 0.0)
