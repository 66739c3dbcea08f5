"""Marks of what is owed, and their end: a mark is a row with a number, made with what it follows from and deleted when
that is done.

Promise: each number is looked up. `WHERE mark_id = ANY(...)` reads the whole table as soon as statistics say that it is
small, and such a table is full just when it was empty a minute ago. Refuses to know what is owed.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

_PAY: Final = sql.SQL(
    "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT found.ctid FROM unnest(%s::bigint[]) AS paid (mark)"
    " CROSS JOIN LATERAL (SELECT ctid FROM {table} AS m WHERE m.{number} = paid.mark{only} OFFSET 0) AS found))"
)


def pay(table: str, number: str = "mark_id", only: str = "") -> sql.Composed:
    """A statement that deletes the rows with these numbers, its one parameter; only: a column that must be true."""
    condition = sql.SQL(" AND m.{}").format(sql.Identifier(only)) if only else sql.SQL("")
    return _PAY.format(table=sql.Identifier(table), number=sql.Identifier(number), only=condition)
