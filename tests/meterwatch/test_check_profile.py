"""Profiles of thresholds that change at a moment: which one judges what."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.check_profile import CHECK_PROFILES, US, CheckProfile, chosen

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = datetime(2026, 2, 1, tzinfo=UTC)
FIRST_US, SECOND_US = (round(moment.timestamp()) * US for moment in (FIRST, SECOND))
CHANGING = chosen("default", {SECOND: "default", FIRST: "lenient"})


def names(profile: CheckProfile, *end_us: int) -> list[str]:
    return [profile.at(one).name for one in end_us]


def test_an_interval_that_ends_at_the_moment_of_a_change_is_before_it() -> None:
    ends = (FIRST_US - 1, FIRST_US, FIRST_US + 1, SECOND_US, SECOND_US + 1)
    assert names(CHANGING, *ends) == ["default", "default", "lenient", "lenient", "default"]


@pytest.mark.parametrize("hours", [-11, -5, 0, 1, 11])
def test_a_change_at_a_local_midnight_holds_from_that_local_day_on(hours: int) -> None:
    midnight = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=hours)))
    day = (date(2026, 1, 1) - date(1970, 1, 1)).days
    profile = chosen("default", {midnight: "lenient"})
    assert [profile.of_day(one).name for one in (day - 1, day)] == ["default", "lenient"]


def test_columns_are_split_only_where_a_change_lies_between_them() -> None:
    ends = np.array([FIRST_US, SECOND_US])
    assert CHECK_PROFILES["default"].parts(ends) == [(CHECK_PROFILES["default"], None)]
    assert CHANGING.parts(ends[:1]) == [(CHANGING, None)]
    assert [rows is None for _, rows in CHANGING.parts(ends)] == [False, False]


@given(st.lists(st.sampled_from([FIRST_US - 1, FIRST_US, FIRST_US + 1, SECOND_US, SECOND_US + 1]), min_size=1))
def test_parts_say_of_each_what_at_says(ends: list[int]) -> None:
    found: list[list[str]] = [[] for _ in ends]
    for profile, rows in CHANGING.parts(np.array(ends)):
        for row in range(len(ends)) if rows is None else np.flatnonzero(rows).tolist():
            found[row].append(profile.name)
    assert found == [[name] for name in names(CHANGING, *ends)]
