"""Connections that do not wait for ever on a database that neither answers nor goes away.

statement_timeout is the server's promise, and a server that is frozen, or cut off without a word, keeps none: libpq
then waits for hours. So the client counts as well: ANSWER_S after a call the connection is closed, and the caller gets
an OperationalError as for any other that broke. On TCP the kernels count too, ours and the server's, which find a dead
network within half a minute; the server then also gives up the locks of a client it cannot reach.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

STATEMENT_S: Final = 120
"""The longest statement_timeout of our connections."""
GRACE_S: Final = 15.0
ANSWER_S: Final = STATEMENT_S + GRACE_S
_IDLE_S, _EVERY_S, _TIMES = 10, 5, 3
TCP: Final = {
    "keepalives": 1, "keepalives_idle": _IDLE_S, "keepalives_interval": _EVERY_S, "keepalives_count": _TIMES,
    "tcp_user_timeout": (_IDLE_S + _EVERY_S * _TIMES) * 1000,
}  # fmt: skip
"""libpq's parameters; of no effect on a Unix socket."""
SERVER_TCP: Final = (
    f"-c tcp_keepalives_idle={_IDLE_S} -c tcp_keepalives_interval={_EVERY_S} -c tcp_keepalives_count={_TIMES}"
)
"""The same as options for the server's side."""


def patient(dsn: str) -> str:
    """The connection string with TCP's limits, where it does not set its own."""
    own = conninfo_to_dict(dsn)
    return make_conninfo(dsn, **{name: value for name, value in TCP.items() if name not in own})


class PatientConnection(psycopg.Connection[Any]):
    """A connection for threads that closes when the server has said nothing for `answer_s`."""

    answer_s = ANSWER_S

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, self.answer_s if timeout is None else timeout)
        except psycopg.OperationalError as error:
            _finish_unless_told(self, error)
            raise


class PatientAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for the event loop."""

    answer_s = ANSWER_S

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return await super().wait(gen, interval, self.answer_s if timeout is None else timeout)
        except psycopg.OperationalError as error:
            _finish_unless_told(self, error)
            raise


def _finish_unless_told(
    connection: PatientConnection | PatientAsyncConnection, error: psycopg.OperationalError
) -> None:
    """Close after an error of the waiting itself. One that the server told has an SQLSTATE; the connection is sound."""
    if error.sqlstate is None:
        connection.pgconn.finish()
