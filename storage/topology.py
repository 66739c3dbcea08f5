"""The registry tables as a meterwatch.topology.Topology: one query of arrays per table, placed by id.

Promises: ids are indexes; a gap in the ids has an empty name, no parent and, for a meter, an installation that never
comes. Refuses to cache: the caller keeps the snapshot and asks again after an import.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.dated import Contracts, Dated
from meterwatch.moves import Moves
from meterwatch.multipliers import Multipliers
from meterwatch.names import Names, Numbers
from meterwatch.topology import WITNESS_OF, Topology
from storage.arrays import INT64_MAX, decode, fetch_columns, moment
from storage.snapshot import Connections

DAY_US: Final = 86_400_000_000

METERS_TOGETHER: Final = 50_000
"""Meters fetched by one query: 4 MB, which a connection then keeps as its buffer. Five times as many save no time."""
_PHASES: Final = "{?,A,B,AB,C,AC,BC,ABC}"
"""phases by the value of their bits, PHASE_A = 1 and so on."""

_METERS = """
SELECT array_agg(slot), array_agg(array_position(%(phases)s::text[], phases) - 1), array_agg(nominal_v),
       array_agg(rated_a), array_agg(coalesce(contract_kw, 'NaN'::real)), array_agg(interval_s),
       array_agg(installed_at), array_agg(retired_at), array_agg(multiplier),
       array_agg(array_position(%(types)s::text[], terminal_type) - 1),
       array_agg(CASE lower(terminal_type) WHEN 'bellwether' THEN 1 WHEN 'transformer' THEN 2 ELSE 0 END)
FROM meters WHERE slot >= %(first)s AND slot < %(stop)s"""
assert WITNESS_OF == {"bellwether": 1, "transformer": 2}  # the query says it in the same words
_METER_NAMES = """
SELECT array_agg(slot), array_agg(octet_length(meter)), string_agg(convert_to(meter, 'UTF8'), '')
FROM meters WHERE slot >= %(first)s AND slot < %(stop)s"""
_MEMBERS = """
SELECT array_agg(slot), array_agg(transformer_id) FROM meter_transformers
WHERE slot >= %(first)s AND slot < %(stop)s AND valid_from <= %(now)s AND valid_to > %(now)s"""
_CHECK_METERS = """
SELECT array_agg(slot), array_agg(transformer_id) FROM check_meters
WHERE slot >= %(first)s AND slot < %(stop)s AND valid_from <= %(now)s AND valid_to > %(now)s"""
_LINKS = """
SELECT array_agg(slot), array_agg(coalesce(concentrator_id, -1)), array_agg(coalesce(head_end_id, -1)),
       array_agg(array_position(%(modes)s::text[], comm_mode) - 1)
FROM meter_links WHERE slot >= %(first)s AND slot < %(stop)s AND valid_from <= %(now)s AND valid_to > %(now)s"""
_MULTIPLIERS = """
SELECT array_agg(slot ORDER BY slot, valid_from), array_agg(valid_from ORDER BY slot, valid_from),
       array_agg(valid_to ORDER BY slot, valid_from), array_agg(multiplier ORDER BY slot, valid_from)
FROM meter_multipliers"""
_CONTRACTS = """
SELECT array_agg(slot ORDER BY slot, valid_from), array_agg(valid_from ORDER BY slot, valid_from),
       array_agg(valid_to ORDER BY slot, valid_from), array_agg(c.contract_kw ORDER BY slot, valid_from)
FROM meter_contracts c JOIN meters USING (slot) WHERE slot >= %(first)s AND slot < %(stop)s"""
PARAMETERS: Final = (
    "oil_rise_k", "hot_spot_rise_k", "loss_ratio", "oil_exponent", "winding_exponent", "oil_time_constant_s",
    "winding_time_constant_s",
)  # fmt: skip
"""As rules.thermal names them, and the query below."""
_THERMAL: Final = """
SELECT transformer, oil_rise_k, hot_spot_rise_k, loss_ratio, oil_exponent, winding_exponent, oil_time_constant_s,
       winding_time_constant_s
