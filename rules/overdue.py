"""Overdue reads as evidence: outages of a transformer of which too few last gasps came.

Silence alone is no outage: some meter must have reported OFF and stay off. Then the meters beside it that spoke
shortly before, and whose next read is overdue by what their communication mode is allowed, add to the likelihood; but
only where their path (the concentrator, else the head-end) has carried the same interval of meters of *other*
transformers. So what a dead concentrator explains is explained by it. Whether a read is missing is asked by its stamp,
never by its arrival: the answer is a function of the set of votes, and a read that comes later takes its part of the
evidence back. No `now` here: an outage is decided when the last overdue read it needs became overdue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.topology import Topology
from rules.profile import OutageProfile, SilenceProfile
from rules.supply import NEVER, ON, Evidence, Ids, Outage, Runs, Stamps, half_back, restored_since
from rules.witness import Witnesses

SPOKE_BEFORE_US: Final = 3600 * US
"""A meter that last spoke longer before the onset is not missed: votes are read from an hour before the first OFF on.
(ours)"""


@dataclass(frozen=True, slots=True)
class Paths:
    """How the meters of a topology are heard; arrays by slot, the registry's own where they are all there is."""

    interval_s: NDArray[np.int32]
    mode: NDArray[np.int16]
    grace_s: NDArray[np.int64]
    """How late a read may be, by mode; the last one for none (-1)."""
    path: NDArray[np.int32]
    """Of what they share on their way to us: concentrators first, then head-ends; -1 for none."""

    @classmethod
    def of(cls, topology: Topology, profile: SilenceProfile) -> Paths:
        """Those of a registry."""
        grace = np.array([profile.grace_of(mode) for mode in topology.comm_modes] + [profile.grace_s], np.int64)
        direct = np.where(topology.head_end_of < 0, -1, topology.head_end_of + len(topology.concentrator))
        path = np.where(topology.concentrator_of < 0, direct, topology.concentrator_of)
        return cls(topology.interval_s, topology.comm_mode, grace, path.astype(np.int32))


