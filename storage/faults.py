"""What a psycopg error means to the service, as one table: come back later, or an operator must look.

Promises: errors of the connection, the pool, a server that starts, stops or is read-only become StorageUnavailable; no
room becomes Overloaded; damaged data becomes StorageBroken; every other error is a defect of ours and passes unchanged.
A sentence made here goes to callers: it names the SQLSTATE and never host, user, query or data. Those go to the log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
import structlog

from meterwatch.errors import MeterwatchError, Overloaded, StorageBroken, StorageUnavailable

NO_ROOM_RETRY_S: Final = 10.0
_DAMAGED: Final = {"XX001", "XX002"}
_NO_ROOM: Final = {"53100": "no room on its disk", "53200": "no memory left", "53400": "reached a configured limit"}
_SAYS: Final = {
    "25006": "it is read-only",
    "53300": "it has no connection left",
    "55P03": "a lock was not free in time",
    "57014": "the statement took too long",
    "57P01": "it is shutting down",
    "57P02": "it is restarting after a crash",
    "57P03": "it is starting",
    "57P05": "it closed the connection",
}
_SAYS_CLASS: Final = {
    "08": "the connection broke",
    "28": "it refused the sign-in",
    "3D": "the database is not there",
    "40": "the transaction was rolled back",
    "57": "an operator stopped it",
    "58": "its system failed",
}
_DEFECTS: Final = ("54",)
"""Classes psycopg counts as operational that no waiting mends: a statement beyond the program's limits."""
_SECRET: Final = re.compile(r"://[^@\s]*@|(?i:password)\s*=\s*\S+")

_log = structlog.get_logger(__name__)


@contextmanager
def storage_faults() -> Iterator[None]:
    """Translate psycopg's errors inside the block as the table says.

    While the task is being cancelled any of them is the end of the query that was cancelled with it: CancelledError.
    As an error of the database it would be taken for a reason to try again, and the task would never end.
    """
    try:
        yield
    except psycopg.Error as error:
        if _cancelling():
            raise asyncio.CancelledError from error
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error


def _cancelling() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return False
    return task is not None and task.cancelling() > 0


def fault_of(error: psycopg.Error) -> MeterwatchError | None:
    """The error of the service that a psycopg error means; None: a defect of ours. Logs what callers are not told."""
    fault = _fault(error)
    if fault is not None:
        _log.warning("database error", sqlstate=error.sqlstate, kind=type(error).__name__, text=_first_line(error))
    return fault


def _fault(error: psycopg.Error) -> MeterwatchError | None:
    state = error.sqlstate or ""
    if state in _DAMAGED:
        return StorageBroken(f"stored data is damaged (SQLSTATE {state}); restore it from a backup")
    if state in _NO_ROOM:
        return Overloaded(
            "DATABASE_FULL",
            f"the database has {_NO_ROOM[state]} (SQLSTATE {state}); nothing was acknowledged; send again later, and "
            "have an operator make room",
            NO_ROOM_RETRY_S,
        )
    if state in _SAYS:
        return StorageUnavailable(f"the database did not answer: {_SAYS[state]} (SQLSTATE {state}); try again later")
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or state[:2] in _DEFECTS:
        return None
    if not state:
        return StorageUnavailable("the database did not answer: no connection; try again later")
    said = _SAYS_CLASS.get(state[:2], "it is not able to")
    return StorageUnavailable(f"the database did not answer: {said} (SQLSTATE {state}); try again later")


def _first_line(error: psycopg.Error) -> str:
    return _SECRET.sub("***", (str(error).splitlines() or [""])[0])[:500]
