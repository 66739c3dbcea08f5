"""Which interval ends are missing: masks of meters by interval ends in, runs and counts out. Pure arithmetic.

A meter owes a read for each end on the grid of its interval length (UTC) while it is in service. An end counts as there
if a read ends then, whatever its length; what the service estimated is not there. Axes: meters first, ends second.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

US: Final = 1_000_000
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Runs(NamedTuple):
    """Missing ends of one meter that follow each other; arrays of equal length, by meter and time."""

    row: NDArray[np.intp]
    first: NDArray[np.intp]
    """Index of the first missing end."""
    last: NDArray[np.intp]
    """Of the last one."""

    @property
    def reads(self) -> NDArray[np.intp]:
        return self.last - self.first + 1


def grid(from_us: int, to_us: int, interval_s: int) -> Ints:
    """Interval ends with from_us < end <= to_us, us."""
    step = interval_s * US
    return np.arange(from_us // step + 1, to_us // step + 1, dtype=np.int64) * step


def owed(ends_us: Ints, interval_s: int, installed_us: Ints, retired_us: Ints) -> Mask:
    """bool[meters, ends]: the meter was in service for the whole interval."""
    found: Mask = ends_us - interval_s * US >= installed_us[:, None]
    found &= ends_us <= retired_us[:, None]
    return found


def runs(missing: Mask) -> Runs:
    """Runs of True along the ends."""
    rows, ends = missing.shape
    edge = np.zeros((rows, ends + 2), np.int8)
    edge[:, 1:-1] = missing
    step = np.diff(edge, axis=1)
    row, first = np.nonzero(step == 1)
    _, after = np.nonzero(step == -1)
    return Runs(row, first, after - 1)


def there(bits: NDArray[np.uint8], slots: NDArray[np.int32]) -> Mask:
    """bool[meters, ends] out of uint8[ends, bytes], 8 slots a byte, lowest first."""
    found: Mask = ((bits[:, slots >> 3] >> (slots & 7).astype(np.uint8)) & 1).astype(np.bool_).T
    return found


class Counts(NamedTuple):
    """Reads by group and hour: int64[groups, hours]."""

    expected: Ints
    present: Ints

    def plus(self, other: Counts) -> Counts:
        return Counts(self.expected + other.expected, self.present + other.present)


def counted(due: Mask, arrived: Mask, group: Ints, groups: int, hour: Ints, hours: int) -> Counts:
    """How many reads were owed and came, by group of the meter and hour of the end (rising)."""
    shape = (groups, hours)
    expected, present = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    edges = np.flatnonzero(np.diff(hour, prepend=-1, append=hours)).tolist()
    for mask, sums in ((due, expected), (due & arrived, present)):
        for at, stop in pairwise(edges):
            of_meter = np.count_nonzero(mask[:, at:stop], axis=1)
            sums[:, hour[at]] += np.bincount(group, of_meter, groups).astype(np.int64)
    return Counts(expected, present)
