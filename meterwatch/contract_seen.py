"""The demand of one meter around an alarm, and where the ladder of CONTRACT stood after each window."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meterwatch.alarms import Alarm
from meterwatch.clock import US
from meterwatch.explained import LoadSeen
from meterwatch.topology import Topology
from rules.account import Window, ladder_account, window_end_us
from rules.contract import over_contract
from rules.contract_demand import demand
from rules.contract_levels import ContractProfile
from rules.ladder import OverloadProfile
from storage.history import History


async def demand_seen(
    history: History, topology: Topology, profile: ContractProfile, alarm: Alarm, from_us: int, to_us: int
) -> list[LoadSeen]:
    """Each window in which the meter has a demand. May raise as storage_faults says."""
    mine = np.array([alarm.asset_id], np.int32)
    reads = [change async for change in history.reads_between(from_us, to_us, mine)]
    found = demand(reads, profile.window_s, profile.coverage_min)
    found = found.take(found.usable)
    b = over_contract(topology, found.slot, (found.window + 1) * profile.window_s * US, found.watts)
    ladder = profile.as_ladder()
    return seen_of(ladder_account(ladder, found.window, b, np.ones(len(b))), ladder)


def seen_of(account: Iterable[Window], profile: OverloadProfile) -> list[LoadSeen]:
    """Windows of a ladder as they are shown."""
    return [
        LoadSeen(window_end_us(w.window, profile), w.b, w.coverage, w.valid, w.level, w.hold_s, w.clear_s)
        for w in account
    ]
