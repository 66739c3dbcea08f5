"""Data cuts that ship with the project: a demo grid of 1,203 meters and two small sets of real household reads.

Promises: real values with their origin and licence beside them (ORIGIN.md); the same bytes from tools/make_cuts.py.
Refuses to know what the values are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
GRID = HERE / "grid"


@dataclass(frozen=True)
class Shapes:
    """Two days of 120 ordinary households: `meter` original ids, `end_s` [192] UTC epoch s, `wh` [120, 192]."""

    meter: list[str]
    end_s: NDArray[np.int64]
    wh: NDArray[np.int32]


@dataclass(frozen=True)
class Cut:
    """Reads as flat columns with their oddities (ORIGIN.md): meter[meter_index[i]], end_s[i] (UTC epoch s), wh[i]."""

    meter: list[str]
    meter_index: NDArray[np.uint32]
    end_s: NDArray[np.int64]
    wh: NDArray[np.int64]


def shapes() -> Shapes:
    """Load the two-day household shapes."""
    with np.load(HERE / "reads" / "bamberg_two_days.npz", allow_pickle=False) as file:
        return Shapes([str(m) for m in file["meter"]], file["end_s"], file["wh"])


def cut() -> Cut:
    """Load the test cut with the negative, the climbing and the fractional meter."""
    with np.load(HERE / "reads" / "bamberg_cut.npz", allow_pickle=False) as file:
        return Cut([str(m) for m in file["meter"]], file["meter_index"], file["end_s"], file["wh"])
