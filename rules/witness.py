"""What the word of a meter weighs: its place, its phase, how it speaks, and what is known of all who speak that way.

A bellwether is a meter chosen because it tells of its transformer more than others do; a transformer's own terminal
decides alone. How likely a meter without supply is to say so is learnt per communication mode (Delivery): rows that
hold from a moment of event time on, so that what is learnt later never changes what was judged of earlier faults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.delivery import Learnt
from meterwatch.topology import BELLWETHER, TERMINAL, Topology
from rules.profile import OutageProfile

ODDS_MAX: Final = 700.0
"""Log odds beyond which a float64 has no probability left to show."""


class Delivery:
    """Delivery probabilities by mode and time: the profile's, until a learnt row takes their place."""

    def __init__(self, profile: OutageProfile, comm_modes: Sequence[str], learnt: Sequence[Learnt] = ()) -> None:
        start = [profile.p_gasp_of(mode) for mode in comm_modes] + [profile.p_gasp]  # the last one: no mode (-1)
        number = {mode: i for i, mode in enumerate(comm_modes)}
        self._from_us: list[int] = []
        self._p = [np.array(start)]
        for row in sorted(learnt):
            if row.comm_mode not in number:
                continue
            if not self._from_us or row.from_us > self._from_us[-1]:
                self._from_us.append(row.from_us)
                self._p.append(self._p[-1].copy())
            self._p[-1][number[row.comm_mode]] = row.p_gasp

    def at(self, onset_us: int) -> NDArray[np.float64]:
        """float64 [modes + 1]: probability that a meter without supply says so, for a fault that began then."""
        return self._p[int(np.searchsorted(self._from_us, onset_us, side="right"))]


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The meters of a topology as witnesses; arrays by slot."""

    weight: NDArray[np.int8]
    """Ordinary meters it counts for."""
    terminal: NDArray[np.bool_]
    phases: NDArray[np.uint8]
    mode: NDArray[np.int16]
    delivery: Delivery

    @classmethod
    def of(cls, topology: Topology, profile: OutageProfile, learnt: Sequence[Learnt] = ()) -> Witnesses:
        """Those of a registry."""
        weight = np.ones(topology.slots, np.int8)
        bellwether, terminal = topology.witness == BELLWETHER, topology.witness == TERMINAL
        weight[bellwether], weight[terminal] = profile.bellwether_weight, profile.meters_min
        delivery = Delivery(profile, topology.comm_modes, learnt)
        return cls(weight, terminal, topology.phases, topology.comm_mode, delivery)

    def posterior(
        self, off: NDArray[np.int32], on: int, onset_us: int, profile: OutageProfile, overdue: int = 0
    ) -> float:
        """Probability of an outage that these meters report, while so many others say ON and so many are overdue."""
        odds = self.log_odds(off, on, onset_us, profile) + overdue * profile.overdue_log_odds
        return 1 / (1 + math.exp(-max(min(odds, ODDS_MAX), -ODDS_MAX)))

    def log_odds(self, off: NDArray[np.int32], on: int, onset_us: int, profile: OutageProfile) -> float:
        """Of an outage that these meters report, while so many others say ON."""
        odds = math.log(profile.prior / (1 - profile.prior)) + on * math.log(profile.p_on_in_outage)
        p_false = np.where(self.terminal[off], profile.p_false_terminal, profile.p_false)
        return odds + float(np.log(self.delivery.at(onset_us)[self.mode[off]] / p_false).sum())

    def phase_of(self, off: NDArray[np.int32], members: NDArray[np.int32], profile: OutageProfile) -> tuple[int, bool]:
        """(the phase that nearly all of these meters hang on and that others do not; 0: none, whether chance is out).

        Chance: that all meters off are on one phase although the whole transformer is off.
        """
        alone = np.bitwise_count(self.phases[off]) == 1
        counts = np.bincount(self.phases[off][alone], minlength=5)
        phase = int(counts.argmax())
        if not counts[phase] or counts[phase] < profile.phase_share * len(off):
            return 0, False
        share = float((self.phases[members] == phase).mean()) if len(members) else 1.0
        return (phase, share ** int(counts[phase]) < 1 - profile.posterior_min) if share < 1 else (0, False)
