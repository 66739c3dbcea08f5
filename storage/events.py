"""Events into the database: many requests in one statement, and per request what was new.

Promise: an event is stored once (slot, time, code and phases are its key), whoever tells it; of two requests of a group
that tell the same event the first one has it. Works in the transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Batch, EventBatch, Events, Reads, Stored
from storage import ledger
from storage.arrays import columns_of, integers, moment, moments

_KEY: Final = np.dtype([("slot", np.int32), ("at_us", np.int64), ("code", np.int16), ("phases", np.int16)])
_INSERT: Final = """
WITH new AS (
    INSERT INTO events (at, received_at, slot, code, phases)
    SELECT at, %s, slot, code, phases
    FROM unnest(%s::timestamptz[], %s::integer[], %s::integer[], %s::integer[]) AS u (at, slot, code, phases)
    ORDER BY slot, at ON CONFLICT DO NOTHING RETURNING slot, at, code, phases)
SELECT array_agg(slot), array_agg(at), array_agg(code::integer), array_agg(phases::integer) FROM new"""

NO_EVENTS: Final = Events(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int16))
NO_READS: Final = Reads(NO_EVENTS.slot, NO_EVENTS.at_us, 900, NO_EVENTS.slot, {})


def as_batch(request: EventBatch) -> Batch:
    """The request as the ledger knows it: a batch without reads."""
    key = (request.head_end_id, request.epoch, request.seq, request.digest)
    return Batch(*key, NO_READS, request.rejects, 0, request.rows_sent)


def store_events(
    cursor: ledger.Cursor, group: Sequence[EventBatch], now_us: int, reasons: dict[int, str]
) -> list[tuple[Stored, Events]]:
    """Insert what is not stored, and the ledger rows; per request the answer and its new events."""
    keys = np.concatenate([_keys(request.events) for request in group])
    first = np.zeros(len(keys), np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    told = keys[first]
    fresh = first & np.isin(keys, _inserted(cursor, told, now_us)) if len(told) else first
    entries, new = [], []
    ends = np.cumsum([request.events.rows for request in group])
    for request, mine in zip(group, np.split(fresh, ends[:-1]), strict=True):
        events = request.events
        count = int(mine.sum())
        new.append(events.take(mine))
        entries.append(ledger.Entry(as_batch(request), count, 0, events.rows - count, None))
    return list(zip(ledger.enter(cursor, ledger.EVENTS, entries, now_us, reasons), new, strict=True))


def _keys(events: Events) -> NDArray[np.void]:
    keys = np.empty(events.rows, _KEY)
    for name in _KEY.names or ():
        keys[name] = getattr(events, name)
    return keys


def _inserted(cursor: ledger.Cursor, keys: NDArray[np.void], now_us: int) -> NDArray[np.void]:
    """Insert these events; those that were not there before."""
    numbers = (integers(keys[name].astype(np.int32)) for name in ("slot", "code", "phases"))
    with cursor.connection.cursor(binary=True) as binary:
        binary.execute(_INSERT, (moment(now_us), moments(keys["at_us"].copy()), *numbers))
        columns = columns_of(binary)
    found = np.empty(len(columns[0]), _KEY)
    for name, column in zip(_KEY.names or (), columns, strict=True):
        found[name] = column
    return found
