"""What is done to the fleet: the faults are real assets, kept apart, and known in truth."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from loadtest.scenarios import SCENARIOS, Knobs, Trouble, round_up, trouble, turned
from loadtest.world import INTERVAL_US, World
from meterwatch.registry_csv import RegistryCsv, parse

START_US = 1_770_076_800_000_000


def world_of(name: str, seed: int = 3) -> World:
    return World(4_000, SCENARIOS[name][2].streams, seed)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_names_an_asset_of_the_registry_and_lies_in_the_run(name):
    world, knobs = world_of(name), SCENARIOS[name][2]
    parsed = parse([RegistryCsv(kind, f"{i}", data) for i, (kind, data) in enumerate(world.registry())])
    named = {kind: {row[0] for row in rows} for kind, rows in parsed.rows.items()}
    done = trouble(world, knobs, START_US)
    for fault in done.faults:
        assert fault.asset in named[fault.asset_kind + "s"]
        assert START_US - INTERVAL_US <= fault.onset_us < START_US + knobs.intervals * INTERVAL_US
        assert fault.end_us is None or fault.end_us > fault.onset_us
        assert fault.meters > 0
    if name in ("steady", "flatout", "catchup"):
        assert done.faults == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_makes_the_same_faults_and_another_one_others(name):
    knobs = SCENARIOS[name][2]
    first = trouble(world_of(name), knobs, START_US).faults
    assert first == trouble(world_of(name), knobs, START_US).faults
    assert not first or first != trouble(world_of(name, 4), knobs, START_US).faults


def test_no_transformer_has_two_faults():
    world = world_of("chaos")
    done = trouble(world, SCENARIOS["chaos"][2], START_US)
    seen: set[int] = set()
    for fault in done.faults:
        if fault.kind == "NOISE":  # many, drawn with repeats, but on transformers of their own
            continue
        if fault.asset_kind == "feeder":
            mine = set(world.transformers_of_feeder(int(fault.asset[1:])))
        elif fault.asset_kind == "concentrator":
            mine = set(world.transformer_of[world.behind(fault.asset)].tolist())
        elif fault.asset_kind == "meter":
            mine = {int(world.transformer_of[int(fault.asset[1:])])}
        else:
            mine = {int(fault.asset[1:])}
        assert not mine & seen, fault
        seen |= mine


def test_storm_takes_a_tenth_of_the_feeders_within_minutes():
    world, knobs = World(20_000, 2, 1), SCENARIOS["storm"][2]
    outages = [f for f in trouble(world, knobs, START_US).faults if f.asset_kind == "feeder"]
    assert len(outages) == round(world.feeders * 0.1)
    onsets = [fault.onset_us for fault in outages]
    assert max(onsets) - min(onsets) <= knobs.feeders_out_within_s * 1e6


def load_of(world: World, done: Trouble, transformer: int, end_us: np.ndarray) -> np.ndarray:
    """Load over rating as the reads will have it."""
    extra = done.extra_wh[done.hot_row[transformer]] * world.transformer(transformer).meters
    return world.natural_load(transformer, end_us) + extra / world.window_wh(transformer)


def test_heat_takes_hot_transformers_over_their_rating_for_hours_and_warm_ones_only_near():
    world, knobs = world_of("heatwave"), SCENARIOS["heatwave"][2]
    done = trouble(world, knobs, START_US)
    end_us = START_US + np.arange(knobs.intervals) * INTERVAL_US
    over = {int(fault.asset[1:]): fault for fault in done.faults}
    hot = {number for number, fault in over.items() if load_of(world, done, number, end_us).max() > 1.1}
    assert len(hot) == round_up(knobs.hot_transformers_share * world.transformers)
    assert len(over) - len(hot) == round_up(knobs.edge_transformers_share * world.transformers)
    warm = 0
    for transformer in np.flatnonzero(done.hot_row).tolist():
        load = load_of(world, done, transformer, end_us)
        if transformer in hot:
            assert (load > 1.0).sum() >= 12
            assert load.max() < knobs.hot_peak + 0.05
        elif transformer in over:
            assert 1.0 < load.max() < 1.05
            assert over[transformer].hot_us is None
            assert over[transformer].two_hour_rule_us is not None
        else:
            warm += 1
            assert 0.85 < load.max() < 0.98
    assert warm == round_up(knobs.warm_transformers_share * world.transformers)


def test_settings_turn_knobs_by_their_type():
    knobs = turned(Knobs(), ["late_share=0.25", "streams=3", "dst_day=true", "paced=no"])
    assert (knobs.late_share, knobs.streams, knobs.dst_day, knobs.paced) == (0.25, 3, True, False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("late=0.1", "expected knob=value"),
        ("streams", "expected knob=value"),
        ("streams=many", "expects int"),
        ("streams=0", "at least 1"),
        ("late_share=2", "expected 0 to 1"),
        ("speed=0", "more than 0"),
        ("resent_days=-1", "0 or more"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(setting, message):
    with pytest.raises(ValueError, match=message):
        turned(Knobs(), [setting])


def test_every_knob_can_be_set_by_name():
    for knob in fields(Knobs):
        value = getattr(Knobs(), knob.name)
        assert turned(Knobs(), [f"{knob.name}={value}"]) == replace(Knobs())


@pytest.mark.parametrize(("intervals", "expected"), [(4, False), (16, True)])
def test_a_concentrator_is_to_be_told_only_if_it_is_dead_for_longer_than_its_grace(intervals: int, expected: bool):
    knobs = replace(SCENARIOS["storm"][2], intervals=intervals)
    found = [one for one in trouble(world_of("storm"), knobs, START_US).faults if one.kind == "COMM_LOSS"]
    assert [one.expected for one in found] == [expected]


def test_planned_work_is_announced_with_room_around_what_it_takes_off():
    done = trouble(world_of("storm"), SCENARIOS["storm"][2], START_US)
    true = [fault for fault in done.faults if fault.kind == "PLANNED"]
    assert len(true) == SCENARIOS["storm"][2].planned_transformers == len(done.planned)
    for fault, work in zip(true, done.planned, strict=True):
        assert work.asset == fault.asset
        assert work.onset_us < fault.onset_us < fault.end_us < work.end_us


def test_meters_per_transformer_gives_so_many_transformers_and_small_fleets_enough_feeders():
    assert World(20_000, 2, 1, meters_per_transformer=100).transformers == 200
    small = World(1_500, 2, 3, meters_per_transformer=100)
    assert small.feeders >= small.streams
    assert int(small.first_of_transformer[-1]) == 1_500
