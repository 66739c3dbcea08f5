"""What is off on purpose: planned work on an asset or on what feeds it. It is judged and kept, and calls nobody.

Work explains what begins within its span, a little early included; what lasts longer than it, and some time more, is no
part of it any more and speaks for itself. Work on a transformer says nothing of its feeder: what is off by it is no
evidence there.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.planned import PlannedWork, Works
from meterwatch.topology import Topology
from rules.profile import OutageProfile

Asset = tuple[str, int]
NONE: Final[list[PlannedWork]] = []


class Plans:
    """All planned work over one topology. Immutable."""

    def __init__(self, topology: Topology, profile: OutageProfile, works: Works = ()) -> None:
        self._topology = topology
        self._late_us = profile.planned_late_s * US
        self._of: dict[Asset, list[PlannedWork]] = defaultdict(list)
        for work in sorted(works, key=lambda one: (one.from_us, one.work_id)):
            self._of[work.asset_kind, work.asset_id].append(work)

    def explaining(self, kind: str, asset_id: int, start_us: int) -> PlannedWork | None:
        """The work because of which this asset lost supply then: of several, the one that lasts longest."""
        found = [
            work
            for asset in self._line(kind, asset_id)
            for work in self._of.get(asset, NONE)
            if work.from_us - self._late_us <= start_us < work.to_us
        ]
        return max(found, key=lambda work: work.to_us, default=None)

    def until_us(self, work: PlannedWork) -> int:
        """When what is still off is not explained by it any more."""
        return work.to_us + self._late_us

    def below_feeders(self, slot: NDArray[np.int32], start_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for OFF runs (meter, start) that work on the meter or its transformer explains."""
        found = np.zeros(len(slot), np.bool_)
        for (kind, asset_id), works in self._of.items():
            if kind == "feeder":
                continue
            mine = slot == asset_id if kind == "meter" else self._topology.transformer_of[slot] == asset_id
            for work in works if mine.any() else NONE:
                found |= mine & (start_us >= work.from_us - self._late_us) & (start_us < work.to_us)
        return found

    def under_way(self, now_us: int) -> list[Asset]:
        """Assets that are being worked on, or may still be."""
        return [
            asset
            for asset, works in self._of.items()
            if any(work.from_us <= now_us < self.until_us(work) for work in works)
        ]

    def _line(self, kind: str, asset_id: int) -> list[Asset]:
        """The asset and what feeds it."""
        line = [(kind, asset_id)]
        if kind == "meter" and (transformer := int(self._topology.transformer_of[asset_id])) >= 0:
            line.append(("transformer", transformer))
        kind, asset_id = line[-1]
        if kind == "transformer" and (feeder := int(self._topology.feeder_of[asset_id])) >= 0:
            line.append(("feeder", feeder))
        return line


def said(work: PlannedWork) -> str:
    """The work in a few words, for summary and evidence."""
    until = datetime.fromtimestamp(work.to_us / 1e6, UTC)
    why = f" ({work.reason})" if work.reason else ""
    return f"planned work {work.work_id}{why} until {until:%Y-%m-%d %H:%M} UTC"
