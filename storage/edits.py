"""Reads put in by hand: what stood there before, and the row of read_edits that says who, when and why.

Both inside the transaction that stores the reads, so that there is no edit without its record. An edited read has the
highest rank; only another edit replaces it (storage.versions). Nothing here happens to reads of head-ends.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

from meterwatch.batch import Batch, Reads
from meterwatch.channels import CHANNEL_NAMES
from meterwatch.errors import Rejected, Stale
from storage.arrays import integers, moment, moments

_VALUES: Final = (
    "jsonb_strip_nulls(jsonb_build_object('version', r.version, 'quality', r.quality, 'interval_s', r.interval_s, "
    + ", ".join(f"'{name}', r.{name}" for name in CHANNEL_NAMES)
    + "))"
)
_STORED: Final = "r.slot = k.slot AND r.end_at = k.end_at AND r.end_at BETWEEN %(first)s AND %(last)s"
_BEFORE: Final = f"""
SELECT k.n, r.version, r.was FROM unnest(%(slot)s, %(end)s) WITH ORDINALITY AS k (slot, end_at, n)
CROSS JOIN LATERAL (SELECT r.version, {_VALUES}::text AS was FROM reads r WHERE {_STORED} FOR UPDATE) AS r"""
_BEFORE_UNLOCKED: Final = _BEFORE.replace("FOR UPDATE", "OFFSET 0")
_RECORD: Final = f"""
INSERT INTO read_edits (action_id, slot, end_at, operator, reason, recorded_at, version, old, new)
SELECT %(action)s, k.slot, k.end_at, %(operator)s, %(reason)s, %(now)s, r.version, k.was::jsonb, r.became
FROM unnest(%(slot)s, %(end)s, %(was)s::text[]) AS k (slot, end_at, was)
CROSS JOIN LATERAL (SELECT r.version, {_VALUES} AS became FROM reads r WHERE {_STORED} OFFSET 0) AS r"""


def look(cursor: psycopg.Cursor[Any], batch: Batch, *, lock: bool) -> list[str | None]:
    """Per read of an edit the stored one as JSON; None: none stored. Nothing for other batches.

    lock: keep other writers from them by row locks; without it something else must. Stale if one is not at the version
    the editor saw; Rejected ACTION_ID_REUSED for an edit older than the ledger.
    """
    edit, reads = batch.edit, batch.reads
    if edit is None:
        return []
    if cursor.execute("SELECT 1 FROM read_edits WHERE action_id = %s LIMIT 1", (edit.action_id,)).fetchone():
        raise Rejected("ACTION_ID_REUSED", f"action_id {edit.action_id!r} was used for another edit; choose a new one")
    before: list[str | None] = [None] * reads.rows
    version = [0] * reads.rows
    for n, stored, was in cursor.execute(_BEFORE if lock else _BEFORE_UNLOCKED, _place(reads)).fetchall():
        before[n - 1], version[n - 1] = was, stored
    for expected, stored in zip(edit.expected_version.tolist(), version, strict=True):
        if expected not in (0, stored):
            raise Stale(
                "READ_CHANGED",
                f"version {expected} of a read was to be edited and version {stored} is stored; "
                "read it again, then decide",
            )
    return before


def record(cursor: psycopg.Cursor[Any], batch: Batch, before: list[str | None], now_us: int) -> None:
    """Write down an edit whose reads are stored now; `before` is what `look` found. Nothing for other batches."""
    edit, reads = batch.edit, batch.reads
    if edit is None:
        return
    said = {"action": edit.action_id, "operator": edit.operator, "reason": edit.reason, "now": moment(now_us)}
    cursor.execute(_RECORD, _place(reads) | said | {"was": before})


def _place(reads: Reads) -> dict[str, Any]:
    """Where the reads stand, and between which ends, so that only the chunks of their time are asked."""
    first, last = moment(int(reads.end_us.min())), moment(int(reads.end_us.max()))
    return {"slot": integers(reads.slot), "end": moments(reads.end_us), "first": first, "last": last}
