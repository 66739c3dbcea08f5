"""Judges local days in the background: each meter once when its day is over, and again what has changed since.

Two kinds of step take turns. A *pass* goes through the meters of a time zone for the oldest local day that is over,
SLOTS_PER_STEP at a time; `local_day_passes` says how far it has come. What changes in a day after that is marked
(meterwatch.day_marks) and judged again, with the day after it, which depends on how this one ended, and with the same
weekday of the next four weeks if its energy changed. A step is one transaction of bounded size; between steps the job
rests as long as the step took, and longer while reads wait for the database. An error of the database puts a step off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from meterwatch.background import in_background
from meterwatch.check_profile import CheckProfile
from meterwatch.clock import US, Clock
from meterwatch.day_marks import DayMarks
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.estimated_days import days_resting_on
from meterwatch.estimated_loads import EstimatedLoads
from meterwatch.local_days import LAST_DAY, day_of, day_starts_us
from meterwatch.metrics import Metrics
from meterwatch.quality import CHECK_OF, DAY_BITS, METHOD_MASK, ORIGIN_MASK, ORIGIN_SHIFT, Origin, Quality
from meterwatch.topology import Topology
from rules.balance import DayEnergy, imbalance
from rules.day_checks import WEEKS, DayReads, DaySums, Events, MeterDays, Tail, judge, powerless
from rules.drift import ModeLags, drifting, lags
from rules.register_checks import DayRegisters, RegisterSums, judge_registers
from storage.clocks import newest_lags
from storage.meter_days import DayStep, DayStore, Pass

SLOTS_PER_STEP: Final = 1_000
"""Meters judged in one transaction: some 100,000 reads, 10 MB."""
SETTLE_US: Final = 900 * US
"""A day is judged this long after its end; what comes later is judged again. (ours)"""
GUESSED: Final = [int(one) << ORIGIN_SHIFT for one in (Origin.SUBSTITUTED, Origin.ESTIMATED)]
PEERS_AT_START: Final = 200_000
"""Meters whose newest lags are read after a start: all that is remembered of 100 ways of being reached."""
EVERY_SLOT: Final = 2**31 - 1
Ints = NDArray[np.int64]
Slots = NDArray[np.int32]
_log = structlog.get_logger(__name__)


class JudgedDays:
    """See the module head. `run()` is a core task."""

    def __init__(
        self,
        store: DayStore,
        marks: DayMarks,
        topology: Callable[[], Topology],
        clock: Clock,
        profile: CheckProfile,
        metrics: Metrics,
        waiting_rows: Callable[[], int] = lambda: 0,
        *,
        estimates: bool = False,
        estimated_loads: EstimatedLoads | None = None,
    ) -> None:
        self._store = store
        self._marks = marks
        self._topology = topology
        self._clock = clock
        self._profile = profile
        self._metrics = metrics
        self._waiting_rows = waiting_rows
        self._estimates = estimates
        """Meter-days with gaps are marked for meterwatch.estimation."""
        self._estimated_loads = estimated_loads or EstimatedLoads()
        self._passes: dict[str, Pass] = {}
        self._mode_lags: ModeLags | None = None

    async def start(self) -> None:
        """Know how far the passes have come, and mark what a crash left unevaluated. Before anything is evaluated."""
        self._passes = await self._store.passes()
        await self._open_new_zones()
        for zone, at in self._passes.items():
            self._marks.open_day[zone] = at.day + (at.next_slot > 0)
        self._marks.observe(*await self._store.unjudged())
        await self._marks.save(self._store.owe)

    async def replace(self, topology: Topology) -> None:
        """Go on with another registry snapshot; while nothing is evaluated."""
        self._marks.replace(topology)
        await self._open_new_zones()

    async def _open_new_zones(self) -> None:
        """The first day of a zone nobody lived in is today; durable before a read of it is evaluated."""
        for zone in self._marks.zones:
            if zone not in self._passes:
                today = int(day_of(zone, np.array([self._clock.now_us()]))[0])
                async with self._store.step() as step:
                    await step.passed(zone, Pass(today, 0))
                self._passes[zone] = Pass(today, 0)
                self._marks.open_day[zone] = today

    async def run(self) -> None:
        """Judge until cancelled."""
        await in_background(
            "judging days", self.once, self._metrics.day_steps_failed.inc, self._waiting_rows, self._metrics.jobs
        )

    async def once(self) -> bool:
        """One step of a pass for every zone that owes one, and one of what changed; False: there was nothing to do.

        Raises what one of them raised, when all have had their turn.
        """
        await self._open_new_zones()
        worked, errors = False, list[Exception]()
        steps: list[Callable[[], Awaitable[bool]]] = [partial(self._pass_step, zone) for zone in self._marks.zones]
        for step in (*steps, self._again_step):
            try:
                worked |= await step()
            except (StorageUnavailable, Overloaded):
                raise
            except Exception as error:  # a step's boundary
                errors.append(error)
        if errors:
            raise errors[0]
        return worked

    @property
    def behind_s(self) -> float:
        """How long ago the oldest local day ended whose first judgement is not finished; 0: none has."""
        now_us = self._clock.now_us()
        ended_us = [int(day_starts_us(zone)[at.day + 1]) for zone, at in self._passes.items()]
        return max([0.0, *((now_us - us) / US for us in ended_us)])

    async def _pass_step(self, zone: str) -> bool:
        at = self._passes[zone]
        if at.day >= LAST_DAY or self._clock.now_us() < int(day_starts_us(zone)[at.day + 1]) + SETTLE_US:
            return False
        self._marks.open_day[zone] = at.day + 1
        mine = np.flatnonzero(self._marks.zone_of == self._marks.zones.index(zone)).astype(np.int32)
        slots = mine[mine >= at.next_slot][:SLOTS_PER_STEP]
        done = Pass(at.day, int(slots[-1]) + 1) if len(slots) else Pass(at.day + 1, 0)
        async with self._store.step() as step:
            if len(slots):
                await self._judge(step, at.day, slots, first=True)
                await self._balance(step, at.day, slots, done.next_slot)
            await step.passed(zone, done)
        self._passes[zone] = done
        self._metrics.meter_days_judged.labels("first").inc(len(slots))
        if not len(slots):
            _log.info("local day judged", zone=zone, day=at.day, meters=len(mine))
        return True

    async def _again_step(self) -> bool:
        day = await self._store.oldest_owed()
        if day is None:
            return False
        ids, owed = await self._store.owed(day, SLOTS_PER_STEP)
        slots = np.unique(owed[owed < len(self._marks.zone_of)])
        self._marks.judging(day, slots)
        open_day = np.array([self._marks.open_day[zone] for zone in self._marks.zones])
        tomorrow = slots[day + 1 < open_day[self._marks.zone_of[slots]]]
        async with self._store.step() as step:
            changed = await self._judge(step, day, slots)
            await self._judge(step, day + 1, tomorrow)
            await self._balance(step, day, slots, EVERY_SLOT)
            await self._balance(step, day + 1, tomorrow, EVERY_SLOT)
            if len(changed):
                await step.owe_later(changed, [day + 7 * week for week in range(1, WEEKS + 1)])
            await step.paid(ids)
        self._metrics.meter_days_judged.labels("again").inc(len(slots) + len(tomorrow))
        return True

    async def _judge(self, step: DayStep, day: int, slots: Slots, *, first: bool = False) -> Slots:
        """Judge one day of some meters and store what came of it; those whose energy is another than it was."""
        topology = self._topology()
        slots = slots[slots < topology.slots]
        from_us, to_us = self._bounds(day, slots)
        start_us = np.maximum(from_us, topology.installed_us[slots])
        end_us = np.minimum(to_us, topology.retired_us[slots])
        serving = start_us < end_us
        slots, start_us, end_us = slots[serving], start_us[serving], end_us[serving]
        if len(slots) == 0:
            return slots
        whole = (end_us - start_us) == (to_us - from_us)[serving]
        stored = await step.stored(slots, [day, day - 1, *(day - 7 * week for week in range(1, WEEKS + 1))])
        found = await step.reads(slots, start_us, end_us)
        columns = _sent(found)
        events = await step.events(slots, start_us, end_us)
        shown = await step.registers(slots, start_us, end_us)
        days = self._meter_days(topology, day, slots, start_us, end_us, whole, stored)
        registers = _registers(shown, topology.multiplier[slots])
        bits, sums, reads, advanced = await asyncio.to_thread(_judged, columns, events, registers, days)
        bits |= await self._clocks(step, day, slots, columns, reads, days, sums, learn=first)
        changed = np.flatnonzero(bits != reads.quality & DAY_BITS)
        if len(changed):
            version = columns[4].astype(np.int32)
            await step.mark_reads(slots[reads.of[changed]], reads.end_us[changed], bits[changed], version[changed])
        day_s = (end_us - start_us) // US
        complete = whole & (sums.covered_s == day_s)
        await step.store(day, slots, _table(start_us, day_s, complete, sums))
        await step.store_registers(day, slots, [slots[advanced.of], *_figures(advanced)])
        if self._estimates:
            await step.owe_estimates(slots, days_resting_on(day))
        origin = found[3] & ORIGIN_MASK
        guessed = (origin == GUESSED[0]) | (origin == GUESSED[1])
        estimated = slots[np.unique(found[0][guessed].astype(np.intp))]
        span = int(from_us.min()), int(to_us.max())
        await self._estimated_loads.count(step.connection, topology, slots, estimated, *span)
        self._count(bits & ~reads.quality)
        was_wh, was_complete = np.full(len(slots), -1, np.int64), np.zeros(len(slots), np.bool_)
        mine = stored[1] == day
        was_wh[stored[0][mine]], was_complete[stored[0][mine]] = stored[2][mine], stored[3][mine]
        changed_slots: Slots = slots[(was_wh != sums.import_wh) | (was_complete != complete)]
        return changed_slots

    async def _clocks(
        self,
        step: DayStep,
        day: int,
        slots: Slots,
        columns: list[NDArray[Any]],
        reads: DayReads,
        days: MeterDays,
        sums: DaySums,
        *,
        learn: bool,
    ) -> NDArray[np.int32]:
        """V10: store the clocks of these meters; bits of their reads, also put into the findings of the day."""
        topology = self._topology()
        lag_s, samples = lags(*_usable(reads, columns), len(slots))
        known = np.flatnonzero(samples >= days.limit("drift_samples"))
        way = _ways(topology, slots)
        if self._mode_lags is None:
            self._mode_lags = ModeLags()
            peers, peers_lag_s = await newest_lags(step.connection, PEERS_AT_START)
            mine = peers < topology.slots
            self._mode_lags.learn(_ways(topology, peers[mine]), peers[mine], peers_lag_s[mine])
        if learn:  # once a day and meter: who is corrected often is no majority
            stored_s = lag_s[known].astype(np.float32).astype(np.float64)  # as it is read again after a restart
            self._mode_lags.learn(way[known], slots[known], stored_s)
        usual_s, scatter_s = self._mode_lags.usual(way, int(days.limit("drift_peers").max()))
        drift_s = lag_s - usual_s
        found = drifting(drift_s, scatter_s, days.limit("drift_s"), days.limit("drift_scatters"))
        found &= samples >= days.limit("drift_samples")
        figures = (lag_s[known], usual_s[known], drift_s[known])
        await step.store_clocks(day, slots[known], figures, samples[known])
        sums.findings[found] |= np.int32(Quality.DRIFTING)
        bits = np.zeros(len(reads.of), np.int32)
        bits[reads.ends] = found[reads.of[reads.ends]] * np.int32(Quality.DRIFTING)
        return bits

    async def _balance(self, step: DayStep, day: int, slots: Slots, judged_below: int) -> None:
        """V18 of the transformers of these meters, if all their meters have a slot below: the others come later."""
        if len(slots) == 0:
            return
        from_us, to_us = self._bounds(day, slots)
        energy = await step.energy(day, slots, int(from_us.min()), int(to_us.max()), judged_below)
        _, supply_wh, sales_wh, _, supplied, sold, moved, was = energy
        if len(supply_wh) == 0:
            return
        limits = self._profile.of_day(day).balance
        loss, found = imbalance(DayEnergy(supply_wh, sales_wh, supplied, sold, moved), limits)
        await step.store_balances(day, energy, loss, found)
        self._metrics.check_findings.labels("V18").inc(int(np.count_nonzero(found & ~was)))

    def _bounds(self, day: int, slots: Slots) -> tuple[Ints, Ints]:
        zones = self._marks.zones
        bounds = np.array([day_starts_us(zone)[day : day + 2] for zone in zones])[self._marks.zone_of[slots]]
        return bounds[:, 0], bounds[:, 1]

    def _meter_days(
        self,
        topology: Topology,
        day: int,
        slots: Slots,
        start_us: Ints,
        end_us: Ints,
        whole: NDArray[np.bool_],
        stored: list[NDArray[Any]],
    ) -> MeterDays:
        tail, weekday_wh = Tail.none(len(slots)), np.full((len(slots), WEEKS), -1, np.int64)
        before = stored[1] == day - 1
        for column, values in zip(
            (tail.end_us, tail.interval_s, tail.import_wh, tail.export_wh, tail.same_s, tail.loaded),
            stored[4:],
            strict=True,
        ):
            column[stored[0][before]] = values[before]
        for week in range(1, WEEKS + 1):
            then = (stored[1] == day - 7 * week) & stored[3]
            weekday_wh[stored[0][then], week - 1] = stored[2][then]
        phases = np.bitwise_count(topology.phases[slots]).astype(np.float64)
        phases[phases == 0] = 3
        rated_a = topology.rated_a[slots].astype(np.float64)
        return MeterDays(
            start_us=start_us,
            end_us=end_us,
            whole=whole,
            interval_s=topology.interval_s[slots].astype(np.int64),
            rated_a=rated_a,
            capacity_kw=rated_a * topology.nominal_v[slots] * phases / 1000,
            meter_class=topology.meter_class[slots],
            weekday_wh=weekday_wh,
            tail=tail,
            profile=self._profile.of_day(day),
        )

    def _count(self, fresh: NDArray[np.int32]) -> None:
        fresh = fresh[fresh != 0]
        for bit, check in CHECK_OF.items():
            if bit & DAY_BITS:
                self._metrics.check_findings.labels(check).inc(int(np.count_nonzero(fresh & bit)))


def _ways(topology: Topology, slots: Slots) -> Ints:
    """How these meters are reached: a number per head-end and communication mode."""
    ways: Ints = topology.head_end_of[slots].astype(np.int64) * len(topology.comm_modes) + topology.comm_mode[slots]
    return ways


def _sent(columns: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Without estimates of the service: a day is judged by what was sent."""
    sent = columns[3] & METHOD_MASK == 0
    return columns if sent.all() else [column[sent] for column in columns]


