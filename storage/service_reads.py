"""meterwatch.v1.Reads over gRPC: stored reads as a stream of chunks, ordered by meter number and interval end.

A question becomes a list of stretches (meter, from, to): one per meter asked for, or one per membership in the
transformer, so that a meter that moved answers for the time it was there. Stretches are fetched a few at a time, in
order, in one snapshot; a chunk is sent when the next rows would not fit. A client that reads slowly slows the query.
Promises: CHUNK_ROWS at most in a message (the versions of one read stay together) and about as many in memory; absent
values have their mask bit 0. What was known at a moment comes from the SQL function that people use too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, LiteralString, NamedTuple

import grpc
import numpy as np
import psycopg
import psycopg_pool
from numpy.typing import NDArray
from psycopg import sql

from meterwatch import status
from meterwatch.access.identity import Identity, caller, check_sees
from meterwatch.channels import CHANNELS
from meterwatch.errors import MeterwatchError
from meterwatch.v1 import reads_pb2, reads_pb2_grpc
from storage.arrays import INT64_MAX, fetch_columns, moment
from storage.faults import storage_faults
from storage.snapshot import reading
from storage.stamps import AMONG

CHUNK_ROWS: Final = 10_000
METERS_MAX: Final = 1000
TO_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01
STRETCHES_MAX: Final = 64  # fetched by one query; fewer when they are long

_COLUMNS: Final = ("end_us", "interval_s", "channel_mask", "quality", "received_us", "version", "superseded_us")
_WIRE: Final = dict(zip(_COLUMNS, ("<i8", "<u4", "<u4", "<u4", "<i8", "<u4", "<i8"), strict=True)) | {
    channel.name: channel.dtype.str for channel in CHANNELS
}


class Stretch(NamedTuple):
    """Reads of one meter with from_us <= end < to_us."""

    meter: str
    slot: int
    from_us: int
    to_us: int


class _Piece(NamedTuple):
    meter: str
    columns: dict[str, NDArray[Any]]
    rows: int


_NOW: Final = "reads"
_AS_OF: Final = "reads_as_of(%(as_of)s)"
_EVER: Final = "read_history"


def _query(source: LiteralString) -> sql.Composed:
    """Per stretch, its first %(rows)s reads as one row of arrays; of read_history with all versions of the last one.

    from and until bound all stretches once more, as constants: only by them the planner leaves out the chunks of other
    days, of which it would otherwise plan every one.
    """
    every = source == _EVER
    superseded = sql.SQL("coalesce(r.superseded_at, to_timestamp(0))" if every else "NULL::timestamptz")
    limit = sql.SQL("FETCH FIRST (%(rows)s) ROWS WITH TIES" if every else "LIMIT %(rows)s")
    told = sql.SQL("array_agg(superseded)" if every else "NULL::timestamptz[]")
    inside = sql.SQL("ORDER BY end_at, received_at, superseded, version" if every else "")
    span = "r.end_at >= stretch.first AND r.end_at < stretch.last"
    looked_up = sql.SQL(AMONG.format(first="stretch.first", last="stretch.last") if source == _NOW else span)
    values = [sql.Identifier(channel.name) for channel in CHANNELS]
    present = sql.SQL(" | ").join(
        sql.SQL("((r.{} IS NOT NULL)::integer << {})").format(value, sql.Literal(i)) for i, value in enumerate(values)
    )
    inner = sql.SQL(", ").join(sql.SQL("coalesce(r.{0}, 0) AS {0}").format(value) for value in values)
    outer = sql.SQL(", ").join(sql.SQL("array_agg({})").format(value) for value in values)
    return sql.SQL(
        "SELECT found.* FROM unnest(%(slots)s::integer[], %(first)s::timestamptz[], %(last)s::timestamptz[])"
        " WITH ORDINALITY AS stretch (slot, first, last, place) CROSS JOIN LATERAL ("
        "SELECT array_agg(end_at), array_agg(interval_s), array_agg(mask), array_agg(quality), array_agg(received_at),"
        " array_agg(version::integer), {told}, {outer} FROM (SELECT * FROM (SELECT r.end_at, r.interval_s,"
        " {present} AS mask, r.quality, r.received_at, r.version, {superseded} AS superseded, {inner} FROM {source} r"
        " WHERE r.slot = stretch.slot AND {looked_up}"
        " AND r.end_at >= %(from)s AND r.end_at < %(until)s ORDER BY r.end_at {limit}) AS page {inside}) AS page)"
        " AS found ORDER BY stretch.place"
    ).format(
        told=told,
        outer=outer,
        present=present,
        superseded=superseded,
        inner=inner,
        source=sql.SQL(source),
        limit=limit,
        inside=inside,
        looked_up=looked_up,
    )


_FETCH: Final = {source: _query(source) for source in (_NOW, _AS_OF, _EVER)}


class ReadsService(reads_pb2_grpc.ReadsServicer):
    """Servicer of meterwatch.v1.Reads; takes one connection of the pool per running query."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def Query(self, request: reads_pb2.QueryRequest, context: Any) -> AsyncIterator[reads_pb2.QueryResponse]:
        """Stream the reads asked for."""
        wrong = _wrong(request)
        if wrong:
            await status.abort_with(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_QUERY", wrong)
        try:
            with storage_faults():
                async with self._pool.connection() as connection, reading(connection):
                    stretches, unknown = await _stretches(connection, request, caller(context))
                    if unknown:
                        await status.abort_with(context, grpc.StatusCode.NOT_FOUND, "UNKNOWN_ASSET", unknown)
                    async for pieces in _chunks(connection, stretches, request):
                        yield encode(pieces)
        except MeterwatchError as error:
            await status.abort(context, error)


def _wrong(request: reads_pb2.QueryRequest) -> str:
    if bool(request.meter) == bool(request.transformer):
        both = "meters and a transformer" if request.meter else "neither a meter nor a transformer"
        return f"{both} arrived; one of the two was expected; give meter numbers or the name of one transformer"
    if len(request.meter) > METERS_MAX:
        return f"{len(request.meter)} meters arrived; at most {METERS_MAX} were expected; ask in parts"
    if any("\0" in name for name in (request.transformer, *request.meter)):
        return "a NUL character arrived; a name was expected; correct it"
    if not 0 <= request.from_us < request.to_us <= TO_US_MAX:
        return (
            f"from_us {request.from_us} and to_us {request.to_us} arrived; 0 <= from_us < to_us <= {TO_US_MAX} was"
            " expected, in microseconds since 1970; correct the range"
        )
    if not 0 <= request.as_of_us <= TO_US_MAX:
        return f"as_of_us {request.as_of_us} arrived; 0 to {TO_US_MAX} was expected, in microseconds since 1970"
    if request.all_versions and request.as_of_us:
        return "all_versions and as_of_us arrived; one of the two was expected; leave one out"
    return ""


async def _stretches(
    connection: psycopg.AsyncConnection[Any], request: reads_pb2.QueryRequest, identity: Identity
) -> tuple[list[Stretch], str]:
    """What to fetch, by meter number and time; or what is unknown.

    A read belongs to the transformer that supplied the meter when its interval ended: valid_from < end <= valid_to. Who
    has districts gets of a meter what it sent while it hung there. Denied if it never did.
    """
    if request.meter:
        wanted = sorted(set(request.meter))
        cursor = await connection.execute("SELECT meter, slot FROM meters WHERE meter = ANY(%s)", (wanted,))
        slot_of = dict(await cursor.fetchall())
        missing = [meter for meter in wanted if meter not in slot_of]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            named = ", ".join(meter[:64] for meter in missing[:5])
            return [], f"meter {named}{more} arrived; registered meters were expected; correct or import them"
        if identity.districts:
            return await _in_districts(connection, request, slot_of, identity), ""
        return [Stretch(meter, slot_of[meter], request.from_us, request.to_us) for meter in wanted], ""
    cursor = await connection.execute(
        "SELECT transformer_id, district FROM transformers WHERE transformer = %s", (request.transformer,)
    )
    row = await cursor.fetchone()
    if row is None:
        shown = request.transformer[:64]
        return [], f"transformer {shown} arrived; a registered transformer was expected; correct the name or import it"
    check_sees(identity, row[1], f"transformer {request.transformer}")
    columns = await fetch_columns(
        connection,
        "SELECT array_agg(slot), array_agg(valid_from), array_agg(valid_to)"
        " FROM meter_transformers WHERE transformer_id = %s",
        row[:1],
    )
    slot = columns[0][0]
    cursor = await connection.execute("SELECT slot, meter FROM meters WHERE slot = ANY(%s)", (slot.tolist(),))
    meter_of = dict(await cursor.fetchall())
    return _while_there(columns[0], meter_of, request), ""


async def _in_districts(
    connection: psycopg.AsyncConnection[Any],
    request: reads_pb2.QueryRequest,
    slot_of: dict[str, int],
    identity: Identity,
) -> list[Stretch]:
    """The meters asked for, each for the time it hung at a transformer of the caller's districts."""
    [columns] = await fetch_columns(
        connection,
        "SELECT array_agg(m.slot), array_agg(m.valid_from), array_agg(m.valid_to) FROM meter_transformers m"
        " JOIN transformers t USING (transformer_id) WHERE m.slot = ANY(%s) AND t.district = ANY(%s)",
        (list(slot_of.values()), sorted(identity.districts)),
    )
    there = set(columns[0].tolist())
    for meter, slot in sorted(slot_of.items()):
        if slot not in there:
            check_sees(identity, "", f"meter {meter}")
    return _while_there(columns, {slot: meter for meter, slot in slot_of.items()}, request)


def _while_there(
    memberships: Sequence[NDArray[np.int64]], meter_of: dict[int, str], request: reads_pb2.QueryRequest
) -> list[Stretch]:
    """Stretches of (slot, valid_from, valid_to), where they are asked for."""
    slot, valid_from, valid_to = memberships
    first = np.maximum(valid_from + 1, request.from_us)
    last = np.minimum(np.minimum(valid_to, INT64_MAX - 1) + 1, request.to_us)
    rows = zip(slot.tolist(), first.tolist(), last.tolist(), strict=True)
    return sorted(Stretch(meter_of[s], s, a, b) for s, a, b in rows if a < b)


async def _chunks(
    connection: psycopg.AsyncConnection[Any], stretches: list[Stretch], request: reads_pb2.QueryRequest
) -> AsyncIterator[list[_Piece]]:
    held: list[_Piece] = []
    held_rows = 0
    async for piece in _pieces(connection, stretches, request):
        if held_rows + piece.rows > CHUNK_ROWS:
            yield held
            held, held_rows = [], 0
        held.append(piece)
        held_rows += piece.rows
    if held:
        yield held


async def _pieces(
    connection: psycopg.AsyncConnection[Any], stretches: list[Stretch], request: reads_pb2.QueryRequest
) -> AsyncIterator[_Piece]:
    """Non-empty pieces in order. The first stretch cut off by the row limit ends its round; the rest comes again."""
    query = _FETCH[_EVER if request.all_versions else _AS_OF if request.as_of_us else _NOW]
    left = stretches[::-1]
    together = STRETCHES_MAX
    while left:
        round_ = [left.pop() for _ in range(min(together, len(left)))]
        rows_max = CHUNK_ROWS // together
        parameters = _parameters(round_, rows_max) | {"as_of": moment(request.as_of_us)}
        found = await fetch_columns(connection, query, parameters, prepare=False)
        together = min(together * 2, STRETCHES_MAX)
        for place, (stretch, columns) in enumerate(zip(round_, found, strict=True)):
            rows = len(columns[0])
            if rows:
                yield _Piece(stretch.meter, dict(zip(_WIRE, columns, strict=True)), rows)
            if rows >= rows_max:
                left.extend(round_[:place:-1])
                left.append(stretch._replace(from_us=int(columns[0][-1]) + 1))
                together = max(1, together // 8)
                break


def _parameters(stretches: list[Stretch], rows_max: int) -> dict[str, Any]:
    """Of _FETCH: at most rows_max reads of each."""
    return {
        "slots": [stretch.slot for stretch in stretches],
        "first": [moment(stretch.from_us) for stretch in stretches],
        "last": [moment(stretch.to_us) for stretch in stretches],
        "from": moment(min(stretch.from_us for stretch in stretches)),
        "until": moment(max(stretch.to_us for stretch in stretches)),
        "rows": rows_max,
    }


def encode(pieces: list[_Piece]) -> reads_pb2.QueryResponse:
    """Columns as one message: a packed fixed-width field is the bytes of its array."""
    meters = list(dict.fromkeys(piece.meter for piece in pieces))
    index = {meter: i for i, meter in enumerate(meters)}
    packed = _packed(
        "meter_index",
        np.repeat(np.array([index[p.meter] for p in pieces], "<u4"), [p.rows for p in pieces]),
    )
    for name, wire in _WIRE.items():
        column = np.concatenate([piece.columns[name] for piece in pieces])
        if len(column):  # else nobody asked for it
            packed += _packed(name, column.astype(wire, copy=False))
    response = reads_pb2.QueryResponse.FromString(packed)
    response.meter.extend(meters)
    return response


def _packed(name: str, column: NDArray[Any]) -> bytes:
    payload = column.tobytes()
    number = reads_pb2.QueryResponse.DESCRIPTOR.fields_by_name[name].number
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
