"""Who has sent a read for an interval end: per end one bit per meter, for the ends somebody asks for.

An end is looked up once, in the stored reads, and from then on what is committed is told to `observe`. Bits are only
ever set, because a read that was sent stays: so a look-up and what is committed meanwhile may meet in any order, and a
restart needs no rebuilding. What the service estimated sets no bit. Promises: at most `bytes_max` in all; the ends
longest not asked for are forgotten, and looked up again when somebody asks. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.batch import ReadChange
from meterwatch.quality import METHOD_MASK
from storage.arrays import fetch_columns, moment, moments
from storage.faults import storage_faults
from storage.slot_bits import END_BYTES, NO_BITS, Bits, by_end, put, roomy

BYTES_MAX: Final = 64 * 1024 * 1024
"""Five days of quarter-hours of a million meters."""
ROWS_TOGETHER: Final = 4_000_000
"""Reads looked up by one query, at most; 50 MB while it is decoded."""

_FETCH: Final = f"""
SELECT ARRAY[end_at], array_agg(slot) FROM reads
WHERE end_at = ANY(%(ends)s) AND end_at >= %(first)s AND end_at <= %(last)s AND quality & {METHOD_MASK} = 0
GROUP BY end_at"""


class Arrived:
    """See the module head."""

    def __init__(self, pool: AsyncConnectionPool[Any], bytes_max: int = BYTES_MAX) -> None:
        self._pool = pool
        self._bytes_max = bytes_max
        self._bits: OrderedDict[int, Bits] = OrderedDict()
        self._whole: set[int] = set()
        """Ends that were looked up; the others among _bits are being looked up."""
        self._asking = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._bits)

    def room(self, slots: int) -> int:
        """Ends of so many meters that are kept together."""
        return self._bytes_max // (slots // 8 + 1 + END_BYTES)

    def observe(self, change: ReadChange) -> None:
        """Reads that are now committed; next to nothing for those older or newer than all ends asked for."""
        if not self._bits or not len(change.slot):
            return
        first, last = min(self._bits), max(self._bits)
        if int(change.end_us.max()) < first or int(change.end_us.min()) > last:
            return
        sent = (change.sign > 0) & (change.quality & METHOD_MASK == 0)
        sent &= (change.end_us >= first) & (change.end_us <= last)
        slot, ends_us = change.slot[sent], change.end_us[sent]
        for end_us, rows in by_end(ends_us):
            if end_us in self._bits:
                self._put(end_us, slot[rows])

    async def ask(self, ends_us: NDArray[np.int64], slots: int) -> NDArray[np.uint8]:
        """uint8[ends, slots // 8 + 1]: the bits of each end, 8 slots a byte, lowest first. Raises StorageUnavailable.

        ends_us ascends and has at most room(slots) elements.
        """
        async with self._asking:
            unknown = [end for end in ends_us.tolist() if end not in self._whole]
            together = max(1, ROWS_TOGETHER // max(slots, 1))
            for at in range(0, len(unknown), together):
                await self._look_up(unknown[at : at + together])
            answer = np.zeros((len(ends_us), slots // 8 + 1), np.uint8)
            for row, end in zip(answer, ends_us.tolist(), strict=True):
                self._bits.move_to_end(end)
                bits = self._bits[end][: len(row)]
                row[: len(bits)] = bits
            self._forget()
            return answer

    async def _look_up(self, ends: Sequence[int]) -> None:
        for end in ends:  # before the look-up: what is committed after its snapshot is told meanwhile
            self._bits.setdefault(end, NO_BITS)
        asked = {
            "ends": moments(np.array(ends, np.int64)),
            "first": moment(min(ends)),
            "last": moment(max(ends)),
        }
        with storage_faults():
            async with self._pool.connection() as connection:
                for end_us, slot in await fetch_columns(connection, _FETCH, asked, prepare=False):
                    self._put(int(end_us[0]), slot.astype(np.int32))
        self._whole.update(ends)

    def _put(self, end_us: int, slot: NDArray[np.int32]) -> None:
        bits = self._bits[end_us] = roomy(self._bits[end_us], slot)
        put(bits, slot)

    def _forget(self) -> None:
        kept = sum(len(bits) + END_BYTES for bits in self._bits.values())
        while kept > self._bytes_max:
            end, bits = self._bits.popitem(last=False)
            self._whole.discard(end)
            kept -= len(bits) + END_BYTES
