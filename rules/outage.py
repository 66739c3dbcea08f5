"""OUTAGE: which feeders, transformers and meters are without supply; one root per fault.

The answer is a pure function of the set of votes heard and of `now_us`: order, repeats, splitting into batches and
restarts cannot change it, late votes only amend it. A feeder outage is the root of its transformers' outages, and
these stand for their meters; what stays off 10 minutes after the root has cleared speaks for itself again, as NESTED.
What is off on purpose (rules.by_design, a relay that the meter itself opened) is told as such and calls nobody. What
was told and is not so is withdrawn with what contradicts it. Silence is never a vote: that is rules.silence. How votes
become outages: rules.supply.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.topology import PHASE_NAMES, Topology
from rules.by_design import Plans, said
from rules.groups import Members, groups_of
from rules.lost_phase import lost_phases
from rules.overdue import Paths, Spoken, overdue_outages
from rules.phase_votes import lost_runs, named_phases
from rules.profile import OutageProfile, SilenceProfile
from rules.supply import (
    NEVER,
    OFF,
    ON,
    Evidence,
    Outage,
    Runs,
    apart,
    disconnected,
    evidence_of_events,
    evidence_of_reads,
    feeder_outages,
    join,
    off_runs,
    transformer_outages,
)
from rules.witness import Witnesses

__all__ = [
    "NEVER",
    "OFF",
    "ON",
    "RULE",
    "Evidence",
    "Members",
    "Runs",
    "evidence_of_events",
    "evidence_of_reads",
    "groups_of",
    "join",
    "judge",
    "merged",
    "off_runs",
    "until_retired",
]

RULE: Final = "OUTAGE"
LEVEL: Final = "SUSTAINED"
PHASE_LOSS: Final = "PHASE_LOSS"
NESTED: Final = "NESTED"
CONFIRMED: Final = "CONFIRMED"
RESTORING: Final = "RESTORING"
CLEARED: Final = "CLEARED"
DISCONNECTED: Final = "the meter's own relay disconnected the customer"
RELAY_SLACK_US: Final = 60 * US
"""The relay and the loss of voltage behind it are stamped this far apart at most."""
METERS_NAMED: Final = 20
"""Meter numbers listed in the evidence of an outage."""


class _Due:
    """Collects the times at which an answer changes by itself."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.next_us = NEVER

    def reached(self, at_us: int) -> bool:
        if at_us > self.now_us:
            self.next_us = min(self.next_us, at_us)
        return at_us <= self.now_us


@dataclass(frozen=True, slots=True)
class _Scene:
    """What every sentence on one group needs."""

    topology: Topology
    slots: NDArray[np.int32]
    """Members in service."""
    size: dict[int, int]
    """Transformer -> meters in service."""
    profile: OutageProfile
    plans: Plans
    due: _Due
    from_us: int
    phases: NDArray[np.uint8]
    """By slot, as registered or named by the meter."""

    def span(self, raised_us: int, cleared_us: int) -> tuple[bool, int | None]:
        """Whether the episode is to be told now, and its end as far as known now."""
        if not self.due.reached(raised_us):
            return False, None
        cleared = cleared_us if self.due.reached(cleared_us) else None
        return cleared is None or cleared >= self.from_us, cleared

    def by_design(self, kind: str, asset_id: int, start_us: int, cleared_us: int) -> str:
        """The planned work that explains an outage, in words; empty: none does, or it went on for longer."""
        work = self.plans.explaining(kind, asset_id, start_us)
        if work is None:
            return ""
        until_us = self.plans.until_us(work)
        return "" if cleared_us > until_us and self.due.reached(until_us) else said(work)


