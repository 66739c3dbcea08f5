"""Multipliers of instrument transformers over time: which one a read is to be taken with.

A multiplier holds for the intervals that end after its valid_from and not after its valid_to: an interval that ends
when the transformers are exchanged was measured through the old ones. Meters without an entry have 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Multipliers:
    """Columns of length n, by slot and valid_from; the spans of one slot do not overlap."""

    slot: NDArray[np.int32]
    from_us: Stamps
    to_us: Stamps
    value: NDArray[np.float32]
    most: int = field(init=False)
    """Entries of the meter that has most."""

    def __post_init__(self) -> None:
        _, counts = np.unique(self.slot, return_counts=True)
        object.__setattr__(self, "most", int(counts.max(initial=0)))

    def at(self, slot: NDArray[np.intp] | NDArray[np.int32], end_us: Stamps) -> NDArray[np.float32]:
        """Multiplier for the intervals of these meters that end then, float32 [rows]. Cost: one round per entry."""
        found = np.ones(len(slot), np.float32)
        first, stop = (np.searchsorted(self.slot, slot, side) for side in ("left", "right"))
        rows = np.flatnonzero(stop > first)
        for nth in range(self.most if len(rows) else 0):
            rows = rows[first[rows] + nth < stop[rows]]
            entry = first[rows] + nth
            holds = (self.from_us[entry] < end_us[rows]) & (end_us[rows] <= self.to_us[entry])
            found[rows[holds]] = self.value[entry[holds]]
        return found
