"""The time the rules live in where the clock is the machine's: it does not follow at once a clock that is set, nor a
process that stood still.

    follows   the clock's time, never back
    held      goes on from where it was, by the monotonic clock: for STOOD_HELD_S after this process stood still, for
              SET_HELD_S after the clock was set forward. Then it follows again
    ahead     the rules are new and what is stored is of later than the clock: goes on from there, at half the speed,
              until the clock has come to it

Argument. The timers of the rules end by this time. When a process that stood still goes on (SIGSTOP, a machine that was
suspended), what arrived meanwhile waits in the sockets: "restored" among it must be read before the timer that it stops
ends. A clock that is set forward ends no timer that was running: the longest hold of an outage is over by the old time
first. When the time follows again it leaps, and in the leap nobody was heard: `leapt` says so, once. A clock that is
set back is waited for: time that went back would take back what was told. Until it has come to where it was, timers of
what happens meanwhile end early: what is told then is true, and may be over soon.

A start with a clock that is behind what is stored (its battery is empty, NTP has not come yet) must not judge by that
clock: nothing that lasts would have happened yet, and all of it would be taken back. So time begins where the rules had
got to at least (`newest_us`), and goes on, for timers that ran must end. At half the speed, so that a wrong beginning
passes: were both the meters and the clock ahead once, time is right again after twice as long as they were.

A clock that is wrong is not made right here: it is said, in log, audit log, metrics and an alarm. Knows no rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from meterwatch.clock import US, Clock

EVERY_S: Final = 1.0
STEP_US: Final = 30 * US
"""A clock that moves so far beside the monotonic one was set. NTP slews less than 128 ms. (ours)"""
SET_HELD_S: Final = 180.0
"""The longest hold of an outage of a feeder or transformer (rules.profile, thin_hold_s)."""
STOOD_S: Final = 5.0
"""Without a look for so long this process stood still, or its loop did: a look comes every EVERY_S. (ours)"""
STOOD_HELD_S: Final = 5.0
"""So long what waits in the sockets has to be read. (ours)"""
LEAP_US: Final = 30 * US
"""Who was silent for less is not missed. (ours)"""
_log = structlog.get_logger(__name__)


class SteadyTime:
    """See the module head. `run()` looks as long as the service lives; each question looks as well."""

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._real = clock.mode == "real"
        self._clock_us, self._seen_s = clock.now_us(), monotonic()
        self._time_us = self._clock_us
        self._held_until_s: float | None = None
        self._leapt = False
        self._ahead = False
        self._stored_us = 0
        self.stepped: Callable[[int], object] = lambda step_us: None
        """Told how far the clock was set, us; negative: back."""
        self.steps = 0
        """How often it was set."""
        self.step_us = 0
        """How far it was set last."""
        self._set_s: float | None = None

    async def run(self) -> None:
        """Look again and again until cancelled. What was before the first look is not looked at."""
        self._clock_us, self._seen_s = self._clock.now_us(), self._monotonic()
        while True:
            self.now_us()
            await asyncio.sleep(EVERY_S)

    def now_us(self) -> int:
        """The time of the rules."""
        clock_us, now_s = self._clock.now_us(), self._monotonic()
        if not self._real:  # made to run as fast as it likes
            return clock_us
        passed_us = round((now_s - self._seen_s) * US)
        step_us = clock_us - self._clock_us - passed_us
        self._clock_us, self._seen_s = clock_us, now_s
        stood = passed_us > STOOD_S * US
        if abs(step_us) > STEP_US:
            self._was_set(step_us, now_s)
        if stood:
            _log.warning("this process stood still", seconds=round(passed_us / US, 1))
            self._hold(now_s + STOOD_HELD_S)
        if self._held_until_s is not None and now_s < self._held_until_s:
            self._time_us += 0 if stood else passed_us
            return self._time_us
        self._held_until_s = None
        was_us = self._time_us
        goes_on_us = was_us + (passed_us // 2 if self._ahead else 0)
        self._time_us = max(goes_on_us, clock_us)
        self._ahead &= clock_us < goes_on_us
        self._leapt |= self._time_us - was_us - passed_us > LEAP_US
        return self._time_us

    def leapt(self) -> bool:
        """Whether it has leapt since this was asked last."""
        leapt, self._leapt = self._leapt, False
        return leapt

    def begins_us(self, stored_us: int) -> int:
        """Where the time of new rules begins that know what is stored up to stored_us."""
        clock_us = self._clock.now_us()
        return max(clock_us, stored_us) if self._real else clock_us

    def begin(self, stored_us: int) -> int:
        """Begin there, also back: the rules are new. The time."""
        self._held_until_s = None
        self._stored_us = stored_us
        self._clock_us, self._seen_s = self._clock.now_us(), self._monotonic()
        self._time_us = max(self._clock_us, stored_us) if self._real else self._clock_us
        self._ahead = self._time_us > self._clock_us
        if self._ahead:
            seconds = round((stored_us - self._clock_us) / US, 1)
            _log.warning(
                "THE CLOCK IS BEHIND WHAT IS STORED: what is sent is refused as of the future", seconds=seconds
            )
        return self._time_us

    @property
    def behind_us(self) -> int:
        """How far the clock is behind what was stored when the rules began; 0: it is not."""
        return max(self._stored_us - self._clock.now_us(), 0) if self._ahead else 0

    @property
    def set_ago_s(self) -> float | None:
        """For how long the clock has been as it was set last; None: it was not."""
        return None if self._set_s is None else self._monotonic() - self._set_s

    def _was_set(self, step_us: int, now_s: float) -> None:
        self.steps += 1
        self.step_us, self._set_s = step_us, now_s
        _log.warning("THE CLOCK WAS SET, or the machine slept", seconds=round(step_us / US, 1))
        if step_us > 0:
            self._hold(now_s + SET_HELD_S)
        self.stepped(step_us)

    def _hold(self, until_s: float) -> None:
        """A hold under way is not made longer by another: who stands still again and again must not stop all timers."""
        if self._held_until_s is None:
            self._held_until_s = until_s
