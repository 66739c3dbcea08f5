"""Stored reads of some meters with all their channels, and what user rules must know of the past after a start.

Promise: one call sees one snapshot; a page is a few thousand meters of some hours. Meters are looked up under each
interval end (storage.stamps). Refuses to know any rule.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from meterwatch.batch import Reads
from meterwatch.channels import CHANNELS
from storage.arrays import fetch_columns, integers, micros, moment
from storage.faults import storage_faults
from storage.history import COMPARED_TOGETHER, SLOTS_TOGETHER
from storage.snapshot import reading
from storage.stamps import AMONG

_UNSIGNED: Final = "device_status"
_VALUES: Final = sql.SQL(", ").join(
    sql.SQL("array_agg(coalesce({}, 0))").format(sql.Identifier(channel.name)) for channel in CHANNELS
)
_PRESENT: Final = sql.SQL(" | ").join(
    sql.SQL("(({} IS NOT NULL)::integer << {})").format(sql.Identifier(channel.name), sql.Literal(i))
    for i, channel in enumerate(CHANNELS)
)
_SELECT: Final = sql.SQL(
    "SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s), array_agg(quality), array_agg({present}),"
    " {values} FROM reads WHERE slot = ANY(%(slots)s) AND "
).format(present=_PRESENT, values=_VALUES)
_LOOKED_UP: Final = _SELECT + sql.SQL(AMONG.format(first="%(first)s", last="%(last)s"))
_SCANNED: Final = _SELECT + sql.SQL("end_at >= %(first)s AND end_at < %(last)s")
_BOUNDS: Final = "SELECT min(end_at), max(end_at) FROM read_stamps"
_TOLD: Final = """
SELECT rule, asset_kind, array_agg(DISTINCT asset_id) FROM alarms WHERE rule LIKE 'USER/%' GROUP BY rule, asset_kind"""
_TOLD_BY: Final = "SELECT array_agg(DISTINCT asset_id) FROM alarms WHERE rule = %s"
_OWED: Final = """
SELECT array_agg(slot), array_agg(end_at) FROM (
    SELECT r.slot, r.end_at FROM batches b
    JOIN reads r ON r.end_at BETWEEN b.first_end AND b.last_end AND r.received_at = b.received_at
    WHERE NOT b.evaluated AND b.kind = 1
    UNION ALL
    SELECT v.slot, v.end_at FROM batches b
    JOIN read_versions v ON v.end_at BETWEEN b.first_end AND b.last_end AND v.superseded_at = b.received_at
    WHERE NOT b.evaluated AND b.kind = 1) AS touched"""


class Told(NamedTuple):
    """Assets that alarms of one rule were ever about."""

    rule: str
    asset_kind: str
    assets: NDArray[np.int32]


class EvidenceStore:
    """Over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any], *, columnar: bool = False) -> None:
        self._pool = self.pool = pool
        self._columnar = columnar

    async def reads(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> list[Reads]:
        """Current reads of these meters with from_us < end <= to_us, estimates too, by length of interval."""
        found: list[Reads] = []
        together = COMPARED_TOGETHER if self._columnar else SLOTS_TOGETHER
        query = _SCANNED if self._columnar else _LOOKED_UP
        span = {"first": moment(from_us + 1), "last": moment(to_us + 1)}
        with storage_faults():
            async with self._pool.connection() as connection, reading(connection):
                for at in range(0, len(slots), together):
                    some = slots[at : at + together]
                    wanted: Any = some.tolist() if self._columnar else integers(some)
                    [page] = await fetch_columns(connection, query, {**span, "slots": wanted})
                    found += _by_length(page)
        return found

    async def bounds_us(self) -> tuple[int, int]:
        """Oldest and newest end that a read may have; both 0: there is none."""
        with storage_faults():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_BOUNDS)).fetchone()
        return (micros(row[0]), micros(row[1])) if row and row[0] else (0, 0)

    async def told(self) -> list[Told]:
        """Of every user rule that ever told of something, whom."""
        with storage_faults():
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(_TOLD)).fetchall()
        return [Told(rule, kind, np.array(assets, np.int32)) for rule, kind, assets in rows]

    async def told_by(self, rule: str) -> NDArray[np.int32]:
        """Assets that alarms of this rule were ever about."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [[assets]] = await fetch_columns(connection, _TOLD_BY, (rule,))
        return assets.astype(np.int32)

    async def owed(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Slots and ends of the reads that came or went with batches not evaluated; some twice."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [[slot, end_us]] = await fetch_columns(connection, _OWED)
        return slot.astype(np.int32), end_us.astype(np.int64)


def _by_length(page: list[NDArray[Any]]) -> list[Reads]:
    slot, end_us, interval_s, quality, mask, *values = page
    channels = {
        channel.name: column.astype(channel.dtype)
        for channel, column in zip(CHANNELS, values, strict=True)
        if channel.name != _UNSIGNED
    }
    found = []
    for length_s in np.unique(interval_s).tolist():
        rows = np.flatnonzero(interval_s == length_s)
        found.append(
            Reads(
                slot[rows].astype(np.int32), end_us[rows], int(length_s), quality[rows].astype(np.int32),
                {name: column[rows] for name, column in channels.items()}, mask[rows].astype(np.uint32),
            )
        )  # fmt: skip
    return found
