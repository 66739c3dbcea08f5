"""Decimal text to numbers, many at a time.

Promises: the decimal value of the text decides, not its binary neighbour (1.0005 kWh is exactly 1000.5 Wh); a fraction
of a Wh is rounded half to even and accounted for; underscores, NaN, infinity, blanks and digits of other scripts are
refused, though Python's float() takes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WH_MAX = 2**31 - 1
"""Largest energy of one interval: the wire and the table carry 32-bit integers."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_NUMBER_LETTERS = frozenset("0123456789.+-eE")
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_WHOLE_LETTERS = frozenset("0123456789-")
_NOISE = 1e-5
"""Above the error of float(text) * 1e6 at WH_MAX (1e-6), far below any fraction of a Wh that a meter resolves."""


class BadCells(ValueError):
    """Some texts are not numbers of the expected kind: their positions and what was expected."""

    def __init__(self, at: Sequence[int], expected: str) -> None:
        super().__init__(expected)
        self.at = list(at)
        self.expected = expected


class Energy(NamedTuple):
    """Whole Wh [n], how many values were rounded, and the sum of (text minus Wh) over them."""

    wh: NDArray[np.int64]
    rounded: int
    difference_wh: float


def numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return float64 [n]; raise BadCells."""
    if set("".join(texts)) <= _NUMBER_LETTERS:
        try:
            return np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            pass
    raise BadCells([i for i, text in enumerate(texts) if not _NUMBER.fullmatch(text)], "a decimal number such as 1.25")


def whole_numbers(texts: Sequence[str], low: int, high: int) -> NDArray[np.int64]:
    """Return int64 [n], each within low..high; raise BadCells."""
    if set("".join(texts)) <= _WHOLE_LETTERS:
        try:
            values = np.fromiter(map(int, texts), np.int64, len(texts))
        except (ValueError, OverflowError):
            pass
        else:
            outside = np.flatnonzero((values < low) | (values > high))
            if len(outside):
                raise BadCells(outside.tolist(), f"a whole number from {low} to {high}")
            return values
    bad = [i for i, text in enumerate(texts) if not _WHOLE.fullmatch(text)]
    raise BadCells(bad, f"a whole number from {low} to {high}")


def energy(texts: Sequence[str], wh_per_unit: int) -> Energy:
    """Convert texts in a unit of 1, 1000 or 1,000,000 Wh to whole Wh; raise BadCells.

    Only values that are visibly not whole (a slow path of about 1 us each) go through Decimal.
    """
    scaled = numbers(texts) * wh_per_unit
    outside = np.flatnonzero(~(np.abs(scaled) <= WH_MAX))
    if len(outside):
        raise BadCells(outside.tolist(), f"at most {WH_MAX} Wh in one interval")
    nearest = np.rint(scaled)
    wh = nearest.astype(np.int64)
    fractional = np.flatnonzero(np.abs(scaled - nearest) > _NOISE)
    if not len(fractional):
        return Energy(wh, 0, 0.0)
    exact = [Decimal(texts[i]) * wh_per_unit for i in fractional.tolist()]
    rounded = [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in exact]
    wh[fractional] = rounded
    return Energy(wh, len(rounded), float(sum(exact, Decimal(0)) - sum(rounded)))
