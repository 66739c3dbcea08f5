"""Room for the single calls of head-ends while they wait for the database, by the name of the head-end.

A stream has credits; calls have none, and who opens many at once would fill the queue of events before everybody
else's. Their bytes are counted where they are received (meterwatch.access.doors). No clock, no waiting: whoever finds
no room is refused at once and comes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from meterwatch.errors import Overloaded

CALLS_MAX: Final = 128
"""Calls of one head-end: half of the queue of events (pipeline.QUEUE_EVENTS_MAX)."""
RETRY_S: Final = 1.0


class Held:
    """Calls under way, by the name of the head-end."""

    def __init__(self) -> None:
        self._calls = Counter[str]()

    def refusal(self, head_end: str) -> Overloaded | None:
        """Why there is no room for a request: Overloaded QUEUE_FULL; None: there is."""
        if self._calls[head_end] < CALLS_MAX:
            return None
        return Overloaded(
            "QUEUE_FULL",
            f"{CALLS_MAX} calls of this head-end wait for the database; expected at most that; send again later",
            RETRY_S,
        )

    @contextmanager
    def room(self, head_end: str) -> Iterator[None]:
        """Room for a request until the context ends. Raises the refusal, if there is one."""
        if (refusal := self.refusal(head_end)) is not None:
            raise refusal
        self._calls[head_end] += 1
        try:
            yield
        finally:
            self._calls[head_end] -= 1
            if not self._calls[head_end]:
                del self._calls[head_end]
