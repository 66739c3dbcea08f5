"""The loads of transformers in the database: written with the batches they follow from, read after a start.

Promises: stored loads and marks are one transaction of the caller, and repeating it adds nothing. `LoadView` shows one
snapshot: the stored loads, the batches that are not in them yet, and the reads to count those with. Refuses to know how
reads become loads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.batch import ReadChange
from meterwatch.loads import LoadChange, Loads
from storage.arrays import bigints, fetch_columns, integers, micros, moment, moments
from storage.faults import storage_faults
from storage.history import change_of_columns, pages, spans
from storage.marks import pay
from storage.snapshot import Connections, snapshot
from storage.stamps import AMONG

US: Final = 1_000_000
STEP_US: Final = 3600 * US
"""Loads are fetched by so much time: a million meters are 40,000 to 100,000 cells, 2 to 6 MB, which a connection then
keeps as its buffer."""
SLOTS_TOGETHER: Final = 20_000
"""Meters whose reads are looked up by one query."""
LONGEST_US: Final = 86_400 * US + 1
"""More than the longest interval of a read."""
SCAN_SHARE: Final = 0.2
"""Of the meters: from so many on the reads of all are scanned, which is cheaper than looking them up."""

_STORE: Final = """
INSERT INTO transformer_loads AS stored
    (transformer_id, window_end, wh, varh, covered_weight_s, expected_weight_s)
SELECT * FROM unnest(%s, %s, %s, %s, %s, %s)
ON CONFLICT (transformer_id, window_end) DO UPDATE SET """
_COUNTED: Final = (
    _STORE + "wh = EXCLUDED.wh, varh = EXCLUDED.varh,"
    " covered_weight_s = EXCLUDED.covered_weight_s, expected_weight_s = EXCLUDED.expected_weight_s"
)
_ADDED: Final = (
    _STORE + "wh = stored.wh + EXCLUDED.wh, varh = stored.varh + EXCLUDED.varh,"
    " covered_weight_s = stored.covered_weight_s + EXCLUDED.covered_weight_s"
)
_STORE_PHASES: Final = _STORE.replace("expected_weight_s)\n", "expected_weight_s, wh_a, wh_b, wh_c)\n").replace(
    "unnest(%s,", "unnest(%s, %s, %s, %s,"
)
_COUNTED_PHASES: Final = (
    _STORE_PHASES + _COUNTED.removeprefix(_STORE) + ", wh_a = EXCLUDED.wh_a, wh_b = EXCLUDED.wh_b, wh_c = EXCLUDED.wh_c"
)
_ADDED_PHASES: Final = (
    _STORE_PHASES
    + _ADDED.removeprefix(_STORE)
    + ", wh_a = stored.wh_a + EXCLUDED.wh_a, wh_b = stored.wh_b + EXCLUDED.wh_b, wh_c = stored.wh_c + EXCLUDED.wh_c"
)
"""A row that was counted without phases keeps none, until its transformer is counted anew."""
_MEMBERS: Final = """
INSERT INTO transformer_members (transformer_id, digest) SELECT * FROM unnest(%s, %s)
ON CONFLICT (transformer_id) DO UPDATE SET digest = EXCLUDED.digest"""

_PAID: Final = pay("transformer_loads_dirty")
_DIRTY: Final = "SELECT mark_id, transformer_id, from_at FROM transformer_loads_dirty ORDER BY mark_id"

_MARK: Final = "UPDATE batches SET evaluated = true WHERE batch_id = ANY(%s) AND NOT evaluated"
_MARK_OWING: Final = f"""
WITH marked AS ({_MARK} RETURNING batch_id, first_end, last_end, received_at), owing AS (
    INSERT INTO transformer_loads_owed (batch_id, first_end, last_end, received_at, counted)
    SELECT *, %s FROM marked WHERE last_end IS NOT NULL)
SELECT count(*) FROM marked"""
_COUNT: Final = "UPDATE transformer_loads_owed SET counted = true WHERE NOT counted"
_SETTLE: Final = """
WITH settled AS (DELETE FROM transformer_loads_owed RETURNING counted)
SELECT count(*) FILTER (WHERE NOT counted) FROM settled"""
_JUDGED: Final = pay("transformer_loads_owed", "batch_id", only="counted")

_LOADS: Final = """
SELECT array_agg(transformer_id), array_agg(window_end), array_agg(wh), array_agg(varh), array_agg(covered_weight_s)
FROM transformer_loads WHERE window_end > %(first)s AND window_end <= %(last)s"""
_PHASES: Final = ", array_agg(coalesce(wh_a, 0)), array_agg(coalesce(wh_b, 0)), array_agg(coalesce(wh_c, 0))\nFROM"
_LOADS_OF: Final = _LOADS + " AND transformer_id = ANY(%(transformers)s::integer[])"
_NEWEST: Final = "SELECT max(window_end) FROM transformer_loads WHERE window_end <= %s AND covered_weight_s > 0"
_OWED: Final = """
SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s) FROM (
    SELECT slot, end_at, interval_s FROM reads
    WHERE end_at BETWEEN %(first)s AND %(last)s AND received_at = ANY(%(received)s)
    UNION ALL
    SELECT slot, end_at, interval_s FROM read_versions
    WHERE end_at BETWEEN %(first)s AND %(last)s AND superseded_at = ANY(%(received)s)) AS touched"""
_READS_OF: Final = f"""
SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s), array_agg(quality),
       array_agg(coalesce(import_wh, 0)), array_agg(coalesce(export_wh, 0)),
       array_agg(coalesce(import_varh, 0)), array_agg(coalesce(export_varh, 0)),
       array_agg(import_wh IS NOT NULL OR export_wh IS NOT NULL),
       array_agg(import_varh IS NOT NULL OR export_varh IS NOT NULL)