FROM transformer_thermal JOIN transformers USING (transformer)"""
_THERMAL_TYPES = """
SELECT array_agg(transformer_id ORDER BY transformer_id, valid_from),
       array_agg(valid_from ORDER BY transformer_id, valid_from),
       array_agg(valid_to ORDER BY transformer_id, valid_from),
       array_agg(array_position(%(names)s::text[], thermal_type) - 1 ORDER BY transformer_id, valid_from)
FROM transformer_thermal_types"""
_MOVES = """
SELECT array_agg(slot ORDER BY slot, valid_from), array_agg(transformer_id ORDER BY slot, valid_from),
       array_agg(valid_from ORDER BY slot, valid_from), array_agg(valid_to ORDER BY slot, valid_from)
FROM meter_transformers WHERE slot IN (SELECT slot FROM meter_transformers WHERE valid_to <> 'infinity')"""
_TRANSFORMERS = """
SELECT array_agg(t.transformer_id), array_agg(coalesce(tf.feeder_id, -1)), array_agg(t.rated_kva) FROM transformers t
LEFT JOIN transformer_feeders tf ON tf.transformer_id = t.transformer_id
  AND tf.valid_from <= %(now)s AND tf.valid_to > %(now)s"""


async def load_topology(connections: Connections, now_us: int) -> Topology:
    """The registry at now_us; the caller's snapshot makes it one. Pages of meters are shared out over connections."""
    now = {"now": moment(now_us)}
    connection = connections[0]
    [transformers] = await fetch_columns(connection, _TRANSFORMERS, now)
    transformer_rows = await _rows(
        connection, "SELECT transformer_id, transformer, district, winding FROM transformers"
    )
    feeder_rows = await _rows(connection, "SELECT feeder_id, feeder, ampacity_a, district FROM feeders")
    concentrator_rows = await _rows(
        connection, "SELECT concentrator_id, concentrator, coalesce(head_end_id, -1) FROM concentrators"
    )
    head_end_rows = await _rows(connection, "SELECT head_end_id, head_end, late_window_days, time_zone FROM head_ends")

    meters = _Meters(await _slots(connection))
    modes = [row[0] for row in await _rows(connection, "SELECT DISTINCT comm_mode FROM meter_links")]
    meters.modes = sorted({"", *modes})
    types = [row[0] for row in await _rows(connection, "SELECT DISTINCT terminal_type FROM meters")]
    meters.types = sorted({"", *types})
    await meters.fetch_all(connections, now)
    thermal_types, thermal_type_names = await _thermal_types(connection)
    concentrator_head_end = _third(concentrator_rows, np.int32, -1)
    meters.inherit(concentrator_head_end)
    meter = Names(b"".join(meters.text), meters.name_start, meters.name_bytes)
    transformer_at = transformers[0]
    transformer_count = int(transformer_at.max(initial=-1)) + 1
    return Topology(
        as_of_us=now_us,
        meter=meter,
        transformer_of=_frozen(meters.transformer_of),
        concentrator_of=_frozen(meters.concentrator_of),
        head_end_of=_frozen(meters.head_end_of),
        phases=_frozen(meters.phases),
        nominal_v=_frozen(meters.nominal_v),
        rated_a=_frozen(meters.rated_a),
        contract_kw=_frozen(meters.contract_kw),
        interval_s=_frozen(meters.interval_s),
        installed_us=_frozen(meters.installed_us),
        retired_us=_frozen(meters.retired_us),
        comm_mode=_frozen(meters.comm_mode),
        comm_modes=meters.modes,
        transformer=_placed_names(transformer_rows, transformer_count, 1),
        feeder_of=_placed(transformer_at, transformers[1], transformer_count, np.int32, -1),
        rated_kva=_placed(transformer_at, transformers[2], transformer_count, np.float64, np.nan),
        winding=_placed_names(transformer_rows, transformer_count, 3),
        transformer_district=_placed_names(transformer_rows, transformer_count, 2),
        feeder=_placed_names(feeder_rows, _count(feeder_rows), 1),
        feeder_district=_placed_names(feeder_rows, _count(feeder_rows), 3),
        feeder_ampacity_a=_third(feeder_rows, np.float32, np.nan),
        concentrator=_placed_names(concentrator_rows, _count(concentrator_rows), 1),
        concentrator_head_end=concentrator_head_end,
        head_end=_placed_names(head_end_rows, _count(head_end_rows), 1),
        late_window_us=_frozen(_third(head_end_rows, np.int64, 0) * DAY_US),
        slot_of=Numbers(meter),
        multiplier=_frozen(meters.multiplier),
        measures=_frozen(meters.measures),
        multipliers=await _multipliers(connection),
        contracts=await _contracts(connection, meters.slots),
        moves=await _moves(connection),
        witness=_frozen(meters.witness),
        head_end_zone=_placed_names(head_end_rows, _count(head_end_rows), 3),
        terminal_type=_frozen(meters.terminal_type),
        terminal_types=meters.types,
        thermal=await _thermal(connection, transformer_rows, transformer_count),
        thermal_types=thermal_types,
        thermal_type_names=thermal_type_names,
    )


