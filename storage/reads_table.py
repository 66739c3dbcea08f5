"""What the writer asks of the table reads, whichever way it keeps its rows: storage.rowstore, storage.columnstore.

One of the two is chosen at start (storage.layout) and nothing after that asks which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Reads
from storage.slot_bits import Mask
from storage.versions import Versions

Connection = psycopg.Connection[Any]
Cursor = psycopg.Cursor[Any]


class Suspects(NamedTuple):
    """What to look up before a group is written."""

    rows: list[Mask | None]
    """Per batch; None: nothing."""
    apart: frozenset[int]
    """Batches that must not go into this transaction: they repeat a read of another of the group."""


class ReadsTable(Protocol):
    """Shared by the writers of a service. Safe to use from many threads."""

    @property
    def locks(self) -> bool:
        """Stored reads can be locked row by row. If not, `taking` keeps the other writers from them."""

    def opened(self, connection: Connection) -> None:
        """Prepare a writer's new connection."""

    def taking(self, connection: Connection, group: Sequence[Reads]) -> AbstractContextManager[Suspects]:
        """Around the transaction that writes a group, its commit included; outside of any transaction."""

    def begin(self, cursor: Cursor) -> None:
        """First thing in that transaction. Race if it must be begun again."""

    def probe(self, cursor: Cursor, reads: Reads, rows: NDArray[Any]) -> NDArray[Any]:
        """ABSENT, SAME or OTHER (storage.probe) for each of `rows`."""

    def supersede(self, cursor: Cursor, reads: Reads, now_us: int, *, insist: bool = False) -> Versions:
        """Settle reads that are stored with other values (storage.versions)."""

    def before_copy(self, cursor: Cursor, rows: int) -> None:
        """So many new reads are about to be copied."""
