"""Meter-days in the database: what judging some needs is fetched here, and what it found is written here.

Promises: a step is one transaction, so a restart finds it done or not begun; a finding is set in the stored read only
if the read is still the version that was judged; a step never waits longer than LOCK_TIMEOUT for a writer of reads, and
takes its locks in the same order. Whatever the statistics of a fresh chunk say, meter-days are looked up by index, each
by itself (OFFSET 0 keeps a look-up from becoming a join): joined, every day stored so far was compared with every one
asked for, more than a second of the database a step after 16,000 meters. Refuses to know a check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool

from meterwatch.local_days import as_date, as_number
from meterwatch.quality import DAY_BITS
from storage.arrays import bigints, fetch_columns, halves, integers, moment, moments
from storage.balance import energy_of_day, store_balances
from storage.clocks import store_clocks
from storage.faults import storage_faults
from storage.marks import pay
from storage.registers import registers_of_days, store_register_days
from storage.stamps import AMONG

LOCK_TIMEOUT: Final = "2s"
_PLAN: Final = "; ".join(
    f"SET LOCAL {way} = off" for way in ("enable_hashjoin", "enable_mergejoin", "enable_material", "enable_seqscan")
)
"""Meters' reads are looked up by the index, whatever statistics of a young day say."""
_BEGIN: Final = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {_PLAN}"
_HASHED: Final = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_nestloop = off"
_LOOKED_UP: Final = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = on"
"""For an UPDATE, whose reads cannot be looked up behind a fence: one scan of the box round them."""
Columns = list[NDArray[Any]]
TAIL: Final = (
    "tail_end", "tail_interval_s", "tail_import_wh", "tail_export_wh", "tail_same_s", "tail_loaded",
)  # fmt: skip
COLUMNS: Final = (
    "start_at", "day_s", "import_wh", "export_wh", "peak_kw", "peak_end", "present", "expected", "estimated",
    "covered_s", "complete", "findings", *TAIL,
)  # fmt: skip
"""Of meter_days, beside day and slot."""

_READS: Final = f"""
SELECT array_agg(slot::bigint << 32 | interval_s), array_agg(end_at),
       array_agg(quality::bigint << 32 | (version | ((coalesce(device_status, 0) & 64) << 16))),
       array_agg(coalesce(import_wh, -1)::bigint << 32 | (coalesce(export_wh, -1)::bigint & 4294967295)),
       array_agg(coalesce(greatest(current_a_a, current_b_a, current_c_a), -1)), array_agg(received_at)
FROM reads WHERE {AMONG.format(first="%(after)s", last="%(until)s")}"""
"""Two numbers in one bigint, for storage.arrays.halves: what an element costs is not its bytes."""
_OF_SLOTS: Final = f"{_READS} AND slot = ANY(%(slots)s)"
_OF_SPAN: Final = f"{_READS} AND slot BETWEEN %(low)s AND %(high)s"
"""Where nearly every slot between is asked for: a sixth cheaper than a list of them."""
DENSE: Final = 9 / 8
"""Slots from the first to the last, per slot asked for, up to which the others are read as well."""
_EVENTS: Final = """
SELECT array_agg(n - 1), array_agg(at), array_agg(code)
FROM unnest(%(slots)s, %(starts)s, %(ends)s) WITH ORDINALITY AS wanted (slot, start_at, end_by, n)
CROSS JOIN LATERAL (
    SELECT at, code FROM events WHERE events.slot = wanted.slot AND code IN (1, 2)
      AND at > wanted.start_at - interval '1 day' AND at <= wanted.end_by
      AND at > %(low)s - interval '1 day' AND at <= %(high)s OFFSET 0) AS e"""
_BEFORE: Final = f"""
SELECT array_agg(n - 1), array_agg(day - date '1970-01-01'), array_agg(import_wh), array_agg(complete),
       array_agg(coalesce(tail_end, 'epoch')), {", ".join(f"array_agg({name})" for name in TAIL[1:])}
FROM unnest(%(slots)s) WITH ORDINALITY AS wanted (slot, n) CROSS JOIN LATERAL (
    SELECT * FROM meter_days WHERE meter_days.slot = wanted.slot AND day = ANY(%(days)s)
      AND day >= %(first)s AND day <= %(last)s OFFSET 0) AS d"""
