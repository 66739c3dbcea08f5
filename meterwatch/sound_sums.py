"""Invariants of the roll-ups: loads of transformers and sums of meter-days are what the current reads add up to.

What the service itself knows to be still to come is left out: cells and meter-days of batches that are not evaluated,
that are owed, or that a change of the registry made dirty. Loads are counted by the kernel that the rules use
(rules.load), days by plain SQL beside the kernel that wrote them (rules.day_checks).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.loads import Loads
from meterwatch.quality import METHOD_MASK, ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.stored_loads import RING_US
from meterwatch.topology import TERMINAL, Topology
from rules.load import Members, joined
from rules.profile import RuleProfile
from storage.arrays import moment
from storage.history import pages, spans
from storage.layout import Layout
from storage.loads import LONGEST_US, LoadView
from storage.snapshot import Connections
from storage.sound import FOUND_MAX, LATEST, Findings, Inspected, Unsound, us_of
from storage.topology import load_topology

SLICE_US: Final = 6 * 3600 * US
"""Counted at once: of a million meters 600,000 cells, 25 MB."""
Ints = NDArray[np.int64]

_HELD: Final = """
SELECT DISTINCT start_at FROM (
    SELECT date_bin(%(slice)s, window_end - interval '1 microsecond', %(first)s) AS start_at FROM transformer_loads
    WHERE window_end > %(first)s AND window_end <= %(last)s
    UNION ALL
    SELECT date_bin(%(slice)s, end_at - interval '1 microsecond', %(first)s) - back * %(slice)s
    FROM read_stamps, generate_series(0, %(reach)s) AS back WHERE end_at > %(first)s) AS held
WHERE start_at >= %(first)s AND start_at < %(last)s ORDER BY 1"""

_DAYS: Final = """
SELECT day, min(start_at), max(start_at + make_interval(secs => day_s)) FROM meter_days
WHERE start_at >= %(since)s AND start_at + make_interval(secs => day_s) <= %(until)s GROUP BY 1 ORDER BY 1"""
_UNJUDGED: Final = """
SELECT r.slot FROM batches b JOIN reads r ON r.end_at BETWEEN b.first_end AND b.last_end
  AND r.received_at = b.received_at WHERE NOT b.evaluated AND b.kind = 1
UNION
SELECT r.slot FROM batches b JOIN read_versions r ON r.end_at BETWEEN b.first_end AND b.last_end
  AND r.superseded_at = b.received_at WHERE NOT b.evaluated AND b.kind = 1"""
_HASHED: Final = "SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off"
"""Else a day with few reads by the statistics is looked up meter by meter, each time from its begin."""
_GUESSED: Final = f"(r.quality & {ORIGIN_MASK}) >> {ORIGIN_SHIFT} IN ({Origin.ESTIMATED:d}, {Origin.SUBSTITUTED:d})"
_METER_DAYS: Final = f"""
WITH days AS MATERIALIZED (
    SELECT * FROM meter_days WHERE day = %(day)s AND start_at >= %(since)s
), sums AS (
    SELECT d.slot, count(*) AS present, sum(greatest(r.import_wh, 0)) AS import_wh,
           sum(greatest(r.export_wh, 0)) AS export_wh,
           sum(floor(extract(epoch FROM
               r.end_at - greatest(r.end_at - make_interval(secs => r.interval_s), d.start_at)))) AS covered_s,
           count(*) FILTER (WHERE {_GUESSED}) AS estimated
    FROM days d JOIN reads r ON r.slot = d.slot AND r.end_at > d.start_at
      AND r.end_at <= d.start_at + make_interval(secs => d.day_s)
    WHERE r.end_at > %(first)s AND r.end_at <= %(last)s
      AND r.quality & {METHOD_MASK} = 0 GROUP BY d.slot
), compared AS (
    SELECT d.slot, d.day, ARRAY[d.present, d.import_wh, d.export_wh, d.covered_s, d.estimated] AS found,
           ARRAY[coalesce(s.present, 0), coalesce(s.import_wh, 0), coalesce(s.export_wh, 0), coalesce(s.covered_s, 0),
                 coalesce(s.estimated, 0)]::bigint[] AS expected,
           d.present > d.expected OR (d.complete AND d.covered_s <> d.day_s) AS at_odds
    FROM days d LEFT JOIN sums s USING (slot)
)
SELECT slot, day, found, expected FROM compared c WHERE (found <> expected OR at_odds)
  AND NOT EXISTS (SELECT FROM meter_days_owed o WHERE o.day = c.day AND o.slot = c.slot)
  AND NOT slot = ANY(%(unjudged)s)
