"""Interruptions of customers: when each meter was without supply, for the indices of IEEE 1366.

The same votes as OUTAGE, the same OFF runs, and none of its questions: whether a wider outage explains a run, and
whether it pages, does not matter to the customer. So an interruption is a pure function of the votes of one meter:
from its first OFF to its first ON that holds for restore_hold; silence ends none and begins none, and a customer whose
own relay is open is not interrupted. Which are sustained, and what they come to, is asked of the stored interruptions
(SQL function reliability_indices).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meterwatch.topology import Topology
from rules.outage import RELAY_SLACK_US, merged, until_retired
from rules.profile import OutageProfile
from rules.supply import Evidence, Ids, Runs, disconnected, off_runs


@dataclass(frozen=True, slots=True)
class Heard:
    """What was known of the supply of some meters when they were judged."""

    group: tuple[str, int]
    """(asset_kind, asset_id) of what they hang below."""
    slot: Ids
    """All of them."""
    from_us: int
    """The votes are complete from here on, and for who was off then, since before that."""
    evidence: Evidence
    topology: Topology
    now_us: int


def interruptions(heard: Heard, profile: OutageProfile) -> Runs:
    """All interruptions of these meters from from_us on, by slot, then start; what lasts ends NEVER."""
    votes, topology, now_us = heard.evidence, heard.topology, heard.now_us
    serving = (topology.installed_us[heard.slot] <= now_us) & (topology.retired_us[heard.slot] > heard.from_us)
    known = (votes.at_us <= now_us) & np.isin(votes.slot, heard.slot[serving])
    votes = Evidence(votes.slot[known], votes.at_us[known], votes.vote[known])
    runs = merged(until_retired(off_runs(votes), topology, now_us), profile)
    return runs.where(~disconnected(runs, votes, RELAY_SLACK_US))
