"""V18, the balance of a transformer over a local day: what its check meters delivered against what its members drew.

Pure; arrays with one element a transformer. What a gap hides is no loss, so nothing is said below the coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterwatch.check_profile import BalanceLimits

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DayEnergy:
    """A local day of some transformers. Arrays of length n."""

    supply_wh: Ints
    """Import less export of the check meters."""
    sales_wh: Ints
    """The same of the members."""
    supply_coverage: NDArray[np.float64]
    """Share of the day that reads of the check meters cover, 0 to 1."""
    sales_coverage: NDArray[np.float64]
    moved: NDArray[np.bool_]
    """A member or check meter came or went within the day: its energy is not all of this transformer."""


def imbalance(energy: DayEnergy, limits: BalanceLimits) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """V18: (supply - sales) / supply, NaN where that says nothing; and whether it is outside 0 to 15 %."""
    judged = (energy.supply_wh > 0) & ~energy.moved
    judged &= (energy.supply_coverage >= limits.coverage) & (energy.sales_coverage >= limits.coverage)
    loss = np.full(len(judged), np.nan)
    np.divide(energy.supply_wh - energy.sales_wh, energy.supply_wh, out=loss, where=judged)
    found: NDArray[np.bool_] = (loss < limits.loss_low) | (loss > limits.loss_high)
    return loss, found
