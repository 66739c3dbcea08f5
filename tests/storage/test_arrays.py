"""Columns in PostgreSQL's binary form, against plain Python and the database itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import decode, halves, micros, moment, reals

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


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("boolean", [True, False, True]),
        ("smallint", [-(2**15), 0, 2**15 - 1]),
        ("integer", [-(2**31), 0, 2**31 - 1]),
        ("bigint", [-(2**63), 0, 2**63 - 1]),
        ("real", [0.5, -1.25]),
        ("double precision", [0.1, -1e300]),
    ],
)
def test_an_array_of_the_database_is_what_its_text_says_and_an_empty_one_has_the_type(
    dsn: str, type_: str, values: list[Any]
) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute(f"SELECT ARRAY{values}::{type_}[]")  # type: ignore[arg-type]  # literals of this test
        found = decode(value(cursor))
        cursor.execute(f"SELECT '{{}}'::{type_}[]")  # type: ignore[arg-type]
        empty = decode(value(cursor))
    assert found.tolist() == values
    assert (len(empty), empty.dtype, found.dtype.isnative) == (0, found.dtype, True)


def test_stamps_come_as_microseconds_without_an_end_as_the_largest_and_null_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT ARRAY['1970-01-01 00:00:00.000001Z', 'infinity', '-infinity']::timestamptz[]")
        assert decode(value(cursor)).tolist() == [1, 2**63 - 1, -(2**63)]
        cursor.execute("SELECT ARRAY[1, NULL]")
        with pytest.raises(ValueError, match="coalesce"):
            decode(value(cursor))
    assert decode(None).tolist() == []


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_a_moment_is_exact_to_the_microsecond_and_beyond_the_calendar_its_nearest_end(us: int) -> None:
    assert micros(moment(us)) == us
    assert micros(moment(us - 2 * 315_537_897_600_000_000)) == -62_135_596_800_000_000
    assert micros(moment(us + 2 * 315_537_897_600_000_000)) == 253_402_300_799_999_999
