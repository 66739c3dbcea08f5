"""Storms in the database: which there were, and which last. Refuses to know what a storm is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
import psycopg_pool

from meterwatch.storms import Census, Storm, StormReason
from storage.arrays import micros, moment
from storage.faults import storage_faults

_KEEP: Final = """
INSERT INTO storms (reason, district, began_at, ended_at, meters, meters_off_max, roots_max)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (reason, district, began_at) DO UPDATE
SET ended_at = excluded.ended_at, meters = excluded.meters, meters_off_max = excluded.meters_off_max,
    roots_max = excluded.roots_max"""
_LASTING: Final = """
SELECT reason, district, began_at, meters, meters_off_max, roots_max FROM storms WHERE ended_at IS NULL"""


class StormStore:
    """All calls raise StorageUnavailable."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def lasting(self) -> list[Storm]:
        """Those without an end; what is off in them is not kept."""
        with storage_faults():
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(_LASTING)).fetchall()
        return [
            Storm(StormReason(reason), district, micros(began), Census(meters), off, roots)
            for reason, district, began, meters, off, roots in rows
        ]

    async def keep(self, storms: Sequence[Storm]) -> None:
        """Write them as they are; all or nothing. Repeatable."""
        if not storms:
            return
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                for one in storms:
                    ended = None if one.until_us is None else moment(one.until_us)
                    values = (one.reason.value, one.district, moment(one.since_us), ended)
                    await connection.execute(_KEEP, (*values, one.now.meters, one.off_max, one.roots_max))
