"""The phases of transformers: which members say something of them, and the two ladders PHASE and UNBALANCE.

What the single-phase members of a phase draw is known; all else is taken to be the same on the three phases, active and
reactive. So the load of a phase is its own members' active energy, a third of what others drew, and a third of the
reactive energy. PHASE: the greatest of the three over a third of the rating. UNBALANCE: (greatest - smallest) /
greatest over the limit of the winding, while the transformer carries something worth speaking of. Only transformers
with single-phase members, and hardly any of unknown phase, are judged. Refuses to know: reads, windows, storage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meterwatch.topology import PHASE_A, PHASE_B, PHASE_C, Topology
from rules.ladder import Bools, Floats, Ints, OverloadProfile

ALL_PHASES = PHASE_A | PHASE_B | PHASE_C


def phase_of(topology: Topology, member_of: NDArray[np.int32], weight: Ints, known_min: float) -> NDArray[np.int8]:
    """Per slot 0, 1, 2: its phase, where it is a single-phase member of a transformer that can be judged; else -1.

    known_min: share of the members' weight whose phases are to be known.
    """
    n = len(topology.transformer)
    phases = topology.phases
    single = np.bitwise_count(phases) == 1
    member = member_of >= 0
    known = member & (single | (phases == ALL_PHASES))
    of = member_of[member]
    total = np.bincount(of, weights=weight[member], minlength=n)
    told = np.bincount(member_of[known], weights=weight[known], minlength=n)
    judged = np.append(told >= known_min * total, False)  # the last one stands for none (-1)
    found = np.full(len(phases), -1, np.int8)
    for number, phase in enumerate((PHASE_A, PHASE_B, PHASE_C)):
        found[(phases == phase) & judged[member_of]] = number
    return found


class PhaseLimits:
    """What the sums of transformers mean by phase. by_phase: per slot as of phase_of."""

    def __init__(self, topology: Topology, profile: OverloadProfile, by_phase: NDArray[np.int8], vah: Floats) -> None:
        n = len(topology.transformer)
        self._vah, self._profile = vah, profile
        of = topology.member_of[(by_phase >= 0) & (topology.member_of >= 0)]
        self.judged: Bools = (np.bincount(of, minlength=n) > 0) & (vah > 0)
        """Transformers with single-phase members of known phase, and a rating."""
        winding = [text.upper() for text in topology.winding or [""] * n]
        self._limit: Floats = np.array(
            [profile.unbalance_dyn11 if text.startswith("D") else profile.unbalance_yyn0 for text in winding]
        )

    def load(self, index: Ints, wh: Ints, varh: Ints, single: NDArray[np.integer]) -> Floats:
        """Greatest phase over a third of the rating. wh, varh [..., n], single [..., n, 3]; NaN: not judged."""
        return self._over(index, self._of_phases(wh, varh, single).max(axis=-1) * 3)

    def unbalance(self, index: Ints, wh: Ints, varh: Ints, single: NDArray[np.integer]) -> Floats:
        """1 + unbalance - its limit; 0 where little is carried; NaN: not judged. Arguments as in load."""
        each = self._of_phases(wh, varh, single)
        most = each.max(axis=-1)
        share = np.divide(most - each.min(axis=-1), most, out=np.zeros(most.shape), where=most > 0)
        b = self._over(index, np.hypot(wh, varh) * self._profile.loss_factor)
        found: Floats = np.where(b >= self._profile.unbalance_min_pu, 1 + share - self._limit[index], 0.0)
        found[np.isnan(b)] = np.nan
        return found

    def _of_phases(self, wh: Ints, varh: Ints, single: NDArray[np.integer]) -> Floats:
        others = (wh - single.sum(axis=-1, dtype=np.int64)) / 3
        apparent: Floats = np.hypot(single + others[..., None], varh[..., None] / 3) * self._profile.loss_factor
        return apparent

    def _over(self, index: Ints, apparent: Floats) -> Floats:
        judged = self.judged[index]
        rated = np.where(judged, self._vah[index], 1.0)
        found: Floats = np.where(judged, apparent / rated, np.nan)
        return found
