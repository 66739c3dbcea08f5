"""Laws of cutting columns into batches: every row once, never too many rows, days or interval lengths in one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.client.encode import DAY_US, DAYS_MAX, checked_columns

FIRST_US = 1_700_000_000_000_000

rows = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([900, 3600])),
    min_size=1,
    max_size=60,
)


@given(rows, st.integers(1, 20))
def test_every_row_goes_out_once_in_parts_the_service_takes(rows: list[tuple[int, int]], rows_max: int) -> None:
    end_us = np.array([FIRST_US + day * DAY_US for day, _ in rows])
    interval_s = np.array([length for _, length in rows])
    columns = checked_columns(
        ["M"], np.zeros(len(rows), int), end_us, interval_s, {"import_wh": end_us % 7}, None, None
    )
    seen: list[int] = []
    for length, part in columns.parts(rows_max):
        numbers = np.arange(len(rows))[part]
        assert 1 <= len(numbers) <= rows_max
        assert set(interval_s[numbers]) == {length}
        assert len(set(end_us[numbers] // DAY_US)) <= DAYS_MAX
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(rows)))


def test_rows_of_few_days_keep_their_order() -> None:
    end_us = np.array([FIRST_US + DAY_US, FIRST_US, FIRST_US + 2 * DAY_US])
    columns = checked_columns(["M"], np.zeros(3, int), end_us, 900, {"import_wh": np.arange(3)}, None, None)
    assert [np.arange(3)[part].tolist() for _, part in columns.parts(2)] == [[0, 1], [2]]