_MARK_READS: Final = f"""
UPDATE reads r SET quality = (r.quality & {~int(DAY_BITS)}) | u.bits
FROM unnest(%s::integer[], %s::timestamptz[], %s::integer[], %s::integer[]) AS u (slot, at, bits, version)
WHERE r.slot = u.slot AND r.end_at = u.at AND r.version = u.version AND r.end_at BETWEEN %s AND %s
  AND r.end_at = ANY(%s) AND r.slot = ANY(%s)"""
_STORE: Final = f"""
INSERT INTO meter_days AS d (day, slot, {", ".join(COLUMNS)})
SELECT %s, slot, start_at, day_s, import_wh, export_wh, CASE WHEN peak_w >= 0 THEN peak_w / 1000.0 END,
       CASE WHEN peak_w >= 0 THEN peak_end END, present, expected, estimated, covered_s, complete <> 0, findings,
       CASE WHEN tail_end <> 'epoch' THEN tail_end END, {", ".join(TAIL[1:])}
FROM unnest(%s::integer[], %s::timestamptz[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::timestamptz[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::timestamptz[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS n (slot, start_at, day_s, import_wh, export_wh, peak_w, peak_end, present, expected, estimated, covered_s,
        complete, findings, {", ".join(TAIL)})
ON CONFLICT (slot, day) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS)}
WHERE ({", ".join(f"d.{name}" for name in COLUMNS)})
  IS DISTINCT FROM ({", ".join(f"EXCLUDED.{name}" for name in COLUMNS)})"""
_OWE: Final = """
INSERT INTO meter_days_owed (day, slot)
SELECT date '1970-01-01' + day, slot FROM unnest(%s::integer[], %s::integer[]) AS n (day, slot)"""
_OWE_LATER: Final = """
INSERT INTO meter_days_owed (day, slot) SELECT day, slot FROM meter_days
WHERE slot = ANY(%s) AND day = ANY(%s) AND day >= %s AND day <= %s"""
_OWE_ESTIMATES: Final = """
INSERT INTO estimates_owed (day, slot) SELECT day, slot FROM meter_days
WHERE slot = ANY(%s) AND day = ANY(%s) AND day >= %s AND day <= %s AND covered_s < day_s"""
_TAKE: Final = """
SELECT array_agg(mark_id), array_agg(slot) FROM (
    SELECT mark_id, slot FROM meter_days_owed WHERE day = %s ORDER BY mark_id LIMIT %s) AS marks"""
_PAID: Final = pay("meter_days_owed")
_UNJUDGED: Final = """
SELECT array_agg(slot), array_agg(at) FROM (
    SELECT r.slot, r.end_at AS at FROM batches b JOIN reads r ON r.end_at BETWEEN b.first_end AND b.last_end
     AND r.received_at = b.received_at WHERE NOT b.evaluated AND b.kind = 1
    UNION ALL
    SELECT r.slot, r.end_at FROM batches b JOIN read_versions r ON r.end_at BETWEEN b.first_end AND b.last_end
     AND r.superseded_at = b.received_at WHERE NOT b.evaluated AND b.kind = 1
    UNION ALL
    SELECT e.slot, e.at FROM batches b JOIN events e ON e.received_at = b.received_at
     WHERE NOT b.evaluated AND b.kind = 2
    UNION ALL
    SELECT r.slot, unnest(ARRAY[r.at - interval '5 s', coalesce(n.at, r.at) - interval '5 s'])
    FROM batches b JOIN register_reads r ON r.received_at = b.received_at
    LEFT JOIN LATERAL (
        SELECT n.at FROM register_reads n WHERE n.slot = r.slot AND n.register = r.register AND n.at > r.at
          AND n.at <= r.at + interval '62 days' ORDER BY n.at LIMIT 1) AS n ON true
     WHERE NOT b.evaluated AND b.kind = 3) AS touched"""


class Pass(NamedTuple):
    """How far the first judgement of a zone's days has come."""

    day: int
    next_slot: int


