"""Lost phases of transformers of which meters with several phases tell.

Such a meter is not off, so it is none of those by which rules.supply finds a lost phase. Here it is a witness beside
the single-phase meters that are off on the same phase: enough of them together within the onset window, nearly nobody
beside them who lost another phase or everything, and single-phase meters of that phase do not say ON. Where no meter
tells of a phase nothing is judged here, and rules.supply answers as if this module were not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meterwatch.clock import US
from rules.profile import OutageProfile
from rules.supply import Ids, Outage, Reports, Runs, Stamps
from rules.witness import Witnesses


def lost_phases(
    transformer: int,
    members: Ids,
    runs: Runs,
    lost: Mapping[int, Runs],
    on_slot: Ids,
    on_us: Stamps,
    profile: OutageProfile,
    witnesses: Witnesses,
    denied: list[Outage],
) -> list[Outage]:
    """Lost phases of one transformer, momentary ones included. runs: OFF runs; lost: by phase, of its meters.

    `denied` takes what enough meters reported and others contradicted.
    """
    found: list[Outage] = []
    for phase, told in lost.items():
        if not len(told.slot):
            continue
        on_it = witnesses.phases[runs.slot] == phase
        beside = _by_start([runs.where(~on_it), *(other for key, other in lost.items() if key != phase)])
        scene = _OnePhase(transformer, members, on_slot, on_us, profile, witnesses, phase, beside)
        found += scene.outages(_by_start([runs.where(on_it), told]), denied)
    return found


def _by_start(parts: Sequence[Runs]) -> Runs:
    """All these runs, by start."""
    slot, start_us, end_us = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Runs(slot, start_us, end_us).where(np.argsort(start_us, kind="stable"))


@dataclass(frozen=True, slots=True)
class _OnePhase(Reports):
    """One phase of one transformer."""

    phase: int
    beside: Runs
    """Of the same meters: everything that is not the loss of this phase."""

    def thin(self, off: Ids, onset_us: int) -> bool:
        """As of the whole, among the meters that hang on the phase."""
        phases = self.witnesses.phases[self.members]
        return self.few(off, self.members[phases & self.phase != 0], onset_us)

    def judged(self, rest: Runs, early: int, onset_us: int, decided_us: int) -> Outage:
        """What the runs from an onset on come to; the first `early` of them are within the window."""
        core, against = self.for_and_against(rest, early, onset_us)
        against = against[self.witnesses.phases[against] == self.phase]
        found = self.outage(rest, against, onset_us, decided_us, self.phase)
        near = np.abs(self.beside.start_us - onset_us) <= self.profile.onset_window_s * US
        others = len(np.unique(self.beside.slot[near]))
        if not found.denied and len(core) < self.profile.phase_share * (len(core) + others):
            return replace(found, denied=f"{others} meters lost another phase or all supply with it")
        return found
