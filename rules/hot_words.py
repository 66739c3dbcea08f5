"""Heat of a transformer in words for people: what an episode says, and the figures it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.episodes import Episode, Severity
from rules.heat import Heat
from rules.rated import clock, duration
from rules.thermal import Level, ThermalState
from rules.twin import HotSpotProfile

RULE: Final = "HOT_SPOT"
SEVERITY: Final = {Level.WARNING: Severity.MEDIUM, Level.HIGH: Severity.HIGH, Level.CRITICAL: Severity.CRITICAL}
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Figures:
    """Of n transformers at their newest window with a known load; of one without any at the newest. [n] each."""

    window: NDArray[np.int64]
    known: NDArray[np.bool_]
    load_pu: Floats
    top_oil_c: Floats
    hot_spot_c: Floats
    ambient_c: Floats
    seconds_to_high: Floats

    @classmethod
    def none(cls, n: int) -> Figures:
        return cls(np.full(n, -1), np.zeros(n, np.bool_), *(np.full(n, np.nan) for _ in range(5)))

    def note(self, window: int, known: NDArray[np.bool_], now: ThermalState, seconds: Floats) -> None:
        """The next window."""
        rows = known | ~self.known
        self.window[rows] = window
        self.known |= known
        found = now.load_pu, now.top_oil_c, now.hot_spot_c, now.ambient_c, seconds
        kept = self.load_pu, self.top_oil_c, self.hot_spot_c, self.ambient_c, self.seconds_to_high
        for column, values in zip(kept, found, strict=True):
            np.copyto(column, values, where=rows)


def episode(
    profile: HotSpotProfile, plate: dict[str, Any], name: str, rated_kva: float, heat: Heat, figures: Figures, i: int,
    window_us: int,
) -> Episode:  # fmt: skip
    """Dress an episode for people. plate: the thermal numbers of its first day; figures of row i: as it is now."""
    thermal, level = profile.thermal, Level(heat.level)
    onset_us = heat.onset * window_us
    since = clock(onset_us)
    evidence: dict[str, Any] = {
        "rated_kva": rated_kva,
        "peak_hot_spot_c": round(heat.peak_c, 1),
        "worst_level": Level(heat.worst).name,
        "thresholds": profile.thresholds() | plate,
    }
    if heat.cleared is not None:
        cleared_us = (heat.cleared + 1) * window_us
        lasted = duration((cleared_us - onset_us) // 1_000_000)
        upto = f"up to {heat.peak_c:.0f} C from {since} to {clock(cleared_us)}"
        summary = f"Hot spot of transformer {name} was {upto}, at worst {level.name}, over after {lasted}"
        return Episode(onset_us, onset_us + window_us, cleared_us, SEVERITY[level], level.name, summary, evidence)
    hot_spot_c, seconds = float(figures.hot_spot_c[i]), float(figures.seconds_to_high[i])
    evidence |= {
        "window_end_us": (int(figures.window[i]) + 1) * window_us,
        "b": round(float(figures.load_pu[i]), 4),
        "hot_spot_c": round(hot_spot_c, 1),
        "top_oil_c": round(float(figures.top_oil_c[i]), 1),
        "ambient_c": round(float(figures.ambient_c[i]), 1),
        "minutes_to_high": round(seconds / 60) if np.isfinite(seconds) else None,
    }
    load = f"{figures.load_pu[i]:.2f} x its {rated_kva:g} kVA"
    ahead = f", {thermal.high_c:g} C in {seconds / 60:.0f} min" if 0 < seconds < thermal.high_within_s else ""
    summary = f"Hot spot of transformer {name} at {hot_spot_c:.0f} C under {load}{ahead}, {level.name} since {since}"
    return Episode(onset_us, onset_us + window_us, None, SEVERITY[level], level.name, summary, evidence)
