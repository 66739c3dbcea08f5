"""The temperature of the air around transformers, as it was told: readings of areas over time.

A reading holds until the next one of its area, or until it is too old. An area is a district; the empty one is
everywhere, and counts where the district has no reading. Immutable: other readings make another Weather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

EVERYWHERE: Final = ""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """One temperature. Time in UTC microseconds."""

    area: str
    at_us: int
    celsius: float


class Weather:
    """Readings, one per area and time."""

    def __init__(self, readings: Sequence[Reading] = ()) -> None:
        by_area: dict[str, dict[int, float]] = {}
        for one in readings:
            by_area.setdefault(one.area, {})[one.at_us] = one.celsius
        self._of = {
            area: (np.array(sorted(known), np.int64), np.array([known[at] for at in sorted(known)], np.float64))
            for area, known in by_area.items()
        }
        self.hottest_c = max((one.celsius for one in readings), default=-np.inf)

    def at(self, area: str, at_us: NDArray[np.int64], max_age_us: int) -> Floats:
        """Celsius at these moments by the area's reading, else by that of everywhere; NaN: by none."""
        found = self._newest(area, at_us, max_age_us)
        if area != EVERYWHERE and np.isnan(found).any():
            found = np.where(np.isnan(found), self._newest(EVERYWHERE, at_us, max_age_us), found)
        return found

    def _newest(self, area: str, at_us: NDArray[np.int64], max_age_us: int) -> Floats:
        if area not in self._of:
            return np.full(len(at_us), np.nan)
        known_us, celsius = self._of[area]
        row = np.searchsorted(known_us, at_us, "right") - 1
        fresh = (row >= 0) & (at_us - known_us[row] <= max_age_us)
        return np.where(fresh, celsius[row], np.nan)