def _usable(reads: DayReads, columns: list[NDArray[Any]]) -> tuple[NDArray[np.intp], Ints, Ints]:
    """Meter-day, end and arrival of the reads that tell of a clock: measured, and never replaced."""
    found = reads.of, reads.end_us, columns[9]
    usable = reads.measured & (columns[4] == 1)
    return found if usable.all() else (found[0][usable], found[1][usable], found[2][usable])


def _judged(
    columns: list[NDArray[Any]], events: list[NDArray[Any]], registers: DayRegisters, days: MeterDays
) -> tuple[NDArray[np.int32], DaySums, DayReads, RegisterSums]:
    of, end_us, interval_s, quality, _, import_wh, export_wh, current_a, powered_down, _ = columns
    of, interval_s = of.astype(np.intp, copy=False), interval_s.astype(np.int64)
    quality = quality.astype(np.int32, copy=False)
    found = Events(events[0].astype(np.intp), events[1].astype(np.int64), events[2].astype(np.int16))
    off = powerless(of, end_us - interval_s * US, end_us, quality, days.start_us, found) | powered_down.astype(np.bool_)
    reads = DayReads(
        of, end_us, interval_s, quality, import_wh.astype(np.int64), export_wh.astype(np.int64),
        current_a.astype(np.float64), off,
    )  # fmt: skip
    bits, sums = judge(reads, days)
    more, findings, advanced = judge_registers(registers, reads, days)
    np.bitwise_or(sums.findings, findings, out=sums.findings)
    return bits | more, sums, reads, advanced


