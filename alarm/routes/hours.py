"""Weekly hours in a time zone: when a route tells.

Text form: `mon-fri 07:00-17:00`, `sat,sun 22:00-06:00`. What goes over midnight belongs to the day it begins on. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOOK_AHEAD_DAYS: Final = 400
"""Longer than any run of holidays."""
_DAY: Final = "(?:" + "|".join(DAYS) + ")"
_SPAN: Final = re.compile(
    rf"({_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) +([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)"
)


@dataclass(frozen=True, slots=True)
class Span:
    """On these weekdays (0 Monday), from a minute of the day to a later one; beyond 1440: of the day after."""

    days: frozenset[int]
    from_min: int
    to_min: int


@dataclass(frozen=True, slots=True)
class Hours:
    """Spans of a week in a time zone, without the holidays."""

    zone: ZoneInfo
    spans: tuple[Span, ...]
    holidays: frozenset[date] = frozenset()

    def open_at(self, now_us: int) -> bool:
        """True: now_us lies in a span."""
        return self.next_open_us(now_us) == now_us

    def next_open_us(self, now_us: int) -> int:
        """now_us where it lies in a span, else when the next one begins. No span within LOOK_AHEAD_DAYS: then."""
        today = datetime.fromtimestamp(now_us / 1e6, self.zone).date()
        for ahead in range(-2, LOOK_AHEAD_DAYS):  # -2: a span of yesterday may last until now, in any zone
            opens = [
                max(begin_us, now_us) for begin_us, end_us in self._on(today + timedelta(days=ahead)) if now_us < end_us
            ]
            if opens and (ahead >= 0 or now_us in opens):
                return min(opens)
        return now_us + LOOK_AHEAD_DAYS * 86_400_000_000

    def _on(self, day: date) -> Iterator[tuple[int, int]]:
        """Begin and end of what begins on a day."""
        if day in self.holidays:
            return
        for span in self.spans:
            if day.weekday() in span.days:
                yield self._us(day, span.from_min), self._us(day, span.to_min)

    def _us(self, day: date, minute: int) -> int:
        days, minute = divmod(minute, 1440)
        local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=self.zone)
        return int((local + timedelta(days=days)).astimezone(UTC).timestamp()) * 1_000_000


def span_of(text: str) -> Span:
    """A span from its text. ValueError saying what is expected."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no span of hours; expected e.g. 'mon-fri 07:00-17:00' or 'sat,sun 22:00-06:00'")
    days: set[int] = set()
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    from_min = int(found[2]) * 60 + int(found[3])
    to_min = 1440 if found[4] is None else int(found[4]) * 60 + int(found[5])
    if to_min <= from_min:
        to_min += 1440
    return Span(frozenset(days), from_min, to_min)
