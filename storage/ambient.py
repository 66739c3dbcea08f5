"""Temperatures of the air in the database: one reading of an area and time; again with the same replaces it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
import psycopg_pool

from meterwatch.weather import Reading
from storage.arrays import micros, moment
from storage.faults import storage_faults

LISTED_MAX: Final = 10_000
_RECORD: Final = """
INSERT INTO ambient_readings AS stored (area, at, celsius, recorded_at)
SELECT area, at, celsius, %s FROM unnest(%s::text[], %s::timestamptz[], %s::real[]) AS told (area, at, celsius)
ON CONFLICT (area, at) DO UPDATE SET celsius = EXCLUDED.celsius, recorded_at = EXCLUDED.recorded_at
WHERE stored.celsius <> EXCLUDED.celsius"""


class AmbientStore:
    """All calls raise StorageUnavailable."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def record(self, readings: Sequence[Reading], now_us: int) -> int:
        """Store readings in one transaction; how many are new or different."""
        last = {(one.area, one.at_us): one.celsius for one in readings}
        areas, stamps = [area for area, _ in last], [moment(at_us) for _, at_us in last]
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                done = await connection.execute(_RECORD, (moment(now_us), areas, stamps, list(last.values())))
                return done.rowcount

    async def readings(self, from_us: int, to_us: int | None = None, limit: int | None = None) -> list[Reading]:
        """Those from from_us on, up to to_us if given, the oldest first."""
        query = "SELECT area, at, celsius FROM ambient_readings WHERE at >= %s AND at <= %s ORDER BY at, area LIMIT %s"
        with storage_faults():
            async with self._pool.connection() as connection:
                until = "infinity" if to_us is None else moment(to_us)
                rows = await (await connection.execute(query, (moment(from_us), until, limit))).fetchall()
        return [Reading(area, micros(at), celsius) for area, at, celsius in rows]
