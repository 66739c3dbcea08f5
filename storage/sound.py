"""The frame of the deep check (meterwatch doctor --deep): one snapshot of the database, asked in short transactions.

An invariant is an async generator (Findings) over an `Inspected` that yields an `Unsound` for each thing that is not as
it must be; the first line of its docstring is the law. meterwatch.soundness has the list of them.
Promises: every question is answered out of one committed state; nothing is written; no lock on a table outlives one
question, so chunks are made and dropped meanwhile as ever; what comes back is limited, whatever is wrong. The snapshot
keeps rows that others replace from being cleaned up until it ends.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, NamedTuple, cast

import psycopg
from psycopg import sql

from storage.arrays import moment
from storage.layout import Layout
from storage.lease import KEY
from storage.upkeep import Retention

FOUND_MAX: Final = 20
"""Findings shown of one invariant; that there are more is said."""
EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)
_OPTIONS: Final = (
    "-c TimeZone=UTC -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=60s"
    " -c max_parallel_workers_per_gather=0"
)
"""One core, so that ingestion keeps the others."""


class Unsound(NamedTuple):
    """One thing that is not as it must be."""

    what: str
    """The object: a table and its key."""
    found: str
    expected: str
    remedy: str
    """What to do."""


Findings = AsyncGenerator[Unsound, None]


class Span(NamedTuple):
    """since <= interval end < until."""

    since: datetime = EARLIEST
    until: datetime = LATEST


@dataclass
class Inspected:
    """A database in one snapshot; make it with `inspected`."""

    dsn: str
    connection: psycopg.AsyncConnection[Any]
    snapshot: str
    span: Span
    """Of interval ends; of reads that retention may have dropped it holds none."""
    retention: Retention
    layout: Layout
    patience_s: float
    """So long may a running service take to evaluate what it has stored."""
    progress: Callable[[int, int], None] = lambda done, of: None
    """Told how many parts of the present invariant are done."""
    taken_s: float = field(default_factory=time.monotonic)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """The snapshot, read only, for some questions."""
        async with self.connection.transaction():
            await self.connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self.snapshot)))
            yield self.connection

    async def find(self, query: LiteralString, *, plan: LiteralString = "", **values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query; since, until and most (one more than is shown) are given too. plan: SET LOCAL for it."""
        given = {"since": self.span.since, "until": self.span.until, "most": FOUND_MAX + 1, **values}
        async with self.transaction() as connection:
            if plan:
                await connection.execute(plan)
            return await (await connection.execute(query, given, prepare=False)).fetchall()

    async def chunks(self, table: str) -> AsyncIterator[tuple[datetime, datetime]]:
        """Begin and end of every chunk of a hypertable, cut to the span, oldest first; reports progress."""
        found = await self.find(
            "SELECT greatest(range_start, %(since)s), least(range_end, %(until)s)"
            " FROM timescaledb_information.chunks WHERE hypertable_name = %(table)s"
            " AND range_start < %(until)s AND range_end > %(since)s ORDER BY 1",
            table=table,
        )
        for done, (first, last) in enumerate(found):
            self.progress(done, len(found))
            yield first, last

    async def oldest_chunk(self, table: str) -> datetime | None:
        """Begin of the oldest chunk there is; None if there is none."""
        [(first,)] = await self.find(
            "SELECT min(range_start) FROM timescaledb_information.chunks WHERE hypertable_name = %(table)s", table=table
        )
        return cast("datetime | None", first)

    async def service_runs(self) -> bool:
        """A service serves this database now."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, options=_OPTIONS) as other:
            row = await (await other.execute(_LEASE, (KEY,))).fetchone()
            return bool(row and row[0])


_LEASE: Final = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = %s
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""


@asynccontextmanager
async def inspected(
    dsn: str, retention: Retention, span: Span | None = None, *, patience_s: float = 60.0
) -> AsyncIterator[Inspected]:
    """Take the snapshot and keep it for the duration of the context: one connection keeps it, one asks."""
    async with (
        await psycopg.AsyncConnection.connect(dsn, application_name="meterwatch doctor", options=_OPTIONS) as keeper,
        await psycopg.AsyncConnection.connect(
            dsn, application_name="meterwatch doctor", options=_OPTIONS, autocommit=True
        ) as asking,
    ):
        for connection in (keeper, asking):
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
        row = await (await keeper.execute("SELECT pg_export_snapshot()")).fetchone()
        assert row is not None
        db = Inspected(dsn, asking, row[0], span or Span(), retention, Layout.ROWSTORE, patience_s)
        [(layout,)] = await db.find("SELECT layout FROM reads_layout")
        db.layout = Layout(layout)
        if retention.reads_days is not None and (oldest := await db.oldest_chunk("reads")) is not None:
            db.span = Span(max(db.span.since, oldest), db.span.until)
        yield db


def us_of(at: datetime) -> int:
    """UTC microseconds."""
    return (at - moment(0)) // _US


_US: Final = moment(1) - moment(0)
