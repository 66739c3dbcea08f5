"""Stored loads to forecast from, and the newest forecast of each transformer.

Promises: a stored forecast replaces the one before it whole. Refuses to know what a load means, and how it is forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.loads import Loads
from storage.arrays import fetch_columns, integers, micros, moment
from storage.faults import storage_faults

US: Final = 1_000_000
Floats = NDArray[np.float64]
_BETWEEN: Final = """
SELECT array_agg(transformer_id), array_agg(window_end), array_agg(wh), array_agg(varh), array_agg(covered_weight_s),
       array_agg(expected_weight_s)
FROM transformer_loads
WHERE transformer_id = ANY(%(transformers)s) AND window_end > %(first)s AND window_end <= %(last)s"""
_OLDEST: Final = "SELECT window_end FROM transformer_loads ORDER BY window_end LIMIT 1"
_STORE: Final = """
INSERT INTO transformer_forecasts (transformer_id, made_at, first_end, step_s, forecaster, paths, p10, p50, p90,
    p_over, p_hot, hot_spot_c, overload_chance, overload_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (transformer_id) DO UPDATE SET made_at = excluded.made_at, first_end = excluded.first_end,
    step_s = excluded.step_s, forecaster = excluded.forecaster, paths = excluded.paths, p10 = excluded.p10,
    p50 = excluded.p50, p90 = excluded.p90, p_over = excluded.p_over, p_hot = excluded.p_hot,
    hot_spot_c = excluded.hot_spot_c, overload_chance = excluded.overload_chance, overload_at = excluded.overload_at"""
_NEWEST: Final = """
SELECT made_at, first_end, step_s, forecaster, paths, p10, p50, p90, p_over, p_hot, hot_spot_c, overload_chance,
       overload_at
FROM transformer_forecasts WHERE transformer_id = %s"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one transformer; loads are shares of its rating, float64 [steps] each."""

    made_us: int
    first_end_us: int
    step_s: int
    forecaster: int
    paths: int
    overload_chance: float
    overload_us: int | None
    p10: Floats
    p50: Floats
    p90: Floats
    p_over: Floats
    p_hot: Floats
    hot_spot_c: Floats

    def __len__(self) -> int:
        return len(self.p50)


CURVES: Final = ("p10", "p50", "p90", "p_over", "p_hot", "hot_spot_c")
assert set(CURVES) < {column.name for column in fields(Forecast)}


class ForecastStore:
    """Over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any], window_s: int) -> None:
        self._pool = pool
        self._window_us = window_s * US

    async def loads(self, transformers: NDArray[np.int64], first: int, stop: int) -> tuple[Loads, NDArray[np.int64]]:
        """Stored cells of these transformers in the windows first..stop-1, and the weight-seconds each expected."""
        parameters = {
            "transformers": integers(transformers.astype(np.int32)),
            "first": moment(first * self._window_us),
            "last": moment(stop * self._window_us),
        }
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [columns] = await fetch_columns(connection, _BETWEEN, parameters)
        transformer, end_us, wh, varh, covered, expected = columns
        window = end_us // self._window_us - 1
        return Loads(transformer.astype(np.int64), window, wh, varh, covered), expected

    async def oldest_us(self) -> int | None:
        """End of the first window of which any load is stored; None: none is."""
        with storage_faults():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_OLDEST)).fetchone()
        return micros(row[0]) if row and row[0] else None

    async def store(self, forecasts: dict[int, Forecast]) -> None:
        """Put these in place of the ones before, in one transaction."""
        rows = [
            (
                transformer, moment(one.made_us), moment(one.first_end_us), one.step_s, one.forecaster, one.paths,
                *(getattr(one, curve).tolist() for curve in CURVES), one.overload_chance,
                None if one.overload_us is None else moment(one.overload_us),
            )
            for transformer, one in sorted(forecasts.items())
        ]  # fmt: skip
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_STORE, rows)

    async def newest(self, transformer: int) -> Forecast | None:
        """The forecast of a transformer; None: there is none."""
        with storage_faults():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_NEWEST, (transformer,))).fetchone()
        if row is None:
            return None
        made, first_end, step_s, forecaster, paths, *curves, chance, overload = row
        return Forecast(
            micros(made), micros(first_end), step_s, forecaster, paths, chance,
            None if overload is None else micros(overload), *(np.asarray(curve, np.float64) for curve in curves),
        )  # fmt: skip
