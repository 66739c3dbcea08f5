"""Invariants of the batch ledger: an ack is what is stored, what is stored is evaluated, what is owed has an owner.

Rows know their batch by the service's clock at their receipt, which a batch shares with those written together with it;
so batches are compared with rows by that moment.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Final

import psycopg

from storage.sound import EARLIEST, LATEST, Findings, Inspected, Unsound

UNANSWERED_MAX: Final = 128
"""Batches of one stream evaluated after one that is not. A stream has at most 64 unanswered, and its answers come in
their order; twice that for what two COPY connections do to the order of batch_id."""
_LOST: Final = (
    "acknowledged rows are missing or doubled: restore the database of a backup beside this one, compare, and have the"
    " head-end send that span again; then look for who wrote into the tables by hand"
)

_WINDOWS: Final = """
SELECT date_trunc('day', received_at), date_trunc('day', received_at) + interval '1 day', min(first_end), max(last_end)
FROM batches WHERE kind = 1 AND first_end >= %(since)s AND last_end < %(until)s GROUP BY 1 ORDER BY 1"""
_STORED_READS: Final = """
WITH owed AS (
    SELECT received_at, sum(accepted + versions) AS n FROM batches
    WHERE kind = 1 AND received_at >= %(first)s AND received_at < %(last)s
    GROUP BY received_at HAVING coalesce(min(first_end) >= %(since)s AND max(last_end) < %(until)s, true)
), stored AS (
    SELECT received_at, count(*) AS n FROM (
        SELECT received_at FROM reads WHERE end_at BETWEEN %(from)s AND %(to)s
          AND received_at >= %(first)s AND received_at < %(last)s
        UNION ALL
        SELECT received_at FROM read_versions WHERE end_at BETWEEN %(from)s AND %(to)s
          AND received_at >= %(first)s AND received_at < %(last)s) AS rows
    GROUP BY received_at)
SELECT o.received_at, o.n, coalesce(s.n, 0) FROM owed o LEFT JOIN stored s USING (received_at)
WHERE o.n <> coalesce(s.n, 0) ORDER BY 1 LIMIT %(most)s"""
_FOREIGN_READS: Final = """
SELECT r.received_at, r.n, r.end_at FROM (
    SELECT received_at, count(*) AS n, min(end_at) AS end_at FROM reads
    WHERE end_at >= %(first)s AND end_at < %(last)s AND received_at >= %(floor)s GROUP BY 1) AS r
WHERE NOT EXISTS (SELECT FROM batches b WHERE b.kind = 1 AND b.received_at = r.received_at)
ORDER BY 1 LIMIT %(most)s"""
_STORED: Final = """
SELECT received_at, coalesce(o.n, 0), coalesce(s.n, 0) FROM (
    SELECT received_at, sum(accepted + versions) AS n FROM batches
    WHERE kind = {kind} AND received_at >= %(floor)s GROUP BY 1) AS o
FULL JOIN (SELECT received_at, count(*) AS n FROM ({rows}) AS rows WHERE received_at >= %(floor)s GROUP BY 1) AS s
USING (received_at) WHERE coalesce(o.n, 0) <> coalesce(s.n, 0) ORDER BY 1 LIMIT %(most)s"""
_STORED_EVENTS: Final = _STORED.replace("{kind}", "2").replace("{rows}", "SELECT received_at FROM events")
_STORED_REGISTERS: Final = _STORED.replace("{kind}", "3").replace(
    "{rows}", "SELECT received_at FROM register_reads UNION ALL SELECT received_at FROM register_versions"
)
_QUARANTINE: Final = """
SELECT b.head_end_id, b.kind, b.epoch, b.seq, b.rejected, octet_length(b.answer) / 5, coalesce(q.n, 0)
FROM batches b LEFT JOIN (
    SELECT received_at, head_end_id, kind, epoch, seq, count(*) AS n FROM quarantine
    WHERE received_at >= %(floor)s GROUP BY 1, 2, 3, 4, 5) AS q USING (received_at, head_end_id, kind, epoch, seq)
WHERE b.received_at >= %(floor)s AND (b.rejected <> coalesce(q.n, 0) OR b.rejected * 5 <> octet_length(b.answer))
ORDER BY b.batch_id LIMIT %(most)s"""
_UNEVALUATED: Final = """
SELECT b.batch_id, b.head_end_id, b.kind, b.epoch, b.seq, (
    SELECT count(*) FROM (
        SELECT FROM batches l WHERE l.received_at >= b.received_at AND l.evaluated AND l.batch_id > b.batch_id
          AND (l.head_end_id, l.kind, l.epoch) = (b.head_end_id, b.kind, b.epoch) LIMIT %(unanswered)s) AS later)
FROM batches b WHERE NOT b.evaluated ORDER BY b.batch_id LIMIT 10000"""
_OWED: Final = """
SELECT o.batch_id, b.batch_id IS NOT NULL, coalesce(b.evaluated, false) FROM transformer_loads_owed o
LEFT JOIN batches b USING (batch_id)
WHERE b.batch_id IS NULL OR NOT b.evaluated
   OR (o.first_end, o.last_end, o.received_at) IS DISTINCT FROM (b.first_end, b.last_end, b.received_at)
