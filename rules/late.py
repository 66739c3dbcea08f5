"""Windows that changed after a rule had judged them for good, and what every rule offers that judges such windows anew.

The rules are named in one place, `rules.engine.Engine.past`; `meterwatch.late_loads` drives them. Each says which of
its assets wait (`waiting`) and makes a Fold of some of them, which asks for the loads it needs piece by piece and ends
in verdicts on a span of the past, and in what the rule is to know from then on. Refuses to know: the database,
alarms, the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from meterwatch.episodes import Verdict
from meterwatch.loads import Loads
from rules.ladder import NEVER, Bools, Ints

NEXT_TURN = 0
"""Turn of what is judged before all that came earlier."""


class Late:
    """Of n assets: the windows that wait, and in which turn the first of them came. All int64 [n]."""

    def __init__(self, rated: Bools) -> None:
        """rated: the assets of which something can be said; of the others nothing is noted."""
        self._rated = rated
        self.first = np.full(len(rated), NEVER)
        self.last = np.full(len(rated), -1, np.int64)
        """-1: nothing waits."""
        self.turn = np.full(len(rated), NEVER)

    def note(self, asset: Ints, window: Ints, turn: Ints | int) -> None:
        """These windows changed; arrays of equal length."""
        rated = self._rated[asset]
        asset, window = asset[rated], window[rated]
        np.minimum.at(self.first, asset, window)
        np.maximum.at(self.last, asset, window)
        np.minimum.at(self.turn, asset, turn if isinstance(turn, int) else turn[rated])

    def owe(self, from_window: int, asset: Ints, window: Ints, stop: int, turn: int) -> None:
        """The windows before `stop` wait: of everybody those from from_window on, of these assets from their own on."""
        first = np.full(len(self._rated), from_window)
        known = asset < len(first)
        np.minimum.at(first, asset[known], window[known])
        mine = np.flatnonzero(first < stop)
        for each in (first[mine], np.full(len(mine), stop - 1)):
            self.note(mine, each, turn)

    def judged(self, asset: Ints) -> None:
        """Nothing of these waits any more."""
        self.first[asset], self.last[asset], self.turn[asset] = NEVER, -1, NEVER

    def waiting(self) -> Ints:
        """Assets in the order in which they came, those of one turn by time."""
        index = np.flatnonzero(self.last >= 0)
        return index[np.lexsort((self.first[index], self.turn[index]))]

    @property
    def oldest_turn(self) -> int:
        """NEVER: nothing waits."""
        return int(self.turn.min(initial=NEVER))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.last >= 0))


class Fold(Protocol):
    """Some assets of one rule. Alternate `wanted` and `given` until nothing is wanted; changes nothing of the rule."""

    @property
    def transformers(self) -> Ints:
        """Whose loads are wanted now, ascending."""

    def wanted(self) -> tuple[int, int] | None:
        """Windows from..to-1 whose loads come next, maybe none (from == to); None: all is known."""

    def given(self, cells: Loads) -> None:
        """All loads of the windows wanted; those that are missing are empty."""

    def result(self) -> tuple[list[Verdict], Callable[[], None]]:
        """What is known of the past now; and a call with which the rule takes it, before it judges again.

        until_us is None where only what the rule says next knows the end.
        """


class JudgesPast(Protocol):
    """A rule, or several over the same assets."""

    @property
    def asset_kind(self) -> str: ...
    @property
    def late(self) -> Late: ...

    def waiting(self, now_us: int) -> Ints:
        """Assets that are to be judged, in that order; there is time for the first of them, maybe."""

    def part(self, waiting: Ints) -> int:
        """How many of the first of these to judge together, at least 1: their loads fit into memory."""

    def made_of(self, assets: Ints) -> Ints:
        """Transformers whose loads these assets are judged by, ascending."""

    def fold(self, assets: Ints, oldest: int) -> Fold:
        """assets ascending. oldest: no window before it has a load."""
