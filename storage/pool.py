"""The connections of the event loop: a small pool, each checked before it is handed out unless it was just in use.

A check is a round trip of its own, and the alarms' commit comes once per COPY: checked every time it took 3 % of the
service's CPU. Who gets a connection that died within CHECK_AFTER_S sees StorageUnavailable and tries again. A new one
is handed out only if its COMMIT means durable: alarms, and that their batches are evaluated, are written here.
"""

from __future__ import annotations

import time
from typing import Any, Final

from psycopg_pool import AsyncConnectionPool

from storage import settings
from storage.patience import SERVER_TCP, PatientAsyncConnection, patient

SIZE_MAX: Final = 8
QUESTIONS_SIZE_MAX: Final = 8
"""Of what people ask, apart from what the service writes: however many ask at once, or leave an answer half read,
alarms and the audit log are committed."""
BACKGROUND_SIZE_MAX: Final = 3
"""Of the jobs in the background, which read much at once. libpq keeps the buffer of a connection's largest answer for
as long as it is open, and the pool hands its connections out in turn: each had one of 8 or 16 MB in the end."""
TIMEOUT_S: Final = 5.0
"""Without a connection for so long a caller is told that the database is away."""
CHECK_AFTER_S: Final = 1.0
_OPTIONS: Final = f"-c TimeZone=UTC -c lock_timeout=20s -c statement_timeout=120s -c synchronous_commit=on {SERVER_TCP}"


class _Pooled(PatientAsyncConnection):
    returned_s = 0.0
    """When it was last given back, monotonic seconds."""


async def _given_back(connection: _Pooled) -> None:
    if connection.info.parameter_status("default_transaction_read_only") == "on":
        await connection.close()  # a session that began read-only stays so; the next one may not
    connection.returned_s = time.monotonic()


async def _checked(connection: _Pooled) -> None:
    if time.monotonic() - connection.returned_s > CHECK_AFTER_S:
        await AsyncConnectionPool.check_connection(connection)


def new_pool(dsn: str, size_max: int = SIZE_MAX) -> AsyncConnectionPool[Any]:
    """A pool, not opened yet."""
    return AsyncConnectionPool(
        patient(dsn),
        connection_class=_Pooled,
        min_size=1,
        max_size=size_max,
        open=False,
        timeout=TIMEOUT_S,
        configure=settings.check_async_session,
        check=_checked,
        reset=_given_back,
        kwargs={"autocommit": True, "options": _OPTIONS},
    )
