"""Who is without supply: from the votes of meters to outages of transformers and feeders.

Everything here is a pure function of a *set* of votes: order, repeats and splitting into batches cannot change the
answer. Votes make OFF runs per meter. OFF runs that start together make an outage of their transformer, unless other
meters of it say ON meanwhile; transformers that go together make an outage of their feeder. A bare share of meters is
never the test: with 60 % of last gasps delivered it would find nothing. This module knows no alarms, no episodes and
no `now`; rules.outage does. Limits: rules.profile.OutageProfile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import EventCode, Events, ReadChange
from meterwatch.clock import US
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin, Quality
from rules.profile import OutageProfile
from rules.witness import Witnesses

OFF: Final = 1
ON: Final = 2
OPENED: Final = 3
"""The meter's own relay disconnected the customer: no vote on the supply, but it explains one."""
CLOSED: Final = 4
HEARD: Final = 5
"""A read that says nothing of the supply: the meter was heard."""
NEVER: Final = int(np.iinfo(np.int64).max)
"""End of what has not ended."""

COPIES_MAX: Final = 100
"""Above the weight of any witness: one key per meter and copy of it."""

Ids = NDArray[np.int32]
Stamps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A set of votes on supply; arrays of length n, unordered, repeats allowed."""

    slot: Ids
    at_us: Stamps
    vote: NDArray[np.int8]
    """OFF or ON; OPENED or CLOSED of the relay; HEARD; of phases those of rules.phase_votes."""

    def where(self, mask: NDArray[np.bool_]) -> Evidence:
        return Evidence(self.slot[mask], self.at_us[mask], self.vote[mask])


class Runs(NamedTuple):
    """OFF runs: the meter was without supply in [start_us, end_us). Arrays of length n."""

    slot: Ids
    start_us: Stamps
    end_us: Stamps
    """NEVER while it lasts."""

    def where(self, mask: NDArray[np.bool_] | NDArray[np.intp]) -> Runs:
        return Runs(self.slot[mask], self.start_us[mask], self.end_us[mask])


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault of a transformer or feeder, before the question whether it lasted long enough to be an episode."""

    kind: str
    asset_id: int
    onset_us: int
    decided_us: int
    """Time of the vote with which enough meters (transformers) were off."""
    restored_us: int
    """Since when enough of the affected meters are ON; NEVER."""
    cleared_us: int
    """restored_us + restore_hold; NEVER."""
    affected: Ids
    """Slots, ascending."""
    observed_on: int
    posterior: float
    half_back_us: int = NEVER
    """When half of the meters off so far were ON again: supply is coming back; NEVER."""
    hold_s: int = 0
    """How long enough meters must have been off before it is told."""
    phase: int = 0
    """The one phase that is lost (bit as in meterwatch.topology); 0: the whole."""
    denied: str = ""
    """What contradicts it; empty: nothing does."""
    overdue: Ids = field(default_factory=lambda: np.zeros(0, np.int32))
    """Slots, ascending: whose reads were overdue, where these decided it (rules.overdue)."""

    def raised_us(self, profile: OutageProfile) -> int:
        return self.decided_us + (self.hold_s or profile.root_hold_s) * US

    def sustained(self, profile: OutageProfile) -> bool:
        """Not over before it could be raised, and certain enough."""
        return self.restored_us > self.raised_us(profile) and self.posterior >= profile.posterior_min

    def covers(self, start_us: Stamps, profile: OutageProfile) -> NDArray[np.bool_]:
        """True for OFF runs (by start) that this outage explains, those with a clock a little early included."""
        return (start_us >= self.onset_us - profile.onset_window_s * US) & (start_us < self.cleared_us)


_VOTE_OF: Final = np.zeros(max(EventCode) + 1, np.int8)
_VOTE_OF[[EventCode.POWER_FAIL, EventCode.POWER_RESTORED]] = OFF, ON
_VOTE_OF[[EventCode.RELAY_OPEN, EventCode.RELAY_CLOSED]] = OPENED, CLOSED


