"""The quality word: 32 bits that travel with a read from validation into SQL, queries, rules and alarms.

One polarity: a set bit is a finding, 0 is clean. Bits 0..23 are findings and facts, bits 24..27 the origin of the
value, bits 28..30 how the service estimated it (Method). The word is stored as a PostgreSQL integer, so bit 31 stays
0. The bits of DAY_BITS are set and cleared in the stored read when its local day is judged (rules.day_checks); all
others are made at ingest and stay.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class Quality(IntFlag):
    """Findings of a stored read. V numbers are those of docs/semantics.md."""

    SNAPPED = 1 << 0
    """V03: the end was up to 5 s off the interval grid and was moved onto it."""
    ABOVE_CONTRACT = 1 << 1
    """V07: power above 3 times the contract."""
    DEVICE_STATUS = 1 << 2
    """V09: the meter's own status word reports a critical error, an invalid clock or invalid data."""
    POWER_MISMATCH = 1 << 3
    """V11: U x I x PF differs from the mean power by more than 5 % and 20 W."""
    LATE = 1 << 4
    """Arrived more than one interval and up to 24 h after its end."""
    BACKFILL = 1 << 5
    """Arrived more than 24 h after its end."""
    SUPPLY_OFF = 1 << 6
    """All present phases below 0.6 Un and no current: evidence of an outage at the interval end."""
    SUPPLY_ON = 1 << 7
    """A present phase at or above 0.8 Un: evidence of supply at the interval end."""
    UNIT_MISMATCH = 1 << 8
    """V05: U x I x PF is the power times (or divided by) 1000 or the meter's multiplier."""
    CLOCK_DRIFT = 1 << 9
    """V10: it arrived more than 60 s before its interval was over, so the meter's clock is ahead."""
    AFTER_GAP = 1 << 10
    """V12: the interval before it is missing in its local day."""
    SPIKE = 1 << 11
    """V13: more than 2.8 times the third highest power of its local day."""
    UNUSUAL_USE = 1 << 12
    """V15: the last read of a day whose energy is outside 0.3 to 3 times the median of four same weekdays."""
    STUCK = 1 << 13
    """V16: ends 24 h of identical non-zero reads, or 4 h of zero without an outage."""
    ZERO_UNDER_LOAD = 1 << 14
    """V17: ends 4 intervals without energy in which current flowed."""
    REGISTER_BACK = 1 << 15
    """V08: the register showed less than before when this interval was going on or ended."""
    REGISTER_MISMATCH = 1 << 16
    """V14: ends the reads of a day whose sum is not what the register advanced."""
    IMBALANCE = 1 << 17
    """V18: of the day of a check meter, never of a read: its transformer delivered what its members did not draw."""
    DRIFTING = 1 << 18
    """V10: the last read of a day in which reads came more than 60 s before or after those of the peers."""


DAY_BITS: Final = (
    Quality.AFTER_GAP
    | Quality.SPIKE
    | Quality.UNUSUAL_USE
    | Quality.STUCK
    | Quality.ZERO_UNDER_LOAD
    | Quality.REGISTER_BACK
    | Quality.REGISTER_MISMATCH
    | Quality.DRIFTING
)
"""Findings of the local day of a read."""

CHECK_OF: Final = {
    Quality.SNAPPED: "V03",
    Quality.UNIT_MISMATCH: "V05",
    Quality.ABOVE_CONTRACT: "V07",
    Quality.DEVICE_STATUS: "V09",
    Quality.CLOCK_DRIFT: "V10",
    Quality.POWER_MISMATCH: "V11",
    Quality.AFTER_GAP: "V12",
    Quality.SPIKE: "V13",
    Quality.UNUSUAL_USE: "V15",
    Quality.STUCK: "V16",
    Quality.ZERO_UNDER_LOAD: "V17",
    Quality.REGISTER_BACK: "V08",
    Quality.REGISTER_MISMATCH: "V14",
    Quality.IMBALANCE: "V18",
    Quality.DRIFTING: "V10",
}
"""The check that sets a bit; facts (lateness, supply) have none."""


class Origin(IntEnum):
    """Where a value comes from; decides which version wins (ORIGIN_RANK)."""

    MEASURED = 0
    REREAD = 1
    EDITED = 2
    SUBSTITUTED = 3
    ESTIMATED = 4


ORIGIN_SHIFT = 24
ORIGIN_MASK = 0xF << ORIGIN_SHIFT

ORIGIN_RANK = {
    Origin.EDITED: 5,
    Origin.REREAD: 4,
    Origin.MEASURED: 3,
    Origin.SUBSTITUTED: 2,
    Origin.ESTIMATED: 1,
}
"""Higher wins; equal: the later arrival. domain.md section 3."""


class Method(IntEnum):
    """How the service itself estimated a read; 0 in a read that somebody sent, also if it is the sender's estimate."""

    SENT = 0
    OUTAGE = 1
    """No energy: the meter told that it was without supply."""
    LINEAR = 2
    """On the line between the reads beside a gap of at most 2 h."""
    REGISTER = 3
    """What the register counted across the gap, shared out like on like days."""
    LIKE_DAYS = 4
    """Mean of the same time on like days."""
    WITHDRAWN = 7
    """No value: what was estimated here does not follow any more from what is stored now."""


METHOD_SHIFT: Final = 28
METHOD_MASK: Final = 0x7 << METHOD_SHIFT
SOURCE_MASK: Final = ORIGIN_MASK | METHOD_MASK
"""Reads that differ in it are different values."""


def rank(quality: int) -> int:
    """Which of two values of a read is current: the higher one. An estimate of the service gives way to all else."""
    if quality & METHOD_MASK:
        return 0
    return ORIGIN_RANK[Origin((quality & ORIGIN_MASK) >> ORIGIN_SHIFT)]
