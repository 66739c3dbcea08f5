"""The ledger: one row for each batch or events request with what was answered, and the quarantine of its rejected rows.

Promise: the answer of a re-send is made from the row alone. Writes inside the transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Batch, ReadChange, Stored
from meterwatch.errors import StorageBroken
from storage.arrays import RawJson, moment

READS, EVENTS, REGISTERS = 1, 2, 3
Cursor = psycopg.Cursor[tuple[Any, ...]]

_FIND = """
SELECT k.n, b.batch_id, b.digest, b.accepted, b.versions, b.duplicates, b.answer
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) WITH ORDINALITY AS k (head_end_id, epoch, seq, n)
JOIN batches b ON b.head_end_id = k.head_end_id AND b.kind = %s AND b.epoch = k.epoch AND b.seq = k.seq
"""
_ENTER = """
INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates, rejected,
                     first_end, last_end, received_at)
SELECT h, %s, e, s, digest, answer, rows_sent, accepted, versions, duplicates, rejected,
       to_timestamp(first_us / 1e6), to_timestamp(last_us / 1e6), to_timestamp(%s / 1e6)
FROM unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[], %s::integer[], %s::integer[],
            %s::integer[], %s::integer[], %s::integer[], %s::bigint[], %s::bigint[])
     AS n (h, e, s, digest, answer, rows_sent, accepted, versions, duplicates, rejected, first_us, last_us)
RETURNING head_end_id, epoch, seq, batch_id
"""
_QUARANTINE = (
    "COPY quarantine (received_at, head_end_id, kind, epoch, seq, row_no, reason, detail) FROM STDIN (FORMAT BINARY)"
)
_QUARANTINE_TYPES = ("timestamptz", "int4", "int2", "int8", "int8", "int4", "text", "jsonb")


class Entry(NamedTuple):
    """A batch with what became of its reads (rejects apart) and what that changed."""

    batch: Batch
    accepted: int
    versions: int
    duplicates: int
    change: ReadChange | None


def find(connection: psycopg.Connection[tuple[Any, ...]], kind: int, batches: Sequence[Batch]) -> list[Stored | None]:
    """Per batch the answer it got, marked as replayed, or as reused if its content is another; None if it is new."""
    keys = [(batch.head_end_id, batch.epoch, batch.seq) for batch in batches]
    rows = connection.execute(_FIND, (*map(list, zip(*keys, strict=True)), kind)).fetchall()
    known: list[Stored | None] = [None] * len(batches)
    for n, batch_id, digest, accepted, versions, duplicates, answer in rows:
        batch, count = batches[n - 1], len(answer) // 5
        rejected, reason = np.frombuffer(answer, "<u4", count), np.frombuffer(answer, np.uint8, count, 4 * count)
        reused = bytes(digest) != batch.digest
        known[n - 1] = Stored(
            batch.seq, batch_id, accepted, versions, duplicates, rejected, reason, not reused, reused, None
        )
    return known


def enter(cursor: Cursor, kind: int, entries: Sequence[Entry], now_us: int, reasons: dict[int, str]) -> list[Stored]:
    """Write ledger rows and quarantine; the answers. StorageBroken if not every row sent is accounted for.

    UniqueViolation if a key is taken.
    """
    columns: list[tuple[Any, ...]] = []
    for batch, accepted, versions, duplicates, _ in entries:
        rejects = batch.rejects
        total = accepted + versions + duplicates + len(rejects.row)
        if total != batch.rows_sent:
            raise StorageBroken(f"batch {batch.seq}: {total} rows accounted for, {batch.rows_sent} sent")
        end_us: NDArray[np.int64] = batch.reads.end_us
        first, last = (int(end_us.min()), int(end_us.max())) if len(end_us) else (None, None)
        answer = rejects.row.astype("<u4").tobytes() + rejects.reason.astype("u1").tobytes()
        columns.append(
            (batch.head_end_id, batch.epoch, batch.seq, batch.digest, answer, batch.rows_sent, accepted, versions,
             duplicates, len(rejects.row), first, last)
        )  # fmt: skip
    found = cursor.execute(_ENTER, (kind, now_us, *map(list, zip(*columns, strict=True)))).fetchall()
    batch_id = {row[:3]: int(row[3]) for row in found}
    _quarantine(cursor, kind, [entry.batch for entry in entries], now_us, reasons)
    return [
        Stored(
            batch.seq,
            batch_id[batch.head_end_id, batch.epoch, batch.seq],
            accepted,
            versions,
            duplicates,
            batch.rejects.row,
            batch.rejects.reason,
            False,
            False,
            change,
        )
        for batch, accepted, versions, duplicates, change in entries
    ]


def _quarantine(cursor: Cursor, kind: int, batches: Sequence[Batch], now_us: int, reasons: dict[int, str]) -> None:
    if not any(len(batch.rejects.row) for batch in batches):
        return
    received_at = moment(now_us)
    with cursor.copy(_QUARANTINE) as copy:
        copy.set_types(_QUARANTINE_TYPES)
        for batch in batches:
            rejects = batch.rejects
            key = (received_at, batch.head_end_id, kind, batch.epoch, batch.seq)
            for row, reason, detail in zip(rejects.row.tolist(), rejects.reason.tolist(), rejects.detail, strict=True):
                copy.write_row((*key, row, reasons[reason], RawJson(detail)))
