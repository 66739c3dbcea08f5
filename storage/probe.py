"""Which of some reads are stored, and are they the same: one query, compared as columns.

The keys go to PostgreSQL as two arrays and what it has comes back as one array per column, so a row costs an index
lookup and no Python object. Knows nothing of batches, versions or ranks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT, CHANNEL_NAMES, CHANNELS
from meterwatch.quality import ORIGIN_MASK
from storage.arrays import columns_of, integers, moment, moments

ABSENT, SAME, OTHER = 0, 1, 2
"""Not stored; stored with the same values, interval and origin; stored with others."""

_MASK: Final = " + ".join(f"(r.{name} IS NOT NULL)::integer * {bit}" for name, bit in CHANNEL_BIT.items())
_VALUES: Final = ", ".join(f"coalesce(r.{name}, 0) AS {name}" for name in CHANNEL_NAMES)
_PROBE: Final = f"""
SELECT array_agg(n), array_agg(interval_s), array_agg(quality), array_agg(mask),
       {", ".join(f"array_agg({name})" for name in CHANNEL_NAMES)}
FROM (SELECT k.n, r.interval_s, r.quality, {_MASK} AS mask, {_VALUES}
      FROM unnest(%s::integer[], %s::timestamptz[]) WITH ORDINALITY AS k (slot, at, n)
      LEFT JOIN reads r ON r.slot = k.slot AND r.end_at = k.at AND r.end_at BETWEEN %s AND %s
      WHERE coalesce(r.interval_s, 0) > 0) AS found"""

PLAN: Final = (
    "SET LOCAL enable_hashjoin = off",
    "SET LOCAL enable_mergejoin = off",
    "SET LOCAL enable_material = off",
)
"""With the LEFT JOIN they leave one plan: an index lookup per key. Statistics taken after a chunk's first interval say
that the newer reads are not there; any other plan then compares every read with every key, which took minutes.
coalesce() keeps PostgreSQL from seeing that an inner join would do."""


def probe(cursor: psycopg.Cursor[Any], reads: Reads, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """ABSENT, SAME or OTHER for each of `rows` of `reads`, inside the caller's transaction."""
    state = np.zeros(len(rows), np.uint8)
    if not len(rows):
        return state
    slot, end_us = reads.slot[rows], reads.end_us[rows]
    for setting in PLAN:
        cursor.execute(setting)
    with cursor.connection.cursor(binary=True) as binary:
        binary.execute(
            _PROBE,
            (integers(slot), moments(end_us), moment(int(end_us.min())), moment(int(end_us.max()))),
        )
        found = columns_of(binary)
    if not len(found[0]):
        return state
    at = found[0] - 1  # ordinality counts from 1
    mine = rows[at]
    same = found[1] == reads.interval_s
    same &= (found[2] & ORIGIN_MASK) == (reads.quality[mine] & ORIGIN_MASK)
    same &= found[3] == _present(reads)[mine]
    for channel, stored in zip(CHANNELS, found[4:], strict=True):
        if channel.name in reads.channels:
            value = reads.channels[channel.name][mine]
            there = (found[3] & CHANNEL_BIT[channel.name]) != 0
            same &= ~there | (value.view(np.int32) == stored if channel.dtype.kind == "u" else value == stored)
    state[at] = np.where(same, SAME, OTHER)
    return state


def _present(reads: Reads) -> NDArray[np.int64]:
    sent = sum(CHANNEL_BIT[name] for name in reads.channels)
    if reads.mask is None:
        return np.full(reads.rows, sent, np.int64)
    return reads.mask.astype(np.int64) & sent
