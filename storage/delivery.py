"""Learnt delivery probabilities in the database, and the outages they are learnt from. Refuses to know how."""

from __future__ import annotations

from typing import Any, Final

import psycopg
import psycopg_pool

from meterwatch.delivery import Learnt, Reported
from storage.arrays import micros, moment
from storage.faults import storage_faults

_OUTAGES: Final = """
SELECT evidence -> 'reported_by_mode' FROM alarms
WHERE rule = 'OUTAGE' AND asset_kind IN ('feeder', 'transformer') AND level = 'SUSTAINED' AND state <> 'RETRACTED'
  AND parent_id IS NULL AND cleared_at >= %s AND cleared_at < %s
  AND cleared_at - onset_at >= make_interval(secs => %s) AND evidence ? 'reported_by_mode'
ORDER BY alarm_id"""
_KEEP: Final = """
INSERT INTO gasp_delivery (comm_mode, valid_from, p_gasp, reported, affected, learnt_at)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""


class DeliveryStore:
    """All calls raise StorageUnavailable."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def outages(self, from_us: int, to_us: int, lasted_us: int) -> list[Reported]:
        """Per root outage cleared in [from_us, to_us) that lasted so long: mode -> (reported off, members)."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_OUTAGES, (moment(from_us), moment(to_us), lasted_us / 1e6))
                rows = await cursor.fetchall()
        return [{mode: (int(some), int(all_)) for mode, (some, all_) in row[0].items()} for row in rows]

    async def learnt(self) -> list[Learnt]:
        """Every row, by time and mode."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT valid_from, comm_mode, p_gasp, reported, affected FROM gasp_delivery"
                    " ORDER BY valid_from, comm_mode"
                )
                rows = await cursor.fetchall()
        return [Learnt(micros(first), mode, round(p, 4), some, all_) for first, mode, p, some, all_ in rows]

    async def keep(self, rows: list[Learnt], now_us: int) -> None:
        """Add rows; one that is there stays as it is."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                for row in rows:
                    values = (row.comm_mode, moment(row.from_us), row.p_gasp, row.reported, row.affected)
                    await connection.execute(_KEEP, (*values, moment(now_us)))
