"""The balance of transformers in the database: the energy of a local day by transformer, and what was found in it.

Who belongs to a transformer is asked as of that day. Works in the transaction of the caller. Refuses to know a limit.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.local_days import as_date
from meterwatch.quality import Quality
from storage.arrays import bigints, fetch_columns, integers, moment

Columns = list[NDArray[Any]]
Ints = NDArray[np.int64]
_IN_DAY: Final = "valid_from < %(until)s AND valid_to > %(since)s"
_ENERGY: Final = f"""
WITH touched AS (
    SELECT transformer_id FROM meter_transformers WHERE slot = ANY(%(slots)s) AND {_IN_DAY}
    UNION SELECT transformer_id FROM check_meters WHERE slot = ANY(%(slots)s) AND {_IN_DAY}),
measured AS (
    SELECT transformer_id FROM touched WHERE EXISTS (
        SELECT FROM check_meters c WHERE c.transformer_id = touched.transformer_id AND {_IN_DAY})),
people AS (
    SELECT transformer_id, slot, valid_from, valid_to, false AS supplies
    FROM measured JOIN meter_transformers m USING (transformer_id)
    WHERE {_IN_DAY} AND NOT EXISTS (SELECT FROM check_meters c WHERE c.slot = m.slot AND {_IN_DAY})
    UNION ALL
    SELECT transformer_id, slot, valid_from, valid_to, true FROM measured JOIN check_meters USING (transformer_id)
    WHERE {_IN_DAY}),
days AS (
    SELECT p.transformer_id, p.slot, p.supplies, coalesce(d.import_wh - d.export_wh, 0) AS wh,
           coalesce(d.covered_s, 0) AS covered_s, coalesce(d.day_s, 86400) AS day_s,
           p.valid_from > d.start_at OR p.valid_to < d.start_at + make_interval(secs => d.day_s) AS moved
    FROM people p JOIN meters m ON m.slot = p.slot AND m.installed_at < %(until)s AND m.retired_at > %(since)s
    LEFT JOIN meter_days d ON d.slot = p.slot AND d.day = %(day)s
    WHERE d.slot IS NULL OR (p.valid_from < d.start_at + make_interval(secs => d.day_s) AND p.valid_to > d.start_at)),
sums AS (
    SELECT transformer_id, coalesce(sum(wh) FILTER (WHERE supplies), 0)::bigint AS supply_wh,
           coalesce(sum(wh) FILTER (WHERE NOT supplies), 0)::bigint AS sales_wh,
           count(*) FILTER (WHERE NOT supplies) AS members,
           coalesce(sum(covered_s) FILTER (WHERE supplies)::float8 / sum(day_s) FILTER (WHERE supplies), 0) AS supplied,
           coalesce(sum(covered_s) FILTER (WHERE NOT supplies)::float8
                    / sum(day_s) FILTER (WHERE NOT supplies), 0) AS sold,
           coalesce(bool_or(moved), false) AS moved
    FROM days GROUP BY transformer_id HAVING max(slot) < %(judged_below)s)
SELECT array_agg(sums.transformer_id), array_agg(sums.supply_wh), array_agg(sums.sales_wh), array_agg(sums.members),
       array_agg(supplied), array_agg(sold), array_agg(moved), array_agg(coalesce((
           SELECT imbalance FROM transformer_days t WHERE t.transformer_id = sums.transformer_id AND t.day = %(day)s
       ), false))
FROM sums"""
"""What was found before is looked up by each; joined, each was compared with all of a young day."""
_STORE: Final = """
INSERT INTO transformer_days AS t (day, transformer_id, supply_wh, sales_wh, members, supply_coverage, sales_coverage,
                                   loss_share, imbalance)
SELECT %s, transformer_id, supply_wh, sales_wh, members, supplied, sold, nullif(loss, 'NaN'), imbalance
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::integer[], %s::real[], %s::real[], %s::real[], %s::boolean[])
  AS n (transformer_id, supply_wh, sales_wh, members, supplied, sold, loss, imbalance)
ON CONFLICT (transformer_id, day) DO UPDATE SET supply_wh = EXCLUDED.supply_wh, sales_wh = EXCLUDED.sales_wh,
  members = EXCLUDED.members, supply_coverage = EXCLUDED.supply_coverage, sales_coverage = EXCLUDED.sales_coverage,
  loss_share = EXCLUDED.loss_share, imbalance = EXCLUDED.imbalance"""
_MARK: Final = f"""
UPDATE meter_days SET findings = findings # {int(Quality.IMBALANCE)} WHERE day = %(day)s AND slot = ANY(ARRAY(
    SELECT c.slot FROM unnest(%(transformers)s::integer[], %(imbalance)s::boolean[]) AS n (transformer_id, imbalance)
    CROSS JOIN LATERAL (
        SELECT slot, valid_from, valid_to FROM check_meters WHERE transformer_id = n.transformer_id OFFSET 0) AS c
    CROSS JOIN LATERAL (
        SELECT start_at, day_s, findings FROM meter_days WHERE slot = c.slot AND day = %(day)s OFFSET 0) AS d
    WHERE (d.findings & {int(Quality.IMBALANCE)} <> 0) <> n.imbalance
      AND c.valid_from < d.start_at + make_interval(secs => d.day_s) AND c.valid_to > d.start_at))"""
"""The days are found first, each looked up; joined to the UPDATE, those of all check meters were compared with each."""


async def energy_of_day(
    connection: psycopg.AsyncConnection[Any],
    day: int,
    slots: NDArray[np.int32],
    since_us: int,
    until_us: int,
    judged_below: int,
) -> Columns:
    """Energy of the measured transformers to which some of these meters belong, and all of whose meters have a slot
    below judged_below.

    Columns: transformer, supply_wh, sales_wh, members, coverage of supply and of sales, moved, and whether V18 had
    found it before. since_us, until_us: the local day, of several time zones from the first to the last.
    """
    parameters = {
        "day": as_date(day),
        "slots": integers(slots),
        "since": moment(since_us),
        "until": moment(until_us),
        "judged_below": judged_below,
    }
    [columns] = await fetch_columns(connection, _ENERGY, parameters)
    return columns


async def store_balances(
    connection: psycopg.AsyncConnection[Any],
    day: int,
    energy: Columns,
    loss: NDArray[np.float64],
    found: NDArray[np.bool_],
) -> None:
    """Write these balances, and the finding into the day of the check meters."""
    transformer, supply_wh, sales_wh, members, supplied, sold = energy[:6]
    at = integers(transformer.astype(np.int32))
    await connection.execute(
        _STORE,
        (
            as_date(day), at, bigints(supply_wh), bigints(sales_wh), integers(members.astype(np.int32)),
            supplied.tolist(), sold.tolist(), loss.tolist(), found.tolist(),
        ),
    )  # fmt: skip
    await connection.execute(_MARK, {"transformers": at, "imbalance": found.tolist(), "day": as_date(day)})
