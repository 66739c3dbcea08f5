"""Laws of the three clocks."""

from __future__ import annotations

import time

import pytest

from meterwatch.clock import US, Clock, RealClock, ReplayClock, SimulatedClock

START_US = 1_700_000_000 * US


@pytest.mark.parametrize("clock", [ReplayClock(START_US), SimulatedClock(START_US, 1.0)])
def test_a_started_clock_never_goes_back_behind_what_is_stored(clock: Clock) -> None:
    clock.resume(START_US + 3600 * US)
    assert clock.now_us() >= START_US + 3600 * US
    clock.resume(START_US)
    assert clock.now_us() >= START_US + 3600 * US


def test_nothing_stored_leaves_the_start_as_it_is() -> None:
    clock = ReplayClock(START_US)
    clock.resume(0)
    assert clock.now_us() == START_US


def test_the_real_clock_believes_nothing_stored() -> None:
    clock = RealClock()
    clock.resume(1 << 60)
    assert clock.now_us() <= time.time_ns() // 1000


def test_the_replay_clock_follows_stamps_forward_and_not_too_far() -> None:
    clock = ReplayClock(START_US, step_us_max=10)
    for stamp_us, shown_us in ((START_US + 5, START_US + 5), (START_US, START_US + 5), (START_US + 99, START_US + 5)):
        clock.saw(stamp_us)
        assert clock.now_us() == shown_us
