"""Columns straight out of PostgreSQL and into it: an array in binary form is a numpy array with a stride.

An array without NULL is a head of 20 bytes and then, per element, its length (4 bytes) and its value in network order,
so a column costs one copy and no Python object per row. Times are int64 microseconds and therefore exact.
Promises: an array_agg over no rows is an empty array. Refuses NULL elements: the query says coalesce().
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

INT64_MAX: Final = int(np.iinfo(np.int64).max)
INT64_MIN: Final = int(np.iinfo(np.int64).min)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PG_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01, where PostgreSQL counts from
_FIRST_US: Final = -62_135_596_800_000_000  # 0001-01-01
_LAST_US: Final = 253_402_300_799_999_999  # 9999-12-31 23:59:59.999999
_HEAD_BYTES: Final = 20

_DTYPES: Final[dict[int, str]] = {16: "?", 20: ">i8", 21: ">i2", 23: ">i4", 700: ">f4", 701: ">f8", 1184: ">i8"}
"""Element oid -> value: bool, bigint, smallint, integer, real, double precision, timestamptz."""
_TIMESTAMPTZ: Final = 1184


def moment(us: int) -> datetime:
    """UTC microseconds as a query parameter; beyond the years 1 to 9999 the nearest of them."""
    return _EPOCH + timedelta(microseconds=min(max(us, _FIRST_US), _LAST_US))


def micros(stamp: datetime) -> int:
    """A finite timestamptz as exact UTC microseconds."""
    return (stamp - _EPOCH) // timedelta(microseconds=1)


def decode(raw: bytes | memoryview | None) -> NDArray[Any]:
    """One array value in binary form as a native array; timestamptz as int64 us, infinity as INT64_MAX / INT64_MIN."""
    if raw is None:
        return np.empty(0, np.int64)
    head = np.frombuffer(raw, ">i4", count=min(5, len(raw) // 4))
    if int(head[0]) == 0:
        return np.empty(0, np.dtype(_DTYPES[int(head[2])]).newbyteorder("="))
    if int(head[1]) != 0:
        raise ValueError("an array with NULL arrived; a column without NULL was expected; use coalesce() in the query")
    oid = int(head[2])
    element = np.dtype([("bytes", ">i4"), ("value", _DTYPES[oid])])
    value = np.frombuffer(raw, element, count=int(head[3]), offset=_HEAD_BYTES)["value"]
    native = value.astype(value.dtype.newbyteorder("="))
    if oid == _TIMESTAMPTZ:
        finite = (native != INT64_MAX) & (native != INT64_MIN)
        native[finite] += _PG_EPOCH_US
    return native


def halves(values: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Two integers each that a query put into a bigint, the first << 32 | the second & 4294967295. Views."""
    both = values.view(np.int32).reshape(-1, 2)
    return (both[:, 1], both[:, 0]) if sys.byteorder == "little" else (both[:, 0], both[:, 1])


class IntegerArray(bytes):
    """integer[] in binary form, as a query parameter."""


class BigintArray(bytes):
    """bigint[] in binary form, as a query parameter."""


class RealArray(bytes):
    """real[] in binary form, as a query parameter."""


class TimestamptzArray(bytes):
    """timestamptz[] in binary form, as a query parameter."""


class RawJson(bytes):
    """JSON as UTF-8 bytes, as a jsonb parameter in binary form."""


class _AsIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _IntegerArrayDumper(_AsIs):
    oid = 1007


class _BigintArrayDumper(_AsIs):
    oid = 1016


class _RealArrayDumper(_AsIs):
    oid = 1021


class _TimestamptzArrayDumper(_AsIs):
    oid = 1185


class _RawJsonDumper(_AsIs):
    oid = 3802

    def dump(self, obj: bytes) -> bytes:
        return b"\x01" + obj  # the version of jsonb's binary form


psycopg.adapters.register_dumper(RawJson, _RawJsonDumper)
psycopg.adapters.register_dumper(IntegerArray, _IntegerArrayDumper)
psycopg.adapters.register_dumper(BigintArray, _BigintArrayDumper)
psycopg.adapters.register_dumper(RealArray, _RealArrayDumper)
psycopg.adapters.register_dumper(TimestamptzArray, _TimestamptzArrayDumper)


def integers(values: NDArray[np.int32]) -> IntegerArray:
    """A column of integers as a query parameter."""
    return IntegerArray(_encoded(values, 23, ">i4"))


def bigints(values: NDArray[np.int64]) -> BigintArray:
    """A column of bigints as a query parameter."""
    return BigintArray(_encoded(values, 20, ">i8"))


def reals(values: NDArray[np.floating[Any]]) -> RealArray:
    """A column of reals as a query parameter, rounded to single precision."""
    return RealArray(_encoded(values, 700, ">f4"))


def moments(values_us: NDArray[np.int64]) -> TimestamptzArray:
    """A column of UTC microseconds as a query parameter."""
    return TimestamptzArray(_encoded(values_us - _PG_EPOCH_US, _TIMESTAMPTZ, ">i8"))


def _encoded(values: NDArray[Any], oid: int, dtype: str) -> bytes:
    rows = np.empty(len(values), [("bytes", ">i4"), ("value", dtype)])
    rows["bytes"] = np.dtype(dtype).itemsize
    rows["value"] = values
    head = np.array([1, 0, oid, len(values), 1] if len(values) else [0, 0, oid], ">i4")
    return head.tobytes() + rows.tobytes()


def columns_of(cursor: psycopg.Cursor[Any]) -> list[NDArray[Any]]:
    """The first row of a binary cursor whose every column is an array_agg."""
    result = cursor.pgresult
    assert result is not None
    return [decode(result.get_value(0, i)) for i in range(result.nfields)]


async def fetch_columns(
    connection: psycopg.AsyncConnection[Any],
    query: LiteralString | sql.Composed,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    *,
    prepare: bool | None = None,
) -> list[list[NDArray[Any]]]:
    """Run a query whose every column is an array_agg; per row of the result, its columns as arrays.

    prepare False: plan it for these parameters each time; None: as psycopg does, prepared once it has come often.
    """
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(query, parameters, prepare=prepare)
        result = cursor.pgresult
        if result is None:
            return []
        return [[decode(result.get_value(row, i)) for i in range(result.nfields)] for row in range(result.ntuples)]
