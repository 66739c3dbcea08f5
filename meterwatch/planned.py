"""Work planned on the grid: who shall be without supply, from when to when, and why. A set; its order means nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ASSET_KINDS: Final = ("feeder", "transformer", "meter")
"""What work can be planned on."""


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """One piece of work. Times in UTC microseconds, event time."""

    work_id: str
    asset_kind: str
    asset_id: int
    from_us: int
    to_us: int
    """Exclusive."""
    reason: str = ""


Works = Sequence[PlannedWork]
