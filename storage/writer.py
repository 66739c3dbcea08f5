"""The COPY writer: validated batches into the database, each with ledger row, quarantine and reads in one transaction.

Optimistic first: the ledger is asked, then all fresh batches of a group go down in one COPY. Only a group that hits a
unique violation is written again batch by batch through a staging table, where duplicates are counted and different
values become versions. Blocking: call it from worker threads, one Writer (one connection) per thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg

from meterwatch.batch import Batch, Events, ReadChange, Reads, Stored
from meterwatch.channels import CHANNEL_BIT, CHANNEL_NAMES, ENERGY
from meterwatch.errors import StorageBroken, StorageUnavailable
from meterwatch.quality import ORIGIN_MASK, ORIGIN_RANK, ORIGIN_SHIFT
from storage.rows import COLUMNS, HEADER, TRAILER, encode

READS, EVENTS = 1, 2
RETRIES_MAX = 5
"""Deadlocks, serialisation failures and lost races are tried again this often."""
_TRANSIENT = (pg.DeadlockDetected, pg.SerializationFailure)
_CHANNELS = ", ".join(CHANNEL_NAMES)
_COPY_READS = f"COPY reads ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_COPY_STAGING = f"COPY staging (row_no, {', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_SAME = "(s.interval_s, s.quality & {mask}, {s}) IS NOT DISTINCT FROM (r.interval_s, r.quality & {mask}, {r})".format(
    mask=ORIGIN_MASK,
    s=", ".join(f"s.{name}" for name in CHANNEL_NAMES),
    r=", ".join(f"r.{name}" for name in CHANNEL_NAMES),
)
_EXISTING = f"""
SELECT s.row_no, {_SAME} OR EXISTS (
           SELECT FROM read_versions r WHERE r.slot = s.slot AND r.end_at = s.end_at AND {_SAME}) AS same,
       s.quality, r.quality, r.interval_s, {", ".join(f"r.{name}" for name in ENERGY)}
FROM staging s JOIN reads r ON r.slot = s.slot AND r.end_at = s.end_at
WHERE r.end_at BETWEEN to_timestamp(%s / 1e6) - interval '1 ms' AND to_timestamp(%s / 1e6) + interval '1 ms'
"""
_INSERT = f"""
INSERT INTO reads ({", ".join(COLUMNS)}) SELECT {", ".join(COLUMNS)} FROM staging
WHERE NOT row_no = ANY(%s) ORDER BY slot, end_at ON CONFLICT DO NOTHING
"""
_KEEP_OLD = f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join(f"r.{name}" for name in COLUMNS)}
FROM staging s JOIN reads r ON r.slot = s.slot AND r.end_at = s.end_at WHERE s.row_no = ANY(%s)
"""
_SET_NEW = f"""
UPDATE reads r SET received_at = s.received_at, interval_s = s.interval_s, quality = s.quality, version = r.version + 1,
    {", ".join(f"{name} = s.{name}" for name in CHANNEL_NAMES)}
FROM staging s WHERE r.slot = s.slot AND r.end_at = s.end_at AND s.row_no = ANY(%s)
"""
_KEEP_LOSER = f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join(f"s.{name}" for name in COLUMNS)} FROM staging s WHERE s.row_no = ANY(%s)
"""
_LEDGER = """
INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates, rejected,
                     first_end, last_end, received_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
        to_timestamp(%s / 1e6), to_timestamp(%s / 1e6), to_timestamp(%s / 1e6))