def evidence_of_events(events: Events) -> Evidence:
    """Votes of power-fail, restored and relay events; all other codes say nothing."""
    vote = _VOTE_OF[events.code]
    keep = vote > 0
    return Evidence(events.slot[keep], events.at_us[keep], vote[keep])


def evidence_of_reads(change: ReadChange) -> Evidence:
    """Votes of newly stored reads at their interval end. A replaced read's vote is not taken back.

    An estimated or substituted read has none, whoever made it up.
    """
    off = (change.quality & Quality.SUPPLY_OFF) != 0
    on = (change.quality & Quality.SUPPLY_ON) != 0
    keep = (change.sign > 0) & (change.quality & ORIGIN_MASK < Origin.SUBSTITUTED << ORIGIN_SHIFT)
    vote = np.where(off ^ on, np.where(off, OFF, ON), HEARD).astype(np.int8)
    return Evidence(change.slot[keep], change.end_us[keep], vote[keep])


def votes_off(change: ReadChange) -> bool:
    """True if some read may vote OFF: without one, and with nobody off, there is nothing to judge."""
    return bool((np.bitwise_or.reduce(change.quality) & Quality.SUPPLY_OFF) != 0)


def join(parts: list[Evidence]) -> Evidence:
    """Union of sets of votes."""
    return Evidence(
        np.concatenate([np.empty(0, np.int32), *(p.slot for p in parts)]),
        np.concatenate([np.empty(0, np.int64), *(p.at_us for p in parts)]),
        np.concatenate([np.empty(0, np.int8), *(p.vote for p in parts)]),
    )


def off_runs(evidence: Evidence) -> Runs:
    """Maximal OFF runs, by slot, then start. At equal times OFF counts before ON; such a run may have length 0."""
    return _runs(evidence, OFF, ON)


def telling(evidence: Evidence, onset_us: Stamps, before_us: int, slack_us: int) -> NDArray[np.bool_]:
    """True for votes that tell something about OFF runs and who was heard about their beginning (onset_us).

    That is: every turn of a meter from OFF to ON and back; of each meter the first OFF, ON and HEARD in the time before
    an onset, at it, and after it until the next; whatever is no word on supply. The rest repeats: a meter that is off
    and goes on sending says so 35,000 times a year. Nothing is judged otherwise without it, unless a turn comes later.
    """
    edges = onset_us[:, None] + np.array((-before_us, 0, slack_us - 1, slack_us), np.int64)
    cell = np.searchsorted(np.unique(edges), evidence.at_us)
    slot, at_us, vote = evidence.slot, evidence.at_us, evidence.vote
    found: NDArray[np.bool_] = ~np.isin(vote, (OFF, ON, HEARD))
    order = np.lexsort((at_us, vote, cell, slot))
    found[order[_new(slot[order], cell[order], vote[order])]] = True
    rows = np.flatnonzero((vote == OFF) | (vote == ON))
    rows = rows[np.lexsort((vote[rows], at_us[rows], slot[rows]))]
    found[rows[_new(slot[rows], vote[rows])]] = True
    return found


