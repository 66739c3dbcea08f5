"""What estimates say of the load of transformers, in the database: the reads to sum up, and the sums.

Works in the transaction of the caller, and one caller at a time: the sums of a span are put in the place of the old
ones, so who sums up last must have read last. Refuses to know how reads become loads.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from meterwatch.loads import Loads
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from storage.arrays import bigints, fetch_columns, integers, moment, moments
from storage.history import change_of_columns
from storage.stamps import AMONG

Ints = NDArray[np.int64]
LOCK: Final = 0x6D65737465  # "meste"
_ESTIMATED: Final = tuple(int(one) << ORIGIN_SHIFT for one in (Origin.SUBSTITUTED, Origin.ESTIMATED))
_TOLD: Final = """
SELECT array_agg(DISTINCT transformer_id) FROM transformer_load_estimates
WHERE transformer_id = ANY(%(transformers)s) AND window_end > %(first)s AND window_end <= %(last)s"""
_READS: Final = f"""
SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s), array_agg(quality),
       array_agg(coalesce(import_wh, 0)), array_agg(coalesce(export_wh, 0)), array_agg(0), array_agg(0),
       array_agg(true), array_agg(false)
FROM reads WHERE slot = ANY(%(slots)s) AND {AMONG.format(first="%(first)s", last="%(last)s")}
  AND quality & {ORIGIN_MASK} IN {_ESTIMATED} AND (import_wh IS NOT NULL OR export_wh IS NOT NULL)"""
_DELETE: Final = """
DELETE FROM transformer_load_estimates
WHERE transformer_id = ANY(%(transformers)s) AND window_end > %(first)s AND window_end <= %(last)s"""
_STORE: Final = """
INSERT INTO transformer_load_estimates (transformer_id, window_end, wh, estimated_weight_s, expected_weight_s)
SELECT * FROM unnest(%s, %s, %s, %s, %s)"""


async def told_of(
    connection: psycopg.AsyncConnection[Any], transformers: Ints, from_us: int, to_us: int
) -> NDArray[np.int64]:
    """Which of these transformers have sums with from_us < window end <= to_us. Waits for other callers."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    [[found]] = await fetch_columns(connection, _TOLD, _span(transformers, from_us, to_us))
    return found.astype(np.int64)


async def estimates_of(
    connection: psycopg.AsyncConnection[Any], slots: NDArray[np.int32], from_us: int, to_us: int
) -> ReadChange:
    """Estimated and substituted reads with a value of these meters, from_us < end <= to_us."""
    parameters = {"slots": integers(slots), "first": moment(from_us + 1), "last": moment(to_us + 1)}
    [columns] = await fetch_columns(connection, _READS, parameters)
    return change_of_columns(columns)


async def store_estimates(
    connection: psycopg.AsyncConnection[Any],
    transformers: Ints,
    span: tuple[int, int],
    window_s: int,
    cells: Loads,
    expected: Ints,
) -> None:
    """Put these cells in the place of those of the transformers with span[0] < window end <= span[1]."""
    await connection.execute(_DELETE, _span(transformers, *span))
    if len(cells):
        end_us = (cells.window + 1) * (window_s * 1_000_000)
        at = integers(cells.transformer.astype(np.int32))
        await connection.execute(_STORE, (at, moments(end_us), *map(bigints, (cells.wh, cells.covered, expected))))


def _span(transformers: Ints, from_us: int, to_us: int) -> dict[str, Any]:
    return {"transformers": integers(transformers.astype(np.int32)), "first": moment(from_us), "last": moment(to_us)}
