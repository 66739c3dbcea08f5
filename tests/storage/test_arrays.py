"""Columns in PostgreSQL's binary form, against plain Python and the database itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import decode, halves, reals

INT4 = st.integers(-(2**31), 2**31 - 1)


@given(st.lists(st.tuples(INT4, INT4), max_size=20))
def test_a_bigint_is_taken_apart_into_its_halves(pairs: list[tuple[int, int]]) -> None:
    both = np.array([one << 32 | (two & 4294967295) for one, two in pairs], np.int64)
    first, second = halves(both)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == pairs


def test_the_database_makes_halves_and_takes_reals(dsn: str) -> None:
    values = np.array([0.1, -1.5, np.nan, np.inf, 12345.678])
    with psycopg.connect(dsn) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute(
            "SELECT array_agg(a::bigint << 32 | (b::bigint & 4294967295))"
            " FROM (VALUES (7, -1), (-1, 2147483647), (-2147483648, 0)) AS v (a, b)"
        )
        first, second = halves(decode(value(cursor)))
        assert (first.tolist(), second.tolist()) == ([7, -1, -(2**31)], [-1, 2**31 - 1, 0])
        cursor.execute(
            "SELECT array_agg(r) FROM unnest(%s) AS r WHERE pg_typeof(r) = 'real'::regtype", (reals(values),)
        )
        np.testing.assert_array_equal(decode(value(cursor)), values.astype(np.float32))


def value(cursor: psycopg.Cursor[Any]) -> bytes | None:
    assert cursor.pgresult is not None
    return cursor.pgresult.get_value(0, 0)
