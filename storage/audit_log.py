"""The audit log in the database: rows are added and listed, and nothing else; the table refuses the rest itself.

A change has two rows of one call_id: BEGUN, and its outcome. A list has one of them: BEGUN only as long as there is no
outcome. Of what a service left without one when it died, the next one says so at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from meterwatch.access.trail import INTERRUPTED, AuditRow, AuditWanted
from storage.arrays import micros, moment
from storage.faults import storage_faults

_WRITE: Final = """
INSERT INTO audit_log (at, who, how, method, object, outcome, peer, calls, call_id)
SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                     %s::bigint[], %s::bigint[])"""
_NO_OUTCOME: Final = """NOT EXISTS (
    SELECT FROM audit_log o WHERE o.call_id = audit_log.call_id AND o.call_id <> 0 AND o.outcome <> 'BEGUN')"""
_LIST: Final = (
    "SELECT audit_no, at, who, how, method, object, outcome, peer, calls FROM audit_log"
    f" WHERE (outcome <> 'BEGUN' OR {_NO_OUTCOME})"
)
UNDER_WAY_MAX: Final = 10_000
"""Numbers before the mark that are looked at again: given out and not committed yet when it was set, as by a service
that lost its lease and had not ended. Far more than calls under way."""
_MARK: Final = "SELECT audit_no FROM audit_settled FOR UPDATE"
_SETTLE: Final = f"""
INSERT INTO audit_log (at, who, how, method, object, outcome, peer, calls, call_id)
SELECT clock_timestamp(), who, how, method, object, '{INTERRUPTED}', peer, 1, call_id
FROM audit_log AS b LEFT JOIN LATERAL (
    SELECT true AS there FROM audit_log AS o
    WHERE o.call_id = b.call_id AND o.call_id <> 0 AND o.outcome <> 'BEGUN' LIMIT 1) AS outcome ON true
WHERE b.audit_no > %s AND b.outcome = 'BEGUN' AND outcome.there IS NULL ORDER BY b.audit_no"""
"""LATERAL with LIMIT: each outcome is looked up, whatever the statistics of the table say."""
_MARKED: Final = "UPDATE audit_settled SET audit_no = (SELECT coalesce(max(audit_no), 0) FROM audit_log)"


class AuditStore:
    """The table over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def write(self, rows: Sequence[AuditRow]) -> None:
        """Add rows; all or nothing."""
        columns = (
            [moment(row.at_us) for row in rows],
            *([_text(getattr(row, name)) for row in rows] for name in ("who", "how", "method", "object")),
            *([_text(getattr(row, name)) for row in rows] for name in ("outcome", "peer")),
            [row.calls for row in rows],
            [row.call_id for row in rows],
        )
        with storage_faults():
            async with self._pool.connection() as connection:
                await connection.execute(_WRITE, columns)

    async def settle(self) -> int:
        """Say INTERRUPTED of every change without an outcome: how many. To be done before anything is begun.

        Cost: linear in the changes begun since it was done last, however many there were before.
        """
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [(mark,)] = await (await connection.execute(_MARK)).fetchall()
                settled: int = (await connection.execute(_SETTLE, (mark - UNDER_WAY_MAX,))).rowcount
                await connection.execute(_MARKED)
        return settled

    async def listed(self, wanted: AuditWanted) -> list[tuple[int, AuditRow]]:
        """Rows with their numbers, newest first; of a change one."""
        where: list[sql.Composable] = []
        values: list[object] = []
        for condition, value in (
            ("who = %s", wanted.who),
            ("outcome NOT IN ('OK', 'BEGUN', %s)", "ADMITTED" if wanted.refused else ""),
            ("at >= %s", moment(wanted.from_us) if wanted.from_us else None),
            ("at < %s", moment(wanted.to_us) if wanted.to_us else None),
            ("audit_no < %s", wanted.before_no),
            ("strpos(object, %s) > 0", wanted.object),
        ):
            if value:
                where.append(sql.SQL(condition))
                values.append(value)
        if wanted.method:
            where.append(sql.SQL("(method = %s OR split_part(method, '/', 1) = %s)"))
            values += [wanted.method] * 2
        query = sql.SQL(" AND ").join([sql.SQL(_LIST), *where]) + sql.SQL(" ORDER BY audit_no DESC LIMIT %s")
        with storage_faults():
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(query, (*values, wanted.limit))).fetchall()
        return [
            (number, AuditRow(who, how, method, what, outcome, peer, micros(at), calls))
            for number, at, who, how, method, what, outcome, peer, calls in rows
        ]


def _text(text: str) -> str:
    """What PostgreSQL can store of it."""
    return text.replace("\0", "")