RETURNING batch_id
"""


class _Race(Exception):
    """Another writer stored some of the same reads meanwhile."""


class Writer:
    """One connection that writes batches. Not thread-safe; reconnects by itself on the next call after a failure."""

    def __init__(self, dsn: str, reasons: dict[int, str]) -> None:
        self._dsn = dsn
        self._reasons = reasons
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self.careful_batches = 0
        """Batches that went through staging, since start."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, group: Sequence[Batch], now_us: int) -> list[Stored]:
        """Store a group of batches; the answers in the same order. On return everything is committed.

        Raises StorageUnavailable (nothing acknowledged; a re-send settles it) or StorageBroken.
        """
        try:
            return self._write(group, now_us)
        except (psycopg.OperationalError, psycopg.InterfaceError, pg.InternalError_) as error:
            self.close()
            if isinstance(error, pg.DataCorrupted | pg.IndexCorrupted):
                raise StorageBroken(f"stored data is damaged: {error.sqlstate}") from error
            raise StorageUnavailable(
                f"the database did not take the batch ({error.sqlstate or 'no connection'})"
            ) from error

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                options="-c TimeZone=UTC -c lock_timeout=20s -c statement_timeout=60s -c synchronous_commit=on",
            )
            connection.execute("CREATE TEMP TABLE staging (LIKE reads) ON COMMIT DELETE ROWS")
            connection.execute("ALTER TABLE staging ADD row_no integer")
            self._connection = connection
        return self._connection

    def _write(self, group: Sequence[Batch], now_us: int) -> list[Stored]:
        connection = self._open()
        answers: dict[int, Stored] = {}
        fresh: list[tuple[int, Batch]] = []
        keys: set[tuple[int, int, int]] = set()
        again: list[tuple[int, Batch]] = []
        for i, batch in enumerate(group):
            key = (batch.head_end_id, batch.epoch, batch.seq)
            if key in keys:
                again.append((i, batch))
                continue
            keys.add(key)
            known = self._replay(connection, batch)
            if known is None:
                fresh.append((i, batch))
            else:
                answers[i] = known
        if fresh:
            try:
                with connection.transaction():
                    stored = self._optimistic(connection, [batch for _, batch in fresh], now_us)
                answers.update({i: s for (i, _), s in zip(fresh, stored, strict=True)})
            except (pg.UniqueViolation, *_TRANSIENT):
                for i, batch in fresh:
                    answers[i] = self._careful(connection, batch, now_us)
        for i, batch in again:
            answers[i] = self._careful(connection, batch, now_us)
        return [answers[i] for i in range(len(group))]

    def _replay(self, connection: psycopg.Connection[tuple[Any, ...]], batch: Batch) -> Stored | None:
        found = connection.execute(
            "SELECT batch_id, digest, accepted, versions, duplicates, answer FROM batches"
            " WHERE head_end_id = %s AND kind = %s AND epoch = %s AND seq = %s",
            (batch.head_end_id, READS, batch.epoch, batch.seq),
        ).fetchone()
        if found is None:
            return None
        batch_id, digest, accepted, versions, duplicates, answer = found
        row, reason = _unpack(answer)
        reused = bytes(digest) != batch.digest
        return Stored(batch.seq, batch_id, accepted, versions, duplicates, row, reason, not reused, reused, None)

    def _optimistic(
        self, connection: psycopg.Connection[tuple[Any, ...]], group: list[Batch], now_us: int
    ) -> list[Stored]:
        with connection.cursor() as cursor:
            with cursor.copy(_COPY_READS) as copy:
                copy.write(HEADER)
                for batch in group:
                    if batch.reads.rows:
                        copy.write(encode(batch.reads, now_us))
                copy.write(TRAILER)
            stored = []
            for batch in group:
                batch_id = self._ledger(cursor, batch, now_us, batch.reads.rows, 0, batch.inner_duplicates)
                stored.append(
                    _stored(batch, batch_id, batch.reads.rows, 0, batch.inner_duplicates, change_of(batch.reads))
                )
        return stored

    def _careful(self, connection: psycopg.Connection[tuple[Any, ...]], batch: Batch, now_us: int) -> Stored:
        self.careful_batches += 1
        for attempt in range(RETRIES_MAX):
            try:
                with connection.transaction():
                    known = self._replay(connection, batch)
                    if known is not None:
                        return known
                    return self._stage(connection, batch, now_us)
            except (pg.UniqueViolation, _Race, *_TRANSIENT):
                if attempt == RETRIES_MAX - 1:
                    raise StorageUnavailable("the same reads keep arriving from elsewhere at once; try again") from None
        raise AssertionError("unreachable")

    def _stage(self, connection: psycopg.Connection[tuple[Any, ...]], batch: Batch, now_us: int) -> Stored:
        reads = batch.reads
        with connection.cursor() as cursor:
            if reads.rows == 0:
                batch_id = self._ledger(cursor, batch, now_us, 0, 0, batch.inner_duplicates)
                return _stored(batch, batch_id, 0, 0, batch.inner_duplicates, None)
            with cursor.copy(_COPY_STAGING) as copy:
                copy.write(HEADER)
                copy.write(encode(reads, now_us, numbered=True))
                copy.write(TRAILER)
            cursor.execute("ANALYZE staging")
            cursor.execute("SET LOCAL enable_hashjoin = off")
            cursor.execute("SET LOCAL enable_mergejoin = off")
            span = (int(reads.end_us.min()), int(reads.end_us.max()))
            existing = cursor.execute(_EXISTING, span).fetchall()
            there = [row[0] for row in existing]
            differing = [row for row in existing if not row[1]]
            winners = [row for row in differing if _rank(row[2]) >= _rank(row[3])]
            losers = [row[0] for row in differing if _rank(row[2]) < _rank(row[3])]
            cursor.execute(_INSERT, (there,))
            inserted = reads.rows - len(there)
            if cursor.rowcount != inserted:
                raise _Race
            if winners:
                numbers = [row[0] for row in winners]
                cursor.execute(_KEEP_OLD, (numbers,))
                cursor.execute(_SET_NEW, (numbers,))
                if cursor.rowcount != len(numbers):
                    raise _Race
            if losers:
                cursor.execute(_KEEP_LOSER, (losers,))
            duplicates = batch.inner_duplicates + len(there) - len(differing)
            batch_id = self._ledger(cursor, batch, now_us, inserted, len(differing), duplicates)
        change = _change_after_staging(reads, there, winners)
        return _stored(batch, batch_id, inserted, len(differing), duplicates, change)

    def _ledger(
        self,
        cursor: psycopg.Cursor[tuple[Any, ...]],
        batch: Batch,
        now_us: int,
        accepted: int,
        versions: int,
        same: int,
    ) -> int:
        reads, rejects = batch.reads, batch.rejects
        first, last = (int(reads.end_us.min()), int(reads.end_us.max())) if reads.rows else (None, None)
        answer = rejects.row.astype("<u4").tobytes() + rejects.reason.astype("u1").tobytes()
        found = cursor.execute(
            _LEDGER,
            (batch.head_end_id, READS, batch.epoch, batch.seq, batch.digest, answer, batch.rows_sent, accepted,
             versions, same, len(rejects.row), first, last, now_us),
        ).fetchone()  # fmt: skip
        assert found is not None
        if len(rejects.row):
            cursor.executemany(
                "INSERT INTO quarantine (received_at, head_end_id, kind, epoch, seq, row_no, reason, detail)"
                " VALUES (to_timestamp(%s / 1e6), %s, %s, %s, %s, %s, %s, %s::text::jsonb)",
                [
                    (
                        now_us,
                        batch.head_end_id,
                        READS,
                        batch.epoch,
                        batch.seq,
                        int(row),
                        self._reasons[int(reason)],
                        detail.decode(),
                    )
                    for row, reason, detail in zip(rejects.row, rejects.reason, rejects.detail, strict=True)
                ],
            )
        return int(found[0])

    def write_events(
        self,
        head_end_id: int,
        epoch: int,
        seq: int,
        digest: bytes,
        events: Events,
        rejects: Any,
        rows_sent: int,
        now_us: int,
    ) -> tuple[Stored, Events]:
        """Store events; returns the answer and the events that are new. Errors as for write."""
        try:
            connection = self._open()
            empty = Reads(events.slot[:0], events.at_us[:0], 900, events.slot[:0], {})
            batch = Batch(head_end_id, epoch, seq, digest, empty, rejects, 0, rows_sent)
            with connection.transaction(), connection.cursor() as cursor:
                found = cursor.execute(
                    "SELECT batch_id, digest, accepted, versions, duplicates, answer FROM batches"
                    " WHERE head_end_id = %s AND kind = %s AND epoch = %s AND seq = %s",
                    (head_end_id, EVENTS, epoch, seq),
                ).fetchone()
                none = Events(events.slot[:0], events.at_us[:0], events.code[:0])
                if found is not None:
                    row, reason = _unpack(found[5])
                    reused = bytes(found[1]) != digest
                    return Stored(seq, found[0], found[2], 0, found[4], row, reason, not reused, reused, None), none
                new = cursor.execute(
                    "INSERT INTO events (at, received_at, slot, code)"
                    " SELECT to_timestamp(t / 1e6), to_timestamp(%s / 1e6), s, c"
                    " FROM unnest(%s::bigint[], %s::integer[], %s::smallint[]) AS u (t, s, c) ORDER BY s, t"
                    " ON CONFLICT DO NOTHING RETURNING slot, (extract(epoch FROM at) * 1000000)::bigint, code",
                    (now_us, events.at_us.tolist(), events.slot.tolist(), events.code.tolist()),
                ).fetchall()
                duplicates = events.rows - len(new)
                answer = rejects.row.astype("<u4").tobytes() + rejects.reason.astype("u1").tobytes()
                row_id = cursor.execute(
                    _LEDGER,
                    (head_end_id, EVENTS, epoch, seq, digest, answer, rows_sent, len(new), 0, duplicates,
                     len(rejects.row), None, None, now_us),
                ).fetchone()  # fmt: skip
                assert row_id is not None
            table = np.array(new, np.int64).reshape(-1, 3)
            fresh = Events(table[:, 0].astype(np.int32), table[:, 1].copy(), table[:, 2].astype(np.int16))
            return _stored(batch, row_id[0], len(new), 0, duplicates, None), fresh
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.close()
            raise StorageUnavailable(
                f"the database did not take the events ({error.sqlstate or 'no connection'})"
            ) from error


