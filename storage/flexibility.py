"""What customers can spare, dated, and the energy by which a transformer's load is shared out among them.

Refuses to know what a plan makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.flexibility_csv import Flexibility
from storage.arrays import fetch_columns, integers, moment
from storage.faults import storage_faults

DAYS_BACK: Final = 8
"""A judged day so old still says how the load is shared out."""
_STORE: Final = """
INSERT INTO customer_flexibility (slot, valid_from, protected, shift_kw, avoid_kw, limit_to_kw, limited_at)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (slot, valid_from) DO UPDATE SET protected = excluded.protected, shift_kw = excluded.shift_kw,
    avoid_kw = excluded.avoid_kw, limit_to_kw = excluded.limit_to_kw, limited_at = excluded.limited_at"""
_AT: Final = """
SELECT array_agg(slot), array_agg(protected), array_agg(shift_kw), array_agg(avoid_kw),
       array_agg(coalesce(limit_to_kw, 'NaN'::real)), array_agg(coalesce(limited_at, '1970-01-01Z'::timestamptz))
FROM (SELECT DISTINCT ON (slot) * FROM customer_flexibility
      WHERE slot = ANY(%(slots)s) AND valid_from <= %(at)s ORDER BY slot, valid_from DESC) AS newest"""
_ENERGY: Final = """
SELECT array_agg(slot), array_agg(import_wh)
FROM (SELECT DISTINCT ON (slot) slot, import_wh FROM meter_days
      WHERE slot = ANY(%(slots)s) AND day > %(at)s::timestamptz::date - %(days)s AND day <= %(at)s::timestamptz::date
      ORDER BY slot, day DESC) AS newest"""


class FlexibilityStore:
    """Over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def store(self, slots: Sequence[int], rows: Sequence[Flexibility], valid_from_us: int) -> None:
        """Take these customers, in one transaction; the same again changes nothing."""
        values = [
            (
                slot, moment(valid_from_us), row.protected, row.shift_kw, row.avoid_kw, row.limit_to_kw,
                None if row.limited_us is None else moment(row.limited_us),
            )
            for slot, row in zip(slots, rows, strict=True)
        ]  # fmt: skip
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_STORE, values)

    async def at(self, slots: NDArray[np.int32], at_us: int) -> list[NDArray[Any]]:
        """Slot, protected, shift_kw, avoid_kw, limit_to_kw (NaN: none), limited_us (0: never); who has a row."""
        return await self._columns(_AT, slots, at_us)

    async def energy(self, slots: NDArray[np.int32], at_us: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Slot and import of the newest judged day of up to DAYS_BACK days, Wh, of those who have one."""
        slot, import_wh = await self._columns(_ENERGY, slots, at_us)
        return slot, import_wh

    async def _columns(self, query: Any, slots: NDArray[np.int32], at_us: int) -> list[NDArray[Any]]:
        parameters = {"slots": integers(slots), "at": moment(at_us), "days": DAYS_BACK}
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [columns] = await fetch_columns(connection, query, parameters)
        return columns
