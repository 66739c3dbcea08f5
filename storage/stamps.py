"""The interval ends that reads have (table read_stamps), because reads are found by (end_at, slot).

A new interval goes to the end of that index, which is what makes writing cheap; a meter's reads are found by asking for
its slot under each end. The table says which ends there are: some hundred a day, whatever the meters.
Promises: an end is recorded, and committed, before a read with it is stored, so who asks by ends misses no read; one
without a read is harmless. Knows nothing else of reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import psycopg

from meterwatch.batch import Reads
from storage.arrays import moments
from storage.slot_bits import by_end

AMONG: Final = (
    "end_at = ANY(ARRAY(SELECT s.end_at FROM read_stamps s WHERE s.end_at >= {first} AND s.end_at < {last}))"
    " AND end_at >= {first} AND end_at < {last}"
)
"""Condition on `reads` for first <= end < last, to stand beside one on slot: each end and slot is then looked up in the
index. The span is said twice, because only a plain comparison leaves out the chunks of other days."""
REMEMBERED_MAX: Final = 200_000
"""Ends a connection remembers as recorded; beyond it they are recorded again."""
_RECORD: Final = "INSERT INTO read_stamps SELECT unnest(%s) ON CONFLICT DO NOTHING"


class Stamps:
    """What one connection has recorded. A new connection starts anew: another server may have lost the last commits."""

    def __init__(self) -> None:
        self._recorded: set[int] = set()

    def record(self, connection: psycopg.Connection[Any], group: Iterable[Reads]) -> None:
        """Record the ends of these reads, outside of any transaction."""
        ends = {end_us for reads in group for end_us, _ in by_end(reads.end_us)} - self._recorded
        if not ends:
            return
        connection.execute(_RECORD, (moments(np.array(sorted(ends), np.int64)),))
        if len(self._recorded) > REMEMBERED_MAX:
            self._recorded.clear()
        self._recorded |= ends
