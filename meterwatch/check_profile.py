"""The thresholds of validation, by name and by class of meter, with unit and source. A check holds no literal.

Marks as in rules.profile: (std) a standard or a published practice, (ours) our choice, (check) from memory of one.
`checks.profile` in the configuration chooses a profile and `checks.changes` what takes its place from a moment on.
Which one judges a read follows from the read's own time, whenever it comes; both hold from the start of the service,
for what is judged from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

US: Final = 1_000_000


class MeterClass(IntEnum):
    """Classes that thresholds are given for, from what the registry knows of a meter."""

    SINGLE_PHASE = 0
    POLYPHASE = 1
    """Several phases, or unknown."""
    TRANSFORMER_RATED = 2
    """A multiplier other than 1: behind instrument transformers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of the ingest-time checks."""

    future_tolerance_us: int = 120 * US
    """V04, practice of AMI head-ends: clocks are set once a day. (std)"""
    snap_us: int = 5 * US
    """V03: nearer to the grid than this is snapped and flagged, farther is quarantined. (ours)"""
    capacity_factor: float = 1.2
    """V06: 1.2 Imax Un phases dt. (ours)"""
    voltage_factor: float = 1.5
    """V06: 1.5 Un. (ours)"""
    current_factor: float = 20.0
    """V06: 20 Imax, what a meter behind transformers has to bear for half a second (IEC 62053-21; one connected
    directly 30 Imax for half a cycle). (check)"""
    contract_factor: float = 3.0
    """V07. (ours)"""
    ahead_us: int = 60 * US
    """V10: a read that comes more than this before its interval is over was stamped by a clock ahead. (ours)"""
    power_share: float = 0.05
    """V11: U I PF may differ from the mean power by this share of it. (ours)"""
    power_floor_w: float = 20.0
    """V11: and by this much in any case. (ours)"""
    unit_factor: float = 1000.0
    """V05: kWh for Wh. (ours)"""
    unit_share: float = 0.05
    """V05: how near to the factor the ratio of U I PF and power must be. (ours)"""
    off_factor: float = 0.6
    """SUPPLY_OFF below this share of Un (DL/T 698 terminals: 132 of 220 V). (check)"""
    on_factor: float = 0.8
    """SUPPLY_ON from this share of Un (DL/T 698 terminals: 176 of 220 V). (check)"""
    off_current_a: float = 0.05
    """SUPPLY_OFF needs a current below this: a meter that draws current has supply. (ours)"""


@dataclass(frozen=True, slots=True)
class DayLimits:
    """Thresholds of the checks that need a local day."""

    spike_ratio: float = 1.8
    """V13: (P - P3) / P3 above this, P3 the third highest power of the day. (std practice)"""
    spike_floor_kw: float = 2.0
    """V13: and P above this: 0.5 kWh in 15 min. (std practice)"""
    spike_floor_share: float = 0.0
    """V13: and above this share of Imax x Un x phases. (std practice)"""
    use_low: float = 0.3
    """V15: energy of the day below this times the median of four same weekdays. (std practice)"""
    use_high: float = 3.0
    """V15: or above this times it. (std practice)"""
    use_floor_wh: int = 1000
    """V15: the greater of the two must be above this. (std practice)"""
    stuck_s: int = 86_400
    """V16: identical, not zero, for so long. (ours)"""
    zero_s: int = 4 * 3600
    """V16: zero for so long without a sign of an outage. (ours)"""
    stuck_interval_s_max: int = 3600
    """V16: longer intervals are too few in a day to be called stuck. (ours)"""
    idle_current_share: float = 0.001
    """V17: a current above this share of Imax is a load: 2 % of Ib, of a meter whose Imax is 20 Ib. (ours)"""
    loaded_intervals: int = 4
    """V17: so many intervals one after the other. (ours)"""
    drift_s: float = 60.0
    """V10: the median lag of a day may differ from that of the peers by this. (ours)"""
    drift_scatters: float = 4.0
    """V10: and by so many times the median deviation of the peers: a long poll is no drift. (ours)"""
    drift_samples: int = 12
    """V10: so many reads of the day must have come in step. (ours)"""
    drift_peers: int = 20
    """V10: so many meters must be reached in the same way. (ours)"""
    register_back_lsb: float = 1.0
    """V08: a register may show less than before by so many steps of its display: rounding. (std practice)"""
    rollover_factor: float = 1.2
    """V08: less than before is a rollover if 1.2 Imax Un phases dt could have carried the register over. (ours)"""
    register_sum_lsb: float = 2.0
    """V14: the sum of the intervals may differ by so many steps of the display. (std practice)"""
    register_sum_share: float = 0.001
    """V14: and by this share of what the register advanced. (std practice)"""


@dataclass(frozen=True, slots=True)
class BalanceLimits:
    """Thresholds of V18, the balance of a transformer."""

    loss_low: float = 0.0
    """Members drew more than was delivered. (std practice)"""
    loss_high: float = 0.15
    """More than this share of what was delivered is lost. (std practice)"""
    coverage: float = 0.98
    """Reads cover at least this share of the day, of the check meters and of the members. (std practice)"""


_BY_CLASS: Final = (DayLimits(), DayLimits(), DayLimits(spike_floor_kw=0.0, spike_floor_share=0.2, use_floor_wh=10_000))


@dataclass(frozen=True, slots=True)
class CheckProfile:
    """One named set of thresholds. Tuples are indexed by MeterClass; one element stands for every class."""

    name: str = "default"
    ingest: tuple[Limits, ...] = (Limits(),)
    day: tuple[DayLimits, ...] = _BY_CLASS
    balance: BalanceLimits = BalanceLimits()
    changes: tuple[tuple[int, CheckProfile], ...] = ()
    """What takes its place, for intervals that end after that moment: UTC microseconds, rising."""

    def at(self, end_us: int) -> CheckProfile:
        """What judges an interval that ends then. One that ends at the moment of a change is before it."""
        found = self
        for from_us, profile in self.changes:
            if end_us > from_us:
                found = profile
        return found

    def of_day(self, day: int) -> CheckProfile:
        """What judges a local day, in every time zone: by noon UTC of its date, days since 1970."""
        return self.at((2 * day + 1) * 43_200 * US)

    def parts(self, end_us: NDArray[np.int64]) -> list[tuple[CheckProfile, NDArray[np.bool_] | None]]:
        """What judges intervals that end then, and which of them; None: all. Free without changes."""
        if not self.changes:
            return [(self, None)]
        number = np.searchsorted([from_us for from_us, _ in self.changes], end_us, side="left")
        profiles = (self, *(profile for _, profile in self.changes))
        found = np.unique(number).tolist()
        if len(found) == 1:
            return [(profiles[found[0]], None)]
        return [(profiles[one], number == one) for one in found]

    def day_limits(self, meter_class: int) -> DayLimits:
        """Of one class."""
        return self.day[meter_class if len(self.day) > 1 else 0]


DEFAULT: Final = CheckProfile()

LENIENT: Final = CheckProfile(
    name="lenient",
    ingest=(Limits(power_share=0.25, power_floor_w=200.0),),
    day=tuple(replace(limits, spike_ratio=4.0, use_low=0.1, use_high=10.0, zero_s=86_400) for limits in _BY_CLASS),
)
"""For households whose load jumps within an interval and that stand empty for days. (ours)"""

CHECK_PROFILES: Final = {profile.name: profile for profile in (DEFAULT, LENIENT)}
"""By name, as the configuration chooses them (checks.profile)."""


def chosen(name: str, changes: Mapping[datetime, str]) -> CheckProfile:
    """The profile of that name with its changes: from each moment (with a time zone) on the profile of another name.

    KeyError for a name that is not known.
    """
    at = tuple((round(moment.timestamp() * US), CHECK_PROFILES[to]) for moment, to in sorted(changes.items()))
    return replace(CHECK_PROFILES[name], changes=at)
