"""The quality word: 32 bits that travel with a read from validation into SQL, queries, rules and alarms.

One polarity: a set bit is a finding, 0 is clean. Bits 0..23 are findings and facts set by validation, bits 24..27 the
origin of the value, bits 28..31 are free. The word is stored as a PostgreSQL integer, so bit 31 stays unused.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Quality(IntFlag):
    """Findings of a stored read. V numbers are those of docs/semantics.md."""

    SNAPPED = 1 << 0
    """V03: the end was up to 5 s off the interval grid and was moved onto it."""
    ABOVE_CONTRACT = 1 << 1
    """V07: power above 3 times the contract."""
    DEVICE_STATUS = 1 << 2
    """V09: the meter's own status word reports a critical error, an invalid clock or invalid data."""
    POWER_MISMATCH = 1 << 3
    """V11: U x I x PF differs from the energy by more than 5 % and 20 W."""
    LATE = 1 << 4
    """Arrived more than one interval and up to 24 h after its end."""
    BACKFILL = 1 << 5
    """Arrived more than 24 h after its end."""
    SUPPLY_OFF = 1 << 6
    """All present phases below 0.6 Un and no current: evidence of an outage at the interval end."""
    SUPPLY_ON = 1 << 7
    """A present phase at or above 0.8 Un: evidence of supply at the interval end."""


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
