"""The registry tables as a meterwatch.topology.Topology: one query of arrays per table, placed by id.

Promises: ids are indexes; a gap in the ids has an empty name, no parent and, for a meter, an installation that never
comes. Refuses to cache: the caller keeps the snapshot and asks again after an import.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.topology import Topology
from storage.arrays import INT64_MAX, fetch_columns, moment

DAY_US: Final = 86_400_000_000

_METERS = """
SELECT array_agg(m.slot), array_agg(coalesce(mt.transformer_id, -1)), array_agg(coalesce(l.concentrator_id, -1)),
       array_agg(coalesce(l.head_end_id, c.head_end_id, -1)),
       array_agg((strpos(m.phases, 'A') > 0)::integer + 2 * (strpos(m.phases, 'B') > 0)::integer
                 + 4 * (strpos(m.phases, 'C') > 0)::integer),
       array_agg(m.nominal_v), array_agg(m.rated_a), array_agg(coalesce(m.contract_kw, 'NaN'::real)),
       array_agg(m.interval_s), array_agg(m.installed_at), array_agg(m.retired_at)
FROM meters m
LEFT JOIN meter_transformers mt ON mt.slot = m.slot AND mt.valid_from <= %(now)s AND mt.valid_to > %(now)s
LEFT JOIN meter_links l ON l.slot = m.slot AND l.valid_from <= %(now)s AND l.valid_to > %(now)s
LEFT JOIN concentrators c USING (concentrator_id)"""
_METER_NAMES = """
SELECT m.slot, m.meter, coalesce(l.comm_mode, '') FROM meters m
LEFT JOIN meter_links l ON l.slot = m.slot AND l.valid_from <= %(now)s AND l.valid_to > %(now)s"""
_TRANSFORMERS = """
SELECT array_agg(t.transformer_id), array_agg(coalesce(tf.feeder_id, -1)), array_agg(t.rated_kva) FROM transformers t
LEFT JOIN transformer_feeders tf ON tf.transformer_id = t.transformer_id
  AND tf.valid_from <= %(now)s AND tf.valid_to > %(now)s"""


async def load_topology(connection: psycopg.AsyncConnection[Any], now_us: int) -> Topology:
    """Snapshot of the registry at now_us; the caller's transaction makes it one."""
    now = {"now": moment(now_us)}
    [meters] = await fetch_columns(connection, _METERS, now)
    meter_rows = await _rows(connection, _METER_NAMES, now)
    [transformers] = await fetch_columns(connection, _TRANSFORMERS, now)
    transformer_rows = await _rows(connection, "SELECT transformer_id, transformer, district FROM transformers")
    feeder_rows = await _rows(connection, "SELECT feeder_id, feeder, district FROM feeders")
    concentrator_rows = await _rows(
        connection, "SELECT concentrator_id, concentrator, coalesce(head_end_id, -1) FROM concentrators"
    )
    head_end_rows = await _rows(connection, "SELECT head_end_id, head_end, late_window_days FROM head_ends")

    at = meters[0]
    slots = int(at.max(initial=-1)) + 1
    transformer_at = transformers[0]
    transformer_count = int(transformer_at.max(initial=-1)) + 1
    modes = sorted({"", *(row[2] for row in meter_rows)})
    mode_index = {mode: i for i, mode in enumerate(modes)}
    comm_mode = np.zeros(slots, np.int16)
    comm_mode[_ids(meter_rows)] = np.array([mode_index[row[2]] for row in meter_rows], np.int16)
    return Topology(
        as_of_us=now_us,
        meter=_placed_names(meter_rows, slots, 1),
        transformer_of=_placed(at, meters[1], slots, np.int32, -1),
        concentrator_of=_placed(at, meters[2], slots, np.int32, -1),
        head_end_of=_placed(at, meters[3], slots, np.int32, -1),
        phases=_placed(at, meters[4], slots, np.uint8, 0),
        nominal_v=_placed(at, meters[5], slots, np.float32, 230),
        rated_a=_placed(at, meters[6], slots, np.float32, 100),
        contract_kw=_placed(at, meters[7], slots, np.float32, np.nan),
        interval_s=_placed(at, meters[8], slots, np.int32, 900),
        installed_us=_placed(at, meters[9], slots, np.int64, INT64_MAX),
        retired_us=_placed(at, meters[10], slots, np.int64, INT64_MAX),
        comm_mode=_frozen(comm_mode),
        comm_modes=modes,
        transformer=_placed_names(transformer_rows, transformer_count, 1),
        feeder_of=_placed(transformer_at, transformers[1], transformer_count, np.int32, -1),
        rated_kva=_placed(transformer_at, transformers[2], transformer_count, np.float64, np.nan),
        transformer_district=_placed_names(transformer_rows, transformer_count, 2),
        feeder=_placed_names(feeder_rows, _count(feeder_rows), 1),
        feeder_district=_placed_names(feeder_rows, _count(feeder_rows), 2),
        concentrator=_placed_names(concentrator_rows, _count(concentrator_rows), 1),
        concentrator_head_end=_third(concentrator_rows, np.int32, -1),
        head_end=_placed_names(head_end_rows, _count(head_end_rows), 1),
        late_window_us=_frozen(_third(head_end_rows, np.int64, 0) * DAY_US),
        slot_of={row[1]: row[0] for row in meter_rows},
    )


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


def _third(rows: list[tuple[Any, ...]], dtype: Any, gap: int) -> NDArray[Any]:
    return _placed(_ids(rows), np.array([row[2] for row in rows], dtype), _count(rows), dtype, gap)


def _placed_names(rows: list[tuple[Any, ...]], size: int, column: int) -> list[str]:
    names = [""] * size
    for row in rows:
        names[row[0]] = row[column]
    return names


def _frozen(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column
