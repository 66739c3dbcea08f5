"""Stored reads and events as columns, for the rules to rebuild their state after a start.

Promises: one call sees one snapshot; times are exact; no Python object per row; memory is bounded by one page.
A page continues after the last (end_at, slot) of the one before, along the unique index; meters are looked up together
under each interval end (storage.stamps). The columnstore has no such order: there a page is a span of slots. Refuses to
know any rule.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
import psycopg_pool
from numpy.typing import NDArray

from meterwatch.batch import Events, ReadChange
from meterwatch.quality import METHOD_MASK, Quality
from storage.arrays import fetch_columns, integers, micros, moment, moments
from storage.faults import storage_faults
from storage.snapshot import reading
from storage.stamps import AMONG

PAGE_ROWS: Final = 100_000
SLOTS_TOGETHER: Final = 2_000
"""Meters looked up by one query."""
QUARTER_US: Final = 900_000_000
"""Most meters send a read so often; who sends more fills longer pages."""
SPAN_ROWS: Final = 50_000
"""Reads a span of slots is cut for in the columnstore."""
COMPARED_TOGETHER: Final = 200
"""A list of so many slots is compared with the spans of the compressed batches."""

_COLUMNS = """
SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s), array_agg(quality), array_agg(import_wh),
       array_agg(export_wh), array_agg(import_varh), array_agg(export_varh), array_agg(has_energy),
       array_agg(has_reactive)
FROM (SELECT slot, end_at, interval_s, quality, coalesce(import_wh, 0) AS import_wh,
             coalesce(export_wh, 0) AS export_wh,
             coalesce(import_varh, 0) AS import_varh, coalesce(export_varh, 0) AS export_varh,
             import_wh IS NOT NULL OR export_wh IS NOT NULL AS has_energy,
             import_varh IS NOT NULL OR export_varh IS NOT NULL AS has_reactive
      FROM reads"""
_PAGE = f"""{_COLUMNS}
      WHERE end_at >= %(first)s AND end_at < %(last)s AND (end_at, slot) > (%(end)s, %(slot)s)
      ORDER BY end_at, slot LIMIT %(rows)s) AS page"""
_SPAN = f"""{_COLUMNS}
      WHERE end_at >= %(first)s AND end_at < %(last)s AND slot >= %(low)s AND slot < %(high)s
      ORDER BY slot, end_at) AS page"""
_CHOSEN = f"""{_COLUMNS}
      WHERE end_at >= %(first)s AND end_at < %(last)s AND slot = ANY(%(slots)s)
      ORDER BY slot, end_at) AS page"""

_OF_SLOTS = f"""
SELECT array_agg(slot), array_agg(end_at), array_agg(interval_s), array_agg(quality),
       array_agg(coalesce(import_wh, 0)), array_agg(coalesce(export_wh, 0)),
       array_agg(coalesce(import_varh, 0)), array_agg(coalesce(export_varh, 0)),
       array_agg(import_wh IS NOT NULL OR export_wh IS NOT NULL),
       array_agg(import_varh IS NOT NULL OR export_varh IS NOT NULL)
FROM reads WHERE slot = ANY(%(slots)s) AND {AMONG.format(first="%(first)s", last="%(last)s")}"""

_EVENTS = """
SELECT array_agg(slot), array_agg(at), array_agg(code), array_agg(phases)
FROM (SELECT slot, at, code, phases FROM events WHERE at >= %(first)s AND at < %(last)s
      ORDER BY at, slot, code, phases) AS found"""
_EVENTS_OF_SLOTS = """
SELECT array_agg(slot), array_agg(at), array_agg(code), array_agg(phases)
FROM (SELECT slot, at, code, phases FROM events WHERE at >= %(first)s AND at < %(last)s AND slot = ANY(%(slots)s)
      ORDER BY at, slot, code, phases) AS found"""
"""No look-up per meter: PostgreSQL may then go through all events of that time for each of them."""

_SUPPLY_OFF = """
SELECT array_agg(slot) FROM (
    (SELECT slot FROM reads WHERE end_at >= %(first)s AND quality & 64 <> 0 ORDER BY end_at)
    UNION ALL SELECT slot FROM events WHERE at >= %(first)s AND code IN (1, 3)) AS off"""
"""In the order of the partial index reads_supply_off, or PostgreSQL, which takes nearly every read for one that is off,
reads the whole day by meter: 1 s for 4 million reads."""
assert int(Quality.SUPPLY_OFF) == 64  # the partial index reads_supply_off says it in the same words

SENT: Final = f"quality & {METHOD_MASK} = 0"
"""Not estimated by the service: who is silent is not heard by an estimate."""

_AROUND = """
SELECT array_agg(no), array_agg(onset_at)
FROM unnest(%(asset)s, %(from)s) WITH ORDINALITY AS asked (asset_id, from_at, no) CROSS JOIN LATERAL (
    SELECT min(onset_at) AS onset_at FROM alarms
    WHERE rule = 'OUTAGE' AND asset_kind = %(kind)s AND asset_id = asked.asset_id AND onset_at < from_at
      AND coalesce(cleared_at, 'infinity') >= from_at AND state <> 'RETRACTED' OFFSET 0) AS around
