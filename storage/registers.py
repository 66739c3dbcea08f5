"""Cumulative register reads in the database: stored once per meter, register and moment; the later arrival wins.

Promises: the value that was replaced is kept; a value that was current once and comes again is a duplicate, so what
is sent again changes nothing. Works in the transaction of the caller. Refuses to know a check.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import Batch, Stored
from meterwatch.local_days import as_date
from meterwatch.registers import LOOKBACK_US, SNAP_US, RegisterBatch, RegisterChange
from storage import ledger
from storage.arrays import bigints, columns_of, fetch_columns, integers, moment, moments
from storage.events import NO_READS

Columns = list[NDArray[Any]]
Ints = NDArray[np.int64]
_SENT: Final = "unnest(%(slot)s::integer[], %(register)s::integer[], %(at)s::timestamptz[], %(value)s::bigint[])"
_STORED: Final = f"""
SELECT array_agg((n - 1)::integer), array_agg(value_wh), array_agg(known)
FROM {_SENT} WITH ORDINALITY AS w (slot, register, at, value, n)
CROSS JOIN LATERAL (
    SELECT value_wh, EXISTS (
        SELECT FROM register_versions v WHERE v.slot = w.slot AND v.register = w.register AND v.at = w.at
          AND v.value_wh = w.value) AS known
    FROM register_reads r WHERE r.slot = w.slot AND r.register = w.register AND r.at = w.at
      AND r.at BETWEEN %(low)s AND %(high)s OFFSET 0) AS r"""
_INSERT: Final = f"""
INSERT INTO register_reads (at, received_at, slot, register, version, value_wh)
SELECT at, %(now)s, slot, register, 1, value
FROM {_SENT} AS w (slot, register, at, value) ORDER BY slot, register, at"""
_KEEP: Final = f"""
INSERT INTO register_versions
SELECT r.at, r.received_at, %(now)s, r.slot, r.register, r.version, r.value_wh
FROM {_SENT} AS w (slot, register, at, value) CROSS JOIN LATERAL (
    SELECT * FROM register_reads r WHERE r.slot = w.slot AND r.register = w.register AND r.at = w.at
      AND r.at BETWEEN %(low)s AND %(high)s OFFSET 0) AS r"""
_REPLACE: Final = f"""{_INSERT} ON CONFLICT (slot, register, at)
DO UPDATE SET value_wh = EXCLUDED.value_wh, received_at = EXCLUDED.received_at, version = register_reads.version + 1"""
"""All of them are stored; said as an INSERT each is looked up, whatever statistics say."""
_NEXT: Final = f"""
SELECT array_agg(w.slot), array_agg(r.at) FROM {_SENT} AS w (slot, register, at, value) CROSS JOIN LATERAL (
    SELECT r.at FROM register_reads r WHERE r.slot = w.slot AND r.register = w.register AND r.at > w.at
      AND r.at <= w.at + %(lookback)s AND r.at > %(low)s AND r.at <= %(high)s + %(lookback)s
    ORDER BY r.at LIMIT 1) AS r"""
_OF_DAYS: Final = """
SELECT array_agg((n - 1)::integer), array_agg(register::integer), array_agg(at), array_agg(value_wh),
       array_agg(device::integer), array_agg(lsb_wh), array_agg(digits)