def judge(
    evidence: Evidence,
    members: Members,
    topology: Topology,
    now_us: int,
    profile: OutageProfile,
    from_us: int,
    previously: Set[tuple[str, int]] = frozenset(),
    witnesses: Witnesses | None = None,
    plans: Plans | None = None,
    paths: Paths | None = None,
) -> tuple[list[Verdict], int | None]:
    """Verdicts on one group, and when to ask again even if nothing new is heard (None: never).

    evidence must hold the group's votes since from_us, and for an outage open at from_us those since its onset; votes
    of others are ignored, votes after now_us are not heard yet. Verdicts: the feeder, its transformers, every meter
    with an OFF run, and what is named in `previously`, so that what is not there any more is retracted.
    """
    due = _Due(now_us)
    witnesses, plans = witnesses or Witnesses.of(topology, profile), plans or Plans(topology, profile)
    serving = (topology.installed_us[members.slot] <= now_us) & (topology.retired_us[members.slot] > from_us)
    slots, tree = members.slot[serving], members.transformer[serving]
    ours = np.isin(evidence.slot, slots)
    for at_us in np.unique(evidence.at_us[ours & (evidence.at_us > now_us)])[:1].tolist():
        due.reached(at_us)
    ours &= evidence.at_us <= now_us
    heard = Evidence(evidence.slot[ours], evidence.at_us[ours], evidence.vote[ours])
    runs = until_retired(off_runs(heard), topology, now_us)
    cut_off = disconnected(runs, heard, RELAY_SLACK_US)
    by_start = _telling(runs.where(~cut_off), profile)
    witnesses = replace(witnesses, phases=named_phases(heard, witnesses.phases))
    spans = lost_runs(heard, profile.phase_lost_s_max * US)
    lost = {phase: _telling(until_retired(one, topology, now_us), profile) for phase, one in spans.items()}

    ids, sizes = np.unique(tree[tree >= 0], return_counts=True)
    size = dict(zip(ids.tolist(), sizes.tolist(), strict=True))
    scene = _Scene(topology, slots, size, profile, plans, due, from_us, witnesses.phases)
    below, denied = _of_transformers(scene, by_start, lost, heard, witnesses)
    above = _of_feeder(scene, members.asset_id, below, by_start, witnesses) if members.kind == "feeder" else []
    spoken = Spoken.of(heard, slots, tree, paths or Paths.of(topology, SilenceProfile()))
    below += _overdue(scene, by_start, below, spoken, witnesses)
    unsure = [outage for outage in denied + below + above if outage.denied or not outage.sustained(profile)]
    below = [outage for outage in below if outage.sustained(profile)]
    above = [outage for outage in above if outage.sustained(profile)]

    told: dict[tuple[str, int], list[Episode]] = {asset: [] for asset in sorted(previously)}
    told |= {("meter", slot): [] for slot in np.unique(runs.slot).tolist()}
    told |= {("transformer", transformer): [] for transformer in ids.tolist()}
    if members.kind != "meter":
        told[members.kind, members.asset_id] = []
    for outage in above:
        told["feeder", outage.asset_id] += _root(scene, outage, None, "")
    for outage in below:
        told["transformer", outage.asset_id] += _root(scene, outage, *_parent(scene, outage, above))
    for slot, episode in _single_meters(scene, runs, heard, below + above):
        told["meter", slot].append(episode)
    why = {(one.kind, one.asset_id): _withdrawn(one, profile) for one in reversed(unsure)}
    verdicts = [
        Verdict(
            RULE, kind, i, from_us, tuple(episodes),
            withdrawn=why.get((kind, i), SUPPLIED[kind]),
        )
        for (kind, i), episodes in told.items()
    ]  # fmt: skip
    return verdicts, due.next_us if due.next_us < NEVER else None


def _of_transformers(
    scene: _Scene, runs: Runs, lost: Mapping[int, Runs], heard: Evidence, witnesses: Witnesses
) -> tuple[list[Outage], list[Outage]]:
    """(outages of transformers, what others contradict), from OFF runs and those of single phases, by start."""
    topology = scene.topology
    where, inside = topology.transformer_of[runs.slot], topology.transformer_of[scene.slots]
    on = heard.vote == ON
    on_slot, on_us = heard.slot[on], heard.at_us[on]
    on_where = topology.transformer_of[on_slot]
    found: list[Outage] = []
    denied: list[Outage] = []
    told = np.unique(np.concatenate([where, *(topology.transformer_of[one.slot] for one in lost.values())]))
    for transformer in told[told >= 0].tolist():
        here, own = on_where == transformer, runs.where(where == transformer)
        members = scene.slots[inside == transformer]
        its = {phase: one.where(topology.transformer_of[one.slot] == transformer) for phase, one in lost.items()}
        speak = on_slot[here], on_us[here]
        phased = lost_phases(transformer, members, own, its, *speak, scene.profile, witnesses, denied)
        sure = [one for one in phased if one.sustained(scene.profile)]
        found += [one for one in phased if not one.sustained(scene.profile)]
        for one in sure:
            own = apart(own, one, witnesses)
        found += transformer_outages(transformer, members, own, *speak, scene.profile, witnesses, denied, sure)
    return found, denied


