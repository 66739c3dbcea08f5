"""One snapshot of the database over several connections, so that a start reads with more than one core.

Promises: every connection given out sees the same committed state, read only, until the context ends. Refuses to know
what is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

READERS: Final = 2
"""Connections of one snapshot: PostgreSQL packs the columns of a page while the other one's page is on its way."""

Connections = list[psycopg.AsyncConnection[Any]]


@asynccontextmanager
async def reading(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """A transaction on one snapshot, read only; BEGIN says so and no statement after it."""
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    try:
        async with connection.transaction():
            yield
    finally:
        if not connection.closed:
            await connection.set_isolation_level(None)
            await connection.set_read_only(None)


@asynccontextmanager
async def snapshot(pool: AsyncConnectionPool[Any], readers: int = READERS) -> AsyncIterator[Connections]:
    """Connections of the pool in transactions that share one snapshot."""
    async with AsyncExitStack() as stack:
        connections: Connections = []
        exported: Any = None
        for _ in range(readers):
            connection = await stack.enter_async_context(pool.connection())
            await stack.enter_async_context(reading(connection))
            if exported is not None:
                await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))
            elif readers > 1:
                row = await (await connection.execute("SELECT pg_export_snapshot()")).fetchone()
                exported = row[0] if row else None
            connections.append(connection)
        yield connections
