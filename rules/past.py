"""Overload in windows that have left the ring: late and corrected reads, judged by the same ladder.

Argument. A few valid windows in a row below every threshold (`Ladder.calm_windows`) bring the ladder to rest from any
state. So a change in windows a..b cannot be felt beyond the first such calm after b, and the fold may begin cold at the
last calm before a: what it says of the windows between is what a fold over all time would say. A transformer without a
calm before is followed back to its oldest load; one without a calm after is followed to the ring, which goes on from
the state it has there, and the verdict is joined with the ring's.

The loads are asked for (`wanted`) and given (`given`) piece by piece, so memory is a piece, however long the time.
Refuses to know: the database, alarms, the clock. Nothing here changes the ring.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from meterwatch.episodes import Episode, Verdict
from meterwatch.loads import Loads
from rules.ladder import NEVER, Bools, Floats, Ints, Ladder, LadderState, Span
from rules.overload import RULE, Overload

TRANSFORMERS_TOGETHER: Final = 500
PIECE_CELLS: Final = 100_000
"""Cells of one piece, 0.8 MB a column. Pieces begin with FIRST_WINDOWS and double up to it."""
FIRST_WINDOWS: Final = 16
"""Four hours: most transformers are calm somewhere in them."""
FOLD_WINDOWS: Final = 96
"""Folded together: who is at rest in a day of them is not stepped through it."""
KEPT_WINDOWS: Final = 96
"""Of the piece before, for the evidence of an episode that ends early in the next."""


class Past:
    """Some transformers, of each the windows that changed. Alternate `wanted` and `given` until nothing is wanted."""

    def __init__(self, overload: Overload, index: Ints, first: Ints, last: Ints, oldest: int) -> None:
        """index: ascending transformers, at most TRANSFORMERS_TOGETHER; first, last: windows changed, before the ring.

        oldest: no window before it has a load.
        """
        self.index = index
        self._overload = overload
        self._ladder = Ladder(overload.profile)
        self._last, self._oldest, self._tail = last, oldest, overload.tail
        n = len(index)
        self._begin = np.full(n, -1, np.int64)
        """Of each: the window after the calm before; -1: not found yet."""
        self._end = np.full(n, NEVER)
        """Of each: the window after the calm that follows; NEVER: not found (yet)."""
        self._state = LadderState.cold(n, len(overload.profile.levels))
        self._episodes: dict[int, list[tuple[Span, Episode]]] = {}
        self._piece = min(FIRST_WINDOWS, self._piece_max)
        self._back: int | None = int(first.min())
        """Windows before it are still to be looked through, backwards; None: the fold goes forward."""
        self._first = first
        self._at = 0
        self._kept: tuple[Floats, Floats] = (np.zeros((0, n)), np.zeros((0, n)))

    @property
    def _piece_max(self) -> int:
        return max(PIECE_CELLS // len(self.index), 2 * self._ladder.calm_windows)

    def wanted(self) -> tuple[int, int] | None:
        """Windows from..to-1 whose loads come next; None: all is known."""
        if self._back is not None:
            return max(self._back - self._piece, min(self._oldest, self._back - 1)), self._back
        if self._at >= self._tail or (self._end < NEVER).all():
            return None
        return self._at, min(self._at + self._piece, self._tail)

    def given(self, cells: Loads) -> None:
        """The loads of the windows wanted: cells of these transformers; those that are missing are empty."""
        wanted = self.wanted()
        assert wanted is not None
        load, coverage = self._table(cells, *wanted)
        usable = (coverage >= self._overload.profile.coverage_min) & ~np.isnan(load)
        load[~usable] = 0.0
        self._piece = min(2 * self._piece, self._piece_max)
        if self._back is not None:
            self._look_back(wanted[0], load, usable)
        else:
            self._fold(wanted[0], load, usable, coverage)

    def _table(self, cells: Loads, first: int, stop: int) -> tuple[Floats, Floats]:
        """b and coverage [windows, transformers]."""
        shape = stop - first, len(self.index)
        at = cells.window - first, np.searchsorted(self.index, cells.transformer)
        wh, varh, covered = (np.zeros(shape, np.int64) for _ in range(3))
        wh[at], varh[at], covered[at] = cells.wh, cells.varh, cells.covered
        expected = np.stack([self._overload.members.expected(window)[self.index] for window in range(first, stop)])
        b = self._overload.rated.ratio(self.index, wh, varh)
        return b, np.divide(covered, expected, out=np.zeros(shape), where=expected > 0)

    def _calm(self, load: Floats, usable: Bools) -> Bools:
        """[windows + 1, transformers]: True where the windows just before are calm, and enough of them."""
        calm = usable & (load < self._ladder.calm_pu)
        count = np.cumsum(np.concatenate([np.zeros((1, calm.shape[1]), np.int64), calm]), axis=0)
        found = np.zeros(count.shape, np.bool_)
        k = self._ladder.calm_windows
        found[k:] = count[k:] - count[:-k] == k
        return found

    def _look_back(self, from_window: int, load: Floats, usable: Bools) -> None:
        after_calm = self._calm(load, usable)
        windows = np.arange(from_window, from_window + len(after_calm))
        after_calm &= windows[:, None] <= self._first
        newest = np.where(after_calm.any(axis=0), windows[len(windows) - 1 - np.argmax(after_calm[::-1], axis=0)], -1)
        self._begin = np.where(self._begin < 0, newest, self._begin)
        if (self._begin >= 0).all() or from_window <= self._oldest:
            self._begin = np.where(self._begin < 0, np.minimum(from_window, self._first), self._begin)
            self._back, self._at = None, int(self._begin.min())
            self._piece = min(FIRST_WINDOWS, self._piece_max)
        else:  # the next piece ends within this one: a calm may lie across the border
            self._back = from_window + self._ladder.calm_windows - 1

    def _fold(self, first: int, load: Floats, usable: Bools, coverage: Floats) -> None:
        stop = first + len(load)
        ended: dict[int, list[Span]] = {}
        everyone = slice(0, len(self.index))
        for at in range(0, len(load), FOLD_WINDOWS):
            some = slice(at, at + FOLD_WINDOWS)
            places = np.arange(len(self.index))
            self._ladder.fold(self._state, everyone, places, first + at, load[some], usable[some], ended)
        b, share = (np.concatenate(two) for two in zip(self._kept, (load, coverage), strict=True))
        shown_from = stop - len(b)
        after_calm = self._calm(load, usable)
        windows = np.arange(first, stop + 1)
        after_calm &= windows[:, None] - self._ladder.calm_windows > self._last
        end = np.where(after_calm.any(axis=0), windows[np.argmax(after_calm, axis=0)], NEVER)
        self._end = np.minimum(self._end, end)
        for i, spans in ended.items():
            mine = [one for one in spans if _cleared(one) >= self._begin[i] and one.onset < self._end[i]]
            dressed = [
                self._overload.rated.episode(int(self.index[i]), one, shown_from, b[:, i], share[:, i]) for one in mine
            ]
            self._episodes.setdefault(i, []).extend(zip(mine, dressed, strict=True))
        self._kept = b[-KEPT_WINDOWS:], share[-KEPT_WINDOWS:]
        self._at = stop

    def verdicts(self) -> list[Verdict]:
        """What is known of each transformer between its two calms; until_us None where only the ring knows the end."""
        window_us = self._overload.window_us
        return [
            Verdict(
                RULE,
                "transformer",
                transformer,
                begin * window_us + 1,
                tuple(episode for _, episode in self._episodes.get(i, ())),
                until_us=None if end == NEVER else end * window_us,
            )
            for i, (transformer, begin, end) in enumerate(
                zip(self.index.tolist(), self._begin.tolist(), self._end.tolist(), strict=True)
            )
        ]

    def before_ring(self) -> tuple[Ints, LadderState]:
        """Transformers whose verdict the ring ends, and their states before its tail."""
        rows = np.flatnonzero(self._end == NEVER)
        return self.index[rows], self._state.take(rows)


def with_ring(past: list[Verdict], ring: list[Verdict], tail: int, window_us: int) -> list[Verdict]:
    """Both together: a verdict of the past that only the ring can end goes on in the ring's; one an asset and span."""
    lasting = {verdict.asset_id: verdict for verdict in past if verdict.until_us is None}
    found = [verdict for verdict in past if verdict.until_us is not None]
    for verdict in ring:
        before = (
            lasting.pop(verdict.asset_id, None) if (verdict.rule, verdict.asset_kind) == (RULE, "transformer") else None
        )
        if before is not None:
            later = [e for e in verdict.episodes if e.cleared_us is None or e.cleared_us > tail * window_us]
            verdict = replace(before, episodes=(*before.episodes, *later))
        found.append(verdict)
    return found + list(lasting.values())


def _cleared(span: Span) -> int:
    return NEVER if span.cleared is None else span.cleared
