"""Rules that stand aside in the database, and what they have missed. Refuses to know why a rule raises.

Promise: what is kept twice is kept once, and of two beginnings the earlier one, so writing again after a commit of
unknown outcome is right.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from storage.arrays import fetch_columns, integers, micros, moment, moments
from storage.faults import storage_faults

_KEEP: Final = """
INSERT INTO suspended_rules AS s (rule, asset_kind, since_at, from_at, error) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (rule, asset_kind) DO UPDATE SET from_at = least(s.from_at, excluded.from_at), error = excluded.error"""
_MISSED: Final = """
INSERT INTO suspended_rules_missed AS m (rule, asset_kind, asset_id, from_at)
SELECT %s, %s, * FROM unnest(%s, %s)
ON CONFLICT (rule, asset_kind, asset_id) DO UPDATE SET from_at = excluded.from_at WHERE m.from_at > excluded.from_at"""
_ALL: Final = "SELECT rule, asset_kind, since_at, from_at, error FROM suspended_rules ORDER BY rule, asset_kind"
_OF: Final = """
SELECT array_agg(asset_id), array_agg(from_at) FROM suspended_rules_missed WHERE rule = %s AND asset_kind = %s"""
_PAID: Final = "DELETE FROM suspended_rules WHERE rule = %s AND asset_kind = %s"


class Kept(NamedTuple):
    """A rule that stands aside, or stood aside until now."""

    rule: str
    asset_kind: str
    since_us: int
    from_us: int
    """It has judged nothing that ended later."""
    error: str
    asset: NDArray[np.int64]
    first_us: NDArray[np.int64]
    """Of these assets it has not judged what began then or later, either."""


class SuspendedStore:
    """All calls raise StorageUnavailable."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def keep(self, one: Kept) -> None:
        """Write it, with more of what it missed."""
        named = one.rule, one.asset_kind
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_KEEP, (*named, moment(one.since_us), moment(one.from_us), one.error))
                if len(one.asset):
                    columns = integers(one.asset.astype(np.int32)), moments(one.first_us)
                    await connection.execute(_MISSED, (*named, *columns))

    async def kept(self) -> list[Kept]:
        """All, with all they missed."""
        found = []
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                for rule, asset_kind, since, from_, error in await _rows(connection):
                    [[asset, first_us]] = await fetch_columns(connection, _OF, (rule, asset_kind))
                    times = micros(since), micros(from_)
                    found.append(Kept(rule, asset_kind, *times, error, asset.astype(np.int64), first_us))
        return found

    async def paid(self, rule: str, asset_kind: str) -> None:
        """It is at work again, and has told of all it missed."""
        with storage_faults():
            async with self._pool.connection() as connection:
                await connection.execute(_PAID, (rule, asset_kind))


async def _rows(connection: psycopg.AsyncConnection[Any]) -> list[Any]:
    return await (await connection.execute(_ALL)).fetchall()
