"""Which meter-days are to be estimated, or estimated again: marks made by the job that judges days, paid by the one
that estimates. A mark is deleted after what follows from it is committed, so a crash does it again."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.local_days import as_date, as_number
from storage.arrays import bigints, fetch_columns
from storage.faults import storage_faults
from storage.marks import pay

_TAKE: Final = """
SELECT array_agg(mark_id), array_agg(slot) FROM (
    SELECT mark_id, slot FROM estimates_owed WHERE day = %s ORDER BY mark_id LIMIT %s) AS marks"""

_PAID: Final = pay("estimates_owed")


class EstimateStore:
    """Marks over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def oldest(self, last_day: int) -> int | None:
        """The oldest day with a mark, up to last_day."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT min(day) FROM estimates_owed WHERE day <= %s", (as_date(last_day),)
                )
                row = await cursor.fetchone()
        return as_number(row[0]) if row and row[0] else None

    async def owed(self, day: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Marks of that day, oldest first: id and slot; a slot may occur more than once."""
        with storage_faults():
            async with self._pool.connection() as connection:
                [[mark, slot]] = await fetch_columns(connection, _TAKE, (as_date(day), most))
        return mark.astype(np.int64), slot.astype(np.int32)

    async def paid(self, marks: NDArray[np.int64]) -> None:
        """Delete marks."""
        with storage_faults():
            async with self._pool.connection() as connection:
                await connection.execute(_PAID, (bigints(marks),))
