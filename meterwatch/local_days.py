"""Local days as numbers: days since 1970-01-01 by the calendar of a time zone, with their start in UTC.

A local day has 92, 96 or 100 quarter-hours where the zone has summer time. An interval belongs to the day in which it
ends; one that ends at midnight to the day before. Refuses to know which meter lives in which zone.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import structlog
from numpy.typing import NDArray

US: Final = 1_000_000
DAY_US: Final = 86_400 * US
LAST_DAY: Final = 47_482
"""2100-01-01; later moments count as this day."""
_EPOCH: Final = date(1970, 1, 1)
_log = structlog.get_logger(__name__)


@lru_cache(64)
def day_starts_us(zone: str) -> NDArray[np.int64]:
    """UTC microseconds of local midnight of day 0..LAST_DAY + 1. A zone nobody knows is UTC, with a warning.

    Cost: 0.1 s for each zone, once.
    """
    days = np.arange(LAST_DAY + 2, dtype=np.int64) * DAY_US
    if zone not in ("", "UTC"):
        try:
            info = ZoneInfo(zone)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError of its own
            info = None
        except KeyError:
            info = None
        if info is None:
            _log.warning("time zone unknown; its days are those of UTC", zone=zone)
        else:
            first = datetime(1970, 1, 1, tzinfo=info)
            days = np.array(
                [round((first + timedelta(days=n)).timestamp()) for n in range(LAST_DAY + 2)], np.int64
            ) * US  # fmt: skip
    days.flags.writeable = False
    return days


def day_of(zone: str, end_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Local day in which these intervals end."""
    starts = day_starts_us(zone)
    found: NDArray[np.int64] = np.searchsorted(starts, end_us - 1, side="right") - 1
    return np.clip(found, 0, LAST_DAY)


def as_date(day: int) -> date:
    """A day as a date."""
    return _EPOCH + timedelta(days=day)


def as_number(day: date) -> int:
    """A date as a day."""
    return (day - _EPOCH).days
