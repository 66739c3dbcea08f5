"""A hint which reads are stored already, so that only those are looked up before a COPY.

Per interval end one bit per meter. A set bit: the read may be stored, look. A clear bit: nobody here stored it, so it
goes straight into the COPY; if that is wrong (stored before this start, by another writer at the same moment, or
forgotten here) the unique index says so and the batch is looked up row by row. So the hint can cost time, never truth.
Promises: at most `bytes_max` in all, the longest unused interval ends are forgotten first. Safe to use from threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from storage.slot_bits import END_BYTES, NO_BITS, Bits, Mask, by_end, has, put, roomy

BYTES_MAX: Final = 64 * 1024 * 1024
"""Two days of quarter-hours of 2.7 million meters."""


class Seen:
    """See the module head."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._bits: OrderedDict[int, Bits] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._bits)

    def ask(self, reads: Reads) -> Mask | None:
        """bool[rows], True where the read may be stored; None: nowhere."""
        found = np.zeros(reads.rows, np.bool_)
        with self._lock:
            for end_us, rows in by_end(reads.end_us):
                bits = self._bits.get(end_us)
                if bits is None:
                    continue
                self._bits.move_to_end(end_us)
                found[rows] = has(bits, reads.slot[rows])
        return found if found.any() else None

    def add(self, reads: Reads) -> None:
        """These reads are stored, or may be."""
        with self._lock:
            for end_us, rows in by_end(reads.end_us):
                self._grow(end_us, reads.slot[rows])

    def _grow(self, end_us: int, slot: NDArray[np.int32]) -> None:
        """Set the bits of an interval end, which is now the most recently used."""
        old = self._bits.pop(end_us, None)
        bits = roomy(NO_BITS if old is None else old, slot)
        put(bits, slot)
        self._bytes += len(bits) + END_BYTES if old is None else len(bits) - len(old)
        self._bits[end_us] = bits
        while self._bytes > self._bytes_max and len(self._bits) > 1:
            _, oldest = self._bits.popitem(last=False)
            self._bytes -= len(oldest) + END_BYTES
