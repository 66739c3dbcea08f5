"""How the alarm system does, by the measures of ISA-18.2: pages per operator, floods, chattering, the most frequent.

Pure: counts of what began to page in a span of the service's clock give the figures. Counted is what calls for a
person; what is folded, shelved or out of service is not, and alarms that call once (meterwatch.one_call) count once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterwatch.alarms import Pages, Source

WINDOW_US: Final = 600 * 1_000_000
FLOOD_ABOVE: Final = 10
"""More pages per operator in one window begin a flood. (ISA-18.2)"""
FLOOD_BELOW: Final = 5
"""Fewer end it. (ISA-18.2)"""
CHATTER_COUNT: Final = 3
"""So often within WINDOW_US by one source is chattering. (ISA-18.2 says a minute; reads come every 15)"""
CHATTERING_MAX: Final = 1000
STALE_US: Final = 24 * 3600 * 1_000_000
TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Kpis:
    """Of one span. Windows are 10 minutes, the last one up to now."""

    windows: int
    pages: int
    pages_max: int
    """In the fullest window, per operator, rounded up."""
    pages_now: int
    """In the last window, of all operators."""
    flood_windows: int
    flood_now: bool
    chattering: list[tuple[Source, int]]
    """At most CHATTERING_MAX."""
    top: list[tuple[Source, int]]
    """The most frequent sources and how often each began to page, at most TOP."""
    pages_under: int = 0
    """What began to page in the call of another alarm; not in `pages`."""


def kpis(pages: Pages, from_us: int, now_us: int, operators: int) -> Kpis:
    """Figures of the span from_us..now_us."""
    windows = max(1, -(-(now_us - from_us) // WINDOW_US))
    flood, floods = False, 0
    for window in reversed(range(windows)):
        each = pages.windows.get(window, 0) / operators
        flood = each > FLOOD_ABOVE or (flood and each >= FLOOD_BELOW)
        floods += flood
    return Kpis(
        windows=windows,
        pages=sum(pages.windows.values()),
        pages_max=-(-max(pages.windows.values(), default=0) // operators),
        pages_now=pages.windows.get(0, 0),
        flood_windows=floods,
        flood_now=flood,
        chattering=list(pages.chattering),
        top=list(pages.top),
        pages_under=pages.under,
    )
