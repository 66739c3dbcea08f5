"""A hint which reads are stored already, so that only those are looked up before a COPY.

Per interval end one bit per meter. A set bit: the read may be stored, look. A clear bit: nobody here stored it, so it
goes straight into the COPY; if that is wrong (stored before this start, by another writer at the same moment, or
forgotten here) the unique index says so and the batch is looked up row by row. So the hint can cost time, never truth.
Promises: at most `bytes_max` of bits, the longest unused interval ends are forgotten first. Safe to use from threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads

BYTES_MAX: Final = 64 * 1024 * 1024
"""Two days of quarter-hours of 2.7 million meters."""
SPREAD: Final = 2
"""Up to so many bytes of bits a read, all between the first and the last slot are made anew: 2 ns a read, not 9."""
Mask = NDArray[np.bool_]


class Seen:
    """See the module head."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._bits: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._bits)

    def ask(self, reads: Reads) -> Mask | None:
        """bool[rows], True where the read may be stored; None: nowhere."""
        found = np.zeros(reads.rows, np.bool_)
        with self._lock:
            for end_us, rows in _by_end(reads.end_us):
                bits = self._bits.get(end_us)
                if bits is None:
                    continue
                self._bits.move_to_end(end_us)
                slot = reads.slot[rows]
                if not bits[int(slot.min()) >> 3 : (int(slot.max()) >> 3) + 1].any():
                    continue  # nobody near them is stored: so it is while meters come in their order
                inside = slot < 8 * len(bits)
                at = np.where(inside, slot, 0)
                found[rows] = ((bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1).astype(np.bool_) & inside
        return found if found.any() else None

    def add(self, reads: Reads) -> None:
        """These reads are stored, or may be."""
        with self._lock:
            for end_us, rows in _by_end(reads.end_us):
                slot = reads.slot[rows]
                first, last = int(slot.min()) >> 3, int(slot.max()) >> 3
                bits = self._room(end_us, last + 1)
                if last - first > SPREAD * len(slot):
                    np.bitwise_or.at(bits, slot >> 3, np.left_shift(1, slot & 7).astype(np.uint8))
                else:
                    mine = np.zeros(8 * (last + 1 - first), np.bool_)
                    mine[slot - 8 * first] = True
                    bits[first : last + 1] |= np.packbits(mine, bitorder="little")

    def _room(self, end_us: int, size: int) -> NDArray[np.uint8]:
        """The bits of an interval end, at least `size` bytes, now the most recently used."""
        bits = self._bits.pop(end_us, None)
        if bits is None or len(bits) < size:
            grown = np.zeros(max(size, 0 if bits is None else 2 * len(bits)), np.uint8)
            if bits is not None:
                grown[: len(bits)] = bits
            self._bytes += len(grown) - (0 if bits is None else len(bits))
            bits = grown
        self._bits[end_us] = bits
        while self._bytes > self._bytes_max and len(self._bits) > 1:
            _, oldest = self._bits.popitem(last=False)
            self._bytes -= len(oldest)
        return bits


def _by_end(end_us: NDArray[np.int64]) -> list[tuple[int, slice | NDArray[np.intp]]]:
    """Rows by interval end; mostly a batch has one."""
    if not len(end_us):
        return []
    if end_us[0] == end_us[-1] and (end_us == end_us[0]).all():
        return [(int(end_us[0]), slice(None))]
    order = np.argsort(end_us, kind="stable")
    ends, first = np.unique(end_us[order], return_index=True)
    return list(zip(ends.tolist(), np.split(order, first[1:]), strict=True))
