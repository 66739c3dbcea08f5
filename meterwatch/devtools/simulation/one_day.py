"""A day of one seed: the plain delivery, the drawn one, and what they have wrong.

Both end at the same moment of true time with a clock that is right, everything judged. The plain delivery is the
oracle of the drawn one, and the truth behind the day is the oracle of both. Same seed, same run: `digest` is over every
transition and over what each subscriber was sent.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from meterwatch.alarms import Alarm
from meterwatch.devtools.simulation import laws
from meterwatch.devtools.simulation.deliveries import ASPECTS, Act, What, drawn, plain, settled_us
from meterwatch.devtools.simulation.kept_in_memory import Killed, Memory
from meterwatch.devtools.simulation.listeners import FILTERS, Operators, Subscriber
from meterwatch.devtools.simulation.one_thread import RING_MAX, Service, SteppedClock, at_once, without_database
from meterwatch.devtools.simulation.small_grid import START_US, Grid, draw_grid
from meterwatch.devtools.simulation.told_day import HOUR_US, Day, draw_day
from meterwatch.devtools.simulation.user_day import USER_RULES
from meterwatch.errors import StorageUnavailable
from meterwatch.user_rules import RuleSet

FORGOTTEN_US: Final = 80 * HOUR_US
"""After so long the book holds what is not finished, and nothing else."""
CRASHES_MAX: Final = 20
SENT: Final = (What.READS, What.EVENTS)
"""Acts of senders, who send again what is not acknowledged."""


@dataclass(slots=True)
class Figures:
    """Of a seed, to be added up."""

    restarts: int = 0
    clock_steps: int = 0
    transitions: int = 0
    evaluations: int = 0
    faults: int = 0
    alarms: int = 0

    def add(self, other: Figures) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Played:
    """What became of a seed."""

    seed: int
    wrong: list[str]
    digest: str
    figures: Figures
    without: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Ended:
    """A delivery at its end."""

    alarms: list[Alarm]
    memory: Memory
    wrong: list[str] = field(default_factory=list)


class _Delivery:
    """One delivery, from the first act to the end."""

    def __init__(self, grid: Grid, day: Day, seed: int, way: int) -> None:
        self.grid, self.day = grid, day
        self.memory = Memory(day, grid.topology.slots, len(grid.topology.transformer))
        self.clock = SteppedClock(START_US)
        rules = USER_RULES if day.user_rules else RuleSet()
        self.service = Service(grid, self.memory, self.clock, rules, (seed, 2, way))
        self.subscribers = [Subscriber(wanted) for wanted in FILTERS]
        self.operators = Operators(np.random.default_rng((seed, 3, way)))
        self.rng = np.random.default_rng((seed, 4, way))
        self.dies_with_reads = False
        self.stepped = 0

    def play(self, acts: Sequence[Act], *, heard: bool) -> _Ended:
        """All acts, then the end. heard: there are subscribers."""
        for act in acts:
            self._survives(partial(self.service.until, act.at_us))
            if not self._survives(partial(self._does, act)) and act.what in SENT:
                self._survives(partial(self._does, act))  # it was not acknowledged, so it comes again
            if heard:
                for one in self.subscribers:
                    one.looks(self.service.desk, self.memory, self.rng)
        return self._ended(heard=heard)

    def _survives(self, work: Callable[[], None]) -> bool:
        """False: the service died of it, and has started again."""
        try:
            work()
        except Killed:
            self._again()
            return False
        return True

    def _again(self) -> None:
        """The service starts again, until it does."""
        for one in self.subscribers:
            one.lost()
        for _ in range(CRASHES_MAX):
            with suppress(Killed, StorageUnavailable):
                self.service.start()
                return
        raise AssertionError("the service never starts")

    def _does(self, act: Act) -> None:
        service = self.service
        match act.what:
            case What.CLOCK:
                self.stepped += self.clock.wrong_us != act.number
                service.set_clock(act.number)
            case What.KILL if act.number == 0:
                self._again()
            case What.KILL if act.number == 1:
                self.dies_with_reads = True
            case What.KILL:
                self.memory.dies = "before" if act.number == 2 else "after"
            case What.FAIL:
                self.memory.fails = "after" if act.number else "before"
            case What.GONE | What.COMES:
                service.head_end(act.number, comes=act.what is What.COMES)
            case What.EVENTS:
                service.take_events(act.rows, asked_meanwhile=bool(self.rng.random() < 0.2))
            case What.READS if self.dies_with_reads:
                self.dies_with_reads = False
                for rows in act.batches:
                    service.store_reads(rows)
                self._again()
            case What.READS:
                service.take_reads(act.batches)
            case What.OPERATOR:
                self.operators.acts(service.desk, self.memory)
            case What.LOOK:
                for one in self.subscribers:
                    one.lost()

    def _ended(self, *, heard: bool) -> _Ended:
        memory, service = self.memory, self.service
        service.set_clock(0)
        memory.dies = memory.fails = ""
        service.until(settled_us(self.day))
        service.judge_all()
        service.until(settled_us(self.day) + 1)
        ended = _Ended(list(memory.alarms.values()), memory)
        ended.wrong += laws.of_log(memory.log)
        ended.wrong += laws.of_alarms(ended.alarms)
        ended.wrong += laws.of_loads(self.grid, memory)
        ended.wrong += laws.of_truth(self.grid, self.day, ended.alarms)
        if not self.stepped:  # else the log does not say when a thing was
            ended.wrong += laws.of_calls(self.grid, self.day, memory.log, self.operators.shelved)
        ended.wrong += [f"still shelved: {a.alarm_id}" for a in ended.alarms if a.shelved_until_us is not None]
        ended.wrong += self.operators.wrong
        if heard:
            for number, one in enumerate(self.subscribers):
                ended.wrong += [f"subscriber {number} {what}" for what in one.ends(service.desk, memory)]
        ended.wrong += self._held()
        return ended

    def _held(self) -> Iterator[str]:
        """What is in memory days later: what stands, and nothing else."""
        service, desk = self.service, self.service.desk
        service.until(settled_us(self.day) + FORGOTTEN_US)
        service.evaluate([])
        at_once(desk.record([], []))
        lasting = {alarm.alarm_id for alarm in self.memory.alarms.values() if not alarm.finished}
        over = [a.alarm_id for a in desk.book if a.alarm_id not in lasting and a.end_us < desk.book.horizon_us]
        if over:
            yield f"the book still holds {len(over)} alarms that are over, {over[0]} among them"
        if lasting - {alarm.alarm_id for alarm in desk.book}:
            yield "the book has lost alarms that are not finished"
        if set(desk.hub._alarms) != lasting:
            yield f"the hub holds {len(desk.hub._alarms)} alarms, {len(lasting)} are not finished"
        if len(desk.hub._ring) > RING_MAX or desk._waiting:
            yield "the hub's ring or the desk's delays grow without bound"
        calm = [group for group, state in service.engine._active.items() if not state.open]
        if calm:
            yield f"the rules still follow {calm[0]}, where nothing is off"


def play(seed: int, without: frozenset[str] = frozenset()) -> Played:
    """Both deliveries of a seed."""
    figures, hashed = Figures(), hashlib.sha256()
    rng = np.random.default_rng((seed, 0))
    grid = draw_grid(rng)
    day = draw_day(grid, rng)
    figures.faults = len(day.faults)
    wrong: list[str] = []
    try:
        with without_database():
            told = _Delivery(grid, day, seed, 0)
            in_order = told.play(plain(day), heard=False)
            wrong += [f"plain delivery: {what}" for what in in_order.wrong]
            wrong += [f"plain delivery: {what}" for what in laws.of_silence(day, in_order.alarms)]
            other = _Delivery(grid, day, seed, 1)
            ended = other.play(drawn(day, grid, seed, without), heard="subscriber" not in without)
            wrong += ended.wrong
            wrong += laws.differing(laws.faces(in_order.alarms), laws.faces(ended.alarms))
            for delivery in (told, other):
                figures.restarts += delivery.service.starts - 1
                figures.clock_steps += delivery.stepped
                figures.transitions += len(delivery.memory.log)
                figures.evaluations += delivery.service.evaluations
                hashed.update(_written(delivery).encode())
            figures.alarms = len(laws.standing(in_order.alarms))
    except Exception:  # whatever the product raises is a finding of this seed
        wrong.append(traceback.format_exc(limit=-6))
    return Played(seed, wrong, hashed.hexdigest()[:16], figures, without)


def _written(delivery: _Delivery) -> str:
    log = [(t.seq, t.kind.value, t.recorded_us, t.alarm.to_json()) for t in delivery.memory.log]
    return json.dumps([log, [one.heard for one in delivery.subscribers]], sort_keys=True)


def shrunk(played: Played) -> Played:
    """The same seed without all that it fails without, one aspect after the other."""
    for aspect in ASPECTS:
        less = play(played.seed, played.without | {aspect})
        if less.wrong:
            played = less
    return played
