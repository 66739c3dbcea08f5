"""Temperatures in windows that the near ones do not show: late and corrected reads, late air, a start.

Argument. A load is felt in fewer than `Days.reach` windows. So a change in windows a..b changes no temperature from
b + reach on, and what is said from the first calm after that (rules.heat) is what was said before; what is said from
the last calm before a on follows from the loads since then and the warm-up before that day. A Lookback folds the loads
between the two calms, and up to the near windows where there is none after: there the rule goes on from it. Most
transformers have loads so low all the while that nothing can be hot; of those nothing is stepped. A calm is looked
for in the LATE_DAYS before a change; where there is none (no loads for years, mostly) the fold begins there, as at a
first read.

The loads that have left the ring are asked for piece by piece, a day and its warm-up at least, so memory is a piece.
Refuses to know: the database, alarms, the clock. Nothing here changes the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from meterwatch.episodes import Verdict
from meterwatch.loads import Loads
from rules.heat import Bools, Heat, HeatState, step
from rules.hot_spot import LATE_DAYS, HotSpot
from rules.ladder import NEVER, Ints
from rules.late import Late
from rules.thermal import Floats
from rules.twin import Twin

TRANSFORMERS_TOGETHER: Final = 500
CELLS_TOGETHER: Final = 200_000
"""Of one piece, 1.6 MB a column; a day and its warm-up of a transformer are 168."""
SLACK_WINDOWS: Final = 8
"""Looked at beyond the least in which a calm may lie: some windows are not known."""


class PastHeat:
    """HOT_SPOT as rules.late.JudgesPast."""

    asset_kind = "transformer"

    def __init__(self, rule: HotSpot) -> None:
        self._rule = rule

    @property
    def late(self) -> Late:
        return self._rule.late

    def waiting(self, now_us: int) -> Ints:
        self._rule.sort_out(now_us)
        return self.late.waiting()

    def part(self, waiting: Ints) -> int:
        some = waiting[:TRANSFORMERS_TOGETHER]
        first = np.minimum.accumulate(self.late.first[some])
        last = np.minimum(np.maximum.accumulate(self.late.last[some]), self._rule.at)
        cells = (last - first + 2 * _margin(self._rule)) * np.arange(1, len(some) + 1)
        return max(int(np.searchsorted(cells, CELLS_TOGETHER, "right")), 1)

    def made_of(self, assets: Ints) -> Ints:
        return assets

    def fold(self, assets: Ints, oldest: int) -> Lookback:
        first = self.late.first[assets]
        oldest = max(oldest, int(first.min()) - LATE_DAYS * self._rule.days.windows)
        return Lookback(self._rule, assets, first, self.late.last[assets], oldest)


class Lookback:
    """Some transformers, ascending, and the windows of each that changed; as rules.late.Fold.

    Three steps: who was cool all the while; the calm before, backwards; the fold, forward.
    """

    def __init__(self, rule: HotSpot, index: Ints, first: Ints, last: Ints, oldest: int) -> None:
        """oldest: no window before it has a load."""
        self._rule, self._all, self._oldest = rule, index, oldest
        self._cool: list[Verdict] | None = None
        """Of who was cool; None: not known yet."""
        self._take(index, first, np.minimum(last, rule.at))
        self._back: int | None = int(first.min())
        """Windows before it are still to be looked through, backwards; None: the fold goes forward."""
        self._days = 1
        self._at = 0
        """First window that is not folded."""
        self._judged_from = 0
        self._ended: dict[int, list[Heat]] = {}

    def _take(self, index: Ints, first: Ints, last: Ints) -> None:
        rule, n = self._rule, len(index)
        self.index, self._first, self._last = index, first, last
        self._since = np.full(n, -1, np.int64)
        """Of each: the window after the calm before; -1: not found yet."""
        self._until = np.full(n, NEVER)
        """Of each: the window after the calm that follows; NEVER: not found (yet)."""
        self._calm = np.zeros(n, np.int64)
        """Known windows in a row with nothing held, of those that can end it."""
        self._twin = Twin(rule.profile, rule.days, rule.plates.take(index))
        self._heat = HeatState.cold(n)

    @property
    def transformers(self) -> Ints:
        """Whose loads are wanted."""
        return self.index

    def wanted(self) -> tuple[int, int] | None:
        piece = self._piece()
        if piece is None:
            return None
        first, stop = piece
        return first, max(first, min(stop, self._rule.overload.tail))

    def _piece(self) -> tuple[int, int] | None:
        """Windows looked at next, those of the ring too."""
        rule, days = self._rule, self._rule.days
        if self._cool is None:
            margin = _margin(rule)
            return int(self._first.min()) - margin, min(int(self._last.max()) + margin, rule.at)
        if not len(self.index):
            return None
        if self._back is not None:
            return days.begin_of(self._back - 1) - (self._days - 1) * days.windows, self._back
        if self._at >= rule.at or (self._until < NEVER).all():
            return None
        return self._at, min(self._at + self._days * days.windows, rule.at)

    def given(self, cells: Loads) -> None:
        piece = self._piece()
        assert piece is not None
        first, stop = piece
        load = self._table(cells, first, stop)
        if self._cool is None:
            self._pass_over_cool(first, load)
            return
        if self._back is not None:
            self._look_back(first, load)
        else:
            self._fold(first, load)
        self._days = min(2 * self._days, max(CELLS_TOGETHER // (len(self.index) * self._rule.days.windows), 1))

    def _table(self, cells: Loads, first: int, stop: int) -> Floats:
        """b [windows, transformers], NaN where it is not known."""
        rule, overload = self._rule, self._rule.overload
        b = rule.loads(self.index, first, stop)
        if first >= overload.tail:
            return b
        column = np.full(overload.members.transformers, -1, np.int64)
        column[self.index] = np.arange(len(self.index))
        sums = overload.members.sums(cells, column, len(self.index), first, min(stop, overload.tail))
        known = sums.coverage >= overload.profile.coverage_min
        b[: len(known)] = np.where(known, overload.rated.load(self.index, sums), np.nan)
        return b

    def _pass_over_cool(self, begin: int, load: Floats) -> None:
        """Who had no load that may make it hot, from long enough before the change to long enough after it."""
        rule, reach = self._rule, self._rule.days.reach
        cool = _counted(load > rule.safe_pu[self.index], reach) == 0
        cool[: reach - 1] = False  # what was before is not known
        calm = _counted(cool & ~np.isnan(load), rule.falls_after) == rule.falls_after
        after = np.arange(begin + 1, begin + len(load) + 1)[:, None]
        """The window after each."""
        since = np.where(calm & (after <= self._first), after, -1).max(axis=0)
        until = np.where(calm & (after - rule.falls_after >= self._last + reach), after, NEVER).min(axis=0)
        warm = (~cool & (after > since) & (after <= until)).any(axis=0)
        done = (since >= 0) & (until < NEVER) & ~warm
        self._cool = [
            rule.verdict(transformer, first, (), stop)
            for transformer, first, stop in zip(
                self.index[done].tolist(), since[done].tolist(), until[done].tolist(), strict=True
            )
        ]
        self._take(self.index[~done], self._first[~done], self._last[~done])
        self._back = int(self._first.min(initial=NEVER))

    def _look_back(self, begin: int, load: Floats) -> None:
        rule, days = self._rule, self._rule.days
        twin = Twin(rule.profile, days, rule.plates.take(self.index))
        calm, since = np.zeros(len(self.index), np.int64), np.full(len(self.index), -1, np.int64)
        air = rule.air_of(self.index, begin, begin + len(load))
        judged_from = begin + days.warm_windows
        for window, b in enumerate(load, begin):
            twin.step(window, b, air[window - begin])
            if window >= judged_from:
                calm = _in_a_row(calm, ~np.isnan(b), twin.levels()[2] == 0)
                since[calm >= rule.falls_after] = window + 1
        self._since = np.where(self._since < 0, since, self._since)
        if (self._since < 0).any() and judged_from > self._oldest:
            self._back = judged_from
            return
        self._since = np.where(self._since < 0, np.minimum(judged_from, self._first), self._since)
        self._back = None
        self._at = days.begin_of(min(int(self._since.min()), rule.at - 1))
        self._judged_from = self._at + days.warm_windows

    def _fold(self, begin: int, load: Floats) -> None:
        rule = self._rule
        air = rule.air_of(self.index, begin, begin + len(load))
        for window, b in enumerate(load, begin):
            self._twin.step(window, b, air[window - begin])
            if window < self._judged_from:
                continue
            _, reached, held = self._twin.levels()
            known = ~np.isnan(b)
            over = step(self._heat, window, rule.falls_after, known, reached, held, self._twin.now.hot_spot_c)
            for i in over.tolist():
                self._ended.setdefault(i, []).append(self._heat.heat(i, window))
            self._calm = _in_a_row(self._calm, known & (window >= self._last + rule.days.reach), held == 0)
            self._until[(self._calm >= rule.falls_after) & (self._until == NEVER)] = window + 1
        self._at = begin + len(load)

    def result(self) -> tuple[list[Verdict], Callable[[], None]]:
        """As rules.late.Fold; of who goes on into the near windows the rule itself says all."""
        rule, everybody = self._rule, self._all
        ended = {i: self._between(i, heats) for i, heats in self._ended.items()}
        over, lasts = np.flatnonzero(self._until < NEVER), np.flatnonzero(self._until == NEVER)
        said = [
            rule.verdict(
                int(self.index[i]), int(self._since[i]), rule.dressed(int(self.index[i]), ended.get(i, [])),
                int(self._until[i]),
            )
            for i in over.tolist()
        ]  # fmt: skip
        index, since = self.index[lasts], self._since[lasts]
        twin, heat = self._twin.take(lasts), self._heat.take(lasts)
        in_near = {row: ended[i] for row, i in enumerate(lasts.tolist()) if i in ended}

        def taken() -> None:
            rule.looked_back(index, twin, heat, since, in_near)
            rule.late.judged(everybody)  # at the end: what waits is owed by a rule that raises in between

        return [*(self._cool or []), *said], taken

    def _between(self, i: int, heats: list[Heat]) -> list[Heat]:
        since, until = int(self._since[i]), int(self._until[i])
        return [one for one in heats if one.cleared is not None and one.cleared >= since and one.onset < until]


def _margin(rule: HotSpot) -> int:
    """So many windows before a change and after it say whether it was cool all the while."""
    return rule.days.reach + rule.falls_after + SLACK_WINDOWS


def _counted(mask: Bools, windows: int) -> Ints:
    """How many of the last so many windows, this one among them, are True. [windows, n]."""
    count = np.cumsum(mask, axis=0, dtype=np.int64)
    count[windows:] -= count[:-windows].copy()
    return count


def _in_a_row(calm: Ints, known: Bools, cool: Bools) -> Ints:
    """Known windows in a row with nothing held, after one more; what is not known is passed over."""
    return np.where(known, np.where(cool, calm + 1, 0), calm)
