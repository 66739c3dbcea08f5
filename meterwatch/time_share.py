"""A share of the time for work that may wait, with some of it saved up for when little of it comes."""

from __future__ import annotations

import time
from collections.abc import Callable


class TimeShare:
    """share: of the clock, 0 to 1; saved_s: what an idle time saves up at most, seconds.

    `start` before the work, `goes_on` before each piece of it and after the last.
    """

    def __init__(self, share: float, saved_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._share, self._saved_s, self._now_s = share, saved_s, now_s
        self._left_s = saved_s
        self._at_s = self._since_s = now_s()

    def start(self) -> None:
        now_s = self._now_s()
        self._left_s = min(self._saved_s, self._left_s + self._share * (now_s - self._at_s))
        self._at_s = self._since_s = now_s

    def goes_on(self) -> bool:
        """Charge the time since the last call; whether there is some left."""
        now_s = self._now_s()
        self._left_s -= now_s - self._since_s
        self._since_s = now_s
        return self._left_s > 0