def _overdue(scene: _Scene, runs: Runs, found: list[Outage], spoken: Spoken, witnesses: Witnesses) -> list[Outage]:
    """Outages of transformers that overdue reads have made known by now, from OFF runs by start.

    They are none of the feeder's: they come when the reads are due, and would move the onset of its outage.
    """
    where = scene.topology.transformer_of[runs.slot]
    sure = [one for one in found if one.sustained(scene.profile)]
    late: list[Outage] = []
    for transformer in np.unique(where[where >= 0]).tolist():
        own, mine = runs.where(where == transformer), [one for one in sure if one.asset_id == transformer]
        late += overdue_outages(transformer, own, mine, spoken, scene.profile, witnesses)
    return [one for one in late if scene.due.reached(one.raised_us(scene.profile))]


def _of_feeder(scene: _Scene, feeder: int, below: list[Outage], runs: Runs, witnesses: Witnesses) -> list[Outage]:
    """Outages of the feeder, from those of its transformers that no work on them explains, lost phases apart."""
    planned = scene.plans.below_feeders(runs.slot, runs.start_us)
    whole = [one for one in below if not one.phase and not _own_work(scene.plans, one)]
    return list(feeder_outages(feeder, len(scene.size), whole, runs.where(~planned), scene.profile, witnesses))


SUPPLIED: Final = {
    "meter": "supply was not off for long enough, or a wider outage explains it",
    "transformer": "no longer enough of its meters were off together",
    "feeder": "no longer enough of its transformers were off together",
}
"""Why an outage is withdrawn, where nothing else can be said."""


def _withdrawn(outage: Outage, profile: OutageProfile) -> str:
    """Why this is no outage."""
    if outage.denied:
        return outage.denied
    if outage.posterior < profile.posterior_min:
        return f"its probability is {outage.posterior:.3f}, {profile.posterior_min:g} is needed"
    return f"supply was back after {max(outage.restored_us - outage.onset_us, 0) // US} s"


def _own_work(plans: Plans, outage: Outage) -> bool:
    """True: work on the transformer itself explains it, not work on its feeder."""
    work = plans.explaining(outage.kind, outage.asset_id, outage.onset_us)
    return work is not None and work.asset_kind != "feeder"


def _telling(runs: Runs, profile: OutageProfile) -> Runs:
    """Runs that may tell of a transformer, by start: those that were momentary say nothing of it."""
    lasted_us = np.where(runs.end_us < NEVER, runs.end_us - runs.start_us, NEVER)
    runs = runs.where(lasted_us >= profile.momentary_s * US)
    return runs.where(np.argsort(runs.start_us, kind="stable"))


def until_retired(runs: Runs, topology: Topology, now_us: int) -> Runs:
    """A meter taken away is not off any longer, once that has come."""
    leaves_us = topology.retired_us[runs.slot]
    leaves_us = np.where(leaves_us <= now_us, leaves_us, NEVER)
    kept = runs._replace(end_us=np.minimum(runs.end_us, leaves_us))
    return kept.where(runs.start_us < leaves_us)


def _parent(scene: _Scene, outage: Outage, above: list[Outage]) -> tuple[tuple[str, int] | None, str]:
    """The feeder whose outage explains this one, until it is over and 10 minutes more; of which it is nested, then."""
    nested_us = scene.profile.nested_after_s * US
    early_us = scene.profile.onset_window_s * US
    nested_in = ""
    for root in above:
        until_us = min(root.cleared_us, NEVER - nested_us) + nested_us
        if not root.onset_us - early_us <= outage.onset_us < until_us:
            continue
        if scene.due.reached(root.raised_us(scene.profile)):
            if outage.cleared_us <= until_us or not scene.due.reached(until_us):
                return ("feeder", root.asset_id), ""
            nested_in = scene.topology.asset_name("feeder", root.asset_id)
    return None, nested_in


