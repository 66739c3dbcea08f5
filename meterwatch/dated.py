"""Values of meters that change over time: which one an interval is to be taken with.

A value holds for the intervals that end after its from_us and not after its to_us: an interval that ends when the value
changes was measured under the old one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dated:
    """Columns of length n, by slot and from_us; the spans of one slot do not overlap."""

    slot: NDArray[np.int32]
    from_us: Stamps
    to_us: Stamps
    value: NDArray[np.float32]
    most: int = field(init=False)
    """Entries of the meter that has most."""
    missing: ClassVar[float] = math.nan
    """Of a meter that has no entry for an interval."""

    def __post_init__(self) -> None:
        _, counts = np.unique(self.slot, return_counts=True)
        object.__setattr__(self, "most", int(counts.max(initial=0)))

    def at(self, slot: NDArray[np.intp] | NDArray[np.int32], end_us: Stamps) -> NDArray[np.float32]:
        """Value for the intervals of these meters that end then, float32 [rows]. Cost: one round per entry."""
        found = np.full(len(slot), self.missing, np.float32)
        first, stop = (np.searchsorted(self.slot, slot, side) for side in ("left", "right"))
        rows = np.flatnonzero(stop > first)
        for nth in range(self.most if len(rows) else 0):
            rows = rows[first[rows] + nth < stop[rows]]
            entry = first[rows] + nth
            holds = (self.from_us[entry] < end_us[rows]) & (end_us[rows] <= self.to_us[entry])
            found[rows[holds]] = self.value[entry[holds]]
        return found


class Contracts(Dated):
    """Contracted power, kW; a meter without an entry has none (NaN)."""

    __slots__ = ()


def first_changes(before: Dated, after: Dated) -> tuple[NDArray[np.int32], Stamps]:
    """Slots whose values differ, ascending, and of each the moment after which they do."""
    if all(
        np.array_equal(getattr(before, name), getattr(after, name)) for name in ("slot", "from_us", "to_us", "value")
    ):
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    slot = np.concatenate((before.slot, after.slot) * 2)
    border_us = np.concatenate((before.from_us, after.from_us, before.to_us, after.to_us))
    ends = border_us < np.iinfo(np.int64).max
    slot, border_us = slot[ends], border_us[ends]
    old, new = (one.at(slot, border_us + 1) for one in (before, after))
    differ = ~((old == new) | (np.isnan(old) & np.isnan(new)))
    slot, border_us = slot[differ], border_us[differ]
    order = np.lexsort((border_us, slot))
    slots, firsts = np.unique(slot[order], return_index=True)
    return slots, border_us[order][firsts]
