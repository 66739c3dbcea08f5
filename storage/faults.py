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
from psycopg_pool import PoolTimeout, TooManyRequests

from meterwatch.errors import MeterwatchError, Overloaded, StorageBroken, StorageUnavailable

NO_ROOM_RETRY_S: Final = 10.0
_ROLLED_BACK: Final = "the database rolled the transaction back"
_DAMAGED: Final = {
    "XX001": "stored data is damaged (SQLSTATE XX001); restore it from a backup",
    "XX002": "an index is damaged (SQLSTATE XX002); REINDEX it",
}
_NO_ROOM: Final = {
    "53100": ("has no room on its disk", "make room"),
    "53200": ("has no memory left", "give it more, or its statements less"),
    "53400": ("has reached a limit of its configuration", "look at the database's log and raise that"),
}
"""What the database has, and what an operator is to do."""
_SAYS: Final = {
    "25006": "the database is read-only",
    "40001": f"{_ROLLED_BACK}, because of another one at the same time",
    "40003": "the database cannot say whether the transaction was committed",
    "40P01": f"{_ROLLED_BACK}: it and others waited for each other's locks",
    "53300": "the database has no connection left",
    "55P03": "a lock in the database was not free in time",
    "57014": "the database ended the statement: it took too long, or an operator cancelled it",
    "57P01": "the database ended the connection: it is shutting down, or an operator ended it",
    "57P02": "the database is restarting after a crash",
    "57P03": "the database takes no connections: it is starting, recovering or shutting down",
    "57P04": "the database was dropped",
    "57P05": "the database closed the connection, which had been idle",
}
_SAYS_CLASS: Final = {
    "08": "the connection to the database broke",
    "28": "the database refused the sign-in",
    "3D": "the database is not there",
    "40": _ROLLED_BACK,
    "53": "the database has run out of something",
    "55": "something in the database was not in a state for it",
    "57": "an operator of the database ended it",
    "58": "the system below the database failed",
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
        return StorageBroken(_DAMAGED[state])
    if state in _NO_ROOM:
        has, mend = _NO_ROOM[state]
        return Overloaded(
            "DATABASE_FULL",
            f"the database {has} (SQLSTATE {state}); nothing of this was stored; send again later, and have an "
            f"operator {mend}",
            NO_ROOM_RETRY_S,
        )
    if state in _SAYS:
        return _unavailable(_SAYS[state], state)
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or state[:2] in _DEFECTS:
        return None
    if not state:
        return StorageUnavailable(f"{_without_a_state(error)}; try again later")
    return _unavailable(_SAYS_CLASS.get(state[:2], "the database could not do it"), state)


def _unavailable(said: str, state: str) -> StorageUnavailable:
    return StorageUnavailable(f"{said} (SQLSTATE {state}); try again later")


def _without_a_state(error: psycopg.Error) -> str:
    """What an error says that the database did not send: of the pool, the client, or a connection that broke."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return "no connection to the database was free in time"
    return "the database did not answer, or its connection broke"


def _first_line(error: psycopg.Error) -> str:
    return _SECRET.sub("***", (str(error).splitlines() or [""])[0])[:500]
