"""The load of transformers over a span of windows, as a grid, and the temperatures it leads to.

Cells of stored loads come in, arrays [transformers, windows] go out. A window nothing is known of is NaN, until
`filled` puts something likely there. Used for pages, forecasts and plans; the overload rule judges cells by itself.
Refuses to know: the clock, where cells come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meterwatch.loads import Loads
from rules.ladder import OverloadProfile
from rules.thermal import Thermal, ThermalState

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S: Final = 86_400
SHORT_GAP_S: Final = 7_200
"""A gap of up to so long is bridged by a straight line. (std, as for reads)"""


@dataclass(frozen=True, slots=True)
class LoadCurves:
    """Of n transformers in the windows from `first` on."""

    first: int
    kva: Floats
    """[n, windows]; NaN where nothing arrived. Not scaled up for reads that are missing."""
    coverage: Floats
    """[n, windows] 0..1: share of the expected reads that arrived."""

    @classmethod
    def of(
        cls, loads: Loads, expected: Ints, transformers: Ints, first: int, stop: int, profile: OverloadProfile
    ) -> LoadCurves:
        """Lay out cells of first..stop-1, of these transformers (ascending) alone. expected: weight-seconds of each."""
        shape = len(transformers), stop - first
        kva, coverage = np.full(shape, np.nan), np.zeros(shape)
        at = np.searchsorted(transformers, loads.transformer), loads.window - first
        arrived = loads.covered > 0
        apparent_vah = np.hypot(loads.wh, loads.varh) * profile.loss_factor
        kva[at] = np.where(arrived, apparent_vah * (3600 / profile.window_s / 1000), np.nan)
        coverage[at] = np.where(arrived & (expected > 0), loads.covered / np.maximum(expected, 1), 0.0)
        return cls(first, kva, np.minimum(coverage, 1.0))

    def usable(self, coverage_min: float) -> Floats:
        """kva, NaN where the coverage is less: what may be forecast from."""
        return np.where(self.coverage >= coverage_min, self.kva, np.nan)


def filled(load: Floats, window_s: int) -> Floats:
    """The load without gaps: short ones by a straight line, others as a week or a day before or after, else the mean.

    load [n, windows], NaN: not known. A row that is all NaN becomes 0.
    """
    day, short = DAY_S // window_s, SHORT_GAP_S // window_s
    result = load.copy()
    for row in np.flatnonzero(np.isnan(load).any(axis=1)).tolist():
        _bridge(result[row], short)
        for steps in (7 * day, day, -7 * day, -day):
            _copy_from(result[row], steps)
        known = ~np.isnan(result[row])
        result[row, ~known] = result[row, known].mean() if known.any() else 0.0
    return result


def _bridge(load: Floats, short: int) -> None:
    """Straight lines over inner gaps of up to `short` windows, in place."""
    known = np.flatnonzero(~np.isnan(load))
    if len(known) < 2:
        return
    every = np.arange(len(load))
    after = np.searchsorted(known, every)
    inner = (after > 0) & (after < len(known)) & np.isnan(load)
    gap = known[np.minimum(after, len(known) - 1)] - known[np.maximum(after - 1, 0)] - 1
    inner &= gap <= short
    load[inner] = np.interp(every[inner], known, load[known])


def _copy_from(load: Floats, steps: int) -> None:
    """Fill gaps with the load `steps` earlier (negative: later), in rising (falling) time, so that copies go on."""
    missing = np.flatnonzero(np.isnan(load))
    for at in missing.tolist() if steps > 0 else missing[::-1].tolist():
        if 0 <= at - steps < len(load):
            load[at] = load[at - steps]


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Of n transformers at the end of each window, [n, windows], degrees Celsius; and the state after the last."""

    top_oil_c: Floats
    hot_spot_c: Floats
    state: ThermalState


def temperatures(
    model: Thermal, load_pu: Floats, window_s: int, ambient_c: ArrayLike, begin: ThermalState | None = None
) -> Temperatures:
    """Step through the windows of load_pu [n, windows] (NaN: the last known load goes on).

    ambient_c: [n, windows], or what is spread over it. begin: the state before; None: steady at the first known load, 0
    where there is none. What comes out of the first `ThermalProfile.warm_up_s` then rests on that guess.
    """
    air = np.broadcast_to(np.asarray(ambient_c, np.float64), load_pu.shape)
    if begin is None:
        known = ~np.isnan(load_pu)
        first = load_pu[np.arange(len(load_pu)), np.argmax(known, axis=1)] if load_pu.shape[1] else np.zeros(0)
        state = model.steady(np.nan_to_num(first), air[:, 0] if air.shape[1] else 0.0)
    else:
        state = begin.copy()
    oil, hot = np.empty(load_pu.shape), np.empty(load_pu.shape)
    for window in range(load_pu.shape[1]):
        model.step(state, window_s, load_pu[:, window], air[:, window])
        oil[:, window], hot[:, window] = state.top_oil_c, state.hot_spot_c
    return Temperatures(oil, hot, state)