def change_of(reads: Reads, rows: NDArray[np.intp] | None = None) -> ReadChange:
    """Rows of `reads` (all by default) as newly stored."""
    take: Any = slice(None) if rows is None else rows
    n = len(reads.slot[take])

    def column(name: str) -> NDArray[np.int32]:
        if name not in reads.channels:
            return np.zeros(n, np.int32)
        values: NDArray[np.int32] = reads.channels[name][take]
        if reads.mask is not None:
            values = np.where(reads.mask[take] & CHANNEL_BIT[name], values, 0).astype(np.int32)
        return values

    def has(*names: str) -> NDArray[np.bool_]:
        bits = sum(CHANNEL_BIT[name] for name in names if name in reads.channels)
        if reads.mask is None:
            return np.full(n, bits != 0)
        present: NDArray[np.bool_] = (reads.mask[take] & np.uint32(bits)) != 0
        return present

    energy = [column(name) for name in ENERGY]
    return ReadChange(
        slot=reads.slot[take],
        end_us=reads.end_us[take],
        interval_s=np.full(n, reads.interval_s, np.int32),
        quality=reads.quality[take],
        import_wh=energy[0],
        export_wh=energy[1],
        import_varh=energy[2],
        export_varh=energy[3],
        has_energy=has("import_wh", "export_wh"),
        has_reactive=has("import_varh", "export_varh"),
        sign=np.ones(n, np.int8),
    )