def _root(scene: _Scene, outage: Outage, parent: tuple[str, int] | None, nested_in: str) -> list[Episode]:
    """The episode of a transformer or feeder outage, if it is to be told now."""
    raised_us = outage.raised_us(scene.profile)
    shown, cleared_us = scene.span(raised_us, outage.cleared_us)
    if not shown:
        return []
    is_feeder = outage.kind == "feeder"
    evidence = _evidence(scene, outage, cleared_us is None)
    by_design = scene.by_design(outage.kind, outage.asset_id, outage.onset_us, outage.cleared_us)
    summary = _summary(scene, outage, cleared_us)
    if by_design:
        evidence["by_design"] = by_design
        summary += f"; {by_design}"
    if nested_in:
        evidence["nested_in"] = nested_in
        summary += f"; left off when feeder {nested_in} came back"
    severity = Severity.CRITICAL if is_feeder else Severity.HIGH
    level = PHASE_LOSS if outage.phase else NESTED if nested_in else LEVEL
    return [Episode(outage.onset_us, raised_us, cleared_us, severity, level, summary, evidence, parent, by_design)]


def _summary(scene: _Scene, outage: Outage, cleared_us: int | None) -> str:
    name = scene.topology.asset_name(outage.kind, outage.asset_id)
    what = f"phase {PHASE_NAMES[outage.phase]}" if outage.phase else "supply"
    span = f"{max(outage.restored_us - outage.onset_us, 0) // (60 * US)} min"
    verb = f"without {what}" if cleared_us is None else f"was without {what} for {span}"
    members = len(scene.slots) if outage.kind == "feeder" else scene.size[outage.asset_id]
    summary = f"{outage.kind.capitalize()} {name} {verb}: {len(outage.affected)} of {members} meters reported off"
    if len(outage.overdue):
        summary += f", the reads of {len(outage.overdue)} others are overdue"
    if outage.kind == "feeder":
        summary += f" on {len(np.unique(scene.topology.transformer_of[outage.affected]))} transformers"
    return summary


def _evidence(scene: _Scene, outage: Outage, lasts: bool) -> dict[str, Any]:
    """What speaks for an outage, and how far it has come."""
    profile, topology = scene.profile, scene.topology
    is_feeder = outage.kind == "feeder"
    inside = scene.slots if is_feeder else scene.slots[topology.transformer_of[scene.slots] == outage.asset_id]
    affected, members = len(outage.affected), len(inside)
    evidence: dict[str, Any] = {
        "affected": affected,
        "members": members,
        "last_gasp_share": round(affected / members, 3),
        "observed_on": outage.observed_on,
        "posterior": round(outage.posterior, 6),
        "decided_us": outage.decided_us,
        "stage": CONFIRMED,
        "reported_by_mode": _by_mode(topology, outage.affected, inside),
        "meters": [topology.meter[slot] for slot in outage.affected[:METERS_NAMED].tolist()],
        "thresholds": profile.thresholds(outage.kind),
    }
    if scene.due.reached(outage.half_back_us):
        evidence["stage"] = RESTORING if lasts else CLEARED
        evidence["restoring_us"] = outage.half_back_us
    if outage.phase:
        evidence["phase"] = PHASE_NAMES[outage.phase]
    if len(outage.overdue):
        evidence["overdue"] = len(outage.overdue)
        evidence["overdue_meters"] = [topology.meter[slot] for slot in outage.overdue[:METERS_NAMED].tolist()]
    if is_feeder:
        where, counts = np.unique(topology.transformer_of[outage.affected], return_counts=True)
        evidence["transformers"] = {
            topology.transformer[i]: n for i, n in zip(where.tolist(), counts.tolist(), strict=True)
        }
        evidence["transformers_members"] = len(scene.size)
    return evidence


