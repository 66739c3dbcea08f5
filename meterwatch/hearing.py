"""Our deafness is not their silence: the head-ends that cannot be heard, for reasons of ours.

A head-end whose batch has waited for the database longer than BEHIND_S, all of them while the database takes nothing
or reads are refused, and all of them where time leapt: the process stood still, the machine slept, or its clock was
set (meterwatch.steady_time). Refuses to judge silence: rules.silence does, and is told whom to leave out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

BEHIND_S: Final = 5.0


class Hearing:
    """Who waits for an answer since when. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since_s: dict[int, deque[float]] = {}
        self.failing = False
        """The last attempt to store something failed."""
        self.refusing = False
        """Reads are not taken, however well the database does."""

    def sent(self, head_end_id: int) -> None:
        """A batch of this head-end begins to wait."""
        self._since_s.setdefault(head_end_id, deque()).append(self._monotonic())

    def answered(self, head_end_id: int) -> None:
        """One of its batches, about the oldest, waits no longer."""
        self._since_s[head_end_id].popleft()

    def deaf_to(self, head_ends: Iterable[int], *, leapt: bool = False) -> frozenset[int]:
        """Those of the head-ends that could not be heard up to now. leapt: the time of the rules has, just now."""
        if self.failing or self.refusing or leapt:
            return frozenset(head_ends)
        late_s = self._monotonic() - BEHIND_S
        return frozenset(h for h in head_ends if (waiting := self._since_s.get(h)) and waiting[0] < late_s)
