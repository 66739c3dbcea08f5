"""Cumulative register reads as columns: what the register of a meter showed at a moment, after screening.

A register only counts up, until it rolls over or the device is exchanged. Values are primary energy, so a step of the
display is `lsb_wh` times the meter's multiplier. One-way door as in meterwatch.batch: nobody re-checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Rejects

LOOKBACK_US: Final = 62 * 86_400_000_000
"""A register is compared with what it showed before, at most so long ago: two months, for meters read once a month."""
SNAP_US: Final = 5_000_000
"""A register read this near to a boundary of intervals counts as read there, as for the end of an interval (V03)."""


class Register(IntEnum):
    """Which register; values as in ingest.proto."""

    IMPORT = 1
    EXPORT = 2


@dataclass(frozen=True, slots=True)
class RegisterReads:
    """Screened register reads; arrays of length n. No (slot, register, at_us) occurs twice."""

    slot: NDArray[np.int32]
    at_us: NDArray[np.int64]
    register: NDArray[np.int16]
    value_wh: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.slot)


@dataclass(frozen=True, slots=True)
class RegisterBatch:
    """A screened request with its key, as storage takes it."""

    head_end_id: int
    epoch: int
    seq: int
    digest: bytes
    reads: RegisterReads
    rejects: Rejects
    inner_duplicates: int
    """Rows equal to an earlier row of the same request; counted, not stored."""
    rows_sent: int


@dataclass(frozen=True, slots=True)
class RegisterChange:
    """Whose registers a committed request changed, and when: days that must be judged. Arrays of length n.

    With each register read comes the next one of that register, which is compared with it.
    """

    slot: NDArray[np.int32]
    at_us: NDArray[np.int64]