def _registers(columns: list[NDArray[Any]], multiplier: NDArray[np.float32]) -> DayRegisters:
    of, register, at_us, value_wh, device, lsb_wh, digits = columns
    of = of.astype(np.intp)
    step_wh = lsb_wh.astype(np.float64) * multiplier[of]
    wrap_wh = np.where(digits > 0, step_wh * 10.0 ** digits.astype(np.float64), 0.0)
    return DayRegisters(
        of, register.astype(np.int64), at_us.astype(np.int64), value_wh.astype(np.int64), device.astype(np.int64),
        step_wh, wrap_wh,
    )  # fmt: skip


def _figures(sums: RegisterSums) -> list[NDArray[Any]]:
    """Columns of register_days in their order."""
    return [sums.register, sums.first_us, sums.last_us, sums.register_wh, sums.interval_wh, sums.mismatch]


def _table(start_us: Ints, day_s: Ints, complete: NDArray[np.bool_], sums: DaySums) -> list[Ints]:
    """Columns of meter_days in their order."""
    tail = sums.tail
    return [
        start_us, day_s, sums.import_wh, sums.export_wh, sums.peak_w, sums.peak_end_us, sums.present, sums.expected,
        sums.estimated, sums.covered_s, complete.astype(np.int64), sums.findings.astype(np.int64), tail.end_us,
        tail.interval_s, tail.import_wh, tail.export_wh, tail.same_s, tail.loaded,
    ]  # fmt: skip
