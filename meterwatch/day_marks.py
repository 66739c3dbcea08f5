"""Which meter-days must be judged again: told of every committed change, it marks those of local days already judged.

A day that is still to be judged needs no mark, so live reads cost one comparison a batch. A day is closed before its
first judgement reads anything, and a change is told after its reads are committed: whoever comes too early to be marked
is seen by the judgement. Marks are committed before the batch is marked evaluated; what a crash leaves unevaluated is
marked at the next start. A meter-day waiting to be judged is marked once, as far as REMEMBERED_DAYS allow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Events, ReadChange
from meterwatch.local_days import day_of, day_starts_us
from meterwatch.registers import SNAP_US, RegisterChange
from meterwatch.topology import Topology

REMEMBERED_DAYS: Final = 64
"""Days for which it is remembered who is marked: one byte a meter and day. Others may be marked more than once."""
SPAN_DAYS_MAX: Final = 64
"""Days looked at one by one; reads further apart are sorted by day instead."""
Ints = NDArray[np.int64]
Slots = NDArray[np.int32]


class DayMarks:
    """See the module head. Not thread-safe: lives on the event loop."""

    def __init__(self, topology: Topology) -> None:
        self.open_day: dict[str, int] = {}
        """By zone: the first local day that is not closed."""
        self._marked: dict[int, NDArray[np.bool_]] = {}
        self._unsaved: list[tuple[int, Slots]] = []
        self.replace(topology)

    def replace(self, topology: Topology) -> None:
        """Go on with another registry snapshot."""
        names = [*(zone or "UTC" for zone in topology.head_end_zone), "UTC"]
        self.zones = sorted(set(names))
        number = np.array([self.zones.index(name) for name in names], np.int16)
        head_end = np.minimum(topology.head_end_of, len(names) - 1)
        head_end = np.where(head_end >= len(topology.head_end_zone), -1, head_end)
        self.zone_of = number[head_end]
        """Per slot: index into zones; a meter without a head-end lives by UTC."""
        self._marked.clear()

    def observe_reads(self, change: ReadChange) -> None:
        self.observe(change.slot, change.end_us)

    def observe_events(self, events: Events) -> None:
        self.observe(events.slot, events.at_us)

    def observe_registers(self, change: RegisterChange) -> None:
        """A register read a little after midnight ends a day too; the day after a marked one is judged with it."""
        self.observe(change.slot, change.at_us - SNAP_US)

    def observe(self, slot: Slots, at_us: Ints) -> None:
        """Something ending then has changed, and is committed. Cost: 5 ns a late read whose day is marked already."""
        if len(slot) == 0:
            return
        first_us = int(at_us.min())
        for n, zone in enumerate(self.zones):
            if zone not in self.open_day or first_us > day_starts_us(zone)[self.open_day[zone]]:
                continue
            mine = self.zone_of[slot] == n
            if mine.all():
                self._observe(zone, slot, at_us)
            elif mine.any():
                self._observe(zone, slot[mine], at_us[mine])

    def _observe(self, zone: str, slot: Slots, at_us: Ints) -> None:
        starts_us = day_starts_us(zone)
        first, last = day_of(zone, np.array([at_us.min(), at_us.max()])).tolist()
        days = range(first, last + 1) if last - first <= SPAN_DAYS_MAX else np.unique(day_of(zone, at_us)).tolist()
        for day in days:
            if day >= self.open_day[zone]:
                break
            if first == last:
                self._mark(day, slot)
            elif (chosen := (at_us > starts_us[day]) & (at_us <= starts_us[day + 1])).any():
                self._mark(day, slot[chosen])

    def _mark(self, day: int, slot: Slots) -> None:
        marked = self._marked.pop(day, None)
        if marked is None:
            marked = np.zeros(len(self.zone_of), np.bool_)
        self._marked[day] = marked
        if len(self._marked) > REMEMBERED_DAYS:
            del self._marked[next(iter(self._marked))]
        fresh = slot[~marked[slot]]
        if len(fresh):
            marked[fresh] = True
            self._unsaved.append((day, np.unique(fresh)))

    async def save(self, owe: Callable[[NDArray[np.int32], Slots], Awaitable[None]]) -> None:
        """Commit the marks of what was observed; after a failure they are kept for the next try."""
        if not self._unsaved:
            return
        taken = list(self._unsaved)
        day = np.concatenate([np.full(len(slot), one, np.int32) for one, slot in taken])
        await owe(day, np.concatenate([slot for _, slot in taken]))
        del self._unsaved[: len(taken)]

    def judging(self, day: int, slot: Slots) -> None:
        """These meter-days are read from now on: what changes later is marked anew."""
        if day in self._marked:
            self._marked[day][slot] = False
