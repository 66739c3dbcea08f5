"""V18: where it fires, where its boundaries are, and that it says what a scalar oracle says."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.check_profile import BalanceLimits
from rules.balance import DayEnergy, imbalance

Row = tuple[int, int, float, float, bool]
"""supply Wh, sales Wh, coverage of supply and of sales, moved"""


def judged(*rows: Row) -> list[tuple[float | None, bool]]:
    supply, sales, supplied, sold, moved = zip(*rows, strict=True)
    energy = DayEnergy(
        np.array(supply, np.int64), np.array(sales, np.int64), np.array(supplied), np.array(sold), np.array(moved)
    )
    loss, found = imbalance(energy, BalanceLimits())
    return [(None if math.isnan(one) else one, bad) for one, bad in zip(loss.tolist(), found.tolist(), strict=True)]


def oracle(supply: int, sales: int, supplied: float, sold: float, moved: bool) -> tuple[float | None, bool]:
    if supply <= 0 or moved or supplied < 0.98 or sold < 0.98:
        return None, False
    loss = (supply - sales) / supply
    return loss, not 0 <= loss <= 0.15


def test_more_than_15_percent_lost_or_more_sold_than_delivered_is_found() -> None:
    assert judged((1000, 850, 1, 1, False)) == [(0.15, False)]
    assert judged((1000, 849, 1, 1, False)) == [(0.151, True)]
    assert judged((1000, 1000, 1, 1, False)) == [(0.0, False)]
    assert judged((1000, 1001, 1, 1, False)) == [(-0.001, True)]


def test_below_98_percent_of_reads_on_either_side_nothing_is_said() -> None:
    assert judged((1000, 10, 0.98, 0.98, False)) == [(0.99, True)]
    assert judged((1000, 10, 0.979, 1, False), (1000, 10, 1, 0.979, False)) == [(None, False)] * 2


def test_nothing_is_said_of_a_day_within_which_a_meter_moved_or_that_fed_back() -> None:
    assert judged((1000, 10, 1, 1, True), (0, -5, 1, 1, False), (-9, 5, 1, 1, False)) == [(None, False)] * 3


shares = st.sampled_from([0.0, 0.97, 0.98, 0.99, 1.0])


@given(st.lists(st.tuples(st.integers(-5, 100), st.integers(-5, 120), shares, shares, st.booleans()), min_size=1))
def test_the_columns_say_what_the_oracle_says(rows: list[Row]) -> None:
    assert judged(*rows) == [oracle(*row) for row in rows]
