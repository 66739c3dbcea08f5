"""The ledger: one row for each batch or events request with what was answered, and the quarantine of its rejected rows.

Promise: the answer of a re-send is made from the row alone. Writes inside the transaction of the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Batch, ReadChange, Stored
from meterwatch.errors import StorageBroken

READS, EVENTS = 1, 2
Cursor = psycopg.Cursor[tuple[Any, ...]]

_FIND = (
    "SELECT batch_id, digest, accepted, versions, duplicates, answer FROM batches"
    " WHERE head_end_id = %s AND kind = %s AND epoch = %s AND seq = %s"
)
_LEDGER = """
INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates, rejected,
                     first_end, last_end, received_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
        to_timestamp(%s / 1e6), to_timestamp(%s / 1e6), to_timestamp(%s / 1e6))
RETURNING batch_id
"""
_QUARANTINE = (
    "INSERT INTO quarantine (received_at, head_end_id, kind, epoch, seq, row_no, reason, detail)"
    " VALUES (to_timestamp(%s / 1e6), %s, %s, %s, %s, %s, %s, %s::text::jsonb)"
)


def find(connection: psycopg.Connection[tuple[Any, ...]], kind: int, batch: Batch) -> Stored | None:
    """The answer the batch got, marked as replayed, or as reused if its content is another; None if it is new."""
    row = connection.execute(_FIND, (batch.head_end_id, kind, batch.epoch, batch.seq)).fetchone()
    if row is None:
        return None
    batch_id, digest, accepted, versions, duplicates, answer = row
    n = len(answer) // 5
    rejected, reason = np.frombuffer(answer, "<u4", n), np.frombuffer(answer, np.uint8, n, 4 * n)
    reused = bytes(digest) != batch.digest
    return Stored(batch.seq, batch_id, accepted, versions, duplicates, rejected, reason, not reused, reused, None)


def enter(
    cursor: Cursor,
    kind: int,
    batch: Batch,
    now_us: int,
    accepted: int,
    versions: int,
    duplicates: int,
    change: ReadChange | None,
    reasons: dict[int, str],
) -> Stored:
    """Write ledger row and quarantine; the answer. StorageBroken if not every row sent is accounted for.

    UniqueViolation if the key is taken.
    """
    rejects = batch.rejects
    total = accepted + versions + duplicates + len(rejects.row)
    if total != batch.rows_sent:
        raise StorageBroken(f"batch {batch.seq}: {total} rows accounted for, {batch.rows_sent} sent")
    end_us: NDArray[np.int64] = batch.reads.end_us
    first, last = (int(end_us.min()), int(end_us.max())) if len(end_us) else (None, None)
    answer = rejects.row.astype("<u4").tobytes() + rejects.reason.astype("u1").tobytes()
    found = cursor.execute(
        _LEDGER,
        (batch.head_end_id, kind, batch.epoch, batch.seq, batch.digest, answer, batch.rows_sent, accepted, versions,
         duplicates, len(rejects.row), first, last, now_us),
    ).fetchone()  # fmt: skip
    assert found is not None
    if len(rejects.row):
        key = (now_us, batch.head_end_id, kind, batch.epoch, batch.seq)
        cursor.executemany(
            _QUARANTINE,
            [
                (*key, int(row), reasons[int(reason)], detail.decode())
                for row, reason, detail in zip(rejects.row, rejects.reason, rejects.detail, strict=True)
            ],
        )
    return Stored(
        batch.seq, int(found[0]), accepted, versions, duplicates, rejects.row, rejects.reason, False, False, change
    )
