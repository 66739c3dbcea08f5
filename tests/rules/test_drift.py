"""V10 over a day: where it fires, where its boundary is, and that catching up is no drift; against a scalar oracle."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.check_profile import DayLimits
from rules import drift
from rules.drift import ModeLags, drifting, lags

US = 1_000_000
START_US = 1_768_086_000 * US
Read = tuple[int, float]
"""number of the quarter-hour, s from its end to its arrival"""
LIMITS = DayLimits()


def measured(*days: list[Read]) -> tuple[list[float | None], list[int]]:
    rows = [(n, number, lag_s) for n, reads in enumerate(days) for number, lag_s in reads]
    end_us = np.array([START_US + number * 900 * US for _, number, _ in rows], np.int64)
    received_us = end_us + np.array([round(lag_s * US) for *_, lag_s in rows], np.int64)
    lag_s, samples = lags(np.array([n for n, *_ in rows], np.intp), end_us, received_us, len(days))
    return [None if np.isnan(one) else one for one in lag_s.tolist()], samples.tolist()


def oracle(reads: list[Read]) -> tuple[float | None, int]:
    arrivals: dict[float, float] = {}
    for number, lag_s in reads:
        arrivals[number * 900 + lag_s] = max(arrivals.get(number * 900 + lag_s, -1e18), number * 900)
    found = []
    order = sorted(arrivals.items())
    for (came_before, end_before), (came, end) in itertools.pairwise(order):
        if end > end_before and 0.5 <= (came - came_before) / (end - end_before) <= 2:
            found.append(came - end)
    return (statistics.median(found) if found else None), len(found)


def test_the_lag_of_a_meter_is_the_median_of_the_reads_that_came_in_step() -> None:
    assert measured([(n, 300 + n % 3) for n in range(96)]) == ([301.0], [95])


def test_a_read_that_comes_in_half_to_twice_the_time_is_in_step() -> None:
    assert measured([(0, 900), (1, 450)]) == ([450.0], [1])
    assert measured([(0, 900), (1, 449)]) == ([None], [0])
    assert measured([(0, 0), (1, 900)]) == ([900.0], [1])
    assert measured([(0, 0), (1, 901)]) == ([None], [0])


@pytest.mark.parametrize("together", [1, 7, 60])
def test_catching_up_after_an_outage_of_most_of_the_day_is_no_lag(together: int) -> None:
    """60 of 96 reads are held back and come in batches, one a second, when the way is free again."""
    freed_s = 60 * 900
    held = [(n, freed_s + n // together - n * 900.0) for n in range(60)]
    live = [(n, 30.0) for n in range(61, 96)]
    [lag_s], [samples] = measured(held + live)
    assert (lag_s, samples >= LIMITS.drift_samples) == (30.0, True)


def test_a_day_that_comes_as_one_file_says_nothing() -> None:
    assert measured([(n, 97 * 900 - n * 900.0) for n in range(96)]) == ([None], [0])


def test_60_seconds_off_the_peers_is_none_and_more_is_a_drift_unless_the_peers_scatter() -> None:
    off = np.array([60.0, 60.1, -60.1, 400.0, 400.1, np.nan])
    scatter = np.array([0.0, 0.0, 0.0, 100.0, 100.0, 0.0])
    limit, scatters = np.full(6, LIMITS.drift_s), np.full(6, LIMITS.drift_scatters)
    assert drifting(off, scatter, limit, scatters).tolist() == [False, True, True, False, True, False]


def test_peers_are_those_who_are_reached_in_the_same_way_and_a_few_are_none() -> None:
    known = ModeLags()
    slots = np.arange(39, dtype=np.int32)
    known.learn(np.array([7] * 20 + [8] * 19), slots, np.array([*range(100, 120), *[5.0] * 19], np.float64))
    usual_s, scatter_s = known.usual(np.array([7, 8, 9]), 20)
    assert (usual_s[0], scatter_s[0]) == (109.5, 5.0)
    assert np.isnan([*usual_s[1:], *scatter_s[1:]]).all()


def test_what_is_remembered_of_a_way_is_bounded_and_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PEERS_KEPT", 3)
    known = ModeLags()
    for lag_s in range(10):
        known.learn(np.array([1]), np.array([lag_s], np.int32), np.array([float(lag_s)]))
    assert known.usual(np.array([1]), 3)[0].tolist() == [8.0]
    assert np.isnan(known.usual(np.array([1]), 4)[0]).all()


def test_a_meter_is_one_peer_with_its_newest_lag() -> None:
    known = ModeLags()
    for lag_s in (5.0, 9.0):
        known.learn(np.array([1, 1]), np.array([3, 4], np.int32), np.array([lag_s, lag_s]))
    assert known.usual(np.array([1]), 2)[0].tolist() == [9.0]
    assert np.isnan(known.usual(np.array([1]), 3)[0]).all()


reads = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0.0, 30.0, 450.0, 900.0, 1800.0, -60.0, 5400.0])),
    max_size=10,
    unique_by=lambda read: read[0],
)


@given(st.lists(reads, min_size=1, max_size=4), st.randoms())
def test_the_columns_say_what_the_oracle_says_in_any_order(days: list[list[Read]], random: object) -> None:
    for day in days:
        random.shuffle(day)  # type: ignore[attr-defined]
    assert list(zip(*measured(*days), strict=True)) == [oracle(day) for day in days]
