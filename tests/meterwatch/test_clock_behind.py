"""A service that is started with its clock behind what is stored: a clock battery that is empty, NTP that has not come.

What stands stays, ends and is told as before; when the clock is right again, and at the next start, nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from meterwatch.alarms import AlarmState
from meterwatch.batch import EventCode
from meterwatch.clock import US
from meterwatch.devtools.simulation import laws
from meterwatch.devtools.simulation.deliveries import Act, What, plain
from meterwatch.devtools.simulation.kept_in_memory import Memory
from meterwatch.devtools.simulation.one_day import _Delivery
from meterwatch.devtools.simulation.one_thread import Service, SteppedClock, without_database
from meterwatch.devtools.simulation.small_grid import START_US, Grid, draw_grid
from meterwatch.devtools.simulation.told_day import Day, draw_day
from meterwatch.user_rules import RuleSet

MINUTE_US = 60 * US
BEGINS_US = START_US + 60 * MINUTE_US


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with without_database():
        yield


class Plant:
    """A service over a grid in which transformers lose supply and get it back, by the events of all their meters."""

    def __init__(self, told: Sequence[tuple[int, EventCode, int]]) -> None:
        """told: transformer, event, when, us."""
        rng = np.random.default_rng(7)
        self.grid: Grid = draw_grid(rng)
        empty = draw_day(self.grid, rng)
        slots = [self.grid.members("transformer", transformer) for transformer, _, _ in told]
        rows = [len(some) for some in slots]
        no_reads = {name: getattr(empty, name)[:0] for name in ("slot", "interval", "quality", "wh", "rank")}
        day: Day = replace(
            empty,
            **no_reads,
            read_sent_us=np.zeros(0, np.int64),
            event_slot=np.concatenate(slots),
            event_us=np.repeat(np.array([at_us for _, _, at_us in told]), rows),
            event_code=np.repeat(np.array([code for _, code, _ in told], np.int16), rows),
            event_phases=np.zeros(sum(rows), np.uint8),
            event_sent_us=np.repeat(np.array([at_us for _, _, at_us in told]), rows),
            works=[],
        )
        self._rows = np.split(np.arange(sum(rows), dtype=np.intp), np.cumsum(rows)[:-1])
        self.memory = Memory(day, self.grid.topology.slots, len(self.grid.topology.transformer))
        self.clock = SteppedClock(START_US)
        self.service = Service(self.grid, self.memory, self.clock, RuleSet(), (7,))

    def tells(self, number: int) -> None:
        self.service.take_events(self._rows[number])

    def waits(self, minutes: float) -> None:
        self.service.until(self.clock.true_us + round(minutes * MINUTE_US))
        self.service.evaluate([])

    def starts(self, wrong_us: int) -> None:
        self.clock.wrong_us = wrong_us
        self.service.start()

    @property
    def outages(self) -> dict[int, AlarmState]:
        """By transformer."""
        return {a.asset_id: a.state for a in self.memory.alarms.values() if a.asset_kind == "transformer"}

    @property
    def retracted(self) -> list[str]:
        return [t.alarm.alarm_id for t in self.memory.log if t.alarm.state is AlarmState.RETRACTED]


@pytest.mark.parametrize("behind_s", [120, 600, 7200, 20 * 365 * 86_400])
def test_an_outage_stands_and_ends_and_a_new_one_is_told(behind_s: int) -> None:
    off, on = EventCode.POWER_FAIL, EventCode.POWER_RESTORED
    new_us, back_us = BEGINS_US + 5 * MINUTE_US, BEGINS_US + 15 * MINUTE_US
    plant = Plant([(0, off, BEGINS_US), (1, off, new_us), (0, on, back_us)])
    plant.waits(60)
    plant.tells(0)
    plant.waits(10)
    assert plant.outages == {0: AlarmState.UNACK_ACTIVE}
    cursor = len(plant.memory.log)
    plant.starts(-behind_s * US)
    plant.waits(1)
    assert plant.memory.log[cursor:] == []
    plant.tells(1)
    plant.waits(20)
    assert plant.outages == {0: AlarmState.UNACK_ACTIVE, 1: AlarmState.UNACK_ACTIVE}
    plant.tells(2)
    plant.waits(20)
    assert plant.outages == {0: AlarmState.RTN_UNACK, 1: AlarmState.UNACK_ACTIVE}
    as_it_was = dict(plant.memory.alarms)
    plant.service.set_clock(0)
    plant.waits(30)
    plant.starts(0)
    plant.waits(1)
    assert plant.memory.alarms == as_it_was
    assert plant.retracted == []


def test_a_timer_that_ran_ends_though_the_clock_is_behind() -> None:
    plant = Plant([(0, EventCode.POWER_FAIL, BEGINS_US)])
    plant.waits(60)
    plant.tells(0)
    assert plant.outages == {}
    plant.starts(-2 * 60 * MINUTE_US)
    plant.waits(10)
    assert plant.outages == {0: AlarmState.UNACK_ACTIVE}


def test_what_comes_while_the_time_of_the_rules_stands_far_behind_is_kept_for_when_it_has_come() -> None:
    plant = Plant([(0, EventCode.POWER_FAIL, BEGINS_US + 10 * MINUTE_US)])
    plant.waits(60)
    plant.service.set_clock(-2 * 60 * MINUTE_US)  # waited for: the time of the rules stands
    plant.waits(10)
    plant.tells(0)
    assert plant.outages == {}
    plant.service.set_clock(0)
    plant.waits(10)
    assert plant.outages == {0: AlarmState.UNACK_ACTIVE}


def test_a_clock_that_had_been_hours_ahead_holds_nobody_up_after_a_start() -> None:
    plant = Plant([(0, EventCode.POWER_FAIL, BEGINS_US), (0, EventCode.POWER_RESTORED, BEGINS_US + 15 * MINUTE_US)])
    plant.clock.wrong_us = 3 * 60 * MINUTE_US
    plant.service.start()
    plant.waits(60)
    plant.tells(0)
    plant.waits(10)
    plant.starts(0)
    assert plant.service._pipeline.steady.now_us() == plant.clock.true_us
    plant.waits(5)
    plant.tells(1)
    plant.waits(5)
    assert plant.outages == {0: AlarmState.RTN_UNACK}
    assert plant.retracted == []


@pytest.mark.parametrize("seed", [2, 36, 267, 270])
def test_a_start_behind_in_the_middle_of_a_day_changes_no_alarm(seed: int) -> None:
    """267 found it: all outages that lasted were taken back, for as long as the service lived."""
    rng = np.random.default_rng((seed, 0))
    grid = draw_grid(rng)
    day = draw_day(grid, rng)
    behind_us = day.faults[0].from_us + 40 * MINUTE_US
    troubles = [Act(behind_us, What.CLOCK, -7464 * US), Act(behind_us + MINUTE_US, What.KILL, 0)]
    troubles.append(Act(behind_us + 50 * MINUTE_US, What.CLOCK, 0))
    expected = _Delivery(grid, day, seed, 0).play(plain(day), heard=False)
    other = _Delivery(grid, day, seed, 0)
    acts = sorted([*plain(day), *troubles], key=lambda act: (act.at_us, act.what))
    for act in acts:
        other._survives(partial(other.service.until, act.at_us))
        other._survives(partial(other._does, act))
    ended = other._ended(heard=False)
    assert not ended.wrong
    assert laws.differing(laws.faces(expected.alarms), laws.faces(ended.alarms)) == []
    lasted = {a.alarm_id for a in expected.alarms if a.state is not AlarmState.RETRACTED}
    taken_back = {t.alarm.alarm_id for t in other.memory.log if t.alarm.state is AlarmState.RETRACTED}
    assert not lasted & taken_back
