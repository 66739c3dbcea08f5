"""The demand of single meters: what their reads say of the mean power in whole windows.

A window has a demand once reads cover all of it, or enough of it and something later came. Reads longer than a window
give each of theirs the same mean. Only what was measured counts; what a meter feeds in does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from rules.ladder import Bools, Floats, Ints
from rules.load import parts_of
from rules.user.read_columns import is_evidence

US = 1_000_000


class Demand(NamedTuple):
    """Windows of meters, by (slot, window)."""

    slot: NDArray[np.int32]
    window: Ints
    watts: Floats
    usable: Bools
    """False: reads cover too little of it, or it waits."""
    waits: Bools
    """Nearly covered, and the newest of its meter: it is usable once it is full or something later came."""

    def take(self, rows: Ints | Bools) -> Demand:
        return Demand(self.slot[rows], self.window[rows], self.watts[rows], self.usable[rows], self.waits[rows])


def demand(reads: Sequence[ReadChange], window_s: int, coverage_min: float) -> Demand:
    """The windows of all these reads, each (slot, end) once. Exact: energies and seconds are whole numbers."""
    reads = [_evidence(one) for one in reads]
    if not sum(len(one.slot) for one in reads):
        none, never = np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return Demand(none.astype(np.int32), none, none.astype(np.float64), never, never)
    slot, end_us, length_s, wh = (
        np.concatenate([getattr(one, name) for one in reads]).astype(np.int64)
        for name in ("slot", "end_us", "interval_s", "import_wh")
    )
    end_s = end_us // US
    start_s = end_s - length_s
    read, window, since, until = parts_of(start_s // window_s, (end_s - 1) // window_s, start_s, length_s, window_s)
    covered = until - since
    watt_s = wh[read] * 3600.0 * covered / length_s[read]
    order = np.lexsort((window, slot[read]))
    slot, window, covered, watt_s = slot[read][order], window[order], covered[order], watt_s[order]
    begins = np.flatnonzero(np.append(True, (slot[1:] != slot[:-1]) | (window[1:] != window[:-1])))
    covered, watt_s = np.add.reduceat(covered, begins), np.add.reduceat(watt_s, begins)
    slot, window = slot[begins], window[begins]
    newest = np.append(slot[1:] != slot[:-1], True)
    enough = covered >= coverage_min * window_s
    waits = enough & newest & (covered < window_s)
    return Demand(slot.astype(np.int32), window, watt_s / covered, enough & ~waits, waits)


def _evidence(reads: ReadChange) -> ReadChange:
    mine = is_evidence(reads.quality) & reads.has_energy
    return reads if mine.all() else reads.take(np.flatnonzero(mine))
