"""The load of feeders, out of the loads of their transformers: sums in a ring of windows of their own, and a ladder.

A feeder carries what its transformers carry and the losses on the way; its rating is the registry's ampacity at the
profile's voltage. Coverage is that of all members of all its transformers. The sums are integers, so a corrected load
leaves no residue. Refuses to know: reads, members, the loads of transformers beyond the cells it is told.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from meterwatch.loads import Loads
from meterwatch.topology import Topology
from rules.ladder import Floats, Ints, Ladder, OverloadProfile
from rules.load import Sums, share_of
from rules.past import Measured
from rules.rated import FEEDER, Wording
from rules.rungs import Rungs, Windows


def feeder_kva(topology: Topology, profile: OverloadProfile) -> Floats:
    """Rating of every feeder; 0 where the registry has no ampacity."""
    ampacity_a = topology.feeder_ampacity_a.astype(np.float64)
    kva: Floats = np.maximum(np.nan_to_num(ampacity_a), 0.0) * (profile.feeder_nominal_kv * sqrt(3))
    return kva


class Feeders:
    """All feeders of one topology, those without an ampacity never judged. One evaluator calls it."""

    def __init__(self, topology: Topology, profile: OverloadProfile, windows: Windows) -> None:
        self._profile = profile
        self._windows = windows
        rated_kva = feeder_kva(topology, profile)
        n = len(rated_kva)
        self.vah: Floats = rated_kva * (1000 * profile.window_s / 3600)
        """Apparent energy of a window at b = 1; 0: not rated."""
        self._of: Ints = topology.feeder_of.astype(np.int64)
        judged = self._of >= 0
        judged[judged] = self.vah[self._of[judged]] > 0
        self._of[~judged] = -1
        self._any = bool(judged.any())
        """Nothing is summed up and judged otherwise."""
        self._wh, self._varh, self._covered, self._expected = (
            np.zeros((windows.count, n if self._any else 0), np.int64) for _ in range(4)
        )
        supplied = np.bincount(self._of[judged], minlength=n)
        wording = Wording(FEEDER, topology.feeder, rated_kva, supplied, profile)
        self.rungs = Rungs("OVERLOAD", "feeder", n if self._any else 0, profile, windows, self._load, wording.episode)
        self._calm_vah = self.vah * Ladder(profile).calm_pu

    @property
    def past(self) -> tuple[list[Measured], Ints]:
        """What is judged of windows before the ring, and the feeder of each transformer, -1: none."""
        return [Measured(self.rungs, self.vah > 0, self._b)] if self._any else [], self._of

    def supplied_by(self, feeder: int) -> Ints:
        """Transformers of a feeder; none of one that is not judged."""
        return np.flatnonzero(self._of == feeder)

    def expect(self, window: int, expected: Ints) -> None:
        """A new window: nothing in it yet; expected weight-seconds of each transformer."""
        if not self._any:
            return
        row = window % self._windows.count
        for ring in (self._wh, self._varh, self._covered, self._expected):
            ring[row] = 0
        mine = self._of >= 0
        np.add.at(self._expected[row], self._of[mine], expected[mine])

    def add(self, news: Loads) -> None:
        """By how much cells of transformers in the ring have changed."""
        if not self._any:
            return
        feeder = self._of[news.transformer]
        mine = slice(None) if (feeder >= 0).all() else np.flatnonzero(feeder >= 0)
        feeder, window = feeder[mine], news.window[mine]
        if not len(feeder):
            return
        at = (window % self._windows.count) * len(self.vah) + feeder
        for ring, sums in ((self._wh, news.wh), (self._varh, news.varh), (self._covered, news.covered)):
            np.add.at(ring.reshape(-1), at, sums[mine])
        self.rungs.touch(feeder, window)

    def _load(self, index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
        at = np.ix_(np.arange(first, stop) % self._windows.count, index)
        sums = Sums(self._wh[at], self._varh[at], self._covered[at], self._expected[at])
        return self._b(index, sums), sums.coverage

    def _b(self, index: Ints, sums: Sums) -> Floats:
        """b of the feeders `index` [windows, feeders]; NaN without a rating."""
        rated = self.vah[index]
        apparent = np.hypot(sums.wh, sums.varh) * self._profile.loss_factor
        b: Floats = np.divide(apparent, rated, out=np.full(apparent.shape, np.nan), where=rated > 0)
        return b

    def restless(self, cells: Loads, expected: Ints) -> Ints:
        """Transformers of the feeders that may have a level latched or held before these cells, of one window.

        expected: weight-seconds of every transformer in that window.
        """
        if not self._any:
            return np.zeros(0, np.int64)
        feeder, place = self._of[cells.transformer], len(self.vah)
        mine, all_of = feeder >= 0, self._of >= 0
        wh, varh, covered = (
            np.bincount(feeder[mine], weights=column[mine], minlength=place)
            for column in (cells.wh, cells.varh, cells.covered)
        )
        due = np.bincount(self._of[all_of], weights=expected[all_of], minlength=place)
        low = np.hypot(wh, varh) * self._profile.loss_factor < self._calm_vah * share_of(covered, due)
        restless = ~(low & (covered >= due * self._profile.coverage_min))
        restless &= np.bincount(feeder[mine], minlength=place) > 0
        return np.flatnonzero(all_of & restless[self._of])
