"""Keys of the young world, and the calls that look something up by them.

Each says how many rows may be handled at most: its keys and the rows they have. Where that is a whole table, the reason
stands beside it. A call is made several times on the same rows, so it may write only what can be written again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool
from young_world import (
    CUSTOMERS,
    FILLED,
    START_US,
    STEP_US,
    TRANSFORMERS,
)

from meterwatch.batch import Rejects

WINDOW_S: Final = 900
HANDLED_MAX: Final = 4
"""Rows a node may handle for each key and each row that a key has."""
STAMPS: Final = FILLED["read_stamps"][0]
NO_REJECTS: Final = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
NEXT: Iterator[int] = iter(range(1_000_000, 10**9))
"""A number nothing has had yet: of a batch, of a value."""


class Asked(NamedTuple):
    """Keys of the young world, and ways to it."""

    dsn: str
    pool: AsyncConnectionPool[Any]
    keys: int
    """How many of each kind."""
    slots: NDArray[np.int32]
    """Of customers, ascending, scattered."""
    transformers: NDArray[np.int64]

    def ends_us(self, first: int = 3, count: int = 3) -> NDArray[np.int64]:
        return START_US + np.arange(first, first + count) * STEP_US

    @contextmanager
    def cursor(self) -> Iterator[psycopg.Cursor[Any]]:
        """Of a connection that keeps nothing."""
        with (
            psycopg.connect(self.dsn, options="-c TimeZone=UTC -c statement_timeout=20s") as connection,
            connection.cursor() as cursor,
        ):
            yield cursor
            connection.rollback()


Lookup = Callable[[Asked], Awaitable[int]]
LOOKUPS: Final[dict[str, Lookup]] = {}


def asked(dsn: str, pool: AsyncConnectionPool[Any], keys: int) -> Asked:
    """So many keys, always the same."""
    scattered = np.random.default_rng(keys)
    slots = np.sort(scattered.permutation(CUSTOMERS)[:keys] + 1).astype(np.int32)
    return Asked(dsn, pool, keys, slots, np.sort(scattered.permutation(TRANSFORMERS)[:keys]).astype(np.int64))


def lookup(call: Lookup) -> Lookup:
    LOOKUPS[call.__name__] = call
    return call


def crossed(ask: Asked) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every slot under every end."""
    ends_us = ask.ends_us()
    return np.tile(ask.slots, len(ends_us)), np.repeat(ends_us, len(ask.slots))
