"""How far the clocks of meters are off, in the database: one row a meter, of the newest local day judged."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.local_days import as_date
from storage.arrays import fetch_columns, integers, reals

Floats = NDArray[np.float64]
_STORE: Final = """
INSERT INTO meter_clocks AS c (slot, day, lag_s, usual_lag_s, drift_s, samples)
SELECT slot, %s, lag_s, nullif(usual, 'NaN'), nullif(drift, 'NaN'), samples
FROM unnest(%s::integer[], %s::real[], %s::real[], %s::real[], %s::integer[])
  AS n (slot, lag_s, usual, drift, samples)
ON CONFLICT (slot) DO UPDATE SET day = EXCLUDED.day, lag_s = EXCLUDED.lag_s, usual_lag_s = EXCLUDED.usual_lag_s,
  drift_s = EXCLUDED.drift_s, samples = EXCLUDED.samples WHERE c.day <= EXCLUDED.day"""


_NEWEST: Final = """
SELECT array_agg(slot ORDER BY day, slot), array_agg(lag_s::float8 ORDER BY day, slot)
FROM (SELECT slot, day, lag_s FROM meter_clocks ORDER BY day DESC, slot DESC LIMIT %s) AS newest"""


async def newest_lags(connection: psycopg.AsyncConnection[Any], most: int) -> tuple[NDArray[np.int32], Floats]:
    """Slot and lag of the meters judged last, in the order of days and slots, which is that of judging."""
    [[slot, lag_s]] = await fetch_columns(connection, _NEWEST, (most,))
    return slot.astype(np.int32), lag_s.astype(np.float64)


async def store_clocks(
    connection: psycopg.AsyncConnection[Any],
    day: int,
    slots: NDArray[np.int32],
    lag_s: Floats,
    usual_s: Floats,
    drift_s: Floats,
    samples: NDArray[np.int64],
) -> None:
    """Write the clocks of these meters, unless a later day is written already. NaN: not known."""
    if len(slots):
        figures = (reals(lag_s), reals(usual_s), reals(drift_s), integers(samples.astype(np.int32)))
        await connection.execute(_STORE, (as_date(day), integers(slots), *figures))
