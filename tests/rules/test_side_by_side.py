"""Rows of different length as one table: each row's own values, then what fills it up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rules.side_by_side import side_by_side

lists = st.lists(st.lists(st.integers(-5, 5), max_size=6), max_size=8)


@given(lists)
def test_each_row_has_its_own_values_and_then_the_filling(rows: list[list[int]]) -> None:
    of = np.array([n for n, row in enumerate(rows) for _ in row], np.intp)
    values = np.array([value for row in rows for value in row], np.int64)
    longest = max(map(len, rows), default=0)
    found = side_by_side(of, values, len(rows), 99).tolist()
    assert found == [row + [99] * (longest - len(row)) for row in rows]
