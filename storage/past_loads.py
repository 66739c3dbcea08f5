"""Stored loads of some transformers in any span of time, for judging windows that have left the ring.

Promise: one look-up per transformer in the unique index, whatever the length of the table. Refuses to know what a load
means.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.loads import Loads
from storage.arrays import fetch_columns, integers, micros, moment
from storage.faults import storage_faults

US: Final = 1_000_000
_BETWEEN: Final = """
SELECT array_agg(transformer_id), array_agg(window_end), array_agg(wh), array_agg(varh), array_agg(covered_weight_s)
FROM transformer_loads
WHERE transformer_id = ANY(%(transformers)s) AND window_end > %(first)s AND window_end <= %(last)s"""
_PHASES: Final = ", array_agg(coalesce(wh_a, 0)), array_agg(coalesce(wh_b, 0)), array_agg(coalesce(wh_c, 0))\nFROM"
_OLDEST: Final = """
SELECT min(oldest.window_end) FROM unnest(%s) AS wanted (transformer_id) CROSS JOIN LATERAL (
    SELECT window_end FROM transformer_loads AS l WHERE l.transformer_id = wanted.transformer_id
    ORDER BY window_end LIMIT 1) AS oldest"""


class PastLoads:
    """Over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any], window_s: int, *, phases: bool = False) -> None:
        """phases: with what single-phase members drew."""
        self._pool = pool
        self._window_us = window_s * US
        self._between = _BETWEEN.replace("\nFROM", _PHASES) if phases else _BETWEEN

    async def oldest(self, transformers: NDArray[np.int64]) -> int | None:
        """First window of which one of these has a stored load; None: none has."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_OLDEST, (integers(transformers.astype(np.int32)),))
                row = await cursor.fetchone()
        return micros(row[0]) // self._window_us - 1 if row and row[0] else None

    async def between(self, transformers: NDArray[np.int64], first: int, stop: int) -> Loads:
        """Stored loads of these in the windows first..stop-1, in no order."""
        parameters = {
            "transformers": integers(transformers.astype(np.int32)),
            "first": moment(first * self._window_us),
            "last": moment(stop * self._window_us),
        }
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [columns] = await fetch_columns(connection, self._between, parameters)
        transformer, end_us, wh, varh, covered, *phases = columns
        phase_wh = np.stack(phases, axis=1) if phases else None
        return Loads(transformer.astype(np.int64), end_us // self._window_us - 1, wh, varh, covered, phase_wh)