def _change_after_staging(reads: Reads, there: list[int], winners: list[tuple[Any, ...]]) -> ReadChange | None:
    fresh = np.ones(reads.rows, np.bool_)
    fresh[there] = False
    fresh[[row[0] for row in winners]] = True
    plus = change_of(reads, np.flatnonzero(fresh))
    if not winners:
        return plus if len(plus.slot) else None
    at = np.array([row[0] for row in winners])
    value = np.array([[0 if item is None else item for item in row[3:9]] for row in winners], np.int32)
    absent = np.array([[item is None for item in row[5:9]] for row in winners], np.bool_)
    minus = ReadChange(
        slot=reads.slot[at],
        end_us=reads.end_us[at],
        quality=value[:, 0],
        interval_s=value[:, 1],
        import_wh=value[:, 2],
        export_wh=value[:, 3],
        import_varh=value[:, 4],
        export_varh=value[:, 5],
        has_energy=~np.logical_and(absent[:, 0], absent[:, 1]),
        has_reactive=~np.logical_and(absent[:, 2], absent[:, 3]),
        sign=np.full(len(at), -1, np.int8),
    )
    names = ReadChange.__dataclass_fields__
    return ReadChange(**{name: np.concatenate((getattr(plus, name), getattr(minus, name))) for name in names})


def _stored(
    batch: Batch, batch_id: int, accepted: int, versions: int, duplicates: int, change: ReadChange | None
) -> Stored:
    total = accepted + versions + duplicates + len(batch.rejects.row)
    if total != batch.rows_sent:
        raise StorageBroken(f"batch {batch.seq}: {total} rows accounted for, {batch.rows_sent} sent")
    return Stored(
        batch.seq,
        batch_id,
        accepted,
        versions,
        duplicates,
        batch.rejects.row,
        batch.rejects.reason,
        False,
        False,
        change,
    )


def _unpack(answer: bytes) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    n = len(answer) // 5
    return np.frombuffer(answer, "<u4", n), np.frombuffer(answer, np.uint8, n, 4 * n)


def _rank(quality: int) -> int:
    return ORIGIN_RANK.get((quality & ORIGIN_MASK) >> ORIGIN_SHIFT, 0)  # type: ignore[call-overload, no-any-return]