FROM (
    SELECT n, register, at, value_wh, dense_rank() OVER (ORDER BY coalesce(m.device, '')) AS device,
           coalesce(m.lsb_wh, 1)::float8 AS lsb_wh, coalesce(m.digits, 0)::integer AS digits
    FROM unnest(%(slots)s, %(starts)s, %(ends)s) WITH ORDINALITY AS w (slot, start_at, end_by, n)
    CROSS JOIN LATERAL (
        SELECT register, at, value_wh FROM register_reads r WHERE r.slot = w.slot
          AND r.at >= w.start_at - %(snap)s AND r.at <= w.end_by + %(snap)s
          AND r.at >= %(low)s - %(snap)s AND r.at <= %(high)s + %(snap)s
        UNION ALL
        (SELECT register, at, value_wh FROM register_reads r WHERE r.slot = w.slot AND r.register = 1
          AND r.at < w.start_at - %(snap)s AND r.at >= w.start_at - %(lookback)s
          AND r.at < %(high)s AND r.at >= %(low)s - %(lookback)s ORDER BY r.at DESC LIMIT 1)
        UNION ALL
        (SELECT register, at, value_wh FROM register_reads r WHERE r.slot = w.slot AND r.register = 2
          AND r.at < w.start_at - %(snap)s AND r.at >= w.start_at - %(lookback)s
          AND r.at < %(high)s AND r.at >= %(low)s - %(lookback)s ORDER BY r.at DESC LIMIT 1)) AS r
    LEFT JOIN meter_registers m ON m.slot = w.slot AND m.valid_from <= r.at AND m.valid_to > r.at
    ORDER BY n, register, at) AS found"""
_STORE_DAYS: Final = """
INSERT INTO register_days (day, slot, register, first_at, last_at, register_wh, interval_wh, mismatch)
SELECT %s, slot, register, first_at, last_at, register_wh, interval_wh, mismatch <> 0
FROM unnest(%s::integer[], %s::integer[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::bigint[],
            %s::integer[]) AS n (slot, register, first_at, last_at, register_wh, interval_wh, mismatch)"""
NO_CHANGE: Final = RegisterChange(np.zeros(0, np.int32), np.zeros(0, np.int64))


def as_batch(request: RegisterBatch) -> Batch:
    """The request as the ledger knows it: a batch without reads."""
    key = (request.head_end_id, request.epoch, request.seq, request.digest)
    return Batch(*key, NO_READS, request.rejects, request.inner_duplicates, request.rows_sent)


def store_registers(
    cursor: ledger.Cursor, request: RegisterBatch, now_us: int, reasons: dict[int, str]
) -> tuple[Stored, RegisterChange]:
    """Store what is new or another value, and the ledger row; the answer, and what must be judged again."""
    reads = request.reads
    fresh, other = np.ones(reads.rows, np.bool_), np.zeros(reads.rows, np.bool_)
    change = NO_CHANGE
    if reads.rows:
        with cursor.connection.cursor(binary=True) as binary:
            binary.execute(_STORED, _sent(request, np.arange(reads.rows), now_us))
            at, value_wh, known = columns_of(binary)
            fresh[at] = False
            other[at] = (value_wh != reads.value_wh[at]) & ~known.astype(np.bool_)
            if fresh.any():
                binary.execute(_INSERT, _sent(request, np.flatnonzero(fresh), now_us))
            if other.any():
                replaced = _sent(request, np.flatnonzero(other), now_us)
                binary.execute(_KEEP, replaced)
                binary.execute(_REPLACE, replaced)
            changed = np.flatnonzero(fresh | other)
            if len(changed):
                binary.execute(_NEXT, _sent(request, changed, now_us))
                slot, next_us = columns_of(binary)
                change = RegisterChange(
                    np.concatenate((reads.slot[changed], slot)).astype(np.int32),
                    np.concatenate((reads.at_us[changed], next_us)),
                )
    accepted, versions = int(fresh.sum()), int(other.sum())
    duplicates = reads.rows - accepted - versions + request.inner_duplicates
    entry = ledger.Entry(as_batch(request), accepted, versions, duplicates, None)
    [stored] = ledger.enter(cursor, ledger.REGISTERS, [entry], now_us, reasons)
    return stored, change


def _sent(request: RegisterBatch, rows: NDArray[np.intp], now_us: int) -> dict[str, Any]:
    reads = request.reads
    at_us = reads.at_us[rows]
    return {
        "slot": integers(reads.slot[rows]),
        "register": integers(reads.register[rows].astype(np.int32)),
        "at": moments(at_us),
        "value": bigints(reads.value_wh[rows]),
        "low": moment(int(at_us.min())),
        "high": moment(int(at_us.max())),
        "now": moment(now_us),
        "lookback": _LOOKBACK,
    }


_LOOKBACK: Final = timedelta(microseconds=LOOKBACK_US)
_SNAP: Final = timedelta(microseconds=SNAP_US)


async def registers_of_days(
    connection: psycopg.AsyncConnection[Any], slots: NDArray[np.int32], start_us: Ints, end_us: Ints
) -> Columns:
    """Register reads of each span, its ends included, and of each register the last one before it.

    Columns: index of the span, register, at_us, value_wh, number of the device, lsb_wh of its display, digits (0: not
    known); by index, register and time.
    """
    parameters = {
        "slots": integers(slots),
        "starts": moments(start_us),
        "ends": moments(end_us),
        "low": moment(int(start_us.min())),
        "high": moment(int(end_us.max())),
        "lookback": _LOOKBACK,
        "snap": _SNAP,
    }
    [columns] = await fetch_columns(connection, _OF_DAYS, parameters)
    return columns


async def store_register_days(
    connection: psycopg.AsyncConnection[Any], day: int, slots: NDArray[np.int32], columns: Columns
) -> None:
    """Put these rows in the place of those of the day and the meters: slot, register, first and last us, Wh by
    register and by intervals, mismatch."""
    await connection.execute(
        "DELETE FROM register_days WHERE day = %s AND slot = ANY(%s)", (as_date(day), integers(slots))
    )
    if columns and len(columns[0]):
        slot, register, first_us, last_us, register_wh, interval_wh, mismatch = columns
        await connection.execute(
            _STORE_DAYS,
            (
                as_date(day),
                integers(slot.astype(np.int32)),
                integers(register.astype(np.int32)),
                moments(first_us),
                moments(last_us),
                bigints(register_wh),
                bigints(interval_wh),
                integers(mismatch.astype(np.int32)),
            ),
        )
