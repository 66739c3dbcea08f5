"""Temperatures of the air in the database: one of an area and time; again with the same replaces it.

What was measured and what was forecast are two tables of the same shape.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg import sql

from meterwatch.weather import Reading
from storage.arrays import micros, moment
from storage.faults import storage_faults

LISTED_MAX: Final = 10_000
MEASURED: Final = sql.Identifier("ambient_readings")
FORECAST: Final = sql.Identifier("ambient_forecasts")
_RECORD: Final = sql.SQL("""
INSERT INTO {} AS stored (area, at, celsius, recorded_at)
SELECT area, at, celsius, %s FROM unnest(%s::text[], %s::timestamptz[], %s::real[]) AS told (area, at, celsius)
ON CONFLICT (area, at) DO UPDATE SET celsius = EXCLUDED.celsius, recorded_at = EXCLUDED.recorded_at
WHERE stored.celsius <> EXCLUDED.celsius""")
_READINGS: Final = sql.SQL("""
SELECT area, at, celsius FROM {} WHERE at >= %s AND at <= %s AND (%s::text[] IS NULL OR area = ANY(%s))
ORDER BY at, area LIMIT %s""")


class AmbientStore:
    """All calls raise StorageUnavailable. table: MEASURED or FORECAST."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def record(self, readings: Sequence[Reading], now_us: int, table: sql.Identifier = MEASURED) -> int:
        """Store readings in one transaction; how many are new or different."""
        last = {(one.area, one.at_us): one.celsius for one in readings}
        areas, stamps = [area for area, _ in last], [moment(at_us) for _, at_us in last]
        query = _RECORD.format(table)
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                done = await connection.execute(query, (moment(now_us), areas, stamps, list(last.values())))
                return done.rowcount

    async def readings(
        self,
        from_us: int,
        to_us: int | None = None,
        limit: int | None = None,
        *,
        table: sql.Identifier = MEASURED,
        areas: Collection[str] | None = None,
    ) -> list[Reading]:
        """Those from from_us on, up to to_us if given, the oldest first; of these areas, None: of all."""
        asked = None if areas is None else sorted(areas)
        with storage_faults():
            async with self._pool.connection() as connection:
                until = "infinity" if to_us is None else moment(to_us)
                given = (moment(from_us), until, asked, asked, limit)
                rows = await (await connection.execute(_READINGS.format(table), given)).fetchall()
        return [Reading(area, micros(at), celsius) for area, at, celsius in rows]
