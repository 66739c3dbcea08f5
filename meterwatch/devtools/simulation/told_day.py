"""What happens in a small grid on a day, what its meters say of it, and what is therefore to be told.

Reads are rows (slot, interval); one that is corrected later is two rows, the second of higher rank. Faults begin at
least FAULTS_APART_US from each other and no two are on one line of assets, so that what is told of one is told of no
other. Refuses to know how anything is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import EventCode
from meterwatch.clock import US
from meterwatch.devtools.simulation.small_grid import FAR_US, INTERVAL_US, START_US, Grid
from meterwatch.planned import PlannedWork
from meterwatch.quality import ORIGIN_RANK, ORIGIN_SHIFT, Origin, Quality
from meterwatch.topology import PHASE_B

Rows = NDArray[np.intp]
MINUTE_US: Final = 60 * US
HOUR_US: Final = 3600 * US
FAULTS_APART_US: Final = 25 * MINUTE_US
TAIL: Final = 288
"""Intervals from the begin of the day to its tail, three days later: what is told late then has left the ring."""
TAIL_INTERVALS: Final = 2
WORK_AFTER_US: Final = 30 * MINUTE_US
"""Planned work begins so much before supply is lost, and ends so much after it is back."""
READ_DELAY_US: Final = MINUTE_US
EVENT_DELAY_US: Final = 5 * US
CORRECTED_AFTER_US: Final = 2 * HOUR_US
ON: Final = int(Quality.SUPPLY_ON)
OFF: Final = int(Quality.SUPPLY_OFF)
REREAD: Final = int(Origin.REREAD) << ORIGIN_SHIFT


@dataclass(frozen=True, slots=True)
class Fault:
    """Supply that was lost. to_us FAR_US: and did not come back."""

    kind: str
    asset_id: int
    from_us: int
    to_us: int
    certain: bool
    """Everybody said so: exactly one root is to be told, on this asset. Else at most what it reaches."""
    planned: bool = False
    phase: int = 0


@dataclass(frozen=True, slots=True)
class Overloaded:
    """A transformer above its rating for longer than every hold."""

    transformer: int
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Silence:
    """A head-end that is gone and comes back with all that it holds."""

    head_end: int
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Day:
    """Reads and events, what is behind them, and when each is sent if nothing is in its way."""

    slot: NDArray[np.int32]
    interval: NDArray[np.int64]
    """0 begins at START_US."""
    quality: NDArray[np.int32]
    wh: NDArray[np.int32]
    rank: NDArray[np.int8]
    read_sent_us: NDArray[np.int64]
    event_slot: NDArray[np.int32]
    event_us: NDArray[np.int64]
    event_code: NDArray[np.int16]
    event_phases: NDArray[np.uint8]
    event_sent_us: NDArray[np.int64]
    intervals: int
    """All there are, the tail included."""
    quiet_us: int
    """The day itself is over: from then on nobody sends, but for the tail."""
    faults: list[Fault]
    overloads: list[Overloaded]
    silences: list[Silence]
    works: list[PlannedWork]
    may_load: frozenset[int]
    """Transformers that are loaded more than usual: OVERLOAD may be told of these."""
    user_rules: bool
    all_told: bool
    """No last gasp and no read is lost."""

    @property
    def end_us(self) -> NDArray[np.int64]:
        """Of each read."""
        return START_US + (self.interval + 1) * INTERVAL_US

    @property
    def over_us(self) -> int:
        """When the last interval is over."""
        return START_US + self.intervals * INTERVAL_US


class _Draw:
    """Makes a day: what happens first, then what is said of it."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        self.grid, self.rng = grid, rng
        self.intervals = int(rng.choice([20, 24, 32, 96], p=[0.5, 0.35, 0.13, 0.02]))
        self.end_us = START_US + self.intervals * INTERVAL_US
        self.tail = bool(rng.random() < 0.05)
        self.gasps_lost = float(rng.choice([0.0, 0.2, 0.4], p=[0.6, 0.2, 0.2]))
        self.reads_lost = float(rng.choice([0.0, 0.01], p=[0.8, 0.2]))
        meters = grid.topology.slots
        self.clock_us = rng.integers(-8, 9, meters) * US * int(rng.random() < 0.3)
        """How far the clock of each meter is ahead."""
        self.factor = np.ones((len(grid.topology.transformer), self.intervals))
        self.off: list[tuple[NDArray[np.int32], int, int]] = []
        self.faults: list[Fault] = []
        self.busy: list[tuple[str, int, int]] = []
        """Kind, asset and begin of all that happens to supply."""
        self.overloads: list[Overloaded] = []
        self.silences: list[Silence] = []
        self.works: list[PlannedWork] = []
        self.events: list[tuple[int, int, int, int]] = []
        self.may_load: set[int] = set()

    def day(self) -> Day:
        drawn = self.rng.random(8).tolist()
        wanted: list[Callable[[], None]] = [self.supply_lost] * int(self.rng.integers(0, 3))
        wanted += [self.overload] * (drawn[0] < 0.8 * self.grid.rated) + [self.flapping] * (drawn[1] < 0.2)
        wanted += [self.momentary] * (drawn[2] < 0.2) + [self.planned] * (drawn[3] < 0.2)
        wanted += [self.phase_lost] * (drawn[4] < 0.12) + [self.silent] * (drawn[5] < 0.25)
        for happens in wanted or [self.supply_lost]:
            happens()
        return self.said(corrected=0.1 * (drawn[6] < 0.3), user_rules=bool(drawn[7] < 0.3))

    # What happens

    def free(self, kind: str, asset_id: int) -> int | None:
        """When something may happen to an asset, if it may at all."""
        grid, topology = self.grid, self.grid.topology
        feeder = grid.feeder_of_meter
        mine = set(feeder[grid.members(kind, asset_id)].tolist()) - {-1}
        line = {int(topology.transformer_of[slot]) for slot in grid.members(kind, asset_id)}
        for other_kind, other_id, _ in self.busy:
            slots = grid.members(other_kind, other_id)
            wide = "feeder" in (kind, other_kind) and mine & set(feeder[slots].tolist())
            if wide or line & {int(topology.transformer_of[slot]) for slot in slots}:
                return None
        from_us = START_US + HOUR_US + int(self.rng.integers(0, self.end_us - START_US - 2 * HOUR_US))
        if any(abs(began_us - from_us) < FAULTS_APART_US for _, _, began_us in self.busy):
            return None
        self.busy.append((kind, asset_id, from_us))
        return from_us

    def asset(self) -> tuple[str, int]:
        """A feeder with several transformers, a transformer or a meter."""
        topology, rng = self.grid.topology, self.rng
        kind = str(rng.choice(["feeder", "transformer", "meter"], p=[0.3, 0.4, 0.3]))
        if kind == "feeder":
            counts = np.bincount(topology.feeder_of[topology.feeder_of >= 0], minlength=len(topology.feeder))
            wide = np.flatnonzero(counts >= 2)
            if len(wide):
                return kind, int(rng.choice(wide))
            kind = "transformer"
        return kind, int(rng.integers(0, len(topology.transformer) if kind == "transformer" else topology.slots))

    def supply_lost(self, *, planned: bool = False) -> None:
        kind, asset_id = self.asset()
        lasts_us = int(self.rng.integers(15, 150)) * MINUTE_US
        from_us = self.free(kind, asset_id)
        if from_us is None:
            return
        to_us = from_us + lasts_us
        if not planned and not self.tail and self.rng.random() < 0.1:
            to_us = FAR_US
        if planned:
            work = PlannedWork(f"W{len(self.works)}", kind, asset_id, from_us - WORK_AFTER_US, to_us + WORK_AFTER_US)
            self.works.append(work)
        slots = self.grid.members(kind, asset_id)
        told = self.cut(slots, from_us, to_us)
        self.faults.append(Fault(kind, asset_id, from_us, to_us, told, planned))

    def planned(self) -> None:
        self.supply_lost(planned=True)

    def cut(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> bool:
        """Meters go off and come back; True: all of them said so."""
        self.off.append((slots, from_us, to_us))
        gasps = self.rng.random(len(slots)) >= self.gasps_lost
        returns = self.rng.random(len(slots)) >= self.gasps_lost / 2
        jitter_us = self.rng.integers(0, 12, (2, len(slots))) * US
        for slot, gasp, back, fell_us, rose_us in zip(
            slots.tolist(), gasps.tolist(), returns.tolist(), *jitter_us.tolist(), strict=True
        ):
            if gasp:
                self.event(slot, from_us + fell_us, EventCode.POWER_FAIL)
            if back and to_us < FAR_US:
                self.event(slot, to_us + rose_us, EventCode.POWER_RESTORED)
        return bool(gasps.all())

    def event(self, slot: int, at_us: int, code: EventCode, phases: int = 0) -> None:
        at_us += int(self.clock_us[slot])
        if at_us < self.end_us:
            self.events.append((slot, at_us, int(code), phases))

    def momentary(self) -> None:
        """A transformer is off for less than any hold: nothing is to be told."""
        transformer = int(self.rng.integers(0, len(self.grid.topology.transformer)))
        from_us = self.free("transformer", transformer)
        if from_us is None:
            return
        lasts_us = int(self.rng.integers(12, 30)) * US
        for slot in self.grid.members("transformer", transformer).tolist():
            if self.rng.random() >= self.gasps_lost:
                jitter_us = int(self.rng.integers(0, 10)) * US
                self.event(slot, from_us + jitter_us, EventCode.POWER_FAIL)
                self.event(slot, from_us + jitter_us + lasts_us, EventCode.POWER_RESTORED)

    def flapping(self) -> None:
        """A meter is off again and again for some seconds: nothing is to be told."""
        slot = int(self.rng.integers(0, self.grid.topology.slots))
        at_us = self.free("meter", slot)
        if at_us is None:
            return
        for _ in range(int(self.rng.integers(3, 10))):
            self.event(slot, at_us, EventCode.POWER_FAIL)
            self.event(slot, at_us + int(self.rng.integers(5, 40)) * US, EventCode.POWER_RESTORED)
            at_us += int(self.rng.integers(120, 400)) * US

    def phase_lost(self) -> None:
        """Phase B of a transformer, told by its meters with three phases and by those on it."""
        topology = self.grid.topology
        transformer = int(self.rng.integers(0, len(topology.transformer)))
        from_us = self.free("transformer", transformer)
        if from_us is None:
            return
        to_us = from_us + int(self.rng.integers(30, 120)) * MINUTE_US
        slots = self.grid.members("transformer", transformer)
        single = slots[topology.phases[slots] == PHASE_B]
        self.cut(single, from_us, to_us)
        for slot in slots[topology.phases[slots] == 7].tolist():
            self.event(slot, from_us + int(self.rng.integers(0, 10)) * US, EventCode.PHASE_LOSS, PHASE_B)
            self.event(slot, to_us + int(self.rng.integers(0, 10)) * US, EventCode.PHASE_RETURN, PHASE_B)
        self.faults.append(Fault("transformer", transformer, from_us, to_us, False, phase=PHASE_B))

    def overload(self) -> None:
        """A transformer goes above its rating in steps, and back."""
        transformer = int(self.rng.integers(0, len(self.grid.topology.transformer)))
        if transformer in self.may_load:
            return
        self.may_load.add(transformer)
        first = int(self.rng.integers(2, 6))
        steps = self.rng.choice([1.15, 1.4, 1.7, 2.2], int(self.rng.integers(1, 4)))
        last = first
        for load in steps.tolist():
            length = int(self.rng.integers(3, 12))
            self.factor[transformer, last : last + length] = load / 0.5
            last += length
        last = min(last, self.intervals)
        if last - first >= 10:
            self.overloads.append(
                Overloaded(transformer, START_US + first * INTERVAL_US, START_US + last * INTERVAL_US)
            )

    def silent(self) -> None:
        head_end = int(self.rng.integers(0, len(self.grid.topology.head_end)))
        from_us = START_US + HOUR_US + int(self.rng.integers(0, self.end_us - START_US - 4 * HOUR_US))
        if not self.silences:
            lasts_us = int(self.rng.integers(10, 160)) * MINUTE_US
            self.silences.append(Silence(head_end, from_us, from_us + lasts_us))

    # What is said of it

    def said(self, corrected: float, *, user_rules: bool) -> Day:
        grid, rng, n = self.grid, self.rng, self.intervals
        topology = grid.topology
        meters = topology.slots
        supplied = np.ones((meters, n), np.bool_)
        end_us = START_US + (np.arange(n) + 1) * INTERVAL_US
        for slots, from_us, to_us in self.off:
            supplied[np.ix_(slots, (end_us >= from_us) & (end_us < to_us))] = False
        on_battery = rng.random(meters) < 0.1
        sent = (supplied | on_battery[:, None]) & (rng.random((meters, n)) >= self.reads_lost)
        slot, interval = np.nonzero(sent)
        noise = rng.integers(95, 106, len(slot))
        wh = grid.base_w[slot] * self.factor[topology.transformer_of[slot], interval] * noise // 400
        wh = np.where(supplied[slot, interval], wh, 0)
        quality = np.where(supplied[slot, interval], ON, OFF)
        if self.tail:
            slot = np.append(slot, np.repeat(np.arange(meters), TAIL_INTERVALS))
            interval = np.append(interval, np.tile(TAIL + np.arange(TAIL_INTERVALS), meters))
            more = meters * TAIL_INTERVALS
            wh = np.append(wh, np.repeat(grid.base_w // 4, TAIL_INTERVALS))
            quality = np.append(quality, np.full(more, ON))
        sent_us = START_US + (interval + 1) * INTERVAL_US + READ_DELAY_US
        wrong = np.flatnonzero((rng.random(len(slot)) < corrected) & (quality == ON))
        right_wh = wh[wrong]
        wh[wrong] = right_wh * rng.choice([0, 1, 3], len(wrong)) + 1
        sure = len(slot)
        slot, interval = np.append(slot, slot[wrong]), np.append(interval, interval[wrong])
        rank = np.full(len(slot), ORIGIN_RANK[Origin.MEASURED], np.int8)
        rank[sure:] = ORIGIN_RANK[Origin.REREAD]
        sent_us = np.append(sent_us, sent_us[wrong] + CORRECTED_AFTER_US)
        event = np.array(sorted(set(self.events)) or np.zeros((0, 4)), np.int64).reshape(-1, 4)
        event_sent_us = event[:, 1] - self.clock_us[event[:, 0]] + EVENT_DELAY_US
        _hold_back(self.silences, topology.head_end_of[slot], sent_us)
        _hold_back(self.silences, topology.head_end_of[event[:, 0]], event_sent_us)
        return Day(
            slot=slot.astype(np.int32),
            interval=interval.astype(np.int64),
            quality=np.append(quality, np.full(len(wrong), ON | REREAD)).astype(np.int32),
            wh=np.append(wh, right_wh).astype(np.int32),
            rank=rank,
            read_sent_us=sent_us,
            event_slot=event[:, 0].astype(np.int32),
            event_us=event[:, 1],
            event_code=event[:, 2].astype(np.int16),
            event_phases=event[:, 3].astype(np.uint8),
            event_sent_us=event_sent_us,
            intervals=TAIL + TAIL_INTERVALS if self.tail else n,
            quiet_us=self.end_us,
            faults=self.faults,
            overloads=[one for one in self.overloads if self.undisturbed(one) and not self.reads_lost],
            silences=self.silences,
            works=self.works,
            may_load=frozenset(self.may_load),
            user_rules=user_rules,
            all_told=not (self.gasps_lost or self.reads_lost),
        )

    def undisturbed(self, one: Overloaded) -> bool:
        """Nobody on this transformer is without supply, so that all of its load is known."""
        mine = self.grid.members("transformer", one.transformer)
        return not any(np.isin(mine, slots).any() for slots, _, _ in self.off)


def _hold_back(silences: Sequence[Silence], head_end: NDArray[np.int32], sent_us: NDArray[np.int64]) -> None:
    """What a head-end that is gone would have sent it sends when it is back."""
    for one in silences:
        waits = (head_end == one.head_end) & (sent_us >= one.from_us) & (sent_us < one.to_us)
        sent_us[waits] = one.to_us + EVENT_DELAY_US


def draw_day(grid: Grid, rng: np.random.Generator) -> Day:
    """The day of a seed."""
    return _Draw(grid, rng).day()
