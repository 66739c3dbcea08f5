"""Work the service owes its tables, in the background: chunks made before they are needed, old data dropped, and in
the columnstore finished days packed.

A chunk made inside a COPY costs that batch milliseconds and can deadlock with another COPY making the same one, so the
chunks of the days to come are made ahead. The Apache edition has neither create_chunk() nor retention jobs: a row
inserted and deleted in one transaction makes the chunk, drop_chunks() drops it. In the columnstore a day that has been
over for PACK_AFTER is packed: its reads, compressed as they came, are brought into the order of meters, and what small
batches and versions left in rows goes with them. Reads that come meanwhile are stored beside it.
Promises: a step waits at most LOCK_TIMEOUT for a lock and is tried again later, so it never stalls ingestion; nothing
younger than the longest late window of a head-end is dropped, whatever the configuration says; the batch ledger keeps
what is not evaluated. Refuses to know rules and alarms beyond the age of their rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
import structlog
from psycopg import errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from meterwatch.clock import Clock
from storage.arrays import moment

AHEAD_DAYS: Final = 2
"""Chunks of `reads` made ahead, beside today's. events and versions have chunks of a week."""
EVERY_S: Final = 600.0
LOCK_TIMEOUT: Final = "2s"
SLICE_ROWS: Final = 10_000
"""Rows of a plain table deleted in one transaction."""
PACK_AFTER: Final = timedelta(hours=36)
PACK_AGAIN: Final = timedelta(days=7)
"""Days that late reads keep coming to are packed again only so often."""
_PACKABLE: Final = 2 | 8
"""Bits of a chunk's status: some batches are in no order, some rows are not compressed."""
_PACK_STEPS: Final = 2
"""What is in rows goes into batches first, then the batches into order."""
_BUSY: Final = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled, errors.SerializationFailure)
_AHEAD: Final = (
    ("reads", "end_at", 1), ("events", "at", 7), ("read_versions", "end_at", 7), ("transformer_loads", "window_end", 7),
    ("meter_days", "day", 7),
)  # fmt: skip
_SENTINEL: Final = {
    "reads": "(end_at, received_at, slot, interval_s, quality, version) VALUES (%(at)s, %(at)s, -1, 1, 0, 0)",
    "events": "(at, received_at, slot, code) VALUES (%(at)s, %(at)s, -1, 0)",
    "read_versions": (
        "(end_at, received_at, superseded_at, slot, interval_s, quality, version)"
        " VALUES (%(at)s, %(at)s, %(at)s, -1, 1, 0, 0)"
    ),
    "transformer_loads": (
        "(transformer_id, window_end, wh, varh, covered_weight_s, expected_weight_s) VALUES (-1, %(at)s, 0, 0, 0, 0)"
    ),
    "meter_days": (
        "(slot, day, start_at, day_s, import_wh, export_wh, present, expected, estimated, covered_s, complete,"
        " findings, tail_interval_s, tail_import_wh, tail_export_wh, tail_same_s, tail_loaded)"
        " VALUES (-1, %(at)s, %(at)s, 0, 0, 0, 0, 0, 0, 0, false, 0, 0, 0, 0, 0, 0)"
    ),
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """Days each kind of row is kept after its time; None: for ever."""

    reads_days: int | None = None
    events_days: int | None = None
    loads_days: int | None = None
    """transformer_loads: the load of every transformer by quarter-hour."""
    meter_days: int | None = None
    """meter_days: energy, peak and findings of every meter by local day."""
    quarantine_days: int | None = 365
    ledger_days: int | None = 60
    alarms_days: int | None = None
    """Ended alarms with their log and actions. A subscriber with an older cursor is told to take a snapshot."""


class Upkeep:
    """Runs the steps every EVERY_S on one connection of the pool."""

    def __init__(
        self, pool: AsyncConnectionPool[Any], clock: Clock, retention: Retention, *, packs: bool = False
    ) -> None:
        self._pool = pool
        self._packs = packs
        self._packed: dict[str, datetime] = {}
        self._clock = clock
        self._retention = retention
        self.dropped: Callable[[str, int], None] = lambda table, count: None
        """Told of the chunks or rows of a table that were dropped."""

    async def run(self) -> None:
        """Do the steps now and then every EVERY_S, until cancelled. A step that fails is logged and comes again."""
        while True:
            try:
                await self.once()
            except (psycopg.Error, PoolTimeout) as error:
                _log.warning("upkeep put off", error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None))
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        """One round."""
        now = moment(self._clock.now_us())
        async with self._pool.connection() as connection:
            await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            try:
                await self._drop(connection, now)  # first: a chunk needs room, and room may be what is missing
                for table, column, days in _AHEAD:
                    for ahead in range(AHEAD_DAYS + 1 if days == 1 else 2):
                        await self._make_chunk(connection, table, column, now + timedelta(days=ahead * days))
                if self._packs:
                    await self._pack(connection, now)
            finally:
                await connection.execute("RESET lock_timeout")

    async def _make_chunk(
        self, connection: psycopg.AsyncConnection[Any], table: str, column: str, now: datetime
    ) -> None:
        at = now.date() if column == "day" else now
        name, key = sql.Identifier(table), "transformer_id" if table == "transformer_loads" else "slot"
        found = await connection.execute(
            "SELECT 1 FROM timescaledb_information.chunks"
            " WHERE hypertable_name = %s AND range_start <= %s AND range_end > %s",
            (table, at, at),
        )
        if await found.fetchone():
            return
        try:
            async with connection.transaction():
                await connection.execute(sql.SQL("INSERT INTO {} " + _SENTINEL[table]).format(name), {"at": at})
                await connection.execute(
                    sql.SQL("DELETE FROM {} WHERE {} = %s AND {} = -1").format(
                        name, sql.Identifier(column), sql.Identifier(key)
                    ),
                    (at,),
                )
        except _BUSY as error:
            _log.info("chunk not made ahead", table=table, at=at.isoformat(), error=type(error).__name__)

    async def _pack(self, connection: psycopg.AsyncConnection[Any], now: datetime) -> None:
        """The oldest finished day that needs it; one a round, so that nothing else waits long for its turn."""
        found = await (
            await connection.execute(
                "SELECT chunk, _timescaledb_functions.chunk_status(chunk) FROM ("
                " SELECT format('%%I.%%I', chunk_schema, chunk_name)::regclass AS chunk, range_start"
                " FROM timescaledb_information.chunks WHERE hypertable_name = 'reads' AND range_end < %s) AS finished"
                " ORDER BY range_start",
                (now - PACK_AFTER,),
            )
        ).fetchall()
        self._packed = {name: at for name, at in self._packed.items() if now - at < PACK_AGAIN}
        for name, status in found:
            if name in self._packed or (status and not status & _PACKABLE):
                continue
            self._packed[name] = now
            try:
                for _ in range(_PACK_STEPS):
                    await self._pack_step(connection, name)
            except _BUSY as error:
                _log.info("day not packed yet", chunk=name, error=type(error).__name__)
                continue
            _log.info("day packed", chunk=name)
            return

    async def _pack_step(self, connection: psycopg.AsyncConnection[Any], chunk: str) -> None:
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute(
                "SELECT compress_chunk(chunk, recompress => true) FROM (SELECT %s::regclass AS chunk) AS one"
                " WHERE _timescaledb_functions.chunk_status(chunk) & %s <> %s",
                (chunk, 1 | _PACKABLE, 1),
            )

    async def _drop(self, connection: psycopg.AsyncConnection[Any], now: datetime) -> None:
        row = await (await connection.execute("SELECT coalesce(max(late_window_days), 45) FROM head_ends")).fetchone()
        late_days = int(row[0]) if row else 45

        def cut(days: int | None) -> datetime | None:
            return None if days is None else now - timedelta(days=max(days, late_days + 1))

        keep = self._retention
        for table, days in (
            ("reads", keep.reads_days),
            ("read_versions", keep.reads_days),
            ("events", keep.events_days),
            ("transformer_loads", keep.loads_days),
            ("transformer_load_estimates", keep.loads_days),
            ("meter_days", keep.meter_days),
            ("register_reads", keep.reads_days),
            ("register_versions", keep.reads_days),
            ("register_days", keep.meter_days),
            ("transformer_days", keep.meter_days),
            ("quarantine", keep.quarantine_days),
        ):
            older = cut(days)
            dropped = older is not None and await self._drop_chunks(connection, table, older)
            if older is not None and dropped and table == "reads":  # a chunk that begins before `older` stays
                await self._slices(connection, "read_stamps", "end_at < %s", older - timedelta(days=1))
        if (older := cut(keep.ledger_days)) is not None:
            await self._slices(connection, "batches", "received_at < %s AND evaluated", older)
        if keep.alarms_days is not None:
            older = now - timedelta(days=keep.alarms_days)
            await self._drop_alarms(connection, older)

    async def _drop_chunks(self, connection: psycopg.AsyncConnection[Any], table: str, older: datetime) -> bool:
        """False: put off."""
        try:
            before = older.date() if table.endswith("_days") else older
            dropped = await (await connection.execute("SELECT drop_chunks(%s, %s)", (table, before))).fetchall()
        except _BUSY as error:
            _log.info("chunks not dropped yet", table=table, error=type(error).__name__)
            return False
        if dropped:
            _log.info("chunks dropped", table=table, chunks=len(dropped), older_than=older.isoformat())
            self.dropped(table, len(dropped))
        return True

    async def _slices(
        self, connection: psycopg.AsyncConnection[Any], table: str, condition: str, older: datetime
    ) -> None:
        query = sql.SQL(
            "DELETE FROM {0} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {0} WHERE " + condition + " LIMIT %s))"
        ).format(sql.Identifier(table))
        total = 0
        while True:
            count = (await connection.execute(query, (older, SLICE_ROWS))).rowcount
            total += count
            if count < SLICE_ROWS:
                break
            await asyncio.sleep(0)
        if total:
            _log.info("rows dropped", table=table, rows=total, older_than=older.isoformat())
            self.dropped(table, total)

    async def _drop_alarms(self, connection: psycopg.AsyncConnection[Any], older: datetime) -> None:
        """Ended alarms, their actions, and the log up to the first transition that must stay, so it has no hole.

        Old ones without an end that concern nobody go too (NORMAL: the end of an old file; RETRACTED).
        """
        idle = "CASE WHEN state IN ('NORMAL', 'RETRACTED') THEN recorded_at END"
        await self._slices(connection, "alarms", f"coalesce(cleared_at, {idle}) < %s", older)
        await self._slices(
            connection,
            "alarm_log",
            "seq < coalesce((SELECT min(l.seq) FROM alarm_log l JOIN alarms a USING (alarm_id)), 9223372036854775807)"
            " AND recorded_at < %s",
            older,
        )
        orphaned = "recorded_at < %s AND alarm_id NOT IN (SELECT alarm_id FROM alarms)"
        await self._slices(connection, "alarm_actions", orphaned, older)
        await self._slices(connection, "alarm_pages", "recorded_at < %s", older)
        await self._slices(connection, "asset_shelves", "until_at < %s", older)
        await self._slices(connection, "subscriber_receipts", "sent_at < %s", older)
        for table in ("route_claims", "notices", "delivery_alarms"):
            gone = "%s IS NOT NULL AND alarm_id NOT IN (SELECT alarm_id FROM alarms)"
            await self._slices(connection, table, gone, older)
        empty = "made_at < %s AND state <> 'WAITING' AND delivery_no NOT IN (SELECT delivery_no FROM delivery_alarms)"
        await self._slices(connection, "deliveries", empty, older)
