"""Events that have arrived and the rules have not seen: the timers of the rules do not pass them.

"Restored" among them would come after the timer that it stops, and an outage that never was would be told. So the time
of the rules stands at the oldest of them, however long storing takes: each ends by being heard or by failing. What
failed for reasons of ours comes again under the same key, and is waited for AGAIN_S more of the machine's seconds.
Knows no database, no queue and no clock.
"""

from __future__ import annotations

from typing import Final

AGAIN_S: Final = 35.0
"""A sender that was told to come again does so by then, or has gone: our client pauses 30 s at most. (ours)"""
KEYS_MAX: Final = 4_096
"""Requests waited for at once: the queue of events holds far fewer, the rest are those told to come again."""

Key = tuple[int, int, int]
"""Head-end, epoch, seq."""


class Unheard:
    """When requests of events arrived first, by key. Times of arrival in us of the service, now_s monotonic."""

    def __init__(self) -> None:
        self._arrived_us: dict[Key, int] = {}
        self._until_s: dict[Key, float] = {}

    def arrived(self, key: Key, at_us: int) -> None:
        """It is here, for the first time or again."""
        if len(self._arrived_us) < KEYS_MAX:
            self._arrived_us.setdefault(key, at_us)
        self._until_s.pop(key, None)

    def heard(self, key: Key) -> None:
        """The rules have seen it, or it is refused for good."""
        self._arrived_us.pop(key, None)
        self._until_s.pop(key, None)

    def failed(self, key: Key, now_s: float) -> None:
        """It was not stored; its sender was told to come again, or no longer waits."""
        if key in self._arrived_us:
            self._until_s[key] = now_s + AGAIN_S

    def oldest_us(self, now_s: float) -> int | None:
        """When the oldest that is waited for arrived; None: nothing is."""
        for key in [key for key, until_s in self._until_s.items() if until_s < now_s]:
            self.heard(key)
        return min(self._arrived_us.values(), default=None)
