"""Seasons of a rating: a transformer in the cold carries more than its plate says, one in the heat less.

Every limit of a ladder is multiplied by the scale of the season in which the window begins, so a change of season is a
function of the window's time alone: late reads and a replay meet the limits of their own day. Dates are UTC. A profile
may give a season anew from some date on; what lies before keeps the older numbers. Refuses to know: ladders, loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Season:
    """From its date in every year until the next season begins."""

    name: str
    begins: str
    """Month and day, as 11-01."""
    scale: float
    """Limits in this season over those of the profile."""
    since: str = ""
    """The first day on which this is so, as 2026-01-01; it replaces the season of the same name. Empty: always."""

    def problems(self) -> list[str]:
        """What is wrong with it, in words for the person who wrote it."""
        found = []
        try:
            date.fromisoformat(f"2023-{self.begins}")
        except ValueError:
            found.append(f"season {self.name} begins {self.begins!r}; expected month and day, as 11-01")
        if self.since and not _is_day(self.since):
            found.append(f"season {self.name} holds since {self.since!r}; expected a day, as 2026-01-01")
        if not 0.2 <= self.scale <= 5:
            found.append(f"season {self.name} has scale {self.scale}; expected 0.2 to 5")
        return found


class Seasons:
    """The scale of any day. No season at all: 1."""

    def __init__(self, seasons: tuple[Season, ...]) -> None:
        self._seasons = seasons
        self._known: dict[int, float] = {}
        scales = [season.scale for season in seasons]
        self.lowest = min([1.0, *scales])
        """No day has a lower scale."""

    def __bool__(self) -> bool:
        return bool(self._seasons)

    def scale(self, at_s: int) -> float:
        """At this moment, in seconds since 1970."""
        day = at_s // 86_400
        found = self._known.get(day)
        if found is None:
            if len(self._known) > DAYS_KEPT:
                self._known.clear()
            found = self._known[day] = self._scale(EPOCH + timedelta(days=day))
        return found

    def _scale(self, day: date) -> float:
        holding: dict[str, Season] = {}
        for season in sorted(self._seasons, key=lambda one: one.since):
            if season.since <= day.isoformat():
                holding[season.name] = season
        if not holding:
            return 1.0
        today = day.isoformat()[5:]
        begun = [one for one in holding.values() if one.begins <= today]
        return max(begun or holding.values(), key=lambda one: one.begins).scale


DAYS_KEPT = 4000
"""Days whose scale is remembered: 11 years."""


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
