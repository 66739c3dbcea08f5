"""The n-th call of a database fails, whichever it is: what PostgreSQL would say, said in front of the real one.

Counted are statements, COPYs and COMMITs of psycopg's connections, those of threads and those of event loops. An error
that ends sessions closes the connection as well. A COMMIT fails before or after the database has done it: `done`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.errors import lookup

ENDS_SESSIONS = ("08", "57P")


class NthCall:
    """Patches psycopg for the life of a test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self._state = ""
        self.done = False
        self.fired: str = ""
        """What the failed call was; empty: there were not so many."""
        self._patch_cursors(patch)
        self._patch_commits(patch)

    def arm(self, n: int, state: str, *, done: bool = False) -> None:
        """Let the n-th call from now fail with this SQLSTATE."""
        with self._lock:
            self._left, self._state, self.done, self.fired = n, state, done, ""

    def disarm(self) -> None:
        """Let all go well."""
        with self._lock:
            self._left = 0

    def _failing(self, what: str) -> bool:
        with self._lock:
            if not self._left:
                return False
            self._left -= 1
            if self._left:
                return False
            self.fired = what
            return True

    def _error(self, connection: Any) -> psycopg.Error:
        if self._state.startswith(ENDS_SESSIONS):
            connection.pgconn.finish()
        return lookup(self._state)("said by the test")

    def _patch_cursors(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("execute", "executemany"):
            self._patch_call(patch, name)
        copy, copy_async = psycopg.Cursor.copy, psycopg.AsyncCursor.copy

        @contextmanager
        def failing_copy(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with copy(cursor, statement, *args, **kwargs) as opened:
                yield opened
                if self._failing(f"COPY {statement}"):
                    raise self._error(cursor.connection)

        @asynccontextmanager
        async def failing_copy_async(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with copy_async(cursor, statement, *args, **kwargs) as opened:
                yield opened
                if self._failing(f"COPY {statement}"):
                    raise self._error(cursor.connection)

        patch.setattr(psycopg.Cursor, "copy", failing_copy)
        patch.setattr(psycopg.AsyncCursor, "copy", failing_copy_async)

    def _patch_call(self, patch: pytest.MonkeyPatch, name: str) -> None:
        call, call_async = getattr(psycopg.Cursor, name), getattr(psycopg.AsyncCursor, name)

        def failing(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            if self._failing(str(statement)):
                raise self._error(cursor.connection)
            return call(cursor, statement, *args, **kwargs)

        async def failing_async(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            if self._failing(str(statement)):
                raise self._error(cursor.connection)
            return await call_async(cursor, statement, *args, **kwargs)

        patch.setattr(psycopg.Cursor, name, failing)
        patch.setattr(psycopg.AsyncCursor, name, failing_async)

    def _patch_commits(self, patch: pytest.MonkeyPatch) -> None:
        original, original_async = psycopg.Connection.transaction, psycopg.AsyncConnection.transaction

        @contextmanager
        def transaction(connection: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with original(connection, *args, **kwargs) as inner:
                yield inner
                fails = self._failing("COMMIT")
                if fails and not self.done:
                    raise self._error(connection)
            if fails:
                raise self._error(connection)

        @asynccontextmanager
        async def transaction_async(connection: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with original_async(connection, *args, **kwargs) as inner:
                yield inner
                fails = self._failing("COMMIT")
                if fails and not self.done:
                    raise self._error(connection)
            if fails:
                raise self._error(connection)

        patch.setattr(psycopg.Connection, "transaction", transaction)
        patch.setattr(psycopg.AsyncConnection, "transaction", transaction_async)