ORDER BY slot LIMIT %(most)s"""


async def meter_days_are_sums_of_reads(db: Inspected) -> Findings:
    """Reads, energy and completeness of every judged meter-day are those of its current reads that somebody sent."""
    days = await db.find(_DAYS)
    unjudged = [slot for (slot,) in await db.find(_UNJUDGED)]
    for done, (day, first, last) in enumerate(days):
        db.progress(done, len(days))
        values = {"day": day, "first": first, "last": last, "unjudged": unjudged}
        for slot, _, found, expected in await db.find(_METER_DAYS, plan=_HASHED, **values):
            yield Unsound(
                f"meter_days of meter slot {slot}, {day}",
                f"present, import_wh, export_wh, covered_s, estimated {found}",
                f"{expected}, and complete only if covered",
                f"INSERT INTO meter_days_owed (day, slot) VALUES ('{day}', {slot}); the service judges it again",
            )  # fmt: skip


async def loads_are_sums_of_reads(db: Inspected, profile: RuleProfile) -> Findings:
    """The energy of a transformer in a quarter-hour is that of the current reads of its members."""
    counted = await _Counted.open(db, profile)
    if counted is None:
        return
    shown = 0
    starts = await counted.starts()
    for done, from_us in enumerate(starts):
        db.progress(done, len(starts))
        for found in await counted.compare(from_us, min(from_us + SLICE_US, counted.until_us)):
            yield found
            shown += 1
            if shown > FOUND_MAX:
                return


class _Counted:
    """The loads stored and the loads counted from reads, slice by slice."""

    def __init__(self, db: Inspected, members: Members, topology: Topology, window_us: int) -> None:
        self._db, self._members, self._topology = db, members, topology
        self._n = members.transformers
        self._window_us = window_us
        self._exempt: Ints = np.zeros(0, np.int64)
        """Keys of cells that are still to come."""
        self._fixed_from: Ints = np.zeros(self._n, np.int64)
        """Per transformer the window from which on (below: until which) it is compared."""
        self._open_from: Ints = np.full(self._n, np.iinfo(np.int64).max)
        self.first_us = self.until_us = 0

    @classmethod
    async def open(cls, db: Inspected, profile: RuleProfile) -> _Counted | None:
        """None: there is nothing to compare."""
        bounds = (
            "SELECT min(window_end), max(window_end) FROM transformer_loads"
            " WHERE window_end > %(since)s AND window_end <= %(until)s"
        )
        [(first, last)] = await db.find(bounds)
        if first is None:
            return None
        load = profile.overload
        known = load.coverage_min if load.by_phase else None
        async with db.transaction() as connection:
            topology = await load_topology([connection], us_of(LATEST))  # as it hangs since the newest import
            members = Members(topology, load.window_s, load.assumed_power_factor, known)
            counted = cls(db, members, topology, load.window_s * US)
            await counted._leave_out([connection], us_of(last))
        counted.first_us, counted.until_us = us_of(first) - counted._window_us, us_of(last)
        return counted

    async def _leave_out(self, connections: Connections, newest_us: int) -> None:
        view = LoadView(connections, self._window_us // US, columnar=self._db.layout is Layout.COLUMNSTORE)
        stale = await view.members(self._n) != self._members.digest()
        self._open_from[stale] = 0
        for mark in await view.dirty():
            if mark.transformer < self._n:
                window = (mark.from_us - LONGEST_US) // self._window_us
                self._open_from[mark.transformer] = min(window, int(self._open_from[mark.transformer]))
        tree = self._topology
        set_apart = np.flatnonzero((tree.measures >= 0) | (tree.witness == TERMINAL))
        measured = np.unique(np.concatenate((tree.measures[set_apart], tree.transformer_of[set_apart])))
        # who counts as a member of these may have been another before, and only the ring is counted again then
        self._fixed_from[measured[measured >= 0]] = (newest_us - RING_US) // self._window_us + 1
        slot, end_us, interval_s = await view.touched(await view.owed())
        known = slot < tree.slots
        slot, end_us, interval_s = slot[known], end_us[known], interval_s[known]
        transformer = self._members.of(slot.astype(np.int32), end_us).astype(np.int64)
        begin = (end_us - interval_s.astype(np.int64) * US) // self._window_us
        count = (end_us - 1) // self._window_us - begin + 1
        read = np.repeat(np.arange(len(begin)), count)
        touched = np.arange(len(read)) - np.repeat(np.cumsum(count) - count - begin, count)
        self._exempt = np.unique(touched * self._n + transformer[read])

    async def starts(self) -> list[int]:
        """Begins of the slices that hold loads or reads, or into which a later read may reach; of empty years none."""
        values: dict[str, Any] = {
            "first": moment(self.first_us),
            "last": moment(self.until_us),
            "slice": timedelta(microseconds=SLICE_US),
            "reach": LONGEST_US // SLICE_US,
        }
        return [us_of(start) for (start,) in await self._db.find(_HELD, **values)]

    async def compare(self, from_us: int, to_us: int) -> list[Unsound]:
        """What differs in the windows of a slice."""
        columnar = self._db.layout is Layout.COLUMNSTORE
        async with self._db.transaction() as connection:
            view = LoadView([connection], self._window_us // US, columnar=columnar)
            stored = joined([cells async for cells in view.loads(from_us, to_us)], self._n)
            reach_us = to_us + await self._longest_us(connection, to_us)
            reads = (
                spans(connection, from_us + 1, reach_us + 1, None)
                if columnar
                else pages(connection, from_us + 1, reach_us + 1)
            )
            first, stop = from_us // self._window_us, to_us // self._window_us
            parts: list[Loads] = []
            async for change in reads:
                known = (change.slot >= 0) & (change.slot < self._topology.slots)
                cells, _ = self._members.cells(change.take(np.flatnonzero(known)))
                parts = [joined([*parts, cells.take((cells.window >= first) & (cells.window < stop))], self._n)]
        return self._differences(stored, joined(parts, self._n))

    async def _longest_us(self, connection: Any, to_us: int) -> int:
        """Length of the longest read that ends within a day after the slice: it may reach into it."""
        row = await (
            await connection.execute(
                "SELECT coalesce(max(interval_s), 0) FROM reads WHERE end_at > %s AND end_at <= %s",
                (moment(to_us), moment(to_us) + timedelta(microseconds=LONGEST_US)),
            )
        ).fetchone()
        return int(row[0]) * US

    def _differences(self, stored: Loads, counted: Loads) -> list[Unsound]:
        keys = [cells.window * self._n + cells.transformer for cells in (stored, counted)]
        key = np.union1d(*keys)
        wh = np.zeros((2, len(key)), np.int64)
        for row, mine, cells in zip(wh, keys, (stored, counted), strict=True):
            row[np.searchsorted(key, mine)] = cells.wh
        window, transformer = np.divmod(key, max(self._n, 1))
        differs = (wh[0] != wh[1]) & ~np.isin(key, self._exempt)
        differs &= (window >= self._fixed_from[transformer]) & (window < self._open_from[transformer])
        return [
            Unsound(
                f"transformer_loads of {self._topology.transformer[transformer[at]]},"
                f" window ending {moment((int(window[at]) + 1) * self._window_us)}",
                f"{wh[0, at]} Wh", f"{wh[1, at]} Wh, the sum of the reads of its members",
                "INSERT INTO transformer_loads_dirty (transformer_id, from_at) that transformer and time, and restart"
                " the service, which counts them again",
            )
            for at in np.flatnonzero(differs)[: FOUND_MAX + 1].tolist()
        ]  # fmt: skip
