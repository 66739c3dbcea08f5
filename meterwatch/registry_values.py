"""The values of a registry file: one function per sort, from the text of a cell to a typed value.

Each raises ValueError with the second half of an error message: what was expected; what to change.
Promises: pure apart from the machine's list of time zones; never sees an empty cell. Refuses to know columns.
"""

from __future__ import annotations

import functools
import math
import re
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

from meterwatch.channels import INTERVALS_S

TEXT_CHARS_MAX: Final = 200
NUMBER_MAX: Final = 1e9
PHASES: Final = ("A", "B", "C", "AB", "AC", "BC", "ABC", "?")

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FORBIDDEN_TEXT = re.compile(r"[;\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def identifier(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError(
            "1 to 64 characters out of A-Z a-z 0-9 _ . : - were expected; rename it here and where it is used"
        )
    return text


def text_value(text: str) -> str:
    if len(text) > TEXT_CHARS_MAX or _FORBIDDEN_TEXT.search(text):
        raise ValueError(
            f"at most {TEXT_CHARS_MAX} characters without semicolons and control characters were expected;"
            " shorten or clean it"
        )
    return text


def time_zone(text: str) -> str:
    if text not in _zones():
        raise ValueError("a time zone such as Europe/Berlin was expected; use its IANA name")
    return text


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) | {"UTC"}


def positive(text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 1e-6 <= number <= NUMBER_MAX:
        raise ValueError("a number above 0 with a decimal point was expected; correct the value")
    return number


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high} was expected; correct the value")
        return int(text)

    return read


def interval(text: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) not in INTERVALS_S:
        raise ValueError(f"one of {', '.join(map(str, INTERVALS_S))} seconds was expected; correct the interval")
    return int(text)


def phases(text: str) -> str:
    if text not in PHASES:
        raise ValueError(f"one of {' '.join(PHASES)} was expected; correct it, or leave it empty if unknown")
    return text


def day(text: str) -> date:
    try:
        found = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None or not 1900 <= found.year <= 2199:
        raise ValueError("a date as YYYY-MM-DD from 1900 to 2199 was expected; correct the date")
    return found


def instant(text: str) -> str:
    """The moment as the database takes it; a date is its midnight in UTC."""
    try:
        found = datetime.fromisoformat(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not 1900 <= found.year <= 2199:
        raise ValueError(
            "a date, or a time with its zone such as 2026-03-05T10:30:00+01:00, from 1900 to 2199 was expected;"
            " correct the time"
        )
    return found.astimezone(UTC).isoformat()
