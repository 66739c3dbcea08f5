"""The audit log in the database: rows are added and listed, and nothing else; the table refuses the rest itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from meterwatch.access.trail import AuditRow, AuditWanted
from storage.arrays import micros, moment
from storage.faults import storage_faults

_WRITE: Final = """
INSERT INTO audit_log (at, who, how, method, object, outcome, peer, calls)
SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                     %s::bigint[])"""
_LIST: Final = "SELECT audit_no, at, who, how, method, object, outcome, peer, calls FROM audit_log WHERE "


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
        )
        with storage_faults():
            async with self._pool.connection() as connection:
                await connection.execute(_WRITE, columns)

    async def listed(self, wanted: AuditWanted) -> list[tuple[int, AuditRow]]:
        """Rows with their numbers, newest first."""
        where: list[sql.Composable] = [sql.SQL("true")]
        values: list[object] = []
        for condition, value in (
            ("who = %s", wanted.who),
            ("outcome <> 'OK' AND outcome <> %s", "ADMITTED" if wanted.refused else ""),
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
        query = sql.SQL(_LIST) + sql.SQL(" AND ").join(where) + sql.SQL(" ORDER BY audit_no DESC LIMIT %s")
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
