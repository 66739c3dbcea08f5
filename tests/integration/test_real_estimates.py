"""How far estimates are from real reads: reads of Bamberg households are hidden, estimated and compared.

By default the small cut that ships with the project; with METERWATCH_BAMBERG=FILE.parquet in the environment the whole
published file (`pytest tests/integration/test_real_estimates.py -s` prints the table). No database: the kernel and what
it is given are what the service runs, and tests/integration/test_estimation.py is about the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from test_real_reads import CLIMBING, NEGATIVE, File, reads

from meterwatch.clock import US
from meterwatch.estimated_days import DayOf, Stored, differing
from meterwatch.local_days import day_of, day_starts_us
from meterwatch.quality import METHOD_MASK, METHOD_SHIFT, Method
from rules.estimation import ABSENT, Registers

__all__ = ["reads"]  # the fixture
ZONE = "Europe/Zurich"
STEP_US = 900 * US


class Errors(NamedTuple):
    """Of the estimates of one method, against the reads that were hidden."""

    count: int
    wh: float
    """Mean of the hidden reads."""
    mean_abs_wh: float
    sum_percent: float
    """Of the sum of all."""
    carried_abs_wh: float
    """Mean error of the plainest guess: the read before the gap again."""


def sound(file: File) -> tuple[list[str], NDArray[np.int64]]:
    """Meters without the two broken ones, and their Wh by end: int64[meters, ends], ABSENT where none."""
    meters = [m for m in file.meter if m not in (NEGATIVE, CLIMBING)]
    number = np.array([meters.index(m) if m in meters else -1 for m in file.meter])
    first = int(file.end_s.min())
    wh = np.full((len(meters), (int(file.end_s.max()) - first) // 900 + 1), ABSENT, np.int64)
    mine = number[file.meter_index] >= 0
    wh[number[file.meter_index[mine]], (file.end_s[mine] - first) // 900] = file.wh[mine]
    return meters, wh


def estimated(wh: NDArray[np.int64], first_us: int, day: int, *, registers: bool) -> tuple[NDArray[np.int64], ...]:
    """Row, column and method of the estimates of a day, and their Wh; registers: the day's sum is known."""
    row, at = np.nonzero(wh >= 0)
    meter_days = DayOf(
        ZONE, day, 900, np.arange(len(wh), dtype=np.int32), np.zeros(len(wh), np.int64),
        np.full(len(wh), np.iinfo(np.int64).max),
    )  # fmt: skip
    none = np.full(len(row), 0, np.int64)
    stored = Stored(row, first_us + at * STEP_US, none + 900, none, wh[row, at], none + ABSENT)
    nothing = [np.zeros(0, np.int64)] * 3
    counts = Registers.none()
    if registers:
        counts = day_counts(meter_days)
    found = differing(meter_days, stored, nothing, counts, (0, np.iinfo(np.int64).max))
    method = (found.quality & METHOD_MASK) >> METHOD_SHIFT
    return found.slot, (found.end_us - first_us) // STEP_US, method, found.channels["import_wh"]


TRUTH: dict[int, NDArray[np.int64]] = {}
"""Per day the sums of the meters, as registers would have counted them."""


def day_counts(day: DayOf) -> Registers:
    from meterwatch.estimated_days import ends_of

    start_us, end_us = day.bounds(day.day)
    inside = np.flatnonzero((ends_of(day) > start_us) & (ends_of(day) <= end_us))
    rows = np.arange(len(day.slots))
    first, last = np.full(len(rows), inside[0]), np.full(len(rows), inside[-1])
    return Registers(rows, first, last, TRUTH[day.day], np.full(len(rows), ABSENT), np.zeros(len(rows)))


@pytest.mark.parametrize("registers", [False, True], ids=["intervals", "with-registers"])
def test_the_error_of_each_method(reads: File, registers: bool) -> None:
    _, wh = sound(reads)
    first_us = int(reads.end_s.min()) * US
    ends_us = first_us + np.arange(wh.shape[1]) * STEP_US
    days = day_of(ZONE, ends_us)
    rng = np.random.default_rng(1)
    hidden = wh.copy()
    tried = [day for day in range(int(days[-1]) - 6, int(days[-1])) if (day + 3) % 7 in (3, 4)]  # Thursday, Friday
    starts = day_starts_us(ZONE)
    for day in tried:
        TRUTH[day] = np.where((days == day) & (wh >= 0), wh, 0).sum(axis=1)
        begin = int((starts[day] - first_us) // STEP_US)
        for meter in range(len(wh)):
            for length in (int(rng.integers(1, 9)), int(rng.integers(12, 33))):
                at = begin + int(rng.integers(1, 96 - length))
                hidden[meter, at : at + length] = ABSENT
    table: dict[Method, Errors] = {}
    parts = [estimated(hidden, first_us, day, registers=registers) for day in tried]
    row, at, method, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    last_seen = np.maximum.accumulate(np.where(hidden >= 0, np.arange(wh.shape[1]), 0), axis=1)
    known = wh[row, at] >= 0
    for one in Method:
        mine = (method == one) & known
        if mine.any():
            truth = wh[row[mine], at[mine]]
            error = value[mine].astype(np.int64) - truth
            carried = hidden[row[mine], last_seen[row[mine], at[mine]]] - truth
            table[one] = Errors(
                int(mine.sum()), truth.mean(), np.abs(error).mean(), 100 * error.sum() / truth.sum(),
                np.abs(carried).mean(),
            )  # fmt: skip
    left = int(((hidden < 0) & (wh >= 0)).sum()) - int(known.sum())
    print(f"\n{len(wh)} households, {sum(e.count for e in table.values())} reads estimated, {left} left missing")
    for one, errors in table.items():
        print(
            f"{one.name:9} {errors.count:6} reads of {errors.wh:5.0f} Wh: mean error {errors.mean_abs_wh:5.1f} Wh"
            f" ({100 * errors.mean_abs_wh / errors.wh:3.0f} %), of the sum {errors.sum_percent:+5.1f} %;"
            f" the read before the gap again: {errors.carried_abs_wh:5.1f} Wh"
        )
    assert set(table) == {Method.LINEAR, Method.REGISTER if registers else Method.LIKE_DAYS}
    for errors in table.values():
        assert errors.mean_abs_wh < errors.carried_abs_wh, "no better than the plainest guess"
    if registers:  # what the line got wrong, the register's rest makes good
        truth = wh[row[known], at[known]]
        assert abs(int(value[known].sum() - truth.sum())) < 0.02 * truth.sum()
