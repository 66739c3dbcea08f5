"""Which of some reads are stored, and are they the same: one query, compared as columns.

The keys go to PostgreSQL as two arrays and what it has comes back as one array per column, so a row costs no Python
object. In rows a key costs an index lookup (`by_key`); in the columnstore the keys' box, their ends and the span of
their slots, is read once (`by_box`). Knows nothing of batches, versions or ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT, CHANNEL_NAMES, CHANNELS
from meterwatch.quality import SOURCE_MASK
from storage.arrays import columns_of, integers, moment, moments

ABSENT, SAME, OTHER = 0, 1, 2
"""Not stored; stored with the same values, interval and origin; stored with others."""

_MASK: Final = " + ".join(f"(r.{name} IS NOT NULL)::integer * {bit}" for name, bit in CHANNEL_BIT.items())
_VALUES: Final = ", ".join(f"coalesce(r.{name}, 0) AS {name}" for name in CHANNEL_NAMES)
_FOUND: Final = f"""
SELECT array_agg(n), array_agg(interval_s), array_agg(quality), array_agg(mask),
       {", ".join(f"array_agg({name})" for name in CHANNEL_NAMES)}
FROM (SELECT k.n, r.interval_s, r.quality, {_MASK} AS mask, {_VALUES}
      FROM unnest(%s::integer[], %s::timestamptz[]) WITH ORDINALITY AS k (slot, at, n)"""
LOOKED_UP: Final = (
    "SELECT * FROM reads r WHERE r.slot = {slot} AND r.end_at = {at} AND r.end_at BETWEEN {first} AND {last}"
)
"""One read by its key, to stand behind LATERAL with LIMIT or FOR UPDATE, which keep it from becoming a join. As a join
it gets another plan where statistics were taken after a chunk's first interval: they say that newer reads are not
there, so every key is compared with all of them. The span leaves out the chunks of other days."""
BY_KEY: Final = f"""{_FOUND}
      CROSS JOIN LATERAL ({LOOKED_UP.format(slot="k.slot", at="k.at", first="%s", last="%s")} LIMIT 1) AS r) AS found"""
BY_BOX: Final = f"""{_FOUND}
      JOIN reads r ON r.slot = k.slot AND r.end_at = k.at
      WHERE r.end_at BETWEEN %s AND %s AND r.slot BETWEEN %s AND %s) AS found"""

HASH_PLAN: Final = ("SET LOCAL enable_nestloop = off", "SET LOCAL enable_mergejoin = off")
"""One scan of the box, whatever the statistics say."""
Look = Callable[[psycopg.Cursor[Any], NDArray[np.int32], NDArray[np.int64]], list[NDArray[Any]]]


def by_key(cursor: psycopg.Cursor[Any], slot: NDArray[np.int32], end_us: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The stored reads with these keys, each by an index lookup."""
    return _ask(cursor, BY_KEY, slot, end_us, ())


def by_box(cursor: psycopg.Cursor[Any], slot: NDArray[np.int32], end_us: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The same out of the box around them."""
    cursor.execute("; ".join(HASH_PLAN))
    found = _ask(cursor, BY_BOX, slot, end_us, (int(slot.min()), int(slot.max())))
    cursor.execute("; ".join(setting.replace(" = off", " = on") for setting in HASH_PLAN))
    return found


def _ask(
    cursor: psycopg.Cursor[Any],
    query: str,
    slot: NDArray[np.int32],
    end_us: NDArray[np.int64],
    span: tuple[int, ...],
) -> list[NDArray[Any]]:
    with cursor.connection.cursor(binary=True) as binary:
        box = (moment(int(end_us.min())), moment(int(end_us.max())), *span)
        binary.execute(query, (integers(slot), moments(end_us), *box), prepare=False)
        return columns_of(binary)


def probe(cursor: psycopg.Cursor[Any], reads: Reads, rows: NDArray[np.intp], look: Look) -> NDArray[np.uint8]:
    """ABSENT, SAME or OTHER for each of `rows` of `reads`, inside the caller's transaction."""
    state = np.zeros(len(rows), np.uint8)
    if not len(rows):
        return state
    found = look(cursor, reads.slot[rows], reads.end_us[rows])
    if not len(found[0]):
        return state
    at = found[0] - 1  # ordinality counts from 1
    mine = rows[at]
    same = found[1] == reads.interval_s
    same &= (found[2] & SOURCE_MASK) == (reads.quality[mine] & SOURCE_MASK)
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
