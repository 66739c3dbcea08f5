"""OUTAGE: which feeders, transformers and meters are without supply; one root per fault.

The answer is a pure function of the set of votes heard and of `now_us`: order, repeats, splitting into batches and
restarts cannot change it, late votes only amend it. A feeder outage is the root of its transformers' outages, and
these stand for their meters; what stays off 10 minutes after the root has cleared speaks for itself again.
Silence is never a vote: that is rules.silence. How votes become outages: rules.supply.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.topology import Topology
from rules.profile import OutageProfile
from rules.supply import (
    NEVER,
    OFF,
    ON,
    Evidence,
    Members,
    Outage,
    Runs,
    evidence_of_events,
    evidence_of_reads,
    feeder_outages,
    groups_of,
    join,
    off_runs,
    transformer_outages,
)

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
    size: dict[int, int]
    """Transformer -> meters in service."""
    meters: int
    profile: OutageProfile
    due: _Due
    from_us: int

    def span(self, raised_us: int, cleared_us: int) -> tuple[bool, int | None]:
        """Whether the episode is to be told now, and its end as far as known now."""
        if not self.due.reached(raised_us):
            return False, None
        cleared = cleared_us if self.due.reached(cleared_us) else None
        return cleared is None or cleared >= self.from_us, cleared


def judge(
    evidence: Evidence,
    members: Members,
    topology: Topology,
    now_us: int,
    profile: OutageProfile,
    from_us: int,
    previously: Set[tuple[str, int]] = frozenset(),
) -> tuple[list[Verdict], int | None]:
    """Verdicts on one group, and when to ask again even if nothing new is heard (None: never).

    evidence must hold the group's votes since from_us, and for an outage open at from_us those since its onset; votes
    of others are ignored, votes after now_us are not heard yet. Verdicts: the feeder, its transformers, every meter
    with an OFF run, and what is named in `previously`, so that what is not there any more is retracted.
    """
    due = _Due(now_us)
    serving = (topology.installed_us[members.slot] <= now_us) & (topology.retired_us[members.slot] > from_us)
    slots, tree = members.slot[serving], members.transformer[serving]
    ours = np.isin(evidence.slot, slots)
    for at_us in np.unique(evidence.at_us[ours & (evidence.at_us > now_us)])[:1].tolist():
        due.reached(at_us)
    ours &= evidence.at_us <= now_us
    heard = Evidence(evidence.slot[ours], evidence.at_us[ours], evidence.vote[ours])
    runs = until_retired(off_runs(heard), topology, now_us)
    by_start = runs.where(np.argsort(runs.start_us, kind="stable"))

    ids, sizes = np.unique(tree[tree >= 0], return_counts=True)
    scene = _Scene(topology, dict(zip(ids.tolist(), sizes.tolist(), strict=True)), len(slots), profile, due, from_us)
    where = topology.transformer_of[by_start.slot]
    on = heard.vote == ON
    on_slot, on_us = heard.slot[on], heard.at_us[on]
    on_where = topology.transformer_of[on_slot]
    below: list[Outage] = []
    for transformer in np.unique(where[where >= 0]).tolist():
        here, own = on_where == transformer, by_start.where(where == transformer)
        size = scene.size[transformer]
        below += transformer_outages(transformer, size, own, on_slot[here], on_us[here], profile)
    above: list[Outage] = []
    if members.kind == "feeder":
        above = list(feeder_outages(members.asset_id, len(ids), below, by_start, profile))
    below = [outage for outage in below if outage.sustained(profile)]
    above = [outage for outage in above if outage.sustained(profile)]

    told: dict[tuple[str, int], list[Episode]] = {asset: [] for asset in previously}
    told |= {("meter", slot): [] for slot in np.unique(runs.slot).tolist()}
    told |= {("transformer", transformer): [] for transformer in ids.tolist()}
    if members.kind != "meter":
        told[members.kind, members.asset_id] = []
    for outage in above:
        told["feeder", outage.asset_id] += _root(scene, outage, None)
    for outage in below:
        told["transformer", outage.asset_id] += _root(scene, outage, _parent(scene, outage, above))
    for slot, episode in _single_meters(scene, runs, below + above):
        told["meter", slot].append(episode)
    verdicts = [Verdict(RULE, kind, i, from_us, tuple(episodes)) for (kind, i), episodes in told.items()]
    return verdicts, due.next_us if due.next_us < NEVER else None


def until_retired(runs: Runs, topology: Topology, now_us: int) -> Runs:
    """A meter taken away is not off any longer, once that has come."""
    leaves_us = topology.retired_us[runs.slot]
    leaves_us = np.where(leaves_us <= now_us, leaves_us, NEVER)
    kept = runs._replace(end_us=np.minimum(runs.end_us, leaves_us))
    return kept.where(runs.start_us < leaves_us)


def _parent(scene: _Scene, outage: Outage, above: list[Outage]) -> tuple[str, int] | None:
    """The feeder whose outage explains this one: until it is over, and 10 minutes more."""
    nested_us = scene.profile.nested_after_s * US
    early_us = scene.profile.onset_window_s * US
    for root in above:
        until_us = min(root.cleared_us, NEVER - nested_us) + nested_us
        if not root.onset_us - early_us <= outage.onset_us < until_us:
            continue
        if scene.due.reached(root.raised_us(scene.profile)) and (
            outage.cleared_us <= until_us or not scene.due.reached(until_us)
        ):
            return "feeder", root.asset_id
    return None


def _root(scene: _Scene, outage: Outage, parent: tuple[str, int] | None) -> list[Episode]:
    """The episode of a transformer or feeder outage, if it is to be told now."""
    profile, topology = scene.profile, scene.topology
    raised_us = outage.raised_us(profile)
    shown, cleared_us = scene.span(raised_us, outage.cleared_us)
    if not shown:
        return []
    name = topology.asset_name(outage.kind, outage.asset_id)
    affected, is_feeder = len(outage.affected), outage.kind == "feeder"
    members = scene.meters if is_feeder else scene.size[outage.asset_id]
    verb = "without supply" if cleared_us is None else f"was without supply for {_span(outage)}"
    summary = f"{outage.kind.capitalize()} {name} {verb}: {affected} of {members} meters reported off"
    evidence: dict[str, Any] = {
        "affected": affected,
        "members": members,
        "last_gasp_share": round(affected / members, 3),
        "observed_on": outage.observed_on,
        "posterior": round(outage.posterior, 6),
        "decided_us": outage.decided_us,
        "meters": [topology.meter[slot] for slot in outage.affected[:METERS_NAMED].tolist()],
        "thresholds": profile.thresholds(outage.kind),
    }
    if is_feeder:
        where, counts = np.unique(topology.transformer_of[outage.affected], return_counts=True)
        summary += f" on {len(where)} transformers"
        evidence["transformers"] = {
            topology.transformer[i]: n for i, n in zip(where.tolist(), counts.tolist(), strict=True)
        }
        evidence["transformers_members"] = len(scene.size)
    severity = Severity.CRITICAL if is_feeder else Severity.HIGH
    return [Episode(outage.onset_us, raised_us, cleared_us, severity, LEVEL, summary, evidence, parent)]


def _span(outage: Outage) -> str:
    return f"{max(outage.restored_us - outage.onset_us, 0) // (60 * US)} min"


def merged(runs: Runs, profile: OutageProfile) -> Runs:
    """Runs of one meter with less than restore_hold of supply between them are one. Runs by slot, then start."""
    if not len(runs.slot):
        return runs
    ended_us = np.minimum(runs.end_us, NEVER - profile.restore_hold_s * US)
    gap = runs.start_us[1:] >= ended_us[:-1] + profile.restore_hold_s * US
    begin = np.flatnonzero(np.append(True, gap | (runs.slot[1:] != runs.slot[:-1])))
    return Runs(runs.slot[begin], runs.start_us[begin], np.maximum.reduceat(runs.end_us, begin))


def _single_meters(scene: _Scene, runs: Runs, roots: list[Outage]) -> list[tuple[int, Episode]]:
    """Episodes of meters that no transformer or feeder outage explains (any more)."""
    profile, due = scene.profile, scene.due
    runs = merged(runs, profile)
    nested_us, hold_us = profile.nested_after_s * US, profile.restore_hold_s * US
    where = scene.topology.transformer_of[runs.slot]
    raised_us = runs.start_us + profile.sustained_s * US
    for root in roots:
        mask = root.covers(runs.start_us, profile)
        if root.kind == "transformer":
            mask &= where == root.asset_id
        until_us = min(root.cleared_us, NEVER - nested_us) + nested_us
        raised_us[mask] = np.maximum(raised_us[mask], until_us)
    lasting = (runs.end_us >= raised_us) & (raised_us < NEVER)
    waiting = lasting & (raised_us > due.now_us)
    if waiting.any():
        due.reached(int(raised_us[waiting].min()))
    told = []
    for i in np.flatnonzero(lasting & ~waiting).tolist():
        slot, start_us, end_us = int(runs.slot[i]), int(runs.start_us[i]), int(runs.end_us[i])
        shown, cleared_us = scene.span(int(raised_us[i]), min(end_us, NEVER - hold_us) + hold_us)
        if shown:
            name = scene.topology.meter[slot]
            verb = "without supply" if cleared_us is None else "was without supply for"
            minutes = f" {(end_us - start_us) // (60 * US)} min" if cleared_us is not None else ""
            summary = f"Meter {name} {verb}{minutes}; no wider outage explains it"
            evidence = {"affected": 1, "members": 1, "meters": [name], "thresholds": profile.thresholds("meter")}
            episode = Episode(start_us, int(raised_us[i]), cleared_us, Severity.MEDIUM, LEVEL, summary, evidence)
            told.append((slot, episode))
    return told
