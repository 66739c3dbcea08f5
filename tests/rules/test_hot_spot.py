"""Laws of HOT_SPOT: a scalar twin as oracle, and what order, splits, corrections, restarts may not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from heat_world import Loaded, Plant, close, oracle, said_of, told_of
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import START, START_US, US, WINDOW_US, Row, now_after, rows_of, tree

from meterwatch.episodes import Severity
from meterwatch.errors import ConfigError, StorageUnavailable
from meterwatch.late_loads import waiting
from meterwatch.weather import Reading, Weather
from rules import heat_past
from rules.hot_spot import HotSpot
from rules.overload import Overload, OverloadProfile
from rules.thermal import ThermalProfile
from rules.twin import HotSpotProfile, Twin
from tests.rules.twin_oracle import DAY, PROFILE, WARM, Scalar

PALETTE = [None, 0.3, 0.6, 0.9, 1.1, 1.25, 1.4, 1.6, 2.0, 0.3, 0.5, 0.7]
load_runs = st.lists(st.tuples(st.sampled_from(PALETTE), st.integers(1, 60)), min_size=3, max_size=20)


def flat(runs: list[tuple[float | None, int]]) -> Loaded:
    return [b for b, length in runs for _ in range(length)]


@settings(max_examples=12, deadline=None)
@given(
    each=st.lists(load_runs, min_size=1, max_size=3), seed=st.integers(0, 2**32), warm_c=st.sampled_from([10.0, 38.0])
)
async def test_order_splits_corrections_and_restarts_say_what_the_scalar_twin_says(
    each: list[list[tuple[float | None, int]]], seed: int, warm_c: float
) -> None:
    """Most reads come in time; of the late ones some within two days, some weeks later."""
    with pytest.MonkeyPatch.context() as patch:
        if seed % 3:
            patch.setattr(heat_past, "CELLS_TOGETHER", 500)
        await told_in_any_order(each, seed, warm_c)


async def told_in_any_order(
    each: list[list[tuple[float | None, int]]],
    seed: int,
    warm_c: float,
    profile: HotSpotProfile = PROFILE,
    registered: dict[str, Any] | None = None,
    thermal: Callable[[int, int], ThermalProfile] = lambda slot, day: PROFILE.thermal,
) -> None:
    """thermal: numbers of a transformer on a day, as they are to be."""
    rng = np.random.default_rng(seed)
    loads = [flat(runs) for runs in each]
    longest = max(map(len, loads))
    loads = [mine + [None] * (longest - len(mine)) for mine in loads]
    weather = Weather([Reading("S", START_US + 12 * i * WINDOW_US, warm_c) for i in range(longest // 12 + 1)])
    sent: list[tuple[float, Row]] = []
    for slot, mine in enumerate(loads):
        for row in rows_of(mine, slot):
            at = row[1] / WINDOW_US + rng.choice([0.0, 0.0, 0.0, 20.0, 90.0, 1500.0]) * rng.random()
            if rng.random() < 0.1:
                wrong, later = (*row[:3], int(rng.integers(0, 50_000))), at + rng.choice([20, 700])
                sent += [(at, (*wrong, 1)), (later, (*wrong, -1)), (later, row)]
            else:
                sent.append((at, row))
    sent.sort(key=lambda one: one[0])
    plant = Plant(len(loads), weather, profile=profile, registered=registered or {})
    if seed % 2:  # there is not always time
        plant.go_on = lambda: bool(rng.random() < 0.5)
    at = 0
    while at < len(sent):
        rows = int(rng.choice([1, 10, 40, 100]))
        while at + rows < len(sent) and sent[at + rows][1][4] > 0 > sent[at + rows - 1][1][4]:
            rows += 1  # a correction is one change
        await plant.send([row for _, row in sent[at : at + rows]])
        at += rows
        if rng.random() < 0.3:
            plant.table.save(plant.overload)
        if rng.random() < 0.03:
            await plant.restart()
    await plant.judge()
    assert waiting([plant.past]) == 0
    for slot, mine in enumerate(loads):
        air = [warm_c if slot % 2 else 30.0] * longest
        told, truth = said_of(plant.told.get(slot, [])), oracle(mine, air, partial(thermal, slot))
        assert close(told, truth), (slot, told, truth)


@settings(max_examples=6, deadline=None)
@given(
    begin=st.integers(0, DAY - 1),
    runs=st.lists(st.tuples(st.sampled_from([0.4, 0.9, 1.3, 1.7]), st.integers(1, 150)), min_size=3, max_size=6),
    seed=st.integers(0, 2**32),
)
async def test_heat_over_several_days_is_the_same_whichever_value_came_first(
    begin: int, runs: list[tuple[float | None, int]], seed: int
) -> None:
    """Reads from the middle of a day on; a third comes with another value half a day before or after the right one.

    The wrong one that comes later is of lower rank: no change.
    """
    loads: Loaded = [None] * begin + flat(runs)
    truth = oracle(loads, [30.0] * len(loads))
    for wrong_first in (True, False):
        rng = np.random.default_rng(seed)
        sent: list[tuple[float, list[Row]]] = []
        for row in rows_of(loads):
            at = row[1] / WINDOW_US
            if rng.random() < 1 / 3:
                wrong = (*row[:3], 3 * row[3] + 1)
                if wrong_first:
                    sent += [(at, [(*wrong, 1)]), (at + 48, [(*wrong, -1), row])]
                else:
                    sent += [(at, [row]), (at + 48, [])]
            else:
                sent.append((at, [row]))
        sent.sort(key=lambda one: one[0])
        plant, at_row = Plant(1), 0
        while at_row < len(sent):
            count = int(rng.choice([1, 3, 10, 50]))
            if rows := [row for _, rows in sent[at_row : at_row + count] for row in rows]:
                await plant.send(rows)
            at_row += count
            if rng.random() < 0.3:
                plant.table.save(plant.overload)
        told = said_of(plant.told.get(0, []))
        assert close(told, truth), (wrong_first, told, truth)


# Examples


async def test_heat_ahead_is_told_before_it_is_there() -> None:
    """1.7 of the rating after 0.6: at the end of the first window 140 C is half an hour away."""
    [first] = await told_of([0.6] * 40 + [1.7])
    assert (first.level, first.severity) == ("HIGH", Severity.HIGH)
    assert first.evidence["hot_spot_c"] < 140
    assert 0 < first.evidence["minutes_to_high"] < 60
    assert "140 C in" in first.summary


async def test_a_level_rises_at_once_and_falls_after_half_an_hour_of_cooler_windows() -> None:
    hot = [0.6] * 40 + [1.7] * 12
    levels = [(await told_of(hot + [0.3] * cool))[0] for cool in range(5)]
    assert [one.level for one in levels[:4]] == ["CRITICAL", "CRITICAL", "WARNING", "WARNING"]
    assert [one.cleared_us is None for one in levels] == [True] * 4 + [False]
    assert levels[4].level == "CRITICAL", "of a closed episode the worst"


async def test_a_load_not_known_neither_raises_nor_clears() -> None:
    hot = [0.6] * 40 + [1.25] * 6
    known = await told_of(hot)
    assert known == []
    assert [one.level for one in await told_of([*hot, *[1.25] * 6])] == ["WARNING"]
    assert await told_of(hot + [None] * 8 + [0.3] * 3) == [], "it went on at 1.25 for all we know; and nobody is called"
    [open_] = await told_of([0.6] * 40 + [1.7] * 4 + [None] * 20)
    assert open_.cleared_us is None


@pytest.mark.parametrize("begin", [1, 23, 24, 40, 79])
async def test_heat_that_began_on_the_first_day_of_all_reads_keeps_its_onset_when_a_later_day_is_corrected(
    begin: int,
) -> None:
    """The run of the second day is warmed up by the first day's loads, which is no reason not to judge those."""
    loads: Loaded = [None] * begin + [0.6] * (80 - begin) + [1.7] * 200
    rows = rows_of(loads)
    late = next(i for i, row in enumerate(rows) if row[1] == START_US + 131 * WINDOW_US)
    plant = Plant(1)
    for row in [*rows[:late], *rows[late + 1 :], rows[late]]:
        await plant.send([row])
    told, truth = said_of(plant.told[0]), oracle(loads, [30.0] * len(loads))
    assert truth[0].onset == 80
    assert close(told, truth), (told, truth)


