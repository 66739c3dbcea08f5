"""When stored reads and events arrived, and the loads of transformers: what an explanation asks beyond History.

Promises: reads are asked for by their ends and meters together, never by a meter and a span. Refuses to know alarms.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from storage.arrays import fetch_columns, integers, moment, moments
from storage.faults import storage_faults

_READS: Final = """
SELECT array_agg(slot), array_agg(end_at), array_agg(received_at) FROM reads
WHERE end_at = ANY(%(ends)s) AND slot = ANY(%(slots)s) AND end_at BETWEEN %(first)s AND %(last)s"""
_EVENTS: Final = """
SELECT array_agg(slot), array_agg(at), array_agg(received_at), array_agg(code), array_agg(phases) FROM events
WHERE at >= %(first)s AND at < %(last)s AND slot = ANY(%(slots)s)"""
_LOADS: Final = """
SELECT array_agg(window_end), array_agg(wh), array_agg(varh), array_agg(covered_weight_s), array_agg(expected_weight_s)
FROM (SELECT window_end, sum(wh)::bigint AS wh, sum(varh)::bigint AS varh,
             sum(covered_weight_s)::bigint AS covered_weight_s, sum(expected_weight_s)::bigint AS expected_weight_s
      FROM transformer_loads WHERE transformer_id = ANY(%(transformers)s)
      AND window_end > %(first)s AND window_end <= %(last)s GROUP BY window_end ORDER BY window_end) AS curve"""

Columns = list[NDArray[Any]]


class Arrivals:
    """Over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def reads(self, slots: NDArray[np.int32], ends_us: NDArray[np.int64]) -> Columns:
        """slot, end_us, arrived_us of the reads of these meters that end at one of these times, in no order."""
        if not len(slots) or not len(ends_us):
            return [np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)]
        # A plain comparison leaves out the chunks of other days.
        span = {"first": moment(int(ends_us.min())), "last": moment(int(ends_us.max()))}
        return await self._columns(_READS, {"slots": integers(slots), "ends": moments(ends_us)} | span)

    async def events(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> Columns:
        """slot, at_us, arrived_us, code, phases of these meters' events with from_us <= at < to_us, in no order."""
        span = {"first": moment(from_us), "last": moment(to_us)}
        return await self._columns(_EVENTS, {"slots": integers(slots)} | span)

    async def loads(self, transformers: NDArray[np.int32], from_us: int, to_us: int) -> Columns:
        """end_us, wh, varh, covered, expected of the windows with from_us < end <= to_us, by time: sums of these."""
        span = {"first": moment(from_us), "last": moment(to_us)}
        return await self._columns(_LOADS, {"transformers": integers(transformers)} | span)

    async def _columns(self, query: Any, parameters: dict[str, Any]) -> Columns:
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [columns] = await fetch_columns(connection, query, parameters)
        return columns
