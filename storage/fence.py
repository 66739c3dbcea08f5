"""The fence: a number in the database that every transaction writing reads without a unique index must hold.

A transaction takes it first, shared, and so keeps it from changing. Raising it therefore waits until all such
transactions have ended, and refuses every later one that knows the old number: one whose connection broke in COMMIT,
one of a service killed a moment ago, one of a service that lost its lease and does not know it yet.
"""

from __future__ import annotations

import uuid
from typing import Any

import psycopg

from meterwatch.errors import StorageBroken
from storage.versions import Race


class Fence:
    """The number as this service knows it. `raised` takes it over from whoever had it."""

    def __init__(self, holder: uuid.UUID, number: int) -> None:
        self._holder = holder
        self._number = number
        self.stale = False
        """It was raised and the answer was lost: raise it again."""

    @classmethod
    def taken_over(cls, connection: psycopg.Connection[Any]) -> Fence:
        """The fence, raised for a service that has just got the lease."""
        fence = cls(uuid.uuid4(), 0)
        connection.execute("UPDATE reads_layout SET fence_holder = %s", (fence._holder,))
        fence.raise_(connection)
        return fence

    def raise_(self, connection: psycopg.Connection[Any]) -> None:
        """Wait for all transactions that hold it and shut out all that know the old number."""
        row = connection.execute(
            "UPDATE reads_layout SET fence = fence + 1 WHERE fence_holder = %s RETURNING fence", (self._holder,)
        ).fetchone()
        if row is None:
            raise StorageBroken("another meterwatch took over this database; this one writes no more reads")
        self._number, self.stale = int(row[0]), False

    def hold(self, cursor: psycopg.Cursor[Any]) -> None:
        """Hold it until the end of the transaction. Race if it was raised meanwhile, StorageBroken if by another."""
        number = self._number
        held = cursor.execute(
            "SELECT FROM reads_layout WHERE fence_holder = %s AND fence = %s FOR SHARE", (self._holder, number)
        ).fetchone()
        if held is not None:
            return
        row = cursor.execute("SELECT fence_holder FROM reads_layout").fetchone()
        if row is None or row[0] != self._holder:
            raise StorageBroken("another meterwatch took over this database; this one writes no more reads")
        self.stale |= number == self._number
        raise Race
