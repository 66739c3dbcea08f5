"""How many messages each target may have now: of those made within its span, and of those that wait to be sent.

Whoever makes a message says so; the time is passed in, and no timer is set here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from typing import Final

from alarm.routes.model import Target
from meterwatch.notices import Kept

WAITING_MAX: Final = 8
"""Messages waiting for one target; beyond them what is due stays a notice, and comes as it is then."""


class Pace:
    """The messages of all targets, as numbers."""

    def __init__(self, kept: Kept) -> None:
        self._made = {target: deque(made) for target, made in kept.made_us.items()}
        self._waiting = Counter(kept.waiting)

    def waiting(self, target: str) -> int:
        """Messages of a target that are made and not sent."""
        return self._waiting[target]

    def room(self, target: Target, now_us: int) -> int:
        """How many more it may have now; none if that is less than one."""
        made = self._made.setdefault(target.name, deque())
        while made and made[0] <= now_us - target.per_s * 1_000_000:
            made.popleft()
        return min(target.messages - len(made), WAITING_MAX - self._waiting[target.name])

    def made(self, target: Target, now_us: int) -> None:
        """A message is made, and waits."""
        self._made[target.name].append(now_us)
        self._waiting[target.name] += 1

    def opens_us(self, target: Target) -> int | None:
        """When it may have another, by its span; None: by that it may now. As of the last look at its room."""
        made = self._made[target.name]
        return made[0] + target.per_s * 1_000_000 if made and len(made) >= target.messages else None

    def settled(self, target: str) -> None:
        """A message waits no more."""
        self._waiting[target] = max(0, self._waiting[target] - 1)

    def requeued(self, target: str, messages: int) -> None:
        """So many messages wait again."""
        self._waiting[target] += messages

    def keep_only(self, targets: Collection[str]) -> None:
        """Forget all others."""
        self._made = {target: made for target, made in self._made.items() if target in targets}
        self._waiting = Counter({target: n for target, n in self._waiting.items() if target in targets})