@dataclass(frozen=True, slots=True)
class Spoken:
    """All votes of a group, by time, and how each of its meters is heard."""

    slots: Ids
    """Members in service, ascending."""
    transformer: Ids
    interval_us: Stamps
    grace_us: Stamps
    path: NDArray[np.int32]
    rank: NDArray[np.intp]
    """Of each vote: the index of its meter in slots."""
    at_us: Stamps
    vote: NDArray[np.int8]

    @classmethod
    def of(cls, heard: Evidence, slots: Ids, transformer: Ids, paths: Paths) -> Spoken:
        """heard: votes of these meters only."""
        order = np.argsort(heard.at_us, kind="stable")
        rank = np.searchsorted(slots, heard.slot[order])
        interval_us = paths.interval_s[slots].astype(np.int64) * US
        grace_us = paths.grace_s[paths.mode[slots]] * US
        votes = rank, heard.at_us[order], heard.vote[order]
        return cls(slots, transformer, interval_us, grace_us, paths.path[slots], *votes)

    def missed(self, transformer: int, onset_us: int, back_us: int, profile: OutageProfile) -> tuple[Ids, Stamps]:
        """(meters of the transformer not heard after an onset though their path was, when that was known), by time.

        back_us: when supply began to come back; who spoke before that was heard. NEVER: it did not.
        """
        slack_us = profile.clock_slack_s * US
        end_us = ((onset_us + slack_us) // self.interval_us + 1) * self.interval_us
        low, high = np.searchsorted(self.at_us, (onset_us - SPOKE_BEFORE_US, onset_us), side="right")
        spoke = np.zeros(len(self.slots), np.bool_)
        spoke[self.rank[low:high]] = True
        later = slice(int(np.searchsorted(self.at_us, onset_us + slack_us, side="right")), None)
        rank, at_us = self.rank[later], self.at_us[later]
        carried, heard = np.zeros(len(self.slots), np.bool_), np.zeros(len(self.slots), np.bool_)
        carried[rank[at_us <= end_us[rank]]] = True
        heard[rank[at_us < back_us - slack_us]] = True
        inside = self.transformer == transformer
        alive = self._alive(spoke & ~inside, carried, profile)
        missing = np.flatnonzero(inside & spoke & ~carried & ~heard & alive)
        known_us = end_us[missing] + self.grace_us[missing]
        order = np.argsort(known_us, kind="stable")
        return self.slots[missing[order]], known_us[order]

    def _alive(
        self, others: NDArray[np.bool_], carried: NDArray[np.bool_], profile: OutageProfile
    ) -> NDArray[np.bool_]:
        """bool[slots]: the path of the meter has carried the interval for nearly all of the others on it."""
        paths = int(self.path.max(initial=-1)) + 2  # the last one stands for none (-1)
        there = np.bincount(self.path[others] % paths, minlength=paths)
        absent = np.bincount(self.path[others & ~carried] % paths, minlength=paths)
        alive = (there > 0) & (absent <= profile.path_missing_share * there)
        alive[-1] = False
        return alive[self.path]


def overdue_outages(
    transformer: int,
    runs: Runs,
    found: Sequence[Outage],
    spoken: Spoken,
    profile: OutageProfile,
    witnesses: Witnesses,
) -> Iterator[Outage]:
    """Outages of one transformer that its OFF runs (by start) make with overdue reads beside them, besides those found.

    Decided when the last overdue read that was needed became overdue: may lie in the future.
    """
    members = int((spoken.transformer == transformer).sum())
    open_to = np.ones(len(runs.slot), np.bool_)
    for one in found:
        open_to &= ~one.covers(runs.start_us, profile)
    free_us = -NEVER
    for i in np.flatnonzero(open_to).tolist():
        if runs.start_us[i] < free_us:
            continue
        outage = _judged(transformer, runs.where(np.arange(i, len(runs.slot))), members, spoken, profile, witnesses)
        if outage is not None:
            free_us = outage.cleared_us
            yield outage


def _judged(
    transformer: int, rest: Runs, members: int, spoken: Spoken, profile: OutageProfile, witnesses: Witnesses
) -> Outage | None:
    """What the first of these runs comes to, with those soon after it and with the reads that are overdue."""
    onset_us, hold_us = int(rest.start_us[0]), profile.root_hold_s * US
    early = rest.where(rest.start_us <= onset_us + profile.onset_window_s * US)
    while len(early.slot) and early.start_us[0] == onset_us:
        back_us = int(early.end_us.min())
        off = np.unique(early.slot)
        overdue, known_us = spoken.missed(transformer, onset_us, back_us, profile)
        mine = ~np.isin(overdue, early.slot)
        overdue, known_us = overdue[mine], known_us[mine]
        against = _against(spoken, transformer, onset_us, back_us, off, profile)
        need = _needed(off, len(against), onset_us, members, profile, witnesses)
        if need > len(overdue) or _denies(against, off, profile, witnesses):
            return None
        decided_us = int(known_us[need - 1])
        lasting = early.end_us > decided_us + hold_us
        if lasting.all():
            posterior = witnesses.posterior(off, len(against), onset_us, profile, overdue=need)
            return _outage(
                transformer, rest, onset_us, decided_us, (len(against), posterior), np.sort(overdue[:need]), profile
            )
        early = early.where(lasting)
    return None


def _against(spoken: Spoken, transformer: int, onset_us: int, back_us: int, off: Ids, profile: OutageProfile) -> Ids:
    """Meters of the transformer that say ON meanwhile."""
    slack_us = profile.clock_slack_s * US
    low, high = np.searchsorted(spoken.at_us, (onset_us + slack_us, back_us - slack_us))
    rank = spoken.rank[low:high][spoken.vote[low:high] == ON]
    return np.setdiff1d(spoken.slots[rank[spoken.transformer[rank] == transformer]], off)


def _denies(against: Ids, off: Ids, profile: OutageProfile, witnesses: Witnesses) -> bool:
    """Too many of those heard from had supply, or the one that knows had."""
    many = len(against) > profile.contradiction_share * (len(off) + len(against))
    return many or bool(witnesses.terminal[against].any())


def _needed(off: Ids, against: int, onset_us: int, members: int, profile: OutageProfile, witnesses: Witnesses) -> int:
    """How many overdue reads make enough meters and enough certainty; at least one."""
    odds = witnesses.log_odds(off, against, onset_us, profile)
    wanted = math.log(profile.posterior_min / (1 - profile.posterior_min))
    few = profile.meters_needed(members) - int(witnesses.weight[off].sum())
    return max(1, few, math.ceil((wanted - odds) / profile.overdue_log_odds))


def _outage(
    transformer: int,
    rest: Runs,
    onset_us: int,
    decided_us: int,
    certainty: tuple[int, float],
    overdue: Ids,
    profile: OutageProfile,
) -> Outage:
    """certainty: how many said ON, and the probability."""
    restored_us = restored_since(rest, decided_us, profile)
    cleared_us = restored_us + profile.restore_hold_s * US if restored_us < NEVER else NEVER
    affected = np.unique(rest.slot[rest.start_us < cleared_us])
    half_us = half_back(rest, decided_us)
    return Outage(
        "transformer", transformer, onset_us, decided_us, restored_us, cleared_us, affected, *certainty, half_us,
        overdue=np.setdiff1d(overdue, affected),
    )  # fmt: skip
