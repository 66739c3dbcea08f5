"""How much of a transformer's load is estimated, by quarter-hour: a roll-up beside `transformer_loads`, for people.

Promises: the sums of a transformer and local day are a function of the estimates that are current when a day of one of
its meters was judged or estimated last. Both jobs ask for it in the transaction, or after the commit, of what changed;
nothing is counted of a transformer that has no estimate and had none. The rules never see it: the loads they judge
(rules.load) leave estimates out. Refuses to know how a missing read is estimated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.topology import Topology
from rules.ladder import OverloadProfile
from rules.load import Members
from storage.load_estimates import estimates_of, store_estimates, told_of

LONGEST_US: Final = 86_400 * US
"""The longest interval of a read: so long after a window a read of it may end."""
Ints = NDArray[np.int64]
Slots = NDArray[np.int32]


class EstimatedLoads:
    """Counts again what estimates add to the load of transformers."""

    def __init__(self, profile: OverloadProfile | None = None) -> None:
        profile = OverloadProfile() if profile is None else profile
        self._window_s, self._power_factor = profile.window_s, profile.assumed_power_factor
        self._topology: Topology | None = None
        self._members: Members | None = None

    async def count(
        self,
        connection: psycopg.AsyncConnection[Any],
        topology: Topology,
        slots: Slots,
        estimated: Slots,
        from_us: int,
        to_us: int,
    ) -> int:
        """Count the windows in from_us..to_us of the transformers of these meters again; how many transformers.

        slots: meters with a day there that was judged or estimated. estimated: those that may have an estimate now.
        Windows before from_us that a read ending after it reaches into are counted as well.
        """
        members = self._of(topology)
        if not len(slots):
            return 0
        from_us -= max(int(topology.interval_s[slots].max()) - self._window_s, 0) * US
        step = self._window_s * US
        from_us, to_us = from_us // step * step, -(-to_us // step) * step
        told = await told_of(connection, members.transformers_of(slots), from_us, to_us)
        chosen = np.union1d(told, members.transformers_of(estimated))
        if not len(chosen):
            return 0
        reads = await estimates_of(connection, members.slots_of(chosen), from_us, to_us + LONGEST_US)
        cells, _ = members.cells(replace(reads, quality=np.zeros_like(reads.quality)))
        mine = (cells.window >= from_us // step) & (cells.window < to_us // step) & np.isin(cells.transformer, chosen)
        cells = cells.take(mine)
        if len(told) or len(cells):
            expected = members.expected_of(cells)
            await store_estimates(connection, chosen, (from_us, to_us), self._window_s, cells, expected)
        return len(chosen)

    def _of(self, topology: Topology) -> Members:
        if self._members is None or self._topology is not topology:
            self._topology, self._members = topology, Members(topology, self._window_s, self._power_factor)
        return self._members
