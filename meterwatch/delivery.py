"""How often a meter without supply says so, per communication mode: learnt from outages that are over.

Once a day, what was reported in the outages that were cleared in the LEARNT_DAYS up to SETTLED_DAYS ago gives rows that
hold for faults from the next midnight (UTC) on. So a row is written before any fault it is used for, never changes, and
the same reads and events in any order are judged by the same rows: learning does not touch the law of event time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from meterwatch.clock import US

DAY_US: Final = 86_400 * US
LEARNT_DAYS: Final = 90
"""Outages of so many days teach. (ours)"""
SETTLED_DAYS: Final = 2
"""An outage teaches when what belonged to it has come: late last gasps and the reads that contradict. (ours)"""
OUTAGE_S_MIN: Final = 1800
"""Shorter outages teach nothing: no read could have shown that only a part was off. (ours)"""
FIRST_WEIGHT: Final = 200
"""The value a mode starts with counts as so many meters. (ours)"""
P_MIN, P_MAX = 0.05, 0.99

Reported = Mapping[str, tuple[int, int]]
"""Communication mode -> (meters that reported off, meters without supply)."""


class Learnt(NamedTuple):
    """Delivery probability of one communication mode for faults that begin at from_us or later."""

    from_us: int
    comm_mode: str
    p_gasp: float
    reported: int = 0
    affected: int = 0


def learn(outages: Iterable[Reported], first: Callable[[str], float], from_us: int) -> list[Learnt]:
    """Rows of the modes that these outages tell of, by mode. first: what a mode starts with."""
    reported: Counter[str] = Counter()
    affected: Counter[str] = Counter()
    for outage in outages:
        for mode, (some, all_) in outage.items():
            reported[mode] += some
            affected[mode] += all_
    found = []
    for mode in sorted(mode for mode, count in affected.items() if count):
        p = (FIRST_WEIGHT * first(mode) + reported[mode]) / (FIRST_WEIGHT + affected[mode])
        p = round(min(max(p, P_MIN), P_MAX), 4)
        found.append(Learnt(from_us, mode, p, reported[mode], affected[mode]))
    return found