def _by_mode(topology: Topology, affected: NDArray[np.int32], inside: NDArray[np.int32]) -> dict[str, list[int]]:
    """Communication mode -> [meters that reported off, members]: what delivery probabilities are learnt from."""
    names = [*topology.comm_modes, ""]
    told = np.bincount(topology.comm_mode[affected] % len(names), minlength=len(names)).tolist()
    there = np.bincount(topology.comm_mode[inside] % len(names), minlength=len(names)).tolist()
    return {name: [some, all_] for name, some, all_ in zip(names, told, there, strict=True) if all_}


def merged(runs: Runs, profile: OutageProfile) -> Runs:
    """Runs of one meter with less than restore_hold of supply between them are one. Runs by slot, then start."""
    if not len(runs.slot):
        return runs
    ended_us = np.minimum(runs.end_us, NEVER - profile.restore_hold_s * US)
    gap = runs.start_us[1:] >= ended_us[:-1] + profile.restore_hold_s * US
    begin = np.flatnonzero(np.append(True, gap | (runs.slot[1:] != runs.slot[:-1])))
    return Runs(runs.slot[begin], runs.start_us[begin], np.maximum.reduceat(runs.end_us, begin))


def _single_meters(scene: _Scene, runs: Runs, heard: Evidence, roots: list[Outage]) -> list[tuple[int, Episode]]:
    """Episodes of meters that no transformer or feeder outage explains (any more)."""
    profile, due = scene.profile, scene.due
    runs = merged(runs, profile)
    cut_off = disconnected(runs, heard, RELAY_SLACK_US)
    nested_us, hold_us = profile.nested_after_s * US, profile.restore_hold_s * US
    where = scene.topology.transformer_of[runs.slot]
    raised_us = runs.start_us + profile.sustained_s * US
    nested = np.zeros(len(runs.slot), np.bool_)
    for root in roots:
        mask = root.covers(runs.start_us, profile)
        if root.kind == "transformer":
            mask &= where == root.asset_id
        if root.phase:
            mask &= scene.phases[runs.slot] == root.phase
        mask &= ~cut_off
        until_us = min(root.cleared_us, NEVER - nested_us) + nested_us
        nested |= mask
        raised_us[mask] = np.maximum(raised_us[mask], until_us)
    lasting = (runs.end_us >= raised_us) & (raised_us < NEVER)
    waiting = lasting & (raised_us > due.now_us)
    if waiting.any():
        due.reached(int(raised_us[waiting].min()))
    told = []
    for i in np.flatnonzero(lasting & ~waiting).tolist():
        slot, start_us, end_us = int(runs.slot[i]), int(runs.start_us[i]), int(runs.end_us[i])
        cleared_at_us = min(end_us, NEVER - hold_us) + hold_us if end_us < NEVER else NEVER
        shown, cleared_us = scene.span(int(raised_us[i]), cleared_at_us)
        if shown:
            why = DISCONNECTED if cut_off[i] else scene.by_design("meter", slot, start_us, cleared_at_us)
            level = NESTED if nested[i] else LEVEL
            times = (start_us, int(raised_us[i]), cleared_us)
            told.append((slot, _single(scene, slot, times, end_us, level, why)))
    return told


def _single(
    scene: _Scene, slot: int, times: tuple[int, int, int | None], end_us: int, level: str, by_design: str
) -> Episode:
    """The episode of one meter. times: onset, raised, cleared."""
    name, cleared_us = scene.topology.meter[slot], times[2]
    verb = "without supply" if cleared_us is None else "was without supply for"
    minutes = f" {(end_us - times[0]) // (60 * US)} min" if cleared_us is not None else ""
    why = by_design or ("left off after a wider outage" if level == NESTED else "no wider outage explains it")
    evidence: dict[str, Any] = {
        "affected": 1, "members": 1, "meters": [name], "thresholds": scene.profile.thresholds("meter"),
    }  # fmt: skip
    if by_design:
        evidence["by_design"] = by_design
    summary = f"Meter {name} {verb}{minutes}; {why}"
    return Episode(*times, Severity.MEDIUM, level, summary, evidence, None, by_design)
