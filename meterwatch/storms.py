"""Storms as alarm, storage and the wire speak of them: where so much is off, or pages, that counts come first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

EVERYWHERE: Final = ""
"""In place of the district, of a flood."""


class StormReason(StrEnum):
    """Why there is a storm. The values are those of the table storms."""

    OFF = "OFF"
    FLOOD = "FLOOD"


@dataclass(frozen=True, slots=True)
class Census:
    """Of a district, or of all."""

    meters: int
    """In service."""
    off: int = 0
    """Of these, below an open outage that is no planned work."""
    roots: int = 0
    """Such outages: of feeders, of transformers, of meters alone."""


@dataclass(frozen=True, slots=True)
class Storm:
    """One that lasts, or that has just ended. Times of the service's clock."""

    reason: StormReason
    district: str
    since_us: int
    now: Census
    off_max: int
    roots_max: int
    calm_us: int | None = None
    """Since when so few are off that it will end."""
    until_us: int | None = None
    """None: it lasts."""

    @property
    def key(self) -> tuple[StormReason, str]:
        return self.reason, self.district

    def covers(self, district: str) -> bool:
        return self.reason is StormReason.FLOOD or self.district == district