async def test_what_rests_on_a_guess_raises_no_level() -> None:
    """Half a day without a read after a heavy load: the oil may be hot, and that it is nobody knows."""
    hot = [0.6] * 40 + [1.25] * 6
    assert await told_of(hot + [None] * 48 + [1.1]) == []
    assert await told_of([*hot, *[1.25] * 48, 1.1]) != []


async def test_the_air_of_the_district_is_added_and_the_one_of_everywhere_where_it_has_none() -> None:
    loads = [0.95] * 60
    air = {area: [Reading(area, START_US + i * 12 * WINDOW_US, 50.0) for i in range(6)] for area in ("", "N", "S")}
    assert await told_of(loads) == []
    assert [one.level for one in await told_of(loads, Weather(air["N"]))] == ["WARNING"]
    assert [one.level for one in await told_of(loads, Weather(air[""]))] == ["WARNING"]
    assert await told_of(loads, Weather(air["S"])) == []


async def test_a_reading_of_the_air_is_too_old_after_three_hours() -> None:
    stamps = np.array([-1, 0, 10_800, 10_801], np.int64) * US
    weather = Weather([Reading("N", 0, 7.0), Reading("", 10_801 * US, 9.0)])
    told = weather.at("N", stamps, PROFILE.ambient_max_age_s * US)
    assert told.tolist() == pytest.approx([np.nan, 7.0, 7.0, 9.0], nan_ok=True)


