"""Temperatures in windows that the near ones do not show: late and corrected reads, late air, a start.

A Lookback folds the loads of some transformers from far enough before their first changed window: a calm before it, so
that nothing of what was before is open, and the warm-up before that day. It asks for the loads that have left the ring
(`wanted`) and goes twice as far back each time until everybody's calm is found, or all there is was judged. Memory: the
loads of that time. Refuses to know: the database, alarms, the clock. Nothing here changes the rule.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.loads import Loads
from rules.heat import Heat, HeatState, step
from rules.hot_spot import HotSpot
from rules.thermal import Floats
from rules.twin import Twin

Ints = NDArray[np.int64]
TRANSFORMERS_TOGETHER: Final = 500
DAYS_MAX: Final = 32
"""Heat that has lasted for longer is dated to that day. (ours)"""


class Lookback:
    """Some transformers, ascending, and the first changed window of each. Give until `wanted` is None."""

    def __init__(self, rule: HotSpot, index: Ints, first: Ints, oldest: int) -> None:
        """oldest: no window before it has a load."""
        self.index, self._rule, self._first, self._oldest = index, rule, first, oldest
        self._days = 1
        self._done = False
        n = len(index)
        self._twin = Twin(rule.profile, rule.days, rule.parameters.take(index))
        self._heat = HeatState.cold(n)
        self._since = np.full(n, -1, np.int64)
        self._ended: dict[int, list[Heat]] = {}

    @property
    def _begin(self) -> int:
        """First window folded; the warm-up from here on says nothing of heat."""
        days = self._rule.days
        return days.begin_of(int(self._first.min())) - (self._days - 1) * days.windows

    def wanted(self) -> tuple[int, int] | None:
        """Windows from..to-1 whose loads are needed beside those of the ring; maybe none (from == to). None: done."""
        if self._done:
            return None
        return self._begin, max(min(self._rule.overload.tail, self._rule.at), self._begin)

    def given(self, cells: Loads) -> None:
        """The loads of the windows wanted: cells of these transformers; those that are missing are empty."""
        wanted = self.wanted()
        assert wanted is not None
        rule = self._rule
        ring = rule.loads(self.index, wanted[1], max(rule.at, wanted[1]))
        self._fold(wanted[0], np.concatenate([self._table(cells, *wanted), ring])[: rule.at - wanted[0]])
        begin = self._begin + rule.days.warm_windows
        if (self._since < 0).any() and begin > self._oldest and self._days < DAYS_MAX:
            self._days *= 2
            return
        self._since = np.where(self._since < 0, np.minimum(begin, self._first), self._since)
        self._done = True

    def _table(self, cells: Loads, first: int, stop: int) -> Floats:
        """b [windows, transformers], NaN where it is not known."""
        overload, shape = self._rule.overload, (stop - first, len(self.index))
        at = cells.window - first, np.searchsorted(self.index, cells.transformer)
        wh, varh, covered, expected = (np.zeros(shape, np.int64) for _ in range(4))
        wh[at], varh[at], covered[at] = cells.wh, cells.varh, cells.covered
        expected[at] = overload.members.expected_of(cells)
        b = overload.rated.ratio(self.index, wh, varh)
        known = (expected > 0) & (covered >= overload.profile.coverage_min * expected)
        return np.where(known, b, np.nan)

    def _fold(self, begin: int, load: Floats) -> None:
        rule, n = self._rule, len(self.index)
        warm = rule.days.warm_windows
        self._twin, self._heat = Twin(rule.profile, rule.days, rule.parameters.take(self.index)), HeatState.cold(n)
        self._ended, self._since = {}, np.full(n, -1, np.int64)
        air = rule.air_of(self.index, begin, begin + len(load))
        calm = np.zeros(n, np.int64)
        for window, b in enumerate(load, begin):
            self._twin.step(window, b, air[window - begin])
            if window < begin + warm:
                continue
            _, reached, held = self._twin.levels()
            known = ~np.isnan(b)
            calm = np.where(known, np.where(held == 0, calm + 1, 0), calm)
            rests = (calm >= rule.falls_after) & (window < self._first)
            self._since[rests] = window + 1
            over = step(self._heat, window, rule.falls_after, known, reached, held, self._twin.now.hot_spot_c)
            for i in over.tolist():
                self._ended.setdefault(i, []).append(self._heat.heat(i, window))

    def tell(self) -> None:
        """Let the rule know what is so just before its near windows, and since when all is known."""
        ended = {
            i: [one for one in heats if one.cleared is not None and one.cleared >= self._since[i]]
            for i, heats in self._ended.items()
        }
        self._rule.looked_back(self.index, self._twin, self._heat, self._since, ended)
