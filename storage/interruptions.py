"""Interruptions of customers in the database, and which are still to be written there.

Promise: what is written of some meters replaces what was known of them since then, in one transaction with the marks
that it pays; the same again changes nothing. Refuses to know how an interruption is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from storage.arrays import bigints, integers, micros, moment, moments
from storage.faults import storage_faults
from storage.marks import pay

_WRITE: Final = """
WITH told AS MATERIALIZED (
    SELECT slot, from_at, CASE WHEN lasts = 0 THEN to_at END AS to_at
    FROM unnest(%(slot)s, %(from)s, %(to)s, %(lasts)s) AS t (slot, from_at, to_at, lasts)
), gone AS (
    DELETE FROM interruptions WHERE ctid = ANY(ARRAY(
        SELECT i.ctid FROM unnest(%(slots)s) AS w (slot) CROSS JOIN LATERAL (
            SELECT ctid, slot, from_at FROM interruptions i
            WHERE (i.slot, i.from_at) >= (w.slot, %(since)s) AND (i.slot, i.from_at) <= (w.slot, 'infinity')
            OFFSET 0) AS i
        WHERE (i.slot, i.from_at) NOT IN (SELECT slot, from_at FROM told)))
)
INSERT INTO interruptions AS i (slot, from_at, to_at)
SELECT slot, from_at, to_at FROM told
ON CONFLICT (slot, from_at) DO UPDATE SET to_at = EXCLUDED.to_at WHERE i.to_at IS DISTINCT FROM EXCLUDED.to_at"""
"""Said as pairs, what is known of a meter is looked up by it; by its time alone every writing may read all of a storm.
NOT IN is a hash table, whatever its size is thought to be, and NOT EXISTS is not."""
_PAID: Final = pay("interruptions_owed")

Slots = NDArray[np.int32]
Stamps = NDArray[np.int64]


class Owed(NamedTuple):
    """A mark: the interruptions below this asset are to be found again from there on."""

    mark_id: int
    asset_kind: str
    asset_id: int
    from_us: int


class Known(NamedTuple):
    """All interruptions of `slots` that begin at or after from_us, and maybe some before."""

    slots: Slots
    from_us: int
    slot: Slots
    start_us: Stamps
    end_us: Stamps
    """INT64_MAX while it lasts."""


class InterruptionStore:
    """Interruptions over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def owe(self, assets: Sequence[tuple[str, int, int]]) -> list[int]:
        """Mark (asset_kind, asset_id, from_us); the ids of the marks."""
        kind, asset_id, from_us = zip(*assets, strict=True)
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "INSERT INTO interruptions_owed (asset_kind, asset_id, from_at)"
                    " SELECT * FROM unnest(%s::text[], %s::integer[], %s::timestamptz[]) RETURNING mark_id",
                    (list(kind), list(asset_id), [moment(us) for us in from_us]),
                )
                return [mark_id for (mark_id,) in await cursor.fetchall()]

    async def owed(self) -> list[Owed]:
        """All marks, oldest first."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute("SELECT * FROM interruptions_owed ORDER BY mark_id")
                return [Owed(mark, kind, asset, micros(at)) for mark, kind, asset, at in await cursor.fetchall()]

    async def write(self, known: Sequence[Known], marks: Sequence[int]) -> None:
        """Write what is known, in this order, and delete the marks."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                for one in known:
                    lasts = one.end_us == np.iinfo(np.int64).max
                    values = {
                        "slot": integers(one.slot),
                        "from": moments(one.start_us),
                        "to": moments(np.where(lasts, one.start_us, one.end_us)),
                        "lasts": integers(lasts.astype(np.int32)),
                        "slots": integers(one.slots),
                        "since": moment(one.from_us),
                    }
                    await connection.execute(_WRITE, values)
                await connection.execute(_PAID, (bigints(np.array(marks, np.int64)),))
