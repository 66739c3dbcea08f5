"""Events that have arrived and the rules have not seen: the timers of the rules do not pass them.

"Restored" among them would come after the timer that it stops, and an outage that never was would be told. So the time
of the rules stands at the oldest of them, however long storing takes: each ends by being heard or by failing. What
failed for reasons of ours comes again under the same key, and is waited for AGAIN_S more of the machine's seconds; in
all for HOLD_S_MAX of those in which the rules are asked. Knows no database, no queue and no clock.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import EventCode, Events
from meterwatch.clock import US

AGAIN_S: Final = 35.0
"""A sender that was told to come again does so by then, or has gone: our client pauses 30 s at most. (ours)"""
KEYS_MAX: Final = 4_096
"""Requests waited for at once: the queue of events holds far fewer, the rest are those told to come again."""
OWN_KEYS_MAX: Final = 1_024
"""Of one head-end."""
HOLD_S_MAX: Final = 120.0
"""A request that fails again and again holds the time for so long in all: four tries of our client. A head-end that
sends and leaves, or is refused, for ever would else stop the timers of everybody. (ours)"""
STEP_S_MAX: Final = 1.0
"""What counts of that at once: while the database is away the rules are not asked, and nothing is held up."""
REACH_US: Final = 180 * US
"""An event that stops timers counts by its own time if it came at most so much later: the longest hold of an outage of
a transformer or feeder. So a head-end that tells of yesterday holds nobody up. (ours)"""
STOPS: Final = (EventCode.POWER_RESTORED, EventCode.PHASE_RETURN, EventCode.RELAY_OPEN)
"""Events that stop the timer of an outage."""

Key = tuple[int, int, int]
"""Head-end, epoch, seq."""


def stands_us(events: Events, now_us: int) -> int:
    """Where the rules' time stands for events that arrive now: just before the first that stops a timer, else now.

    The arrival alone will not do. The rules are asked twice a second of the machine's; on a clock that runs fast, or
    while the machine is busy, a timer may have run out between the event and its arrival and nobody have asked yet.
    """
    stops_us = stops_of(events)
    return min(now_us, int(stops_us[stops_us >= now_us - REACH_US].min(initial=now_us + 1)) - 1)


def stops_of(events: Events) -> NDArray[np.int64]:
    """Times of the events that stop timers."""
    times: NDArray[np.int64] = events.at_us[np.isin(events.code, STOPS)]
    return times


class Unheard:
    """Where the time of the rules stands for each request of events, by key: us of the service; now_s monotonic."""

    def __init__(self) -> None:
        self._stands_us: dict[Key, int] = {}
        self._until_s: dict[Key, float] = {}
        self._held_s: dict[Key, float] = {}
        self._own = Counter[int]()
        self._asked_s = float("inf")

    def arrived(self, key: Key, at_us: int) -> None:
        """It is here, for the first time or again."""
        if key not in self._stands_us and len(self._stands_us) < KEYS_MAX and self._own[key[0]] < OWN_KEYS_MAX:
            self._stands_us[key] = at_us
            self._own[key[0]] += 1
        self._until_s.pop(key, None)

    def heard(self, key: Key) -> None:
        """The rules have seen it, or it is refused for good."""
        if self._stands_us.pop(key, None) is not None:
            self._own[key[0]] -= 1
        self._until_s.pop(key, None)
        self._held_s.pop(key, None)

    def failed(self, key: Key, now_s: float) -> None:
        """It was not stored; its sender was told to come again, or no longer waits."""
        if key in self._stands_us:
            self._until_s[key] = now_s + AGAIN_S

    def oldest_us(self, now_s: float) -> int | None:
        """The oldest that is waited for; None: nothing is."""
        step_s = min(max(now_s - self._asked_s, 0.0), STEP_S_MAX)
        self._asked_s = now_s
        for key, until_s in list(self._until_s.items()):
            self._held_s[key] = self._held_s.get(key, 0.0) + step_s
            if until_s < now_s or self._held_s[key] > HOLD_S_MAX:
                self.heard(key)
        return min(self._stands_us.values(), default=None)
