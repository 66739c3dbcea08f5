"""A season scales the limits by the window's own time, whatever the order in which reads come."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import QUICK, START_US, Spoken, change, load_runs, now_after, oracle, rows_of, spoken, tree

from meterwatch.errors import ConfigError
from rules.ladder import OverloadProfile
from rules.overload import Overload
from rules.seasons import Season, Seasons

YEAR = (Season("summer", "05-01", 0.9), Season("winter", "11-01", 1.2), Season("winter", "10-15", 1.1, "2030-01-01"))


def at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("day", "scale"),
    [
        ("2026-04-30T23:59:59", 1.2),
        ("2026-05-01T00:00:00", 0.9),
        ("2026-10-31T23:59:59", 0.9),
        ("2026-11-01T00:00:00", 1.2),
        ("2027-01-01T00:00:00", 1.2),
        ("2029-12-31T23:59:59", 1.2),
        ("2030-01-01T00:00:00", 1.1),
        ("2030-10-14T23:59:59", 0.9),
        ("2030-10-15T00:00:00", 1.1),
    ],
)
def test_a_day_has_the_season_that_began_last_and_the_numbers_that_held_then(day: str, scale: float) -> None:
    assert Seasons(YEAR).scale(at(day)) == scale


def test_no_season_is_no_scale() -> None:
    assert (Seasons(()).scale(0), bool(Seasons(()))) == (1.0, False)


def test_wrong_seasons_are_told_together() -> None:
    wrong = (Season("a", "13-01", 1.0), Season("b", "01-01", 9.0), Season("c", "01-01", 1.0, "soon"))
    with pytest.raises(ConfigError) as caught:
        OverloadProfile(seasons=wrong)
    assert len(caught.value.problems) == 3


@settings(max_examples=100, deadline=None)
@given(loads=load_runs, hour=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_a_change_of_season_in_the_middle_of_a_hold_is_a_function_of_the_windows_time(
    loads: list[float | None], hour: int, seed: int
) -> None:
    """START_US is midnight of 4 October: the season changes a day or two later; the oracle is told load / scale."""
    rng, border = np.random.default_rng(seed), 96 * (1 + hour % 2)
    first = datetime.fromtimestamp(START_US // 1_000_000, UTC)
    assert (first.month, first.day, first.hour) == (10, 4, 0)
    begins = f"10-{4 + border // 96:02}"
    profile = replace(QUICK, seasons=(Season("before", "03-01", 2.0), Season("after", begins, 0.5)))
    rule, now, last = Overload(tree(), profile), now_after(len(loads)), list[Spoken]()
    rows = rows_of(loads)
    for part in np.array_split(rng.permutation(len(rows)), 3):
        rule.observe(change([rows[i] for i in part]), now)
        for verdict in rule.judge(now):
            last = spoken(verdict.episodes)
    seen = [None if b is None else b / (2.0 if i < border else 0.5) for i, b in enumerate(loads)]
    assert last == oracle(seen, profile)


def test_a_cold_night_carries_what_a_warm_one_does_not() -> None:
    winter = OverloadProfile(seasons=(Season("winter", "01-01", 1.1),))
    rule = Overload(tree(), winter)
    rule.observe(change(rows_of([1.05] * 12)), now_after(12))
    assert rule.judge(now_after(12))[0].episodes == ()
    rule.observe(change([(0, now_after(13 + i), 900, 28_000, 1) for i in range(8)]), now_after(20))
    (episode,) = rule.judge(now_after(20))[0].episodes
    assert episode.evidence["season_scale"] == 1.1