@settings(max_examples=4, deadline=None)
@given(hours=st.lists(st.integers(0, 40), min_size=1, max_size=4), celsius=st.sampled_from([48.0, 55.0, 5.0]))
async def test_air_told_late_says_what_it_says_in_time(hours: list[int], celsius: float) -> None:
    loads: Loaded = [0.6] * 20 + [1.15] * 40 + [0.9] * 60 + [1.2] * 20 + [0.4] * 20
    weather = Weather([Reading("", START_US + hour * 4 * WINDOW_US, celsius) for hour in hours])
    plant = Plant(1)
    for row in rows_of(loads):
        await plant.send([row])
    plant.rule.reweather(weather)
    await plant.judge()
    assert said_of(plant.told.get(0, [])) == said_of(await told_of(loads, weather))


async def test_a_failure_of_the_database_changes_nothing_and_the_next_try_tells_it() -> None:
    loads: Loaded = [0.6] * 30 + [1.7] * 8 + [0.4] * 260
    late = rows_of(loads)[30:38]
    plant = Plant(1)
    for row in rows_of(loads[:30] + [None] * 8 + loads[38:150]):
        await plant.send([row])
    plant.table.save(plant.overload)
    plant.table.away = True
    with pytest.raises(StorageUnavailable):
        await plant.send(late)
    assert plant.told.get(0, []) == []
    plant.table.away = False
    await plant.judge()
    assert [one[:3] for one in said_of(plant.told[0])] == [one[:3] for one in oracle(loads[:150], [30.0] * 150)]


async def test_heat_of_weeks_ago_is_told_when_its_reads_come_and_taken_back_when_they_were_wrong() -> None:
    """The verdict ends with the calm after it: what was told of later stays."""
    before: Loaded = [0.6] * 30 + [None] * 8 + [0.4] * 2000
    hot = [(0, START_US + (i + 1) * WINDOW_US, 900, 42_500, 1) for i in range(30, 38)]
    plant = Plant(1)
    await plant.send(rows_of(before))
    await plant.send(hot)
    truth = [*before[:30], *[1.7] * 8, *before[38:]]
    assert close(said_of(plant.told[0]), oracle(truth, [30.0] * len(truth)))
    [verdict] = plant.verdicts
    assert verdict.until_us is not None
    assert verdict.until_us < START_US + 300 * WINDOW_US
    assert plant.rule.hot == 0
    await plant.send([(*row[:4], -1) for row in hot])
    assert plant.told[0] == []


@pytest.mark.parametrize(("days", "told"), [(43, True), (48, False)])
async def test_heat_behind_the_late_window_is_not_looked_back_at(days: int, told: bool) -> None:
    """An old file of years would be stepped through window by window, and on to today."""
    plant = Plant(1)
    await plant.send(rows_of([0.6] * 30 + [None] * 8 + [0.4] * (days * DAY)))
    plant.table.save(plant.overload)
    pieces = plant.table.pieces
    await plant.send([(0, START_US + (i + 1) * WINDOW_US, 900, 42_500, 1) for i in range(30, 38)])
    assert bool(plant.told.get(0)) is told
    assert (plant.table.pieces > pieces) is told