WHERE onset_at IS NOT NULL"""

_STAMPS = "SELECT array_agg(end_at ORDER BY end_at DESC) FROM read_stamps WHERE end_at >= %s"
_HEARD = f"""
SELECT array_agg(slot), array_agg(end_at)
FROM (SELECT slot, max(end_at) AS end_at FROM reads
      WHERE slot = ANY(%s) AND end_at = ANY(%s) AND end_at BETWEEN %s AND %s AND {SENT} GROUP BY slot) AS heard"""

_LAST_HEARD_SCANNED = f"""
SELECT array_agg(slot), array_agg(end_at)
FROM (SELECT slot, max(end_at) AS end_at FROM reads
      WHERE slot BETWEEN %s AND %s AND end_at >= %s AND {SENT} GROUP BY slot) AS heard"""

_NEWEST_STORED = """
SELECT max(at) FROM (SELECT max(received_at) AS at FROM batches UNION ALL
                     SELECT recorded_at FROM alarm_log WHERE seq = (SELECT seq FROM alarm_cursor)) AS stored"""

_NEWEST_STAMP = """
SELECT greatest((SELECT end_at FROM read_stamps ORDER BY end_at DESC LIMIT 1),
                (SELECT at FROM events ORDER BY at DESC LIMIT 1))"""

_NEWEST_END = "SELECT end_at FROM reads WHERE end_at < %s ORDER BY end_at DESC LIMIT 1"

_OWED_OFF = """
SELECT array_agg(slot), array_agg(at)
FROM (SELECT r.slot, min(r.end_at) AS at FROM batches b JOIN reads r ON r.end_at BETWEEN b.first_end AND b.last_end
      WHERE NOT b.evaluated AND r.quality & 64 <> 0 GROUP BY r.slot
      UNION ALL
      SELECT e.slot, min(e.at) FROM batches b JOIN events e ON e.received_at = b.received_at
      WHERE NOT b.evaluated AND b.kind = 2 AND e.code IN (1, 3) GROUP BY e.slot) AS owed"""


class History:
    """Reads what was committed. Every call takes one connection of the pool for its duration."""

    def __init__(
        self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]], *, columnar: bool = False
    ) -> None:
        self._pool = self.pool = pool
        self.columnar = columnar

    async def reads_between(
        self, from_us: int, to_us: int, slots: NDArray[np.int32] | None
    ) -> AsyncIterator[ReadChange]:
        """Current reads with from_us <= end < to_us as changes of sign +1, some PAGE_ROWS at most in each.

        slots None: every meter, by end and slot (in the columnstore by slot and end). Raises StorageUnavailable.
        """
        with storage_faults():
            async with self._pool.connection() as connection, reading(connection):
                if self.columnar:
                    found = spans(connection, from_us, to_us, slots)
                elif slots is None:
                    found = pages(connection, from_us, to_us)
                else:
                    found = of_slots(connection, from_us, to_us, slots)
                async for change in found:
                    yield change

    async def events_between(self, from_us: int, to_us: int, slots: NDArray[np.int32] | None) -> Events:
        """Events with from_us <= at < to_us, by time. slots None: every meter. Raises StorageUnavailable."""
        parameters: dict[str, Any] = {"first": moment(from_us), "last": moment(to_us)}
        query = _EVENTS
        if slots is not None:
            query, parameters["slots"] = _EVENTS_OF_SLOTS, integers(slots)
        slot, at_us, code, phases = await self._columns(query, parameters)
        return Events(
            _frozen(slot, np.int32), _frozen(at_us, np.int64), _frozen(code, np.int16), _frozen(phases, np.uint8)
        )

    async def supply_off_slots(self, from_us: int) -> NDArray[np.int32]:
        """Ascending slots with a SUPPLY_OFF read, POWER_FAIL or PHASE_LOSS since from_us: who may be in an outage."""
        [slot] = await self._columns(_SUPPLY_OFF, {"first": moment(from_us)})
        return _frozen(np.unique(slot), np.int32)

    async def owed_off(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Slots with a SUPPLY_OFF read, a POWER_FAIL or a PHASE_LOSS in batches not evaluated, and since when, us.

        However old they are. A slot may occur twice, and one of an evaluated batch of the same span may be among them.
        """
        slot, at_us = await self._columns(_OWED_OFF, ())
        return _frozen(slot, np.int32), _frozen(at_us, np.int64)

    async def outages_around(
        self, asset_kind: str, asset: NDArray[np.int32], from_us: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """When the first outage told of each asset began that lasted at from_us; from_us itself: none did."""
        keys = {"kind": asset_kind, "asset": integers(asset), "from": moments(from_us)}
        no, onset_us = await self._columns(_AROUND, keys)
        around_us = from_us.copy()
        around_us[no - 1] = onset_us
        return around_us

    async def newest_stored_us(self) -> int:
        """Service clock when something was stored last (batch or alarm transition); 0: never."""
        return await self._moment(_NEWEST_STORED, ())

    async def newest_stamp_us(self) -> int:
        """Newest interval end or event that is stored, by the meters' clocks; 0: none. Cost: two looks into indices."""
        return await self._moment(_NEWEST_STAMP, ())

    async def newest_end_us(self, before_us: int) -> int:
        """Newest interval end before before_us; 0: none. Cost: one scan of the newest chunk, up to seconds."""
        return await self._moment(_NEWEST_END, (moment(before_us),))

    async def last_heard(self, slots: NDArray[np.int32], from_us: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Of these meters those with a read since from_us, and its latest interval end, us.

        Looks under the newest end first and then, for those not heard, under more and more of the older ones; in the
        columnstore one scan of the span they lie in.
        """
        if self.columnar and len(slots):
            span = (int(slots.min()), int(slots.max()), moment(from_us))
            slot, last_us = await self._columns(_LAST_HEARD_SCANNED, span)
            mine = np.isin(slot, slots)
            return _frozen(slot[mine], np.int32), _frozen(last_us[mine], np.int64)
        [stamps] = await self._columns(_STAMPS, (moment(from_us),))
        left, at, together = slots, 0, 1
        found: list[list[NDArray[Any]]] = [[np.zeros(0, np.int32), np.zeros(0, np.int64)]]
        while at < len(stamps) and len(left):
            ends = stamps[at : at + together]
            ends_within = moment(int(ends[-1])), moment(int(ends[0]))
            found.append(await self._columns(_HEARD, (integers(left), moments(ends), *ends_within)))
            left = left[~np.isin(left, found[-1][0])]
            at, together = at + together, together * 2
        slot, last_us = (np.concatenate(column) for column in zip(*found, strict=True))
        return _frozen(slot, np.int32), _frozen(last_us, np.int64)

    async def _moment(self, query: Any, parameters: Any) -> int:
        with storage_faults():
            async with self._pool.connection() as connection:
                row = await (await connection.execute(query, parameters)).fetchone()
        return micros(row[0]) if row and row[0] else 0

    async def last_acked(self, head_end_id: int, epoch: int) -> int:
        """Highest seq of the evaluated batches of reads of that epoch; 0 if none."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT coalesce(max(seq), 0) FROM batches WHERE head_end_id = %s AND kind = 1 AND epoch = %s"
                    " AND evaluated",
                    (head_end_id, epoch),
                )
                row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _columns(self, query: Any, parameters: Any) -> list[NDArray[Any]]:
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                [columns] = await fetch_columns(connection, query, parameters)
        return columns


async def of_slots(
    connection: psycopg.AsyncConnection[Any], from_us: int, to_us: int, slots: NDArray[np.int32]
) -> AsyncIterator[ReadChange]:
    """Reads of some meters, in the caller's transaction: a few thousand of them and as much time as fill a page."""
    for at in range(0, len(slots), SLOTS_TOGETHER):
        some = slots[at : at + SLOTS_TOGETHER]
        step_us = PAGE_ROWS // len(some) * QUARTER_US
        for first_us in range(from_us, to_us, step_us):
            parameters = {
                "slots": integers(some),
                "first": moment(first_us),
                "last": moment(min(first_us + step_us, to_us)),
            }
            [page] = await fetch_columns(connection, _OF_SLOTS, parameters)
            if len(page[0]):
                yield change_of_columns(page)


async def pages(connection: psycopg.AsyncConnection[Any], from_us: int, to_us: int) -> AsyncIterator[ReadChange]:
    """Reads of every meter, in the caller's transaction."""
    parameters: dict[str, Any] = {
        "first": moment(from_us),
        "last": moment(to_us),
        "rows": PAGE_ROWS,
        "slot": -1,
        "end": moment(from_us),
    }
    while True:
        [page] = await fetch_columns(connection, _PAGE, parameters)
        if len(page[0]):
            yield change_of_columns(page)
        if len(page[0]) < PAGE_ROWS:
            return
        parameters["slot"] = int(page[0][-1])
        parameters["end"] = moment(int(page[1][-1]))


async def spans(
    connection: psycopg.AsyncConnection[Any], from_us: int, to_us: int, slots: NDArray[np.int32] | None
) -> AsyncIterator[ReadChange]:
    """The same out of the columnstore: each page a scan of a span of slots, or of some slots together."""
    box: dict[str, Any] = {"first": moment(from_us), "last": moment(to_us)}
    queries: Iterator[tuple[LiteralString, dict[str, Any]]]
    if slots is None:
        row = await (
            await connection.execute(
                "SELECT min(slot), max(slot) FROM reads WHERE end_at >= %(first)s AND end_at < %(last)s", box
            )
        ).fetchone()
        low, high = (0, -1) if row is None or row[0] is None else (int(row[0]), int(row[1]))
        width = max(1, SPAN_ROWS // max(1, (to_us - from_us) // QUARTER_US))
        queries = ((_SPAN, {"low": at, "high": at + width}) for at in range(low, high + 1, width))
    else:
        some = np.unique(slots)
        queries = (
            (_CHOSEN, {"slots": some[at : at + COMPARED_TOGETHER].tolist()})
            for at in range(0, len(some), COMPARED_TOGETHER)
        )
    for query, part in queries:
        [page] = await fetch_columns(connection, query, box | part)
        for at in range(0, len(page[0]), PAGE_ROWS):
            yield change_of_columns([column[at : at + PAGE_ROWS] for column in page])


def change_of_columns(page: list[NDArray[Any]]) -> ReadChange:
    """Stored reads as changes of sign +1; columns in the order of _PAGE."""
    slot, end_us, interval_s, quality, import_wh, export_wh, import_varh, export_varh, energy, reactive = page
    return ReadChange(
        slot=_frozen(slot, np.int32),
        end_us=_frozen(end_us, np.int64),
        interval_s=_frozen(interval_s, np.int32),
        quality=_frozen(quality, np.int32),
        import_wh=_frozen(import_wh, np.int32),
        export_wh=_frozen(export_wh, np.int32),
        import_varh=_frozen(import_varh, np.int32),
        export_varh=_frozen(export_varh, np.int32),
        has_energy=_frozen(energy, np.bool_),
        has_reactive=_frozen(reactive, np.bool_),
        sign=_frozen(np.ones(len(slot), np.int8), np.int8),
    )


def _frozen(column: NDArray[Any], dtype: Any) -> NDArray[Any]:
    column = column.astype(dtype, copy=False)
    column.flags.writeable = False
    return column
