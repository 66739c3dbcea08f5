"""Episodes of heat: levels of windows in, episodes out, one state per transformer.

A level rises at once and falls when windows below it have lasted `falls_after`; windows whose load is not known are
passed over, they neither raise nor clear. So after `falls_after` known windows in a row with nothing held, whatever the
state was before, it is at rest: what is said of a time follows from the last such calm on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rules.thermal import Levels

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Heat:
    """An episode in window numbers."""

    onset: int
    cleared: int | None
    """The window with whose end it was over."""
    level: int
    """Present; of one that is over the worst."""
    worst: int
    peak_c: float


@dataclass(slots=True)
class HeatState:
    """Of n transformers after some window, [n] each."""

    level: Levels
    below: Ints
    """Known windows in a row below it."""
    below_top: Levels
    """The highest held in them."""
    onset: Ints
    worst: Levels
    peak_c: Floats

    @classmethod
    def cold(cls, n: int) -> HeatState:
        def level() -> Levels:
            return np.zeros(n, np.int8)

        return cls(level(), np.zeros(n, np.int64), level(), np.zeros(n, np.int64), level(), np.zeros(n))

    def take(self, index: Ints) -> HeatState:
        return HeatState(*(getattr(self, column.name)[index] for column in fields(self)))

    def put(self, index: Ints, other: HeatState) -> None:
        for column in fields(self):
            getattr(self, column.name)[index] = getattr(other, column.name)

    def heat(self, i: int, cleared: int | None = None) -> Heat:
        """The episode of the i-th, open or just over."""
        level = int(self.level[i] if cleared is None else self.worst[i])
        return Heat(int(self.onset[i]), cleared, level, int(self.worst[i]), float(self.peak_c[i]))


def step(
    s: HeatState, window: int, falls_after: int, known: Bools, reached: Levels, held: Levels, hot_c: Floats
) -> NDArray[np.intp]:
    """Take all through one window; returns who cools down with it: their episodes are over.

    reached, held [n]: the level the window raises to, and the one it holds (never below reached).
    """
    up = known & (reached > s.level)
    begun = up & (s.level == 0)
    low = known & ~up & (held < s.level)
    s.below_top = np.where(low, np.maximum(s.below_top, held), np.where(known, 0, s.below_top)).astype(np.int8)
    s.below = np.where(low, s.below + 1, np.where(known, 0, s.below))
    falls = s.below >= falls_after
    level = np.where(up, reached, np.where(falls, s.below_top, s.level)).astype(np.int8)
    ended = np.flatnonzero((level == 0) & (s.level > 0))
    s.below[falls], s.below_top[falls] = 0, 0
    s.onset[begun], s.worst[begun], s.peak_c[begun] = window, 0, -np.inf
    s.level = level
    np.maximum(s.worst, level, out=s.worst)
    np.maximum(s.peak_c, hot_c, out=s.peak_c, where=known)
    return ended
