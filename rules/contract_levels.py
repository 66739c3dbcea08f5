"""The limits of CONTRACT: levels of what a meter draws over its contracted power, and the profile with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meterwatch.episodes import Severity
from rules.ladder import Level, OverloadProfile

ABOVE = Level("ABOVE", 1.00, 900, 0.95, 1800, Severity.LOW, strictly_above=True)  # (ours)
ABOVE_110 = Level("ABOVE_110", 1.10, 1800, 1.00, 1800, Severity.MEDIUM)  # (ours)
ABOVE_150 = Level("ABOVE_150", 1.50, 1800, 1.30, 1800, Severity.HIGH)  # (ours)


@dataclass(frozen=True, slots=True)
class ContractProfile:
    """Limits of CONTRACT. ConfigError lists everything that does not fit together."""

    levels: tuple[Level, ...] = (ABOVE, ABOVE_110, ABOVE_150)
    """Of demand over contracted power, from mild to grave, raise_pu rising."""
    page_from_level: str = "ABOVE_110"
    """An episode that never latched this level or a higher one is no alarm. (ours)"""
    window_s: int = 900
    """Demand is the mean power of such a window. (std) quarter-hour demand"""
    coverage_min: float = 0.90
    """Share of a window that reads must cover. (ours)"""
    max_gap_windows: int = 1
    """Windows without a demand in a row that a hold survives. (ours)"""

    def __post_init__(self) -> None:
        self.as_ladder()  # its checks are ours

    def as_ladder(self) -> OverloadProfile:
        """The numbers as a ladder takes them."""
        return OverloadProfile(
            levels=self.levels,
            page_from_level=self.page_from_level,
            window_s=self.window_s,
            coverage_min=self.coverage_min,
            max_gap_windows=self.max_gap_windows,
        )

    def thresholds(self, level: str) -> dict[str, Any]:
        """What an episode that stands at this level was judged by, for its evidence; empty: there is no such level."""
        found = next((one for one in self.levels if one.name == level), None)
        if found is None:
            return {}
        return {
            "raise_pu": found.raise_pu,
            "hold_s": found.hold_s,
            "clear_pu": found.clear_pu,
            "clear_s": found.clear_s,
            "coverage_min": self.coverage_min,
        }
