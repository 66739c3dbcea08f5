"""Room for the single calls of head-ends while they wait for the database: of one head-end, and of all.

A stream has credits; calls have none, and who opens many at once would fill the memory, or the queue of events before
everybody else's. No clock, no waiting: whoever finds no room is refused at once and comes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from meterwatch.errors import Overloaded

CALLS_MAX: Final = 128
"""Calls of one head-end: half of the queue of events (pipeline.QUEUE_EVENTS_MAX)."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of the requests of one head-end: four of the largest, or 128 of 10,000 events."""
ALL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of all. What is made of a request is up to 15 times as large, if all its rows are rejected."""
RETRY_S: Final = 1.0


class Held:
    """Calls under way, by the name of the head-end."""

    def __init__(self) -> None:
        self._calls = Counter[str]()
        self._bytes = Counter[str]()

    def refusal(self, head_end: str, size: int) -> Overloaded | None:
        """Why there is no room for a request of so many bytes: Overloaded QUEUE_FULL; None: there is."""
        if self._calls[head_end] >= CALLS_MAX or self._bytes[head_end] + size > BYTES_MAX:
            return Overloaded(
                "QUEUE_FULL",
                f"{self._calls[head_end]} calls of this head-end wait for the database, {self._bytes[head_end]} bytes; "
                f"expected at most {CALLS_MAX} and {BYTES_MAX}; send again later",
                RETRY_S,
            )
        if (of_all := self._bytes.total()) + size > ALL_BYTES_MAX:
            return Overloaded(
                "QUEUE_FULL",
                f"calls of {of_all} bytes wait for the database; expected at most {ALL_BYTES_MAX}; send again later",
                RETRY_S,
            )
        return None

    @contextmanager
    def room(self, head_end: str, size: int) -> Iterator[None]:
        """Room for a request until the context ends. Raises the refusal, if there is one."""
        if (refusal := self.refusal(head_end, size)) is not None:
            raise refusal
        self._calls[head_end] += 1
        self._bytes[head_end] += size
        try:
            yield
        finally:
            self._calls[head_end] -= 1
            self._bytes[head_end] -= size
            if not self._calls[head_end]:
                del self._calls[head_end], self._bytes[head_end]