class _Meters:
    """Columns by slot, filled page by page; what they hold before is what a gap in the ids means."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.modes: list[str] = []
        self.types: list[str] = []
        self.text: list[bytes] = []
        self._text_bytes = 0
        self.name_start = np.zeros(slots, np.int64)
        self.name_bytes = np.zeros(slots, np.int32)
        self.transformer_of = np.full(slots, -1, np.int32)
        self.measures = np.full(slots, -1, np.int32)
        self.concentrator_of = np.full(slots, -1, np.int32)
        self.head_end_of = np.full(slots, -1, np.int32)
        self.phases = np.zeros(slots, np.uint8)
        self.nominal_v = np.full(slots, 230, np.float32)
        self.rated_a = np.full(slots, 100, np.float32)
        self.contract_kw = np.full(slots, np.nan, np.float32)
        self.interval_s = np.full(slots, 900, np.int32)
        self.installed_us = np.full(slots, INT64_MAX, np.int64)
        self.retired_us = np.full(slots, INT64_MAX, np.int64)
        self.multiplier = np.ones(slots, np.float32)
        self.witness = np.zeros(slots, np.uint8)
        self.comm_mode = np.zeros(slots, np.int16)
        self.terminal_type = np.zeros(slots, np.int16)

    async def fetch_all(self, connections: Connections, now: dict[str, Any]) -> None:
        """Every page, by whichever connection is free."""
        firsts = iter(range(0, self.slots, METERS_TOGETHER))

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            for first in firsts:
                await self.fetch(connection, {**now, "first": first, "stop": first + METERS_TOGETHER})

        async with asyncio.TaskGroup() as tasks:
            for connection in connections:
                tasks.create_task(work(connection))

    async def fetch(self, connection: psycopg.AsyncConnection[Any], page: dict[str, Any]) -> None:
        meter: list[NDArray[Any]] = [self.phases, self.nominal_v, self.rated_a, self.contract_kw]
        meter += [self.interval_s, self.installed_us, self.retired_us, self.multiplier, self.terminal_type]
        meter += [self.witness]
        link: list[NDArray[Any]] = [self.concentrator_of, self.head_end_of, self.comm_mode]
        queries: list[tuple[LiteralString, dict[str, Any], list[NDArray[Any]]]] = [
            (_METERS, {**page, "phases": _PHASES, "types": self.types}, meter),
            (_MEMBERS, page, [self.transformer_of]),
            (_CHECK_METERS, page, [self.measures]),
            (_LINKS, {**page, "modes": self.modes}, link),
        ]
        for query, parameters, columns in queries:
            [[at, *found]] = await fetch_columns(connection, query, parameters)
            for column, values in zip(columns, found, strict=True):
                column[at] = values
        await self._fetch_names(connection, page)

    async def _fetch_names(self, connection: psycopg.AsyncConnection[Any], page: dict[str, Any]) -> None:
        async with connection.cursor(binary=True) as cursor:
            await cursor.execute(_METER_NAMES, page)
            result = cursor.pgresult
            assert result is not None
            at, length = decode(result.get_value(0, 0)), decode(result.get_value(0, 1))
            text = result.get_value(0, 2) or b""
        self.name_bytes[at] = length
        self.name_start[at] = self._text_bytes + np.cumsum(length) - length
        self._text_bytes += len(text)
        self.text.append(text)

    def inherit(self, concentrator_head_end: NDArray[np.int32]) -> None:
        """A meter without a head-end of its own is reached by that of its concentrator."""
        lone = np.flatnonzero((self.head_end_of < 0) & (self.concentrator_of >= 0))
        self.head_end_of[lone] = concentrator_head_end[self.concentrator_of[lone]]


async def _thermal(
    connection: psycopg.AsyncConnection[Any], transformers: list[tuple[Any, ...]], count: int
) -> dict[str, NDArray[Any]]:
    rows = await _rows(connection, _THERMAL)
    number = {name: at for at, name, *_ in transformers}
    at = np.array([number[row[0]] for row in rows], np.int64)
    columns = np.array([row[1:] for row in rows], np.float64).reshape(-1, len(PARAMETERS)).T  # NULL: NaN
    return {
        name: _placed(at, column, count, np.float64, np.nan) for name, column in zip(PARAMETERS, columns, strict=True)
    }


async def _thermal_types(connection: psycopg.AsyncConnection[Any]) -> tuple[Dated | None, list[str]]:
    """Who has which over time, and the names."""
    rows = await _rows(connection, "SELECT DISTINCT thermal_type FROM transformer_thermal_types")
    names = sorted(row[0] for row in rows)
    if not names:
        return None, names
    [[at, from_us, to_us, number]] = await fetch_columns(connection, _THERMAL_TYPES, {"names": names})
    types = Dated(at.astype(np.int32), from_us.astype(np.int64), to_us.astype(np.int64), number.astype(np.float32))
    return types, names


async def _multipliers(connection: psycopg.AsyncConnection[Any]) -> Multipliers:
    [[slot, from_us, to_us, value]] = await fetch_columns(connection, _MULTIPLIERS, {})
    return Multipliers(
        slot.astype(np.int32), from_us.astype(np.int64), to_us.astype(np.int64), value.astype(np.float32)
    )


async def _contracts(connection: psycopg.AsyncConnection[Any], slots: int) -> Contracts:
    found = [[np.zeros(0, np.int64)] * 4]
    for first in range(0, slots, METERS_TOGETHER):
        found += await fetch_columns(connection, _CONTRACTS, {"first": first, "stop": first + METERS_TOGETHER})
    slot, from_us, to_us, kw = (np.concatenate(column) for column in zip(*found, strict=True))
    return Contracts(slot.astype(np.int32), from_us.astype(np.int64), to_us.astype(np.int64), kw.astype(np.float32))


async def _moves(connection: psycopg.AsyncConnection[Any]) -> Moves:
    [[slot, transformer, from_us, to_us]] = await fetch_columns(connection, _MOVES, {})
    return Moves(slot.astype(np.int32), transformer.astype(np.int32), from_us.astype(np.int64), to_us.astype(np.int64))


async def _slots(connection: psycopg.AsyncConnection[Any]) -> int:
    rows = await _rows(connection, "SELECT coalesce(max(slot), -1) + 1 FROM meters")
    return int(rows[0][0])


async def _rows(
    connection: psycopg.AsyncConnection[Any], query: LiteralString, parameters: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


def _ids(rows: list[tuple[Any, ...]]) -> NDArray[np.int64]:
    return np.array([row[0] for row in rows], np.int64)


def _count(rows: list[tuple[Any, ...]]) -> int:
    return max((row[0] for row in rows), default=-1) + 1


def _placed(at: NDArray[Any], column: NDArray[Any], size: int, dtype: Any, gap: float) -> NDArray[Any]:
    """Values at their ids, `gap` where there is none."""
    placed = np.full(size, gap, dtype)
    placed[at] = column
    return _frozen(placed)


def _third(rows: list[tuple[Any, ...]], dtype: Any, gap: float) -> NDArray[Any]:
    return _placed(_ids(rows), np.array([row[2] for row in rows], dtype), _count(rows), dtype, gap)


def _placed_names(rows: list[tuple[Any, ...]], size: int, column: int) -> list[str]:
    names = [""] * size
    for row in rows:
        names[row[0]] = row[column]
    return names


def _frozen(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column
