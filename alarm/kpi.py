"""How the alarm system does, by the measures of ISA-18.2: pages per operator, floods, chattering, the most frequent.

Pure: what began to page in a span of the service's clock gives the figures. Counted is what calls for a person; what is
folded, shelved or out of service is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterwatch.alarms import Began, Source

WINDOW_US: Final = 600 * 1_000_000
FLOOD_ABOVE: Final = 10
"""More pages per operator in one window begin a flood. (ISA-18.2)"""
FLOOD_BELOW: Final = 5
"""Fewer end it. (ISA-18.2)"""
CHATTER_COUNT: Final = 3
"""So often within WINDOW_US by one source is chattering. (ISA-18.2 says a minute; reads come every 15)"""
STALE_US: Final = 24 * 3600 * 1_000_000
TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Kpis:
    """Of one span. Windows are 10 minutes, the last one up to now."""

    windows: int
    pages: int
    pages_max: int
    """In the fullest window, per operator, rounded up."""
    flood_windows: int
    flood_now: bool
    chattering: list[tuple[Source, int]]
    top: list[tuple[Source, int]]
    """The most frequent sources and how often each began to page, at most TOP."""


def kpis(began: Sequence[Began], from_us: int, now_us: int, operators: int) -> Kpis:
    """Figures of the span from_us..now_us; `began` in the order of time, all within it."""
    windows = max(1, -(-(now_us - from_us) // WINDOW_US))
    per_window = Counter(windows - 1 - (now_us - one.at_us) // WINDOW_US for one in began)
    flood, floods = False, 0
    for window in range(windows):
        pages = per_window[window] / operators
        flood = pages > FLOOD_ABOVE or (flood and pages >= FLOOD_BELOW)
        floods += flood
    times: dict[Source, list[int]] = {}
    for one in began:
        times.setdefault(one.source, []).append(one.at_us)
    frequent = {source: len(at_us) for source, at_us in times.items()}
    return Kpis(
        windows=windows,
        pages=len(began),
        pages_max=-(-max(per_window.values(), default=0) // operators),
        flood_windows=floods,
        flood_now=flood,
        chattering=sorted((source, len(at_us)) for source, at_us in times.items() if _chatters(at_us)),
        top=sorted(frequent.items(), key=lambda item: (-item[1], item[0]))[:TOP],
    )


def _chatters(at_us: list[int]) -> bool:
    return any(last - first < WINDOW_US for first, last in zip(at_us, at_us[CHATTER_COUNT - 1 :], strict=False))
