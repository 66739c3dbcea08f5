"""Which transformer supplied a meter at a time, of the meters that did not always hang where they hang now.

A membership holds for the intervals that end after its valid_from and not after its valid_to: an interval that ends
when the meter is moved was measured at the old place. Meters without an entry never moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moves:
    """Columns of length n, by slot and valid_from; the spans of one slot do not overlap."""

    slot: NDArray[np.int32]
    transformer: NDArray[np.int32]
    from_us: Ints
    to_us: Ints
    most: int = field(init=False)
    """Entries of the meter that has most."""

    def __post_init__(self) -> None:
        _, counts = np.unique(self.slot, return_counts=True)
        object.__setattr__(self, "most", int(counts.max(initial=0)))

    def __len__(self) -> int:
        return len(self.slot)

    @classmethod
    def none(cls) -> Moves:
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def at(self, slot: NDArray[np.int32], end_us: Ints) -> NDArray[np.int32]:
        """Transformer of these meters, all with entries, for intervals that end then; -1: none. One round per entry."""
        found = np.full(len(slot), -1, np.int32)
        first, stop = (np.searchsorted(self.slot, slot, side) for side in ("left", "right"))
        rows = np.arange(len(slot))
        for nth in range(self.most):
            rows = rows[first[rows] + nth < stop[rows]]
            entry = first[rows] + nth
            holds = (self.from_us[entry] < end_us[rows]) & (end_us[rows] <= self.to_us[entry])
            found[rows[holds]] = self.transformer[entry[holds]]
        return found
