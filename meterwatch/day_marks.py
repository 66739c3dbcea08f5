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
from meterwatch.topology import Topology

REMEMBERED_DAYS: Final = 64
"""Days for which it is remembered who is marked: one byte a meter and day. Others may be marked more than once."""
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

    def observe(self, slot: Slots, at_us: Ints) -> None:
        """Something ending then has changed, and is committed."""
        closed_us = np.array([self._closed_us(zone) for zone in self.zones])
        if len(slot) == 0 or int(at_us.min()) > closed_us.max():
            return
        late = np.flatnonzero(at_us <= closed_us[self.zone_of[slot]])
        slot, at_us = slot[late], at_us[late]
        day = np.empty(len(slot), np.int64)
        for n, zone in enumerate(self.zones):
            mine = self.zone_of[slot] == n
            day[mine] = day_of(zone, at_us[mine])
        for one in np.unique(day).tolist():
            self._mark(one, np.unique(slot[day == one]))

    def _closed_us(self, zone: str) -> int:
        """End of the last closed day of a zone; before that, a change is late."""
        return int(day_starts_us(zone)[self.open_day[zone]]) if zone in self.open_day else -1

    def _mark(self, day: int, slot: Slots) -> None:
        marked = self._marked.pop(day, None)
        if marked is None:
            marked = np.zeros(len(self.zone_of), np.bool_)
        self._marked[day] = marked
        if len(self._marked) > REMEMBERED_DAYS:
            del self._marked[next(iter(self._marked))]
        fresh = slot[~marked[slot]]
        marked[fresh] = True
        if len(fresh):
            self._unsaved.append((day, fresh))

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
