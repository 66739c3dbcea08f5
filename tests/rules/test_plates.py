"""Whose thermal numbers hold on which day: a scalar choice as oracle, and HOT_SPOT of transformers that differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from heat_world import Loaded, Plant, close, oracle, said_of
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import DAY_US, START, START_US, now_after, rows_of
from test_hot_spot import load_runs, told_in_any_order

from meterwatch.dated import Dated
from meterwatch.errors import ConfigError
from rules.plates import SHIPPED_TYPES, Plates, ThermalType, unknown_types
from rules.seasons import EPOCH, AirSeason, season_of
from rules.thermal import PARAMETERS, ThermalProfile
from rules.twin import HotSpotProfile
from tests.rules.twin_oracle import DAY, PROFILE, WARM, Scalar

FIRST_DAY = START_US // DAY_US
FOREVER = int(np.iinfo(np.int64).max)
Span = tuple[int, int, int]
"""Days from and to, the second not included; number of a name."""


def dated(spans: list[list[Span]]) -> Dated | None:
    """From midnight to midnight."""
    rows = [(at, *span) for at, mine in enumerate(spans) for span in mine]
    if not rows:
        return None
    at, from_day, to_day, number = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    to_us = np.where(to_day < 10**6, to_day * DAY_US, FOREVER)
    return Dated(at.astype(np.int32), from_day * DAY_US, to_us, number.astype(np.float32))


@dataclass
class Registry:
    rated_kva: np.ndarray
    thermal: dict[str, np.ndarray] = field(default_factory=dict)
    thermal_types: Dated | None = None
    thermal_type_names: list[str] = field(default_factory=list)


NAMES = ["a", "b", "gone"]
spans = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(0, 2)), max_size=3).map(
    lambda steps: [
        (start, start + length, number)
        for start, length, number in (
            (sum(gap + long for gap, long, _ in steps[:at]) + steps[at][0], steps[at][1], steps[at][2])
            for at in range(len(steps))
        )
    ]
)
types = st.lists(
    st.builds(
        ThermalType,
        name=st.sampled_from(["a", "b", "c"]),
        oil_rise_k=st.sampled_from([0.0, 40.0, 70.0]),
        loss_ratio=st.sampled_from([0.0, 3.0]),
        oil_time_constant_s=st.sampled_from([0.0, 7200.0]),
        up_to_kva=st.sampled_from([0.0, 0.0, 100.0, 250.0]),
        since=st.sampled_from(["", "", "1970-01-04", "1970-01-09"]),
    ),
    max_size=5,
    unique_by=lambda one: (one.name, one.since),
).map(tuple)


def chosen(types: tuple[ThermalType, ...], spans: list[Span], rated: float, day: int) -> ThermalType | None:
    """What a person would say: what the registry names; else what the rating falls under."""
    held: dict[str, ThermalType] = {}
    for one in sorted(types, key=lambda one: one.since):
        if not one.since or EPOCH + timedelta(days=day) >= date.fromisoformat(one.since):
            held[one.name] = one
    for first, stop, number in spans:
        if first <= day < stop:
            return held.get(NAMES[number])
    under = [one for one in held.values() if one.up_to_kva and 0 < rated <= one.up_to_kva]
    return min(under, key=lambda one: one.up_to_kva, default=None)


@settings(max_examples=150, deadline=None)
@given(types=types, named=st.lists(spans, min_size=1, max_size=4), data=st.data())
def test_each_transformer_has_the_numbers_that_hold_for_it_that_day(
    types: tuple[ThermalType, ...], named: list[list[Span]], data: Any
) -> None:
    rated = data.draw(st.lists(st.sampled_from([0.0, np.nan, 100.0, 160.0, 400.0]), min_size=4, max_size=4))
    own = data.draw(st.lists(st.sampled_from([np.nan, np.nan, 99.0]), min_size=4, max_size=4))
    names = NAMES if dated(named) is not None else []
    registry = Registry(np.array(rated), {"oil_rise_k": np.array(own)}, dated(named), names)
    profile = ThermalProfile()
    plates = Plates.of(profile, types, registry)
    if data.draw(st.booleans()):
        plates.on(3)
    taken, own_only = plates.take(np.array([2, 0])), Plates.of(profile, types, registry, np.array([2, 0]))
    ties = len({one.up_to_kva for one in types if one.up_to_kva}) < sum(one.up_to_kva > 0 for one in types)
    for day in data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=6)):
        for some, index in ((plates, [0, 1, 2, 3]), (taken, [2, 0]), (own_only, [2, 0])):
            found = some.on(day)
            for row, at in enumerate(index):
                mine = chosen(types, named[at] if at < len(named) else [], rated[at], day)
                for name in PARAMETERS:
                    expected = (getattr(mine, name) if mine else 0.0) or getattr(profile, name)
                    if name == "oil_rise_k" and not np.isnan(own[at]):
                        expected = 99.0
                    if not ties:
                        assert getattr(found, name)[row] == expected, (day, at, name)
                shown = some.shown(row, day)
                assert shown["oil_rise_k"] == found.oil_rise_k[row]
                assert ties or shown["thermal_type"] == (mine.name if mine else "none")


@settings(max_examples=50, deadline=None)
@given(types=types, named=st.lists(spans, min_size=3, max_size=3))
def test_no_day_has_numbers_that_are_not_reckoned_with(types: tuple[ThermalType, ...], named: list[list[Span]]) -> None:
    registry = Registry(np.array([100.0, 160.0, 400.0]), {}, dated(named), NAMES if dated(named) is not None else [])
    plates = Plates.of(ThermalProfile(), types, registry)
    every = list(plates.ever())
    for day in range(20):
        on = plates.on(day)
        for at in range(3):
            mine = [getattr(on, name)[at] for name in PARAMETERS]
            assert mine in [[getattr(one, name)[at] for name in PARAMETERS] for one in every]


def test_a_change_in_the_morning_holds_that_day_and_one_in_the_evening_the_next() -> None:
    for hour, first in ((0, 5), (11, 5), (12, 6), (23, 6)):
        since_us = 5 * DAY_US + hour * DAY_US // 24
        of = Dated(np.zeros(1, np.int32), np.array([since_us]), np.array([FOREVER]), np.zeros(1, np.float32))
        plates = Plates.of(ThermalProfile(), SHIPPED_TYPES, Registry(np.ones(1), {}, of, ["onan-small"]))
        assert [plates.types_on(day) for day in (first - 1, first)] == [[""], ["onan-small"]], hour


def test_a_type_the_profile_has_not_is_named_and_has_the_numbers_of_the_profile() -> None:
    registry = Registry(np.ones(1), {}, dated([[(0, 10**6, 0)]]), ["nobody"])
    assert unknown_types(SHIPPED_TYPES, registry) == ["nobody"]
    plates = Plates.of(ThermalProfile(), SHIPPED_TYPES, registry)
    assert plates.shown(0, 3)["thermal_type"] == "none"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (ThermalType("x", oil_rise_k=-1.0), "type x has oil_rise_k -1.0"),
        (ThermalType("x", since="soon"), "type x holds since 'soon'"),
        (AirSeason("x", "13-01", 3.0), "season x begins '13-01'"),
        (AirSeason("x", "11-01", 99.0), "season x has ambient_c 99.0"),
    ],
)
def test_a_type_or_season_that_cannot_be_is_refused(wrong: Any, said: str) -> None:
    given = {"types": (wrong,)} if isinstance(wrong, ThermalType) else {"air_seasons": (wrong,)}
    with pytest.raises(ConfigError, match=said):
        HotSpotProfile(**given)


# HOT_SPOT

HOT = ThermalType("hot", oil_rise_k=75.0, oil_time_constant_s=5400.0)
TYPED = replace(PROFILE, types=(*SHIPPED_TYPES, HOT))
TYPE_NAMES = ["hot", "onan-large"]
CHANGE = FIRST_DAY + 2
REGISTERED = {
    "thermal_types": dated([[(0, 10**6, 1)], [(0, CHANGE, 1), (CHANGE, 10**6, 0)], []]),
    "thermal_type_names": TYPE_NAMES,
}
"""The first is large, the second becomes hot, the third has no type."""


def numbers(slot: int, day: int) -> ThermalProfile:
    """The same in words of a person."""
    if slot == 2:
        return PROFILE.thermal
    if slot == 1 and day >= CHANGE:
        return replace(PROFILE.thermal, oil_rise_k=75.0, oil_time_constant_s=5400.0)
    large = SHIPPED_TYPES[2]
    return replace(PROFILE.thermal, **{name: getattr(large, name) for name in PARAMETERS})


@settings(max_examples=5, deadline=None)
@given(runs=load_runs, seed=st.integers(0, 2**32))
async def test_one_load_heats_each_type_as_its_scalar_twin_says_whatever_the_order(
    runs: list[tuple[float | None, int]], seed: int
) -> None:
    """Late reads, corrections and restarts among them; one changes its type after two days."""
    await told_in_any_order([runs] * 3, seed, 30.0, TYPED, REGISTERED, numbers)


@pytest.mark.parametrize("late", [False, True])
async def test_types_are_told_apart_late_and_after_a_restart(late: bool) -> None:
    """A load that can never heat the others heats the second, from its change on. late: after the first's reads."""
    loads: Loaded = [0.6] * 150 + [0.94] * 150
    plant = Plant(3, profile=TYPED, registered=REGISTERED)
    rows = [row for slot in range(3) for row in rows_of(loads, slot)]
    if not late:
        rows.sort(key=lambda row: row[1])
    for at in range(0, len(rows), 75):
        await plant.send(rows[at : at + 75])
    await plant.restart()
    truth = [oracle(loads, [30.0] * 300, lambda day, slot=slot: numbers(slot, day)) for slot in range(3)]
    assert [bool(one) for one in truth] == [False, True, False]
    assert START + truth[1][0].onset >= CHANGE * DAY
    for slot in range(3):
        assert close(said_of(plant.told.get(slot, [])), truth[slot])
    [episode] = plant.told[1]
    assert (episode.evidence["thresholds"]["thermal_type"], episode.evidence["thresholds"]["oil_rise_k"]) == ("hot", 75)


