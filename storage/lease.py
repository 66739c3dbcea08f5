"""One service per database: a session lock held as long as the service lives.

Two services would each evaluate half of the reads and both give out alarm cursors, so the second is refused at start
with the name of the first. PostgreSQL releases the lock when its holder dies, also by kill -9: nothing to clean up.
If the connection is lost the lock is taken again; if another service took it meanwhile, this one must end.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from typing import Final

import psycopg
import structlog

from meterwatch.errors import ConfigError, StorageBroken
from storage import settings
from storage.patience import SERVER_TCP, PatientAsyncConnection, patient

KEY: Final = 0x6D657473  # "mets"
CHECK_S: Final = 5.0
"""How often the connection is tried, so that a lost lock is noticed."""
ANSWER_S: Final = 10.0
"""Without an answer for so long the connection is given up: nothing it asks can wait for anybody."""
DYING_S: Final = 5.0
"""A killed predecessor's connection may take this long to end."""

_HOLDER: Final = """
SELECT a.application_name, a.backend_start::timestamptz(0)::text
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_END_OWN: Final = """
SELECT pg_terminate_backend(a.pid)
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = %s AND a.application_name = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_log = structlog.get_logger(__name__)


class Lease:
    """The right to serve one database. Make it with `acquire`, keep `hold` running, end with `release`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._name = f"meterwatch {socket.gethostname()[:24]}:{os.getpid()}/{uuid.uuid4().hex[:8]}"
        """Of its sessions, and of no other lease's; PostgreSQL keeps 63 characters."""
        self._connection: PatientAsyncConnection | None = None
        self._locked = False
        """The lock is this connection's, if it is open."""

    @classmethod
    async def acquire(cls, dsn: str) -> Lease:
        """Take the lease. ConfigError naming the holder if another service keeps it for longer than DYING_S."""
        lease = cls(dsn)
        deadline = time.monotonic() + DYING_S
        while not await lease._take():
            if time.monotonic() > deadline:
                holder = await lease._holder()
                await lease.release()
                raise ConfigError(
                    [f"another meterwatch serves this database ({holder}); stop it, or give this one another database"]
                )
            await asyncio.sleep(0.2)
        return lease

    async def hold(self) -> None:
        """Keep the lease until cancelled. StorageBroken if another service has it, StorageUnavailable if what the
        database commits may be lost by now: better no service than one whose acks mean nothing.
        """
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                if self._connection is None or self._connection.closed:
                    if not await self._take() and not await self._take_from_ghost():
                        raise StorageBroken(
                            f"another meterwatch took over this database ({await self._holder()}); this one ends"
                        )
                    _log.info("lease taken again")
                else:
                    await settings.check_async_session(self._connection)
            except psycopg.OperationalError:
                await self.release()

    @property
    def held(self) -> bool:
        """The lock is ours, and the database answered the last time it was asked, at most CHECK_S ago."""
        return self._locked and self._connection is not None and not self._connection.closed

    async def release(self) -> None:
        """Give the lease up."""
        connection, self._connection, self._locked = self._connection, None, False
        if connection is not None:
            await connection.close()

    async def _take(self) -> bool:
        if self._connection is None or self._connection.closed:
            await self.release()
            self._connection = await PatientAsyncConnection.connect(
                patient(self._dsn),
                autocommit=True,
                connect_timeout=10,
                application_name=self._name,
                options=f"-c idle_session_timeout=0 -c synchronous_commit=on {SERVER_TCP}",
            )
            self._connection.answer_s = ANSWER_S
        found = await (await self._connection.execute("SELECT pg_try_advisory_lock(%s)", (KEY,))).fetchone()
        self._locked = bool(found and found[0])
        return self._locked

    async def _take_from_ghost(self) -> bool:
        """Take it from a session of our own that the server has not missed yet, as after a network that was cut."""
        assert self._connection is not None
        ended = await self._connection.execute(_END_OWN, (KEY, self._name))
        if not await ended.fetchall():
            return False
        for _ in range(round(DYING_S / 0.2)):
            if await self._take():
                _log.warning("lease taken from an earlier session of this service")
                return True
            await asyncio.sleep(0.2)
        return False

    async def _holder(self) -> str:
        assert self._connection is not None
        found = await (await self._connection.execute(_HOLDER, (KEY,))).fetchone()
        return f"{found[0]}, since {found[1]}" if found else "it has just ended"
