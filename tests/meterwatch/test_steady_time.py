"""The time of the rules on a machine whose clock is set, that sleeps, or that stops this process for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_world import event_batch, piped, until
from structlog.testing import capture_logs

from meterwatch import pipeline as pipeline_module
from meterwatch import steady_time
from meterwatch.clock import US, RealClock
from meterwatch.steady_time import EVERY_S, LEAP_US, SET_HELD_S, STEP_US, STOOD_HELD_S, STOOD_S, SteadyTime

START_US = 1_700_000_000 * US
HOUR_S = 3600.0


class World:
    """A machine's two clocks, and the time of the rules on it. `mode` real: as the machine's own."""

    mode = "real"

    def __init__(self) -> None:
        self.clock_us, self.monotonic_s = START_US, 100.0
        self.steps: list[int] = []
        self.steady = SteadyTime(self, lambda: self.monotonic_s)
        self.steady.stepped = self.steps.append

    def now_us(self) -> int:
        return self.clock_us

    def saw(self, stamp_us: int) -> None:
        raise AssertionError("only a replay clock listens")

    def resume(self, stored_us: int) -> None:
        raise AssertionError("only a clock that is started does")

    def passes(self, seconds: float) -> int:
        """Time passes and nobody looks until then; the time of the rules."""
        self.monotonic_s += seconds
        self.clock_us += round(seconds * US)
        return self.steady.now_us()

    def lives(self, seconds: float) -> Iterator[int]:
        """Time passes, looked at as the service does."""
        for _ in range(round(seconds / EVERY_S)):
            yield self.passes(EVERY_S)

    def set(self, seconds: float) -> int:
        """The clock is set, in no time."""
        self.clock_us += round(seconds * US)
        return self.steady.now_us()


def test_as_long_as_nothing_happens_it_is_the_clock() -> None:
    world = World()
    assert [*world.lives(5)] == [START_US + n * US for n in range(1, 6)]
    assert world.set(STEP_US / US) == START_US + 5 * US + STEP_US  # as by NTP: no more than what is let pass
    assert (world.steps, world.steady.leapt(), world.steady.set_ago_s) == ([], False, None)


def test_a_clock_set_forward_ends_no_timer_that_runs() -> None:
    world = World()
    assert world.set(3 * HOUR_S) == START_US
    assert world.steps == [round(3 * HOUR_S) * US]
    assert [*world.lives(SET_HELD_S - 1)][-1] == START_US + round(SET_HELD_S - 1) * US
    assert not world.steady.leapt()
    assert world.passes(1) == world.clock_us
    assert (world.steady.leapt(), world.steady.leapt()) == (True, False)
    assert world.steady.set_ago_s == SET_HELD_S


def test_a_clock_set_back_is_waited_for() -> None:
    world = World()
    assert world.set(-3 * HOUR_S) == START_US
    assert set(world.lives(3 * HOUR_S)) == {START_US}
    assert world.passes(1) == world.clock_us == START_US + US
    assert (world.steps, world.steady.leapt()) == ([round(-3 * HOUR_S) * US], False)


@pytest.mark.parametrize("stood_s", [STOOD_S + 1, 120.0, HOUR_S])
def test_after_standing_still_what_arrived_meanwhile_is_heard_before_a_timer_ends(stood_s: float) -> None:
    world = World()
    with capture_logs() as logs:
        assert world.passes(stood_s) == START_US
    assert [(line["event"], line["seconds"]) for line in logs] == [("this process stood still", stood_s)]
    assert [*world.lives(STOOD_HELD_S - 1)][-1] == START_US + round(STOOD_HELD_S - 1) * US
    assert world.passes(1) == world.clock_us
    assert world.steady.leapt() is (stood_s * US > LEAP_US)
    assert world.steps == []


def test_who_stands_still_again_and_again_does_not_stop_time() -> None:
    world = World()
    for _ in range(20):
        world.passes(STOOD_S + 1)
    assert world.clock_us - world.steady.now_us() <= 2 * (STOOD_S + 1) * US


def test_new_rules_take_the_clock_as_it_is_where_nothing_later_is_stored() -> None:
    world = World()
    world.set(-HOUR_S)
    assert world.steady.begin(world.clock_us) == world.steady.now_us() == world.clock_us
    world.set(2 * HOUR_S)
    assert world.steady.begin(START_US) == world.steady.now_us() == world.clock_us
    assert world.steady.behind_us == 0


def test_new_rules_begin_at_what_is_stored_and_go_on_at_half_the_speed_until_the_clock_has_come_there() -> None:
    world = World()
    stored_us = START_US + round(100 * US)
    with capture_logs() as logs:
        assert world.steady.begin(stored_us) == stored_us
    assert [(line["event"][:19], line["seconds"]) for line in logs] == [("THE CLOCK IS BEHIND", 100.0)]
    assert world.steady.behind_us == 100 * US
    assert [*world.lives(100)][-1] == stored_us + 50 * US
    assert world.steady.behind_us == 0
    assert [*world.lives(99)][-1] == stored_us + 99 * US // 2 + 50 * US
    assert [*world.lives(3)][-1] == world.clock_us
    assert not world.steady.leapt()
    assert world.passes(1) == world.clock_us


def test_a_clock_that_is_put_right_is_followed_after_the_hold() -> None:
    world = World()
    stored_us = world.steady.begin(START_US + round(2 * HOUR_S) * US)
    assert world.set(3 * HOUR_S) == stored_us
    assert world.steady.behind_us == 0
    assert [*world.lives(SET_HELD_S - 1)][-1] < world.clock_us
    assert world.passes(1) == world.clock_us
    assert world.steady.leapt()


def test_a_clock_that_is_made_to_run_begins_where_it_is() -> None:
    class Fast(World):
        mode = "simulated"

    world = Fast()
    assert world.steady.begin(START_US + US) == world.steady.now_us() == START_US
    assert world.steady.behind_us == 0


@given(st.lists(st.tuples(st.sampled_from(["passes", "set"]), st.floats(-1e5, 1e5)), max_size=40))
def test_it_never_goes_back_and_is_never_ahead_of_every_clock_there_was(moves: list[tuple[str, float]]) -> None:
    world = World()
    told, most_us = START_US, START_US
    for what, seconds in moves:
        now_us = world.set(seconds) if what == "set" else world.passes(abs(seconds))
        most_us = max(most_us, world.clock_us)
        assert told <= now_us <= most_us + round(SET_HELD_S * US)
        told = now_us


def test_a_clock_that_is_made_to_run_fast_may() -> None:
    class Fast(World):
        mode = "simulated"

    world = Fast()
    assert world.set(HOUR_S) == START_US + round(HOUR_S) * US
    assert world.passes(HOUR_S) == START_US + round(2 * HOUR_S) * US
    assert (world.steps, world.steady.leapt()) == ([], False)


async def test_the_rules_live_by_it_and_are_deaf_where_it_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "TICK_S", 0.001)
    monkeypatch.setattr(steady_time, "EVERY_S", 0.001)
    monkeypatch.setattr(steady_time, "SET_HELD_S", 0.2)
    clock = Settable()
    async with piped(clock=clock) as p:
        await p.pipeline.submit_events(event_batch(1))
        p.pipeline.connected(1)
        before_us = p.rules.asked_us[-1]
        clock.ahead_us = 3600 * US
        await until(lambda: p.pipeline.steady.steps == 1)
        asked = len(p.rules.asked_us)
        await until(lambda: len(p.rules.asked_us) > asked)
        assert p.rules.asked_us[asked] < before_us + 1800 * US
        await until(lambda: p.rules.asked_us[-1] > before_us + 1800 * US)
        await asyncio.wait_for(_said(p.log, ("deaf to", {1}), ("deaf to", set())), 20)
        assert p.rules.asked_us == sorted(p.rules.asked_us)


async def test_who_connects_does_so_in_the_time_of_the_rules() -> None:
    clock = Settable()
    async with piped(clock=clock) as p:
        before_us = p.pipeline.steady.now_us()
        clock.ahead_us = -3600 * US
        p.pipeline.connected(1)
        p.pipeline.gone(1)
        assert min(p.rules.connected_us) >= before_us


async def _said(log: list[object], *what: object) -> None:
    while log[-len(what) :] != [*what]:  # noqa: ASYNC110 - said by another task
        await asyncio.sleep(0.001)


class Settable(RealClock):
    """The machine's clock, set forward at will."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us
