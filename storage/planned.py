"""Planned work in the database. Recording a work again under its id changes it; a cancelled one stays readable.

Refuses to know what the rules make of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
import psycopg_pool

from meterwatch.errors import Missing
from meterwatch.planned import PlannedWork
from storage.arrays import micros, moment
from storage.faults import storage_faults

LISTED_MAX: Final = 10_000
_ID_OF: Final[dict[str, LiteralString]] = {
    "feeder": "SELECT feeder_id FROM feeders WHERE feeder = %s",
    "transformer": "SELECT transformer_id FROM transformers WHERE transformer = %s",
    "meter": "SELECT slot FROM meters WHERE meter = %s",
}
_RECORD: Final = """
INSERT INTO planned_works (work_id, asset_kind, asset_id, from_at, to_at, reason, planned_by, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (work_id) DO UPDATE SET asset_kind = excluded.asset_kind, asset_id = excluded.asset_id,
    from_at = excluded.from_at, to_at = excluded.to_at, reason = excluded.reason, planned_by = excluded.planned_by,
    recorded_at = excluded.recorded_at, cancelled_at = NULL"""
_LIST: Final = """
SELECT w.work_id, w.asset_kind, w.asset_id, w.from_at, w.to_at, w.reason, w.planned_by, w.cancelled_at IS NOT NULL,
       CASE w.asset_kind WHEN 'feeder' THEN (SELECT feeder FROM feeders WHERE feeder_id = w.asset_id)
                         WHEN 'transformer' THEN (SELECT transformer FROM transformers t
                                                  WHERE t.transformer_id = w.asset_id)
                         ELSE (SELECT meter FROM meters WHERE slot = w.asset_id) END
FROM planned_works w WHERE w.to_at >= %s AND (%s OR CASE w.asset_kind
    WHEN 'feeder' THEN EXISTS (SELECT FROM feeders f WHERE f.feeder_id = w.asset_id AND f.district = ANY(%s))
    WHEN 'transformer' THEN EXISTS (SELECT FROM transformers t
                                    WHERE t.transformer_id = w.asset_id AND t.district = ANY(%s))
    ELSE EXISTS (SELECT FROM meter_transformers m JOIN transformers t USING (transformer_id)
                 WHERE m.slot = w.asset_id AND m.valid_from < w.to_at AND m.valid_to > w.from_at
                 AND t.district = ANY(%s))
    END) ORDER BY w.from_at, w.work_id LIMIT %s"""


@dataclass(frozen=True, slots=True)
class ListedWork:
    """A work as people see it."""

    work: PlannedWork
    asset: str
    planned_by: str
    cancelled: bool


class PlannedStore:
    """All calls raise StorageUnavailable."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def record(
        self, work_id: str, asset_kind: str, asset: str, from_us: int, to_us: int, reason: str, by: str, now_us: int
    ) -> None:
        """Record a work, or change the one of this id. Missing for an asset nobody registered."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                row = await (await connection.execute(_ID_OF[asset_kind], (asset,))).fetchone()
                if row is None:
                    raise Missing(
                        "ASSET_UNKNOWN", f"{asset_kind} {asset!r} is not in the registry; take a name from ListAssets"
                    )
                times = (moment(from_us), moment(to_us))
                await connection.execute(_RECORD, (work_id, asset_kind, row[0], *times, reason, by, moment(now_us)))

    async def cancel(self, work_id: str, now_us: int) -> None:
        """Take a work back; again: no change. Missing for one that was never recorded."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                found = await connection.execute(
                    "UPDATE planned_works SET cancelled_at = coalesce(cancelled_at, %s) WHERE work_id = %s",
                    (moment(now_us), work_id),
                )
                if not found.rowcount:
                    raise Missing("WORK_UNKNOWN", f"planned work {work_id!r} is not recorded; take an id from ListWork")

    async def listed(self, since_us: int, limit: int = LISTED_MAX, districts: Collection[str] = ()) -> list[ListedWork]:
        """Works that end at since_us or later, cancelled ones among them, by their beginning.

        districts: only on assets of these; none: on all.
        """
        theirs = sorted(districts)
        with storage_faults():
            async with self._pool.connection() as connection:
                rows = await (
                    await connection.execute(_LIST, (moment(since_us), not theirs, theirs, theirs, theirs, limit))
                ).fetchall()
        return [
            ListedWork(PlannedWork(a, kind, i, micros(first), micros(last), why), name or "", by, cancelled)
            for a, kind, i, first, last, why, by, cancelled, name in rows
        ]

    async def works(self, since_us: int) -> list[PlannedWork]:
        """Works in force that end at since_us or later."""
        return [one.work for one in await self.listed(since_us) if not one.cancelled]
