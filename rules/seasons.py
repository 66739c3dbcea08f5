"""Seasons: the scale of a rating and the usual air. A transformer in the cold carries more than its plate says.

Every limit of a ladder is multiplied by the scale of the season in which the window begins, so a change of season is a
function of the window's time alone: late reads and a replay meet the limits of their own day. Dates are UTC. A profile
may give a season anew from some date on; what lies before keeps the older numbers. Refuses to know: ladders, loads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Protocol, TypeVar

EPOCH = date(1970, 1, 1)
DAYS_KEPT = 4000
"""Days whose season is remembered: 11 years."""


class Yearly(Protocol):
    """What begins on a day of every year, and holds since some day."""

    @property
    def name(self) -> str: ...
    @property
    def begins(self) -> str: ...
    @property
    def since(self) -> str: ...


Y = TypeVar("Y", bound=Yearly)


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
        found = _wrong_dates(self)
        if not 0.2 <= self.scale <= 5:
            found.append(f"season {self.name} has scale {self.scale}; expected 0.2 to 5")
        return found


@dataclass(frozen=True, slots=True)
class AirSeason:
    """The usual air from its date in every year until the next one begins."""

    name: str
    begins: str
    """Month and day, as 11-01."""
    ambient_c: float
    """Air where nobody has told it."""
    since: str = ""
    """As in Season."""

    def problems(self) -> list[str]:
        """What is wrong with it, in words for the person who wrote it."""
        found = _wrong_dates(self)
        if not -60 <= self.ambient_c <= 70:
            found.append(f"season {self.name} has ambient_c {self.ambient_c}; expected -60 to 70")
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
            season = season_of(self._seasons, EPOCH + timedelta(days=day))
            found = self._known[day] = 1.0 if season is None else season.scale
        return found


@lru_cache(maxsize=DAYS_KEPT)
def usual_air_c(seasons: tuple[AirSeason, ...], day: int, else_c: float) -> float:
    """Usual air of a UTC day (days since 1970); else_c where there is no season."""
    season = season_of(seasons, EPOCH + timedelta(days=day))
    return else_c if season is None else season.ambient_c


def season_of(seasons: Iterable[Y], day: date) -> Y | None:
    """The one in which a day lies; None: there is none."""
    holding: dict[str, Y] = {}
    for season in sorted(seasons, key=lambda one: one.since):
        if season.since <= day.isoformat():
            holding[season.name] = season
    if not holding:
        return None
    today = day.isoformat()[5:]
    begun = [one for one in holding.values() if one.begins <= today]
    return max(begun or holding.values(), key=lambda one: one.begins)


def _wrong_dates(season: Yearly) -> list[str]:
    found = []
    try:
        date.fromisoformat(f"2023-{season.begins}")
    except ValueError:
        found.append(f"season {season.name} begins {season.begins!r}; expected month and day, as 11-01")
    if season.since and not is_day(season.since):
        found.append(f"season {season.name} holds since {season.since!r}; expected a day, as 2026-01-01")
    return found


def is_day(text: str) -> bool:
    """True for a day as 2026-01-01."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
