"""What a psycopg error means to the service: come back later, or an operator must look.

Promises: errors of the connection, the pool, a server that starts, stops, is read-only or has no room become
StorageUnavailable; damaged data becomes StorageBroken; every other error is a defect of ours and passes unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors

from meterwatch.errors import StorageBroken, StorageUnavailable

_UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)
_BROKEN = (errors.DataCorrupted, errors.IndexCorrupted)


@contextmanager
def storage_faults() -> Iterator[None]:
    """Translate psycopg's errors inside the block into StorageUnavailable and StorageBroken."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StorageUnavailable(f"the database did not answer ({_first_line(error)}); try again later") from error
    except _BROKEN as error:
        raise StorageBroken(f"stored data is damaged ({_first_line(error)}); restore it from a backup") from error


def _first_line(error: psycopg.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
