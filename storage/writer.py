"""The writer: validated batches into the database, each with ledger row, quarantine and reads in one transaction.

Optimistic first: the ledger is asked, then all fresh batches of a group go down in one transaction with one COPY, and
only reads that the table (storage.reads_table) suspects are looked up before. A group in which it was wrong is written
again batch by batch with every read looked up. Blocking: call it from worker threads, one Writer (one connection) per
thread.

What was or may have been committed and not returned (the connection broke in COMMIT, or a later batch of the group
failed) is kept in `Doubts`: the re-send gets it as stored for the first time, so that its reads reach the rules.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from meterwatch.batch import Batch, EventBatch, Events, Stored
from meterwatch.errors import StorageUnavailable
from meterwatch.registers import RegisterBatch, RegisterChange
from storage import edits, ledger, registers, settings
from storage.doubts import Doubts
from storage.events import NO_EVENTS, as_batch, store_events
from storage.faults import fault_of
from storage.ledger import EVENTS, READS, REGISTERS
from storage.patience import SERVER_TCP, PatientConnection, patient
from storage.reads_table import ReadsTable
from storage.rowstore import Rowstore
from storage.settle import settle
from storage.stamps import Stamps
from storage.versions import Race, create_staging

CONNECT_TIMEOUT_S = 10
CLOSE_WAIT_S = 5.0
SEND_BUFFER_BYTES = 4 * 1024 * 1024
"""Asked for on a Unix socket; the system grants what net.core.wmem_max allows. A COPY of 10,000 rows is 800 kB; each
time the socket is full libpq moves the rest and the thread sleeps: with the default of 208 kB three times a batch."""
RETRIES_MAX = 5
"""Deadlocks, serialisation failures and lost races are tried again this often."""
RETRY_PAUSE_S = 0.01
"""At most twice as long before the first of them, and each time twice as long as before."""
_TRANSIENT = (pg.DeadlockDetected, pg.SerializationFailure)

_T = TypeVar("_T")


class Writer:
    """One connection that writes batches. Not thread-safe; reconnects by itself on the next call after a failure."""

    def __init__(
        self, dsn: str, reasons: dict[int, str], doubts: Doubts | None = None, table: ReadsTable | None = None
    ) -> None:
        self._dsn = dsn
        self._reasons = reasons
        self._doubts = Doubts() if doubts is None else doubts
        self.table: ReadsTable = Rowstore() if table is None else table
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._stamps = Stamps()
        self._busy = threading.Lock()
        self.retried = 0
        """Calls done again after a deadlock or a serialisation failure, since start."""
        self.careful_batches = 0
        """Batches written again with every read looked up, since start."""

    def close(self) -> None:
        """Close the connection; from another thread while a call runs: stop that call first."""
        if not self._busy.acquire(blocking=False):
            connection = self._connection
            if connection is not None:
                connection.cancel_safe(timeout=CLOSE_WAIT_S)
            if not self._busy.acquire(timeout=CLOSE_WAIT_S):
                return  # libpq frees nothing under a running call; the end of the process does
        try:
            self._drop()
        finally:
            self._busy.release()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(self, group: Sequence[Batch], now_us: int) -> list[Stored]:
        """Store a group of batches; the answers in the same order. On return everything is committed.

        Raises StorageUnavailable or Overloaded (a re-send settles what was committed), StorageBroken, or an error that
        one of the batches causes whenever it is sent; then write them one by one.
        """
        return self._guarded(lambda: self._write(group, now_us))

    def _guarded(self, work: Callable[[], _T]) -> _T:
        with self._busy:
            try:
                return self._retried(work)
            except psycopg.Error as error:
                fault = fault_of(error)
                if fault is None:
                    self._drop_unless_idle()
                    raise
                self._drop()
                raise fault from error
            except BaseException:
                self._drop_unless_idle()
                raise

    def _retried(self, work: Callable[[], _T]) -> _T:
        """Do it again after a deadlock or a serialisation failure: the database has undone all of it."""
        for attempt in range(1, RETRIES_MAX):
            try:
                return work()
            except _TRANSIENT:
                self.retried += 1
                time.sleep(random.uniform(0.0, RETRY_PAUSE_S * 2.0**attempt))  # whom it collided with waits as well
        return work()

    def _drop_unless_idle(self) -> None:
        if self._connection is not None and self._connection.info.transaction_status != TransactionStatus.IDLE:
            self._drop()

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = PatientConnection.connect(
                patient(self._dsn),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                options="-c TimeZone=UTC -c lock_timeout=20s -c statement_timeout=60s -c synchronous_commit=on "
                f"{SERVER_TCP}",
            )
            try:
                settings.check_session(connection)
                _widen(connection)
                create_staging(connection)
                self.table.opened(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._stamps = Stamps()
        return self._connection

    def _write(self, group: Sequence[Batch], now_us: int) -> list[Stored]:
        connection = self._open()
        answers: dict[int, Stored] = {}
        fresh: list[tuple[int, Batch]] = []
        keys: set[tuple[int, int, int]] = set()
        again: list[tuple[int, Batch]] = []
        try:
            for i, (batch, known) in enumerate(zip(group, self._replays(connection, group), strict=True)):
                key = (batch.head_end_id, batch.epoch, batch.seq)
                if key in keys or batch.insists:
                    again.append((i, batch))
                    continue
                keys.add(key)
                if known is None:
                    fresh.append((i, batch))
                else:
                    answers[i] = known
            try:
                while fresh:  # those set apart are the next group; the first of a group never is
                    stored = self._optimistic(connection, [batch for _, batch in fresh], now_us)
                    answers.update({i: done for (i, _), done in zip(fresh, stored, strict=True) if done is not None})
                    fresh = [(i, batch) for i, batch in fresh if i not in answers]
            except (pg.UniqueViolation, Race, *_TRANSIENT):
                pass
            for i, batch in [*fresh, *again]:
                answers[i] = self._careful(connection, batch, now_us)
        except BaseException:
            self._keep([group[i] for i in answers], list(answers.values()))
            raise
        for batch in group:
            self._doubts.forget(READS, batch)
        return [answers[i] for i in range(len(group))]

    def _replays(self, connection: psycopg.Connection[tuple[Any, ...]], group: Sequence[Batch]) -> list[Stored | None]:
        """Per batch the answer it has already; what is in doubt counts as stored for the first time."""
        return [
            self._doubted(batch, known)
            for batch, known in zip(group, ledger.find(connection, READS, group), strict=True)
        ]

    def _doubted(self, batch: Batch, known: Stored | None) -> Stored | None:
        if known is None or known.reused:
            return known
        kept = self._doubts.take(READS, batch, known.batch_id)
        return known if kept is None else kept[0]

    def _optimistic(
        self, connection: psycopg.Connection[tuple[Any, ...]], group: list[Batch], now_us: int
    ) -> list[Stored | None]:
        """The answers; None for a batch that was set apart."""
        answers: list[Stored | None] = [None] * len(group)
        with self.table.taking(connection, [batch.reads for batch in group]) as suspects:
            together = [i for i in range(len(group)) if i not in suspects.apart]
            batches = [group[i] for i in together]
            stored = self._commit(connection, batches, [suspects.rows[i] for i in together], now_us)
        for i, done in zip(together, stored, strict=True):
            answers[i] = done
        return answers

    def _commit(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        group: list[Batch],
        suspects: Sequence[NDArray[np.bool_] | None],
        now_us: int,
    ) -> list[Stored]:
        stored: list[Stored] = []
        self._stamps.record(connection, [batch.reads for batch in group])
        try:
            with connection.transaction(), connection.cursor() as cursor:
                self.table.begin(cursor)
                before = [edits.look(cursor, batch, lock=self.table.locks) for batch in group]
                insist = any(batch.insists for batch in group)
                outcomes = settle(cursor, self.table, [batch.reads for batch in group], suspects, now_us, insist=insist)
                for batch, was in zip(group, before, strict=True):
                    edits.record(cursor, batch, was, now_us)
                entries = [
                    ledger.Entry(batch, one.accepted, one.versions, one.duplicates + batch.inner_duplicates, one.change)
                    for batch, one in zip(group, outcomes, strict=True)
                ]
                stored = ledger.enter(cursor, READS, entries, now_us, self._reasons)
        except psycopg.Error:
            self._keep(group, stored)
            raise
        return stored

    def _careful(self, connection: psycopg.Connection[tuple[Any, ...]], batch: Batch, now_us: int) -> Stored:
        self.careful_batches += not batch.insists
        for attempt in range(RETRIES_MAX):
            try:
                [known] = self._replays(connection, [batch])
                if known is not None:
                    return known
                everything = np.ones(batch.reads.rows, np.bool_) if batch.reads.rows else None
                with self.table.taking(connection, [batch.reads]):
                    return self._commit(connection, [batch], [everything], now_us)[0]
            except (pg.UniqueViolation, Race, *_TRANSIENT):
                if attempt == RETRIES_MAX - 1:
                    raise StorageUnavailable("the same reads keep arriving from elsewhere at once; try again") from None
        raise AssertionError("unreachable")

    def _keep(self, group: Sequence[Batch], stored: Sequence[Stored]) -> None:
        """Their transaction came to its COMMIT (else `stored` is empty) and how that ended is unknown."""
        for batch, outcome in zip(group, stored, strict=False):
            if not (outcome.replayed or outcome.reused):
                self._doubts.keep(READS, batch, outcome, None)

    def write_events(self, group: Sequence[EventBatch], now_us: int) -> list[tuple[Stored, Events]]:
        """Store requests of events in one transaction; per request the answer and the events that are new.

        An event that two requests tell is new in the first. Errors as for write.
        """
        return self._guarded(lambda: self._write_events(group, now_us))

    def _write_events(self, group: Sequence[EventBatch], now_us: int) -> list[tuple[Stored, Events]]:
        connection = self._open()
        batches = [as_batch(request) for request in group]
        answers: dict[int, tuple[Stored, Events]] = {}
        fresh: dict[tuple[int, int, int], int] = {}
        again: list[int] = []
        for i, (batch, known) in enumerate(zip(batches, ledger.find(connection, EVENTS, batches), strict=True)):
            if known is not None:
                answers[i] = self._told_before(batch, known)
            elif (key := (batch.head_end_id, batch.epoch, batch.seq)) in fresh:
                again.append(i)
            else:
                fresh[key] = i
        mine = list(fresh.values())
        done: list[tuple[Stored, Events]] = []
        try:
            if mine:
                with connection.transaction(), connection.cursor() as cursor:
                    done = store_events(cursor, [group[i] for i in mine], now_us, self._reasons)
        except psycopg.Error:
            for i, (stored, events) in zip(mine, done, strict=False):
                self._doubts.keep(EVENTS, batches[i], stored, events)
            raise
        for i, answer in zip(mine, done, strict=True):
            self._doubts.forget(EVENTS, batches[i])
            answers[i] = answer
        if again:
            answers |= dict(zip(again, self._write_events([group[i] for i in again], now_us), strict=True))
        return [answers[i] for i in range(len(group))]

    def _told_before(self, batch: Batch, known: Stored) -> tuple[Stored, Events]:
        kept = None if known.reused else self._doubts.take(EVENTS, batch, known.batch_id)
        return (kept[0], kept[1]) if kept is not None and isinstance(kept[1], Events) else (known, NO_EVENTS)

    def write_registers(self, request: RegisterBatch, now_us: int) -> tuple[Stored, RegisterChange]:
        """Store a request of register reads in one transaction; the answer and what it changed. Errors as for write."""
        return self._guarded(lambda: self._write_registers(request, now_us))

    def _write_registers(self, request: RegisterBatch, now_us: int) -> tuple[Stored, RegisterChange]:
        connection = self._open()
        batch = registers.as_batch(request)
        [known] = ledger.find(connection, REGISTERS, [batch])
        if known is not None:
            kept = None if known.reused else self._doubts.take(REGISTERS, batch, known.batch_id)
            if kept is not None and isinstance(kept[1], RegisterChange):
                return kept[0], kept[1]
            return known, registers.NO_CHANGE
        done: tuple[Stored, RegisterChange] | None = None
        try:
            with connection.transaction(), connection.cursor() as cursor:
                done = registers.store_registers(cursor, request, now_us, self._reasons)
        except psycopg.Error:
            if done is not None:
                self._doubts.keep(REGISTERS, batch, *done)
            raise
        self._doubts.forget(REGISTERS, batch)
        return done


def _widen(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        if own.family == socket.AF_UNIX:  # TCP finds its buffer by itself
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