ORDER BY 1 LIMIT %(most)s"""


async def stored_reads_are_accounted_for(db: Inspected) -> Findings:
    """What batches of reads were answered as stored is in reads and read_versions, row for row."""
    windows = await db.find(_WINDOWS)
    for done, (first, last, from_at, to_at) in enumerate(windows):
        db.progress(done, len(windows))
        spans = {"first": first, "last": last, "from": from_at, "to": to_at}
        for received_at, owed, stored in await db.find(_STORED_READS, **spans):
            yield Unsound(f"batches of reads received at {received_at}", f"{stored} rows", f"{owed} rows", _LOST)


async def reads_come_from_batches(db: Inspected) -> Findings:
    """Every read was received with a batch of the ledger, as far back as the ledger goes."""
    [(floor,)] = await db.find("SELECT min(received_at) FROM batches")
    if floor is None and db.retention.ledger_days is not None:
        return
    async for first, last in db.chunks("reads"):
        rows = await db.find(_FOREIGN_READS, first=first, last=last, floor=floor or EARLIEST)
        for received_at, n, end_at in rows:
            yield Unsound(
                f"reads received at {received_at}, ending {end_at} and later", f"{n} rows", "their batch in the ledger",
                "nobody was answered for these rows: find out who wrote them, or who deleted rows of batches",
            )  # fmt: skip


async def stored_events_are_accounted_for(db: Inspected) -> Findings:
    """What requests of events were answered as stored is in events, row for row."""
    floor = await _floor(db, "events", db.retention.events_days)
    for received_at, owed, stored in await db.find(_STORED_EVENTS, floor=floor):
        yield Unsound(f"events received at {received_at}", f"{stored} rows", f"{owed} rows", _LOST)


async def stored_registers_are_accounted_for(db: Inspected) -> Findings:
    """What requests of registers were answered as stored is in register_reads and register_versions, row for row."""
    floor = await _floor(db, "register_reads", db.retention.reads_days)
    for received_at, owed, stored in await db.find(_STORED_REGISTERS, floor=floor):
        yield Unsound(f"register reads received at {received_at}", f"{stored} rows", f"{owed} rows", _LOST)


async def rejected_rows_are_in_quarantine(db: Inspected) -> Findings:
    """Every row a batch was told to be rejected is in quarantine, and its answer can be given again."""
    floor = EARLIEST if db.retention.quarantine_days is None else await db.oldest_chunk("quarantine")
    if floor is None:
        return
    for head_end, kind, epoch, seq, rejected, answered, kept in await db.find(_QUARANTINE, floor=floor):
        yield Unsound(
            f"batch {seq} of head-end {head_end}, kind {kind}, epoch {epoch}",
            f"{kept} rows in quarantine, {answered} in its answer", f"{rejected} rejected rows",
            "the reads were not stored: ask the head-end for what it was told, and send corrected rows in a new batch",
        )  # fmt: skip


async def loads_owed_belong_to_a_batch(db: Inspected) -> Findings:
    """Every mark of loads (or of a judgement of the past) that are still to come is that of an evaluated batch."""
    for batch_id, known, evaluated in await db.find(_OWED):
        found = "its batch is not evaluated" if known and not evaluated else "no such batch in the ledger"
        yield Unsound(
            f"transformer_loads_owed, batch {batch_id}", "another span than that of its batch" if evaluated else found,
            "a mark of an evaluated batch, with its span",
            "stop the service, delete the mark, start it; then run this check again for the loads of that span",
        )  # fmt: skip


async def stored_batches_are_evaluated(db: Inspected) -> Findings:
    """No batch stays stored and not evaluated: not behind later ones of its stream, nor for long in a service."""
    waiting = await db.find(_UNEVALUATED, unanswered=UNANSWERED_MAX)
    overtaken = {row[0] for row in waiting if row[5] >= UNANSWERED_MAX}
    stuck = await _still_waiting(db, {row[0] for row in waiting} - overtaken)
    for batch_id, head_end, kind, epoch, seq, later in waiting:
        if batch_id in overtaken | stuck:
            late = f"{later} and more later ones of its stream are" if batch_id in overtaken else "a service runs"
            yield Unsound(
                f"batch {seq} of head-end {head_end}, kind {kind}, epoch {epoch} (batch_id {batch_id})",
                f"not evaluated, and {late}", "evaluated before it was acknowledged",
                "restart the service: a start evaluates what is stored and not evaluated",
            )  # fmt: skip


async def _still_waiting(db: Inspected, batch_ids: set[int]) -> set[int]:
    """Of these batches those that a running service has not evaluated after patience_s; none if no service runs."""
    async with await psycopg.AsyncConnection.connect(db.dsn, autocommit=True) as now:
        while batch_ids:
            cursor = await now.execute(
                "SELECT batch_id FROM batches WHERE NOT evaluated AND batch_id = ANY(%s)", (sorted(batch_ids),)
            )
            batch_ids = {row[0] for row in await cursor.fetchall()}
            if not batch_ids or not await db.service_runs():
                return set()
            if time.monotonic() - db.taken_s > db.patience_s:
                return batch_ids
            await asyncio.sleep(0.2)  # between two questions
    return set()


async def _floor(db: Inspected, table: str, kept_days: int | None) -> datetime:
    """Time of receipt from which on no row of a table can have been dropped."""
    if kept_days is None:
        return EARLIEST
    [(late_days,)] = await db.find("SELECT coalesce(max(late_window_days), 45) FROM head_ends")
    oldest = await db.oldest_chunk(table)
    return LATEST if oldest is None else oldest + timedelta(days=int(late_days) + 1)