FROM reads WHERE slot = ANY(%(slots)s) AND {AMONG.format(first="%(first)s", last="%(last)s")}
  AND end_at - make_interval(secs => interval_s) < %(until)s"""


async def mark_evaluated(cursor: psycopg.AsyncCursor[Any], batch_ids: Sequence[int], loads: LoadChange | None) -> None:
    """Mark batches as evaluated, and store loads: these and all that were put off. None: put off those of the batches.

    Exact when repeated after a commit of unknown outcome: batches that are marked already brought their loads.
    """
    fresh = True
    if batch_ids and (loads is None or loads.past_owed):
        fresh = await _count(cursor, _MARK_OWING, (list(batch_ids), loads is not None)) > 0
    elif batch_ids:
        await cursor.execute(_MARK, (list(batch_ids),))
        fresh = cursor.rowcount > 0
    if loads is None or not fresh:
        return
    if loads.past_owed:
        await cursor.execute(_COUNT)
        brought = cursor.rowcount
        await cursor.execute(_JUDGED, (list(loads.judged),))
    else:
        brought = await _count(cursor, _SETTLE, ())
    if batch_ids or brought or not len(loads.added):
        await store_loads(cursor, loads)


async def _count(cursor: psycopg.AsyncCursor[Any], query: LiteralString, values: Sequence[Any]) -> int:
    row = await (await cursor.execute(query, values)).fetchone()
    assert row is not None
    return int(row[0])


async def store_loads(cursor: psycopg.AsyncCursor[Any], change: LoadChange) -> None:
    """Write counted cells, then added ones, and with which members the counted ones were counted; pay the marks."""
    for query, with_phases, cells, expected in (
        (_COUNTED, _COUNTED_PHASES, change.counted, change.expected_counted),
        (_ADDED, _ADDED_PHASES, change.added, change.expected_added),
    ):
        if len(cells):
            columns = [cells.wh, cells.varh, cells.covered, expected]
            if cells.phase_wh is not None:
                query = with_phases
                columns += list(np.ascontiguousarray(cells.phase_wh.T))
            end_us = (cells.window + 1) * (change.window_s * US)
            await cursor.execute(
                query, (integers(cells.transformer.astype(np.int32)), moments(end_us), *map(bigints, columns))
            )
    if len(change.members):
        await cursor.execute(_MEMBERS, (integers(change.members.astype(np.int32)), bigints(change.digest)))
    if len(change.marks):
        await cursor.execute(_PAID, (bigints(change.marks),))


class Owed(NamedTuple):
    """A batch whose reads are stored and something that follows from them is not; both ends 0 if it stored no row."""

    batch_id: int
    evaluated: bool
    first_end_us: int
    last_end_us: int
    received_us: int


class Dirty(NamedTuple):
    """A transformer whose members of that time on were changed by an import."""

    mark_id: int
    transformer: int
    from_us: int


class LoadView:
    """One snapshot of what is stored."""

    def __init__(self, connections: Connections, window_s: int, *, columnar: bool, phases: bool = False) -> None:
        self._connections = connections
        self._connection = connections[0]
        self._columnar = columnar
        self._phases = phases
        self._window_s = window_s

    async def owed(self) -> list[Owed]:
        """Batches that are stored and not evaluated, or evaluated and not in the loads or not judged, oldest first."""
        cursor = await self._connection.execute(
            "SELECT batch_id, false, first_end, last_end, received_at FROM batches WHERE NOT evaluated"
            " UNION ALL SELECT batch_id, true, first_end, last_end, received_at FROM transformer_loads_owed"
            " ORDER BY batch_id"
        )
        return [
            Owed(batch, evaluated, micros(first) if first else 0, micros(last) if last else 0, micros(received))
            for batch, evaluated, first, last, received in await cursor.fetchall()
        ]

    async def members(self, transformers: int) -> NDArray[np.int64]:
        """Digest of the members with which the loads of each transformer were counted; 0: never."""
        [[at, digest]] = await fetch_columns(
            self._connection,
            "SELECT array_agg(transformer_id), array_agg(digest) FROM transformer_members WHERE transformer_id < %s",
            (transformers,),
        )
        found = np.zeros(transformers, np.int64)
        found[at] = digest
        return found

    async def dirty(self) -> list[Dirty]:
        """Marks of imports that are not paid, oldest first."""
        cursor = await self._connection.execute(_DIRTY)
        return [Dirty(mark, transformer, micros(at)) for mark, transformer, at in await cursor.fetchall()]

    async def newest_end_us(self, before_us: int) -> int:
        """End of the newest window with a read that counts, at most before_us; 0: none."""
        row = await (await self._connection.execute(_NEWEST, (moment(before_us),))).fetchone()
        return micros(row[0]) if row and row[0] else 0

    async def loads(self, from_us: int, to_us: int, transformers: list[int] | None = None) -> AsyncIterator[Loads]:
        """Stored cells with from_us < window end <= to_us, in rising time by pages, sorted by window in each.

        A page is fetched by each connection while the caller is busy with the ones before.
        """
        idle = deque(self._connections)
        coming: deque[tuple[psycopg.AsyncConnection[Any], asyncio.Task[Loads]]] = deque()
        steps = iter(range(from_us, to_us, STEP_US))
        try:
            while True:
                while idle and (first_us := next(steps, None)) is not None:
                    fetch = self._page(idle[0], first_us, min(first_us + STEP_US, to_us), transformers)
                    coming.append((idle.popleft(), asyncio.create_task(fetch)))
                if not coming:
                    return
                cells = await coming[0][1]
                idle.append(coming.popleft()[0])
                if len(cells):
                    yield cells
        finally:  # the caller stopped, or a page failed: no connection is left with a query of ours
            for _, task in coming:
                task.cancel()
            await asyncio.gather(*(task for _, task in coming), return_exceptions=True)

    async def _page(
        self, connection: psycopg.AsyncConnection[Any], from_us: int, to_us: int, transformers: list[int] | None
    ) -> Loads:
        parameters = {"first": moment(from_us), "last": moment(to_us), "transformers": transformers}
        query = _LOADS if transformers is None else _LOADS_OF
        if self._phases:
            query = query.replace("\nFROM", _PHASES)
        [[transformer, end_us, wh, varh, covered, *phases]] = await fetch_columns(connection, query, parameters)
        window = end_us // (self._window_s * US) - 1
        phase_wh = np.stack(phases, axis=1) if phases else None
        cells = Loads(transformer.astype(np.int64), window, wh, varh, covered, phase_wh)
        return cells if (window[1:] >= window[:-1]).all() else cells.take(np.argsort(window, kind="stable"))

    async def touched(self, owed: list[Owed]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Slot, end_us and interval_s of the reads that these batches stored or replaced, and maybe of some more.

        The reads are known by the moment they were received. Cost: one scan of the days in which they end.
        """
        stored = [one for one in owed if one.last_end_us]
        columns: list[list[NDArray[Any]]] = []
        for day in sorted({one.first_end_us // _DAY_US for one in stored}):
            mine = [one for one in stored if one.first_end_us // _DAY_US == day]
            parameters = {
                "first": moment(min(one.first_end_us for one in mine)),
                "last": moment(max(one.last_end_us for one in mine)),
                "received": moments(np.unique(np.array([one.received_us for one in mine], np.int64))),
            }
            columns += await fetch_columns(self._connection, _OWED, parameters)
        if not columns:
            none = np.zeros(0, np.int64)
            return none, none, none
        slot, end_us, interval_s = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return slot, end_us, interval_s

    async def reads(
        self, slots: NDArray[np.int32], all_slots: int, from_us: int, to_us: int
    ) -> AsyncIterator[ReadChange]:
        """Current reads of these meters that cover something of from_us..to_us; maybe more, of them and of others."""
        if len(slots) > SCAN_SHARE * all_slots:
            range_us = from_us + 1, to_us + LONGEST_US
            everybody = (
                spans(self._connection, *range_us, None) if self._columnar else pages(self._connection, *range_us)
            )
            async for change in everybody:
                yield change
            return
        for at in range(0, len(slots), SLOTS_TOGETHER):
            for first_us in range(from_us, to_us + LONGEST_US, _DAY_US):
                parameters = {
                    "slots": integers(slots[at : at + SLOTS_TOGETHER]),
                    "first": moment(first_us),
                    "last": moment(min(first_us + _DAY_US, to_us + LONGEST_US)),
                    "until": moment(to_us),
                }
                [columns] = await fetch_columns(self._connection, _READS_OF, parameters)
                if len(columns[0]):
                    yield change_of_columns(columns)


_DAY_US: Final = 86_400 * US


@asynccontextmanager
async def load_view(
    pool: AsyncConnectionPool[Any], window_s: int, *, columnar: bool = False, phases: bool = False
) -> AsyncIterator[LoadView]:
    """A snapshot for the duration of the context; takes READERS connections. Raises StorageUnavailable.

    phases: with what single-phase members drew.
    """
    with storage_faults():
        async with snapshot(pool) as connections:
            yield LoadView(connections, window_s, columnar=columnar, phases=phases)