def _new(*columns: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """True for rows that are not as the row before."""
    differs = np.zeros(max(len(columns[0]) - 1, 0), np.bool_)
    for column in columns:
        differs |= column[1:] != column[:-1]
    return np.append(True, differs)[: len(columns[0])]


def disconnected(runs: Runs, evidence: Evidence, slack_us: int) -> NDArray[np.bool_]:
    """True for OFF runs of meters whose own relay was open when they began (or opened within slack_us after)."""
    found = np.zeros(len(runs.slot), np.bool_)
    if not (evidence.vote == OPENED).any():
        return found
    open_runs = _runs(evidence, OPENED, CLOSED)
    for slot, opened_us, closed_us in zip(*(column.tolist() for column in open_runs), strict=True):
        found |= (runs.slot == slot) & (runs.start_us >= opened_us - slack_us) & (runs.start_us < closed_us)
    return found


def _runs(evidence: Evidence, begins: int, ends: int) -> Runs:
    mine = (evidence.vote == begins) | (evidence.vote == ends)
    slot, at_us, vote = evidence.slot[mine], evidence.at_us[mine], evidence.vote[mine]
    order = np.lexsort((vote, at_us, slot))
    slot, at_us, vote = slot[order], at_us[order], vote[order]
    first = np.append(True, slot[1:] != slot[:-1])[: len(slot)]
    turn = first | np.append(True, vote[1:] != vote[:-1])[: len(slot)]
    slot, at_us, vote = slot[turn], at_us[turn], vote[turn]
    begin = np.flatnonzero(vote == begins)
    after = np.minimum(begin + 1, max(len(slot) - 1, 0))
    ended = (after > begin) & (slot[after] == slot[begin])
    return Runs(slot[begin], at_us[begin], np.where(ended, at_us[after], NEVER))


def _distinct_ahead(key: NDArray[np.integer[Any]], start_us: Stamps, window_us: int) -> NDArray[np.intp]:
    """int[n]: how many distinct keys start in [start_us[i], start_us[i] + window_us]. start_us ascending."""
    n = len(key)
    end = np.searchsorted(start_us, start_us + window_us, side="right")
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    previous, repeat = order[again], order[again + 1]
    low = np.searchsorted(end, repeat, side="right")  # first window that reaches as far as the repeat
    inside = low <= previous
    change = np.zeros(n + 1, np.intp)
    np.add.at(change, low[inside], 1)
    np.add.at(change, previous[inside] + 1, -1)
    ahead: NDArray[np.intp] = end - np.arange(n) - np.cumsum(change)[:n]
    return ahead


def _time_of_distinct(key: NDArray[np.integer[Any]], at_us: Stamps, need: int) -> int:
    """When the need-th distinct key had come."""
    order = np.argsort(at_us, kind="stable")
    _, first = np.unique(key[order], return_index=True)
    return int(at_us[order][np.sort(first)[need - 1]])


def restored_since(runs: Runs, decided_us: int, profile: OutageProfile) -> int:
    """Since when, after decided_us, enough of all meters off so far are ON for restore_hold; NEVER.

    runs: those from the onset on, by start.
    """
    _, first = np.unique(runs.slot, return_index=True)
    new = np.zeros(len(runs.slot), np.int64)
    new[first] = 1
    ends = np.sort(runs.end_us[runs.end_us < NEVER])
    at = np.concatenate([runs.start_us, ends])
    order = np.argsort(at, kind="stable")
    at = at[order]
    off = np.cumsum(np.concatenate([np.ones(len(new), np.int64), np.full(len(ends), -1)])[order])
    seen = np.cumsum(np.concatenate([new, np.zeros(len(ends), np.int64)])[order])
    last = np.append(at[1:] != at[:-1], True)
    at, back = at[last], (off <= seen * (1.0 - profile.restored_share) + 1e-9)[last]
    begin = np.flatnonzero(back & np.append(True, ~back[:-1]))
    end = np.flatnonzero(back & np.append(~back[1:], True)) + 1
    since = np.maximum(at[begin], decided_us)
    held = np.append(at, NEVER)[end] - since >= profile.restore_hold_s * US
    return int(since[held][0]) if held.any() else NEVER


def half_back(runs: Runs, decided_us: int) -> int:
    """When, after decided_us, half of the meters off so far were ON again for the first time; NEVER."""
    ends = np.sort(runs.end_us[runs.end_us < NEVER])
    started = np.searchsorted(np.sort(runs.start_us), ends, side="right")
    half = np.flatnonzero((ends >= decided_us) & (2 * np.arange(1, len(ends) + 1) >= started))
    return int(ends[half[0]]) if len(half) else NEVER


def transformer_outages(
    transformer: int,
    members: Ids,
    runs: Runs,
    on_slot: Ids,
    on_us: Stamps,
    profile: OutageProfile,
    witnesses: Witnesses,
    denied: list[Outage] | None = None,
    lost: Sequence[Outage] = (),
) -> Iterator[Outage]:
    """Outages of one transformer from its meters' OFF runs (by start) and ON votes, momentary ones included.

    A lost phase is one of them, with its phase. It ends where the rest of the transformer goes, and while it lasts its
    meters are no evidence of that. `denied` takes what enough meters reported and others contradicted.
    lost: phases known to be lost (rules.lost_phase), whose meters are not in the runs any more.
    """
    scene = Reports(transformer, members, on_slot, on_us, profile, witnesses)
    whole: list[Outage] = []
    phased = list(lost)
    while True:
        whole, one_phase = [], None
        refused: list[Outage] = []
        for found in scene.outages(runs, refused):
            if found.phase:
                one_phase = found
                break
            whole.append(found)
        if one_phase is None:
            break
        phased.append(one_phase)
        runs = apart(runs, one_phase, witnesses)
    if denied is not None:
        denied += refused
    yield from sorted(whole + _clipped(phased, whole), key=lambda one: one.onset_us)


def apart(runs: Runs, lost: Outage, witnesses: Witnesses) -> Runs:
    """The OFF runs that this lost phase does not explain."""
    on_it = witnesses.phases[runs.slot] == lost.phase
    return runs.where(~(on_it & (runs.start_us >= lost.onset_us) & (runs.start_us < lost.cleared_us)))


def _clipped(phased: list[Outage], whole: list[Outage]) -> list[Outage]:
    """Lost phases outside outages of the whole, one after the other."""
    kept: list[Outage] = []
    busy = [(one.onset_us, one.cleared_us) for one in whole]
    for one in sorted(phased, key=lambda one: one.onset_us):
        if any(onset_us <= one.onset_us < cleared_us for onset_us, cleared_us in busy):
            continue
        end_us = min((onset_us for onset_us, _ in busy if onset_us > one.onset_us), default=NEVER)
        kept.append(replace(one, restored_us=min(one.restored_us, end_us), cleared_us=min(one.cleared_us, end_us)))
        busy.append((one.onset_us, kept[-1].cleared_us))
    return kept


@dataclass(frozen=True, slots=True)
class Reports:
    """One transformer and who of it said what."""

    transformer: int
    members: Ids
    on_slot: Ids
    on_us: Stamps
    profile: OutageProfile
    witnesses: Witnesses

    def outages(self, runs: Runs, denied: list[Outage]) -> Iterator[Outage]:
        """Outages in the order of their onsets, each after the end of the one before."""
        profile = self.profile
        need, window_us = profile.meters_needed(len(self.members)), profile.onset_window_s * US
        weight = self.witnesses.weight[runs.slot]
        row = np.repeat(np.arange(len(weight)), weight)
        copy = np.arange(len(row)) - np.repeat(np.cumsum(weight) - weight, weight)
        key = runs.slot[row] * np.int64(COPIES_MAX) + copy
        enough = _distinct_ahead(key, runs.start_us[row], window_us) >= need
        free_us = -NEVER
        for i in np.unique(row[enough]).tolist():
            onset_us = int(runs.start_us[i])
            if onset_us < free_us:
                continue
            last = int(np.searchsorted(runs.start_us, onset_us + window_us, side="right"))
            ahead = np.arange(np.searchsorted(row, i), np.searchsorted(row, last))
            hold_s = profile.root_hold_s
            if self.thin(runs.slot[i:last], onset_us):
                hold_s = profile.thin_hold_s
                steady = runs.end_us[row[ahead]] - hold_s * US >= runs.start_us[row[ahead]]
                ahead = ahead[steady]
                if len(np.unique(key[ahead])) < need:
                    continue
            decided_us = _time_of_distinct(key[ahead], runs.start_us[row[ahead]], need)
            found = self.judged(runs.where(np.arange(i, len(runs.slot))), last - i, onset_us, decided_us)
            found = replace(found, hold_s=hold_s)
            if found.denied:
                denied.append(found)
                continue
            yield found
            free_us = found.cleared_us

    def thin(self, off: Ids, onset_us: int) -> bool:
        """So few of the reports that an outage would make that a few restless meters would look the same."""
        return self.few(off, self.members, onset_us)

    def few(self, off: Ids, asked: Ids, onset_us: int) -> bool:
        """Few meters are off of those that should have said so, and the transformer's own terminal is none of them."""
        expected = float(self.witnesses.delivery.at(onset_us)[self.witnesses.mode[asked]].sum())
        few = len(np.unique(off)) < self.profile.thin_share * expected
        return few and not bool(self.witnesses.terminal[off].any())

    def for_and_against(self, rest: Runs, early: int, onset_us: int) -> tuple[Ids, Ids]:
        """Who went off within the window (the first `early` runs), and who else said ON before they were back."""
        slack_us = self.profile.clock_slack_s * US
        # A meter's last run of the onset decides when it came back: flicker at the onset is no restoration.
        core, last = np.unique(rest.slot[:early][::-1], return_index=True)
        first_back_us = int(rest.end_us[:early][::-1][last].min())
        meant = (self.on_us >= onset_us + slack_us) & (self.on_us < first_back_us - slack_us)
        return core, np.setdiff1d(np.unique(self.on_slot[meant]), core, assume_unique=True)

    def judged(self, rest: Runs, early: int, onset_us: int, decided_us: int) -> Outage:
        """What the runs from an onset on come to; the first `early` of them are within the window."""
        core, against = self.for_and_against(rest, early, onset_us)
        phase, sure = self.witnesses.phase_of(core, self.members, self.profile)
        whole = self.outage(rest, against, onset_us, decided_us, 0)
        if not whole.denied and not sure:
            return whole
        if phase:
            mine = rest.where(self.witnesses.phases[rest.slot] == phase)
            lost = self.outage(mine, against[self.witnesses.phases[against] == phase], onset_us, decided_us, phase)
            if not lost.denied:
                return lost
        return whole

    def outage(self, rest: Runs, against: Ids, onset_us: int, decided_us: int, phase: int) -> Outage:
        profile = self.profile
        restored_us = restored_since(rest, decided_us, profile)
        cleared_us = restored_us + profile.restore_hold_s * US if restored_us < NEVER else NEVER
        affected = np.unique(rest.slot[rest.start_us < cleared_us])
        observed = len(np.union1d(affected, against))
        denied = ""
        if self.witnesses.terminal[against].any():
            denied = "its own terminal says that it has supply"
        elif len(against) > profile.contradiction_share * observed:
            denied = f"{len(against)} of {observed} meters heard from had supply meanwhile"
        return Outage(
            "transformer",
            self.transformer,
            onset_us,
            decided_us,
            restored_us,
            cleared_us,
            affected,
            len(against),
            self.witnesses.posterior(affected, len(against), onset_us, profile),
            half_back_us=half_back(rest, decided_us),
            phase=phase,
            denied=denied,
        )


def feeder_outages(
    feeder: int, transformers: int, below: list[Outage], runs: Runs, profile: OutageProfile, witnesses: Witnesses
) -> Iterator[Outage]:
    """Outages of one feeder from those of its transformers and all its OFF runs (by start)."""
    below = sorted(below, key=lambda outage: (outage.onset_us, outage.asset_id))
    key = np.array([o.asset_id for o in below], np.int32)
    onset = np.array([o.onset_us for o in below], np.int64)
    decided = np.array([o.decided_us for o in below], np.int64)
    need = max(profile.feeder_transformers_min, math.ceil(profile.feeder_share * transformers - 1e-9))
    window_us = profile.onset_window_s * US
    free_us = -NEVER
    for i in np.flatnonzero(_distinct_ahead(key, onset, window_us) >= need).tolist():
        onset_us = int(onset[i])
        if onset_us < free_us:
            continue
        end = int(np.searchsorted(onset, onset_us + window_us, side="right"))
        decided_us = _time_of_distinct(key[i:end], decided[i:end], need)
        rest = runs.where(runs.start_us >= onset_us)
        restored_us = restored_since(rest, decided_us, profile)
        cleared_us = restored_us + profile.restore_hold_s * US if restored_us < NEVER else NEVER
        affected = np.unique(rest.slot[rest.start_us < cleared_us])
        against = sum(o.observed_on for o in below[i:end])
        posterior = witnesses.posterior(affected, against, onset_us, profile)
        half_us = half_back(rest, decided_us)
        yield Outage(
            "feeder", feeder, onset_us, decided_us, restored_us, cleared_us, affected, against, posterior, half_us
        )
        free_us = cleared_us
