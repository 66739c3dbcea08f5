"""PHASE and UNBALANCE of transformers: the ring of what single-phase members drew, and the two ladders over it.

The sums of all members, their coverage and the windows belong to the overload rule. Only where a level was once reached
is anything judged. Refuses to know: reads, storage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from meterwatch.loads import Loads
from meterwatch.topology import Topology
from rules.apart import Apart
from rules.ladder import Bools, Floats, Ints, Ladder, OverloadProfile
from rules.load import Members, Sums, share_of
from rules.past import Measured
from rules.phases import PhaseLimits
from rules.rated import PHASE_WORDS, UNBALANCE_WORDS, Wording
from rules.rungs import Rungs, Windows

PHASE, UNBALANCE = "PHASE", "UNBALANCE"
Meaning = Callable[[Ints, Ints, Ints, NDArray[np.integer]], Floats]


class PhaseLadders:
    """Of all transformers of one topology. One evaluator calls it."""

    def __init__(
        self,
        topology: Topology,
        members: Members,
        profile: OverloadProfile,
        windows: Windows,
        sums: Callable[[Ints, int, int], Sums],
        apart: Apart,
    ) -> None:
        """sums(index, first, stop): of the ring, without the phases. apart: where the ladders are run."""
        self._apart = apart
        assert members.phase is not None
        n = members.transformers
        self._windows, self._sums, self._members = windows, sums, members
        self._coverage_min = profile.coverage_min
        kva = np.maximum(np.nan_to_num(topology.rated_kva.astype(np.float64)), 0.0)
        self._limits = PhaseLimits(topology, profile, members.phase, kva * (1000 * profile.window_s / 3600))
        self.single = np.zeros((windows.count, n, 3), np.int32)
        """Wh of the single-phase members of each phase; a quarter-hour of a low-voltage district fits."""
        self.flat = self.single.reshape(-1, 3)
        self._meanings: list[Meaning] = []
        self.rungs: list[Rungs] = []
        self._calm_pu: list[float] = []
        count = members.count()
        for rule, levels, words, meaning in (
            (PHASE, profile.phase_levels, PHASE_WORDS, self._limits.load),
            (UNBALANCE, profile.unbalance_levels, UNBALANCE_WORDS, self._limits.unbalance),
        ):
            if levels:
                own = profile.of_phases if rule == PHASE else profile.of_unbalance
                wording = Wording(words, topology.transformer, topology.rated_kva, count, own)
                load, up = self._loads(meaning), rule == PHASE
                self.rungs.append(Rungs(rule, "transformer", n, own, windows, load, wording.episode, adds_up=up))
                self._meanings.append(meaning)
                self._calm_pu.append(Ladder(own).calm_pu)

    @property
    def past(self) -> list[Measured]:
        """What is judged of windows before the ring."""
        return [
            Measured(rungs, self._limits.judged, _of_sums(meaning))
            for rungs, meaning in zip(self.rungs, self._meanings, strict=True)
        ]

    def _loads(self, meaning: Meaning) -> Callable[[Ints, int, int], tuple[Floats, Floats]]:
        of_sums = _of_sums(meaning)

        def load(index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
            single = self.single[np.ix_(np.arange(first, stop) % self._windows.count, index)]
            sums = self._sums(index, first, stop)._replace(phase_wh=single)
            return of_sums(index, sums), sums.coverage

        return load

    def touch(self, cells: Loads, at: Ints, wh: Ints, varh: Ints) -> None:
        """These cells of the ring, at these places, have changed to these sums."""
        mine = np.flatnonzero(self._limits.judged[cells.transformer])
        if not len(mine):
            return
        transformer, window, single = cells.transformer[mine], cells.window[mine], self.flat[at[mine]]
        wh, varh = wh[mine], varh[mine]
        for rungs, meaning in zip(self.rungs, self._meanings, strict=True):

            def touch(rungs: Rungs = rungs, meaning: Meaning = meaning) -> None:
                reached: Bools = meaning(transformer, wh, varh, single) >= rungs.lowest_pu
                rungs.touch_where(reached, transformer, window)

            self._apart.ask(rungs.named, None, touch)

    def restless(self, cells: Loads) -> Ints:
        """Transformers that may have a level latched or held before these cells, of one window."""
        if cells.phase_wh is None:
            return np.zeros(0, np.int64)
        judged = self._limits.judged[cells.transformer]
        expected = self._members.expected_of(cells)
        calm = cells.covered >= expected * self._coverage_min
        share = share_of(cells.covered, expected)
        columns, nothing = (cells.transformer, cells.wh, cells.varh, cells.phase_wh), np.zeros(len(cells))
        for rungs, meaning, calm_pu in zip(self.rungs, self._meanings, self._calm_pu, strict=True):
            least = calm_pu * share if rungs.adds_up else calm_pu
            calm &= ~(self._apart.ask(rungs.named, nothing, meaning, *columns) >= least)
        return cells.transformer[judged & ~calm]


def _of_sums(meaning: Meaning) -> Callable[[Ints, Sums], Floats]:
    def b(index: Ints, sums: Sums) -> Floats:
        assert sums.phase_wh is not None
        return meaning(index, sums.wh, sums.varh, sums.phase_wh)

    return b