class Unstepped(Twin):
    def step(self, *_: object) -> None:
        raise AssertionError("nothing can be hot")


async def test_who_was_cool_weeks_ago_too_is_read_once_and_not_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    plant, loads = Plant(2), [0.6] * 1500
    late = rows_of(loads, 1)[400:500]
    await plant.send([*rows_of(loads, 0), *rows_of(loads, 1)[:400], *rows_of(loads, 1)[500:]])
    plant.table.save(plant.overload)
    monkeypatch.setattr(heat_past, "Twin", Unstepped)
    pieces, plant.table.windows_max = plant.table.pieces, 0
    await plant.send(late)
    assert plant.table.pieces == pieces + 1
    assert [(one.asset_id, one.episodes) for one in plant.verdicts] == [(1, ())]
    assert plant.table.windows_max < 100 + 2 * 200


async def test_a_day_of_weeks_ago_costs_the_days_around_it() -> None:
    """Whatever the load: memory is a piece, and between the calms it is folded once."""
    loads: Loaded = [0.6] * 700 + [1.7] * 8 + [0.6] * 2000
    plant = Plant(1)
    rows = rows_of(loads)
    await plant.send([*rows[:650], *rows[750:]])
    plant.table.save(plant.overload)
    plant.table.pieces = plant.table.windows_max = 0
    await plant.send(rows[650:750])
    assert close(said_of(plant.told[0]), oracle(loads, [30.0] * len(loads)))
    assert plant.table.pieces <= 6
    assert plant.table.windows_max <= 500


async def test_what_waits_of_weeks_ago_keeps_nobody_from_hearing_of_now() -> None:
    """There is no time for the past: an alarm of today is told, and that of the past when there is."""
    loads: Loaded = [0.6] * 40 + [1.7] * 10 + [0.5] * 1500 + [1.7] * 4
    rows = rows_of(loads)
    plant = Plant(1)
    known = [*rows[:40], *rows[50:-4]]
    for at in range(0, len(known), 90):
        await plant.send(known[at : at + 90])
    plant.go_on = lambda: False
    for row in [*rows[40:50], *rows[-4:]]:
        await plant.send([row])
    assert waiting([plant.past]) == 1
    assert [one.onset for one in said_of(plant.told[0])] == [1550]
    await plant.judge()
    assert waiting([plant.past]) == 0
    assert close(said_of(plant.told[0]), oracle(loads, [30.0] * len(loads)))


async def test_who_is_calm_is_asked_for_no_loads_and_told_nothing_of() -> None:
    plant = Plant(3)
    rows = [row for slot in range(3) for row in rows_of([0.7] * 150, slot)]
    order = np.random.default_rng(5).permutation(len(rows))
    for at in range(0, len(rows), 40):
        await plant.send([rows[i] for i in order[at : at + 40]])
    assert (plant.table.pieces, plant.verdicts) == (0, [])


async def test_present_temperatures_are_those_of_the_scalar_twin() -> None:
    """Also where late reads, too few to make it hot, were no reason to look back."""
    loads: Loaded = [0.6] * 50 + [0.3] * 60 + [0.9] * 20 + [None] * 3 + [0.8] * 20
    plant, rows = Plant(1), rows_of(loads)
    for row in [*rows[:110], *rows[130:], *rows[110:130]]:
        await plant.send([row])
    assert plant.table.pieces == 0
    twin, begin = Scalar(), (DAY - WARM) - (START % DAY)
    for at in range(begin, len(loads)):
        twin.step(loads[at])
    present = plant.rule.present(np.array([0]), now_after(len(loads)))
    assert present is not None
    assert present.hot_spot_c[0] == pytest.approx(30 + twin.after(0.0), abs=0.01)
    assert present.top_oil_c[0] == pytest.approx(30 + twin.oil, abs=0.01)
    assert present.load_pu[0] == pytest.approx(0.8)


def test_a_ring_too_short_for_a_day_and_its_warm_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="173 or more"):
        HotSpot(tree(), PROFILE, Overload(tree(), OverloadProfile(ring_windows=172)))


def test_every_number_of_the_profile_that_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError) as refused:
        HotSpotProfile(clear_s=0, begin_pu=-1, guessed_max=2, thermal=ThermalProfile(warm_up_time_constants=9.0))
    assert len(refused.value.problems) == 4
