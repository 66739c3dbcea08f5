"""The service's clock: UTC microseconds. Everything that needs "now" is given a Clock; nobody calls time.time().

real       the machine's clock.
simulated  starts at a given time and runs at a given speed; for demos and load tests.
replay     stands still and is moved forward by the stamps of what arrives, at most `step_us_max` at once; for feeding
           history as if it happened now, with the same result at any speed.

No clock goes back behind what is stored: the two that start at a given time are told it at each start, by `resume`.
Else a restart would put every stored alarm into the future, and the rules would retract it. Where the machine's
own is behind, the time of the rules is not (meterwatch.steady_time).
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

US = 1_000_000


class Clock(Protocol):
    """Gives the time of the service."""

    mode: str

    def now_us(self) -> int:
        """UTC microseconds since 1970."""
        ...

    def saw(self, stamp_us: int) -> None:
        """Tell the clock that something stamped `stamp_us` arrived; only a replay clock listens."""
        ...

    def resume(self, stored_us: int) -> None:
        """Start no earlier than this, the clock's own time at which something was stored last."""
        ...


class RealClock:
    """The machine's clock."""

    mode = "real"

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def saw(self, stamp_us: int) -> None:
        pass

    def resume(self, stored_us: int) -> None:
        pass


class SimulatedClock:
    """Starts at `start_us` when made and runs `speed` times as fast as the machine's monotonic clock."""

    mode = "simulated"

    def __init__(self, start_us: int, speed: float) -> None:
        self._start_us = start_us
        self._speed = speed
        self._origin_ns = time.monotonic_ns()

    def now_us(self) -> int:
        return self._start_us + int((time.monotonic_ns() - self._origin_ns) * self._speed) // 1000

    def saw(self, stamp_us: int) -> None:
        pass

    def resume(self, stored_us: int) -> None:
        self._start_us += max(stored_us - self.now_us(), 0)


class ReplayClock:
    """Shows the latest stamp seen. A stamp more than `step_us_max` ahead is not believed."""

    mode = "replay"

    def __init__(self, start_us: int, step_us_max: int = 2 * 86_400 * US) -> None:
        self._now_us = start_us
        self._step_us_max = step_us_max
        self._lock = threading.Lock()  # batches are decoded, and their stamps seen, on several threads

    def now_us(self) -> int:
        return self._now_us

    def saw(self, stamp_us: int) -> None:
        with self._lock:
            if self._now_us < stamp_us <= self._now_us + self._step_us_max:
                self._now_us = stamp_us

    def resume(self, stored_us: int) -> None:
        self._now_us = max(self._now_us, stored_us)