async def test_present_temperatures_of_two_types_under_one_load_are_those_of_their_scalar_twins() -> None:
    loads: Loaded = [0.6] * 210 + [1.0] * 30
    plant = Plant(3, profile=TYPED, registered=REGISTERED)
    await plant.send([row for slot in range(3) for row in rows_of(loads, slot)])
    for _ in range(2):
        present = plant.rule.present(np.arange(3), now_after(len(loads)))
        assert present is not None
        for slot in range(3):
            day = (START + len(loads) - 1) // DAY
            twin = Scalar(numbers(slot, day))
            for at in range(day * DAY - WARM - START, len(loads)):
                twin.step(loads[at])
            assert present.hot_spot_c[slot] == pytest.approx(30 + twin.after(0.0), abs=0.01), slot
        assert len({round(one, 1) for one in present.hot_spot_c.tolist()}) == 3
        await plant.restart()


@settings(max_examples=4, deadline=None)
@given(runs=load_runs, seed=st.integers(0, 2**32))
async def test_air_of_the_season_counts_where_nobody_told_it(runs: list[tuple[float | None, int]], seed: int) -> None:
    """The season changes with the third day."""
    third = EPOCH + timedelta(days=FIRST_DAY + 2)
    year = (AirSeason("cool", "01-01", 12.0), AirSeason("warm", third.isoformat()[5:], 45.0))
    profile = replace(PROFILE, air_seasons=year)
    loads = [b for b, length in runs for _ in range(length)]
    plant = Plant(1, profile=profile)
    rng = np.random.default_rng(seed)
    rows = rows_of(loads)
    order = np.argsort(np.arange(len(rows)) + rng.choice([0.0, 0.0, 30.0], len(rows)), kind="stable").tolist()
    for at in range(0, len(rows), 25):
        await plant.send([rows[i] for i in order[at : at + 25]])
    await plant.judge()
    air = []
    for at in range(len(loads)):
        season = season_of(year, EPOCH + timedelta(days=(START + at) // DAY))
        assert season is not None
        air.append(season.ambient_c)
    assert not loads or air[0] == 12.0
    told, truth = said_of(plant.told.get(0, [])), oracle(loads, air)
    assert close(told, truth), (told, truth)
