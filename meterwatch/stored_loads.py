"""How the overload rule comes to know the stored loads, after a start or a change of the registry.

The table of loads holds every evaluated batch, so it is the ring. Only this is summed up from stored reads:
  - the last 48 h of a transformer whose members changed since it was counted, or that never was (an older database),
  - what is older, from the time on at which an import changed its members, CELLS_MAX cells at a start or an import,
  - the cells touched by batches that are stored and not evaluated.
The next commit stores both. All is one snapshot, so such a batch must not be added once more: `restore` names them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.loads import Loads
from meterwatch.topology import Topology
from rules.load import joined
from rules.overload import Overload
from storage.history import History
from storage.loads import LONGEST_US, Dirty, LoadView, Owed

RING_US: Final = 48 * 3600 * US
"""How far back from the newest load the ring of the overload rule is filled."""
LOOK_BACK_US: Final = 48 * 3600 * US
"""How far before the ring a transformer is followed that is not at rest where the ring begins. (ours)"""
DAY_US: Final = 86_400 * US
CELLS_MAX: Final = 500_000
"""Cells before the ring that are counted again at once, 20 MB: 170 transformers for a month. The rest waits for the
next start or import."""
Ints = NDArray[np.int64]
_log = structlog.get_logger(__name__)


async def restore(
    overload: Overload,
    topology: Topology,
    view: LoadView,
    history: History,
    alarms: list[Told],
    now_us: int,
    to_us: int,
) -> list[Owed]:
    """Fill the ring with windows up to to_us; return the batches that are counted in it and not evaluated.

    alarms: known of this rule. A transformer whose alarm reaches into the ring from before it is followed from its
    onset, one that is loaded where the ring begins from LOOK_BACK_US earlier: else the rules would know less than what
    was told. The ring ends with the newest load, however long we were away.
    """
    return await _Restore(overload, topology, view).run(history, alarms, now_us, to_us)


class Told(NamedTuple):
    """An alarm of a transformer, as far as the ring is concerned."""

    transformer: int
    onset_us: int
    cleared_us: int | None


class _Restore:
    def __init__(self, overload: Overload, topology: Topology, view: LoadView) -> None:
        self._overload = overload
        self._topology = topology
        self._view = view
        self._n = len(topology.transformer)
        self._window_us = overload.window_us

    async def run(self, history: History, alarms: list[Told], now_us: int, to_us: int) -> list[Owed]:
        view, overload = self._view, self._overload
        newest_load_us = await view.newest_end_us(to_us)
        newest_us = newest_load_us or await history.newest_end_us(to_us)
        ring_us = min(newest_us or now_us, now_us) - RING_US
        digest = await view.members(self._n)
        stale = np.flatnonzero(digest != overload.members.digest())
        first = joined([cells async for cells in view.loads(ring_us, ring_us + self._window_us)], self._n)
        onset_us = dict.fromkeys(overload.restless(first).tolist(), ring_us - LOOK_BACK_US)
        for told in alarms:
            if told.onset_us < ring_us and (told.cleared_us is None or told.cleared_us >= ring_us):
                onset_us[told.transformer] = min(told.onset_us, onset_us.get(told.transformer, told.onset_us))
        await self._follow(onset_us, digest, ring_us)

        if newest_load_us:
            overload.begin(overload.window_of(newest_load_us))
        counted: list[Loads] = []
        async for cells in view.loads(ring_us, newest_us):
            old = np.isin(cells.transformer, stale)
            counted.append(_emptied(cells.take(old)))
            overload.restore(cells.take(~old) if old.any() else cells)
        if len(stale):
            counted += [cells async for cells in self._count(stale, ring_us, to_us)]
        owed = await view.owed()
        tail = ring_us // self._window_us
        marks, dirty_from = self._dirty(await view.dirty(), tail)
        moved = joined([cells async for cells in self._count_moved(dirty_from, ring_us)], self._n)
        touched = self._cells_of(*await view.touched(owed))
        before = touched.window < tail
        touched = touched.take(~np.isin(touched.transformer, stale) | before)
        touched = touched.take((touched.window >= tail) | (touched.window < dirty_from[touched.transformer]))
        counted += [moved, touched]
        counted += [cells async for cells in self._count_cells(touched)]
        overload.recount(joined(counted, self._n), stale, joined([touched, _emptied(moved)], self._n), marks)
        return owed

    def _dirty(self, found: list[Dirty], tail: int) -> tuple[Ints, Ints]:
        """Marks that are paid now; and by transformer the first window to be counted again, `tail` if none is."""
        first = np.full(self._n, tail, np.int64)
        paid: list[int] = []
        for mark in found:
            if mark.transformer < self._n:
                window = min(tail, (mark.from_us - LONGEST_US) // self._window_us)
                if int((tail - first).sum()) + tail - window > CELLS_MAX and paid:
                    _log.warning("loads of moved meters wait for the next start", marks=len(found) - len(paid))
                    break
                first[mark.transformer] = min(window, first[mark.transformer])
            paid.append(mark.mark_id)
        return np.array(paid, np.int64), first

    async def _count_moved(self, first: Ints, ring_us: int) -> AsyncIterator[Loads]:
        """The cells from these windows to the ring anew, in parts to be added up; empty ones for what is stored."""
        tail = ring_us // self._window_us
        for day_us in range(int(first.min(initial=tail)) * self._window_us, tail * self._window_us, DAY_US):
            until_us = min(day_us + DAY_US, tail * self._window_us)
            mine = np.flatnonzero(first * self._window_us < until_us)
            async for cells in self._view.loads(day_us, until_us, mine.tolist()):
                yield _emptied(cells.take(cells.window >= first[cells.transformer]))
            async for cells in self._count(mine, day_us, until_us):
                yield cells.take(cells.window >= first[cells.transformer])

    async def _follow(self, onset_us: dict[int, int], digest: Ints, ring_us: int) -> None:
        """Take transformers from the onset of their alarm to the ring, in rising time; the ring goes with it."""
        known = [transformer for transformer in onset_us if digest[transformer]]
        never = np.array([transformer for transformer in onset_us if not digest[transformer]], np.int64)
        for day_us in range(min(onset_us.values(), default=ring_us), ring_us, DAY_US):
            until_us = min(day_us + DAY_US, ring_us)
            if known:
                async for cells in self._view.loads(day_us, until_us, known):
                    self._overload.restore(cells)
            if len(never):
                found = [cells async for cells in self._count(never, day_us, until_us)]
                self._overload.restore(joined(found, self._n))

    async def _count_cells(self, wanted: Loads) -> AsyncIterator[Loads]:
        """These cells out of the stored reads, day by day."""
        key, days = self._key(wanted), wanted.window * self._window_us // DAY_US
        for day in np.unique(days).tolist():
            here = wanted.take(days == day)
            first, last = int(here.window.min()), int(here.window.max())
            range_us = first * self._window_us, (last + 1) * self._window_us
            async for cells in self._count(np.unique(here.transformer), *range_us):
                yield cells.take(np.isin(self._key(cells), key))

    async def _count(self, transformers: Ints, from_us: int, to_us: int) -> AsyncIterator[Loads]:
        """Cells of these transformers with from_us < window end, window start < to_us, in parts to be added up."""
        chosen = np.zeros(self._n, np.bool_)
        chosen[transformers] = True
        slots = self._overload.members.slots_of(transformers)
        first, stop = from_us // self._window_us, -(-to_us // self._window_us)
        async for change in self._view.reads(slots, self._topology.slots, from_us, to_us):
            cells, _ = self._overload.members.cells(change)
            yield cells.take(chosen[cells.transformer] & (cells.window >= first) & (cells.window < stop))

    def _cells_of(self, slot: Ints, end_us: Ints, interval_s: Ints) -> Loads:
        """The cells, empty, into which such reads fall."""
        transformer = self._overload.members.of(slot.astype(np.int32), end_us).astype(np.int64)
        mine = transformer >= 0
        transformer, end_us, interval_s = transformer[mine], end_us[mine], interval_s[mine]
        first = (end_us - interval_s.astype(np.int64) * US) // self._window_us
        count = (end_us - 1) // self._window_us - first + 1
        read = np.repeat(np.arange(len(first)), count)
        window = np.arange(len(read)) - np.repeat(np.cumsum(count) - count - first, count)
        key = np.unique(window * self._n + transformer[read])
        none = np.zeros(len(key), np.int64)
        phases = None if self._overload.members.phase is None else np.zeros((len(key), 3), np.int64)
        return Loads(key % max(self._n, 1), key // max(self._n, 1), none, none, none, phases)

    def _key(self, cells: Loads) -> Ints:
        return cells.window * self._n + cells.transformer


def _emptied(cells: Loads) -> Loads:
    none = np.zeros(len(cells), np.int64)
    phases = None if cells.phase_wh is None else np.zeros_like(cells.phase_wh)
    return Loads(cells.transformer, cells.window, none, none, none, phases)
