"""Estimates what is missing: as a job, once a local day is judged and again when it should come out otherwise, and on
demand.

What a day lacks is a function of what was sent (meterwatch.estimated_days). Estimates go the way of every batch, so
they are ranked versions, in the ledger like others; the rules are not told of them. One step, from reading to the
commit, is done at a time: of two for the same day the later one has read more. A step that fails is done again by its
marks.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from meterwatch.background import in_background
from meterwatch.batch import Batch, Reads, Rejects, Stored
from meterwatch.clock import US, Clock
from meterwatch.day_marks import DayMarks
from meterwatch.estimated_days import DayOf, differing, ends_of, stored_of
from meterwatch.estimated_loads import EstimatedLoads
from meterwatch.local_days import LAST_DAY, day_of, day_starts_us
from meterwatch.metrics import Metrics
from meterwatch.quality import METHOD_MASK, METHOD_SHIFT, Method
from meterwatch.register_spans import counted
from meterwatch.topology import Topology
from storage.estimates import EstimateStore
from storage.meter_days import DayStore

BY_SERVICE: Final = -1
"""In the place of a head-end's number; those begin at 1."""
SLOTS_PER_STEP: Final = 200
"""Meters estimated at once: some 200,000 reads with their like days, 20 MB."""
MARKS_PER_STEP: Final = 1_000
EVER: Final = (0, int(np.iinfo(np.int64).max))
Slots = NDArray[np.int32]
_log = structlog.get_logger(__name__)


class Estimation:
    """See the module head. `run()` is a core task."""

    def __init__(
        self,
        marks: EstimateStore,
        days: DayStore,
        zones: DayMarks,
        topology: Callable[[], Topology],
        clock: Clock,
        submit: Callable[[Batch], Awaitable[Stored]],
        metrics: Metrics,
        after_us: int = 0,
        waiting_rows: Callable[[], int] = lambda: 0,
        estimated_loads: EstimatedLoads | None = None,
    ) -> None:
        self._marks = marks
        self._days = days
        self._zones = zones
        self._topology = topology
        self._clock = clock
        self._submit = submit
        self._metrics = metrics
        self._after_us = after_us
        self._waiting_rows = waiting_rows
        self._estimated_loads = estimated_loads or EstimatedLoads()
        self._epoch, self._seq = secrets.randbits(62) + 1, 0
        self._one = asyncio.Lock()

    async def run(self) -> None:
        """Estimate until cancelled."""
        await in_background(
            "estimating", self.once, self._metrics.estimation_steps_failed.inc, self._waiting_rows, self._metrics.jobs
        )

    async def once(self) -> bool:
        """Pay the oldest marks of one day; False: none is due."""
        now_us = np.array([self._clock.now_us() - self._after_us])
        over = min((int(day_of(zone, now_us)[0]) - 1 for zone in self._zones.zones), default=-1)
        day = await self._marks.oldest(over)
        if day is None:
            return False
        ids, owed = await self._marks.owed(day, MARKS_PER_STEP)
        slots = np.unique(owed)
        for at in range(0, len(slots), SLOTS_PER_STEP):
            await self._step(day, slots[at : at + SLOTS_PER_STEP], EVER, dry_run=False)
        await self._marks.paid(ids)
        return True

    async def on_demand(self, slots: Slots, from_us: int, to_us: int, *, dry_run: bool) -> AsyncIterator[Reads]:
        """Estimate these meters for from_us < end <= to_us; what was written, or with dry_run would be."""
        topology = self._topology()
        for zone in self._zones.zones:
            number = self._zones.zones.index(zone)
            mine = slots[self._zones.zone_of[slots] == number]
            first, last = day_of(zone, np.array([from_us + 1, to_us])).tolist()
            for day in range(first, last + 1):
                for at in range(0, len(mine), SLOTS_PER_STEP):
                    some = mine[at : at + SLOTS_PER_STEP]
                    some = some[some < topology.slots]
                    for reads in await self._step(day, some, (from_us, to_us), dry_run=dry_run):
                        yield reads

    async def _step(self, day: int, slots: Slots, span: tuple[int, int], *, dry_run: bool) -> list[Reads]:
        async with self._one:
            found = [await self._of_day(one, span) for one in self._parts(day, slots)]
            found = [reads for reads in found if reads.rows]
            if not dry_run:
                for reads in found:
                    await self._write(reads)
                await self._count(day, slots)
        return found

    async def _count(self, day: int, slots: Slots) -> None:
        """Loads of the transformers, also if nothing was written: a crash may have come after the writing."""
        topology = self._topology()
        slots = slots[slots < min(topology.slots, len(self._zones.zone_of))]
        if not (len(slots) and 0 <= day < LAST_DAY):
            return
        zones = [self._zones.zones[number] for number in np.unique(self._zones.zone_of[slots]).tolist()]
        from_us, to_us = (int(of(day_starts_us(zone)[day + n] for zone in zones)) for n, of in ((0, min), (1, max)))
        async with self._days.step() as step:
            await self._estimated_loads.count(step.connection, topology, slots, slots, from_us, to_us)

    def _parts(self, day: int, slots: Slots) -> list[DayOf]:
        """The meters by zone and interval length."""
        topology = self._topology()
        slots = slots[slots < min(topology.slots, len(self._zones.zone_of))]
        parts = []
        if 0 <= day < LAST_DAY:
            for number in np.unique(self._zones.zone_of[slots]).tolist():
                here = slots[self._zones.zone_of[slots] == number]
                for interval_s in np.unique(topology.interval_s[here]).tolist():
                    mine = here[topology.interval_s[here] == interval_s]
                    terms = topology.installed_us[mine], topology.retired_us[mine]
                    parts.append(DayOf(self._zones.zones[number], day, interval_s, mine, *terms))
        return parts

    async def _of_day(self, day: DayOf, span: tuple[int, int]) -> Reads:
        def each(us: int) -> NDArray[np.int64]:
            return np.full(len(day.slots), us, np.int64)

        spans = [(each(from_us), each(to_us)) for from_us, to_us in day.spans()]
        async with self._days.step() as step:
            columns = [await step.reads(day.slots, *one) for one in spans]
            events = await step.events(day.slots, *spans[0])
            ends_us = ends_of(day)
            shown = await step.registers(day.slots, each(int(ends_us[0]) - day.interval_s * US), each(int(ends_us[-1])))
        registers = counted(day, shown, self._topology().multiplier[day.slots])
        return await asyncio.to_thread(differing, day, stored_of(columns), events, registers, span)

    async def _write(self, reads: Reads) -> None:
        self._seq += 1
        digest = hashlib.blake2b(f"{self._epoch} {self._seq}".encode(), digest_size=16).digest()
        none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
        batch = Batch(BY_SERVICE, self._epoch, self._seq, digest, reads, none, 0, reads.rows, by_service=True)
        await self._submit(batch)
        method = (reads.quality & METHOD_MASK) >> METHOD_SHIFT
        for one in Method:
            if one is not Method.SENT:
                self._metrics.estimates.labels(one.name.lower()).inc(int(np.count_nonzero(method == one)))