class DayStep:
    """One step, inside its transaction."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def reads(self, slots: NDArray[np.int32], start_us: NDArray[np.int64], end_us: NDArray[np.int64]) -> Columns:
        """Reads that end in start_us < end <= end_us of each slot, by index of the slot and end. slots ascend.

        Columns: index, end_us, interval_s, quality, version, import_wh, export_wh, current_a (-1: absent), whether
        the meter says that it was without power, and received_us.
        """
        low, high = int(slots[0]), int(slots[-1])
        dense = high - low < DENSE * len(slots)
        asked = {"low": low, "high": high} if dense else {"slots": integers(slots)}
        span = {"after": moment(int(start_us.min()) + 1), "until": moment(int(end_us.max()) + 1)}
        [found] = await fetch_columns(self._connection, _OF_SPAN if dense else _OF_SLOTS, asked | span)
        (slot, interval_s), at_us, (quality, version), (import_wh, export_wh) = (
            halves(found[0]), found[1], halves(found[2]), halves(found[3])
        )  # fmt: skip
        index = _index_of(slots, slot)
        order = np.lexsort((at_us, index))
        index, at_us = index[order], at_us[order]
        mine = (at_us > start_us[index]) & (at_us <= end_us[index])
        if dense:
            mine &= slots[index] == slot[order]
        if not mine.all():
            order, index, at_us = order[mine], index[mine], at_us[mine]
        version = version[order]
        of_read = interval_s[order], quality[order], version & 0x7FFF, import_wh[order], export_wh[order]
        return [index, at_us, *of_read, found[4][order], version >> 22 != 0, found[5][order]]

    async def events(self, slots: NDArray[np.int32], start_us: NDArray[np.int64], end_us: NDArray[np.int64]) -> Columns:
        """Power-fail and restoration events of each span and the day before it: index, at_us, code."""
        [columns] = await fetch_columns(self._connection, _EVENTS, _spans(slots, start_us, end_us))
        return columns

    async def registers(
        self, slots: NDArray[np.int32], start_us: NDArray[np.int64], end_us: NDArray[np.int64]
    ) -> Columns:
        """See storage.registers."""
        return await registers_of_days(self._connection, slots, start_us, end_us)

    async def store_registers(self, day: int, slots: NDArray[np.int32], columns: Columns) -> None:
        """See storage.registers."""
        await store_register_days(self._connection, day, slots, columns)

    async def store_clocks(
        self, day: int, slots: NDArray[np.int32], figures: tuple[NDArray[np.float64], ...], samples: NDArray[np.int64]
    ) -> None:
        """See storage.clocks."""
        lag_s, usual_s, drift_s = figures
        await store_clocks(self._connection, day, slots, lag_s, usual_s, drift_s, samples)

    async def energy(
        self, day: int, slots: NDArray[np.int32], since_us: int, until_us: int, judged_below: int
    ) -> Columns:
        """See storage.balance."""
        return await energy_of_day(self._connection, day, slots, since_us, until_us, judged_below)

    async def store_balances(
        self, day: int, energy: Columns, loss: NDArray[np.float64], found: NDArray[np.bool_]
    ) -> None:
        """See storage.balance."""
        await store_balances(self._connection, day, energy, loss, found)

    async def stored(self, slots: NDArray[np.int32], days: list[int]) -> Columns:
        """Stored meter-days: index of the slot, day, import_wh, complete, then TAIL."""
        parameters = {
            "slots": integers(slots),
            "days": [as_date(day) for day in days],
            "first": as_date(min(days)),
            "last": as_date(max(days)),
        }
        [columns] = await fetch_columns(self._connection, _BEFORE, parameters)
        return columns

    async def mark_reads(
        self, slot: NDArray[np.int32], end_us: NDArray[np.int64], bits: NDArray[np.int32], version: NDArray[np.int32]
    ) -> None:
        """Put these DAY_BITS into the reads that still are this version."""
        await self._connection.execute(_HASHED)
        await self._connection.execute(_MARK_READS, _marked(slot, end_us, bits, version))
        await self._connection.execute(_LOOKED_UP)

    async def store(self, day: int, slots: NDArray[np.int32], columns: list[NDArray[np.int64]]) -> None:
        """Write meter-days; columns as COLUMNS with peak in W, -1 and moment 0 for none."""
        times = {"start_at", "peak_end", "tail_end"}
        values = [
            moments(column) if name in times else bigints(column.astype(np.int64))
            for name, column in zip(COLUMNS, columns, strict=True)
        ]
        await self._connection.execute(_STORE, (as_date(day), integers(slots), *values))

    async def owe_later(self, slots: NDArray[np.int32], days: list[int]) -> None:
        """Mark meter-days that are stored: one they were compared with has changed."""
        dates = [as_date(day) for day in days]
        await self._connection.execute(_OWE_LATER, (integers(slots), dates, min(dates), max(dates)))

    async def owe_estimates(self, slots: NDArray[np.int32], days: list[int]) -> None:
        """Mark meter-days that are stored and have gaps: what they are estimated by has changed."""
        dates = [as_date(day) for day in days]
        await self._connection.execute(_OWE_ESTIMATES, (integers(slots), dates, min(dates), max(dates)))

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        """Of the transaction: for what else belongs to the step."""
        return self._connection

    async def passed(self, zone: str, now: Pass) -> None:
        """Remember how far a zone has come."""
        await self._connection.execute(
            "INSERT INTO local_day_passes VALUES (%s, %s, %s) ON CONFLICT (time_zone)"
            " DO UPDATE SET day = EXCLUDED.day, next_slot = EXCLUDED.next_slot",
            (zone, as_date(now.day), now.next_slot),
        )

    async def paid(self, marks: NDArray[np.int64]) -> None:
        """Delete marks."""
        await self._connection.execute(_PAID, (bigints(marks),))


class DayStore:
    """Meter-days over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def step(self) -> AsyncIterator[DayStep]:
        """A transaction that commits at the end of the context."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_BEGIN)
                yield DayStep(connection)

    async def passes(self) -> dict[str, Pass]:
        """By time zone."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute("SELECT time_zone, day, next_slot FROM local_day_passes")
                return {zone: Pass(as_number(day), slot) for zone, day, slot in await cursor.fetchall()}

    async def owe(self, day: NDArray[np.int32], slot: NDArray[np.int32]) -> None:
        """Mark meter-days."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_OWE, (integers(day), integers(slot)))

    async def oldest_owed(self) -> int | None:
        """Day of the oldest mark."""
        with storage_faults():
            async with self._pool.connection() as connection:
                row = await (await connection.execute("SELECT min(day) FROM meter_days_owed")).fetchone()
        return as_number(row[0]) if row and row[0] else None

    async def owed(self, day: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Marks of that day, oldest first: id and slot; a slot may occur twice."""
        with storage_faults():
            async with self._pool.connection() as connection:
                [[mark, slot]] = await fetch_columns(connection, _TAKE, (as_date(day), most))
        return mark.astype(np.int64), slot.astype(np.int32)

    async def unjudged(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Slot and time of the reads and events in batches that are stored and not evaluated, and maybe of more."""
        with storage_faults():
            async with self._pool.connection() as connection:
                [[slot, at_us]] = await fetch_columns(connection, _UNJUDGED)
        return slot.astype(np.int32), at_us.astype(np.int64)


def _index_of(slots: NDArray[np.int32], found: NDArray[np.int32]) -> NDArray[np.intp]:
    """Where each of these slots is among `slots`; of one that is not, where it would be, or the last place."""
    span = int(slots[-1]) - int(slots[0]) + 1
    if span > 8 * len(slots):
        return np.searchsorted(slots, found)
    place = np.searchsorted(slots, np.arange(slots[0], slots[-1] + 1))
    index: NDArray[np.intp] = place[found - slots[0]]
    return index


def _marked(
    slot: NDArray[np.int32], end_us: NDArray[np.int64], bits: NDArray[np.int32], version: NDArray[np.int32]
) -> tuple[Any, ...]:
    box = moment(int(end_us.min())), moment(int(end_us.max())), moments(np.unique(end_us)), integers(np.unique(slot))
    return integers(slot), moments(end_us), integers(bits), integers(version), *box


def _spans(slots: NDArray[np.int32], start_us: NDArray[np.int64], end_us: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "slots": integers(slots),
        "starts": moments(start_us),
        "ends": moments(end_us),
        "low": moment(int(start_us.min())),
        "high": moment(int(end_us.max())),
    }
