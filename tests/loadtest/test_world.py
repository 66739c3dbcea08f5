"""The load test's fleet: deterministic, whole, and quiet by nature."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.world import INTERVAL_US, MODES, NATURAL_LOAD_MAX, PLC, RF, World, chance
from meterwatch.registry_csv import RegistryCsv, parse

START_US = 1_770_076_800_000_000
WORLD = World(meters=3_000, streams=3, seed=5)


def registry(world: World):
    return parse([RegistryCsv(kind, f"{kind}-{i}.csv", data) for i, (kind, data) in enumerate(world.registry())])


def test_the_registry_is_accepted_by_the_service_s_own_reader_and_names_every_meter_once():
    parsed = registry(WORLD)
    assert parsed.problems == []
    assert [row.meter for row in parsed.rows["meters"]] == [WORLD.name(m) for m in range(WORLD.meters)]
    assert len(parsed.rows["transformers"]) == WORLD.transformers
    assert len(parsed.rows["feeders"]) == WORLD.feeders
    names = {row.concentrator for row in parsed.rows["concentrators"]}
    assert {row.concentrator for row in parsed.rows["meters"] if row.concentrator} == names
    assert {row.comm_mode for row in parsed.rows["meters"]} == {mode.name for mode in MODES}
    assert {row.phases for row in parsed.rows["meters"]} == {"A", "B", "C", "ABC"}


def test_a_concentrator_and_its_meters_belong_to_one_head_end():
    parsed = registry(WORLD)
    head_end_of = {row.concentrator: row.head_end for row in parsed.rows["concentrators"]}
    for row in parsed.rows["meters"]:
        assert not row.concentrator or head_end_of[row.concentrator] == row.head_end


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_every_meter_belongs_to_exactly_one_stream(streams):
    world = World(3_000, streams, 5)
    assert [m for s in range(streams) for m in world.meters_of_stream(s)] == list(range(3_000))
    assert world.stream_of(world.meters - 1) == streams - 1


def test_more_streams_than_feeders_are_refused_with_what_to_change():
    with pytest.raises(ValueError, match="give fewer streams"):
        World(500, 8, 1)
    with pytest.raises(ValueError, match="give at least --streams 3"):
        World(2_000_001, 2, 1)


def test_no_transformer_is_near_its_rating_by_nature():
    end_us = START_US + np.arange(192) * INTERVAL_US
    loads = np.array([WORLD.natural_load(t, end_us) for t in range(WORLD.transformers)])
    assert loads.max() < NATURAL_LOAD_MAX * 1.02
    assert loads.min() > 0.01


def test_a_read_depends_on_its_meter_and_interval_alone():
    meters = np.arange(100, 400, dtype=np.int32)
    end_us = np.full(300, START_US)
    none = np.zeros(300, np.int32)
    together = WORLD.channels(meters, end_us, none)
    order = np.random.default_rng(1).permutation(300)
    again = World(3_000, 1, 5).channels(meters[order], end_us, none)
    other = World(3_000, 1, 6).channels(meters, end_us, none)
    for name, values in together.items():
        np.testing.assert_array_equal(values[order], again[name])
        assert not np.array_equal(values, other[name])


def test_chance_is_uniform_and_its_purposes_are_independent():
    meters = np.arange(20_000)
    one, two = chance(1, 1, meters, 7), chance(1, 2, meters, 7)
    assert one.min() >= 0
    assert one.max() < 1
    assert abs(one.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_those_behind_a_concentrator_name_it_as_theirs():
    name = next(c for m in range(WORLD.meters) if (c := WORLD.concentrator_of(m)).startswith("RF"))
    for concentrator, mode in ((WORLD.concentrator_of(int(np.flatnonzero(WORLD.mode == PLC)[0])), PLC), (name, RF)):
        behind = WORLD.behind(concentrator).tolist()
        assert behind == [m for m in range(WORLD.meters) if WORLD.concentrator_of(m) == concentrator]
        assert set(WORLD.mode[behind].tolist()) == {mode}


def test_parents_lead_from_a_meter_to_its_district_and_first_meter_leads_back():
    meter = WORLD.name(2_500)
    chain = dict(WORLD.parents(meter))
    transformer = chain[meter]
    feeder = chain[transformer]
    assert chain[feeder].startswith("D")
    assert WORLD.first_meter(meter) == 2_500
    asset = WORLD.transformer(int(transformer[1:]))
    assert asset.first <= 2_500 < asset.last
    assert WORLD.first_meter(transformer) == asset.first
    assert WORLD.first_meter(feeder) <= asset.first
    assert list(WORLD.parents("PLC-000001")) == []
    assert WORLD.first_meter("LT-1") == WORLD.meters_of_stream(1).start
    assert WORLD.first_meter("unheard-of") is None


@pytest.mark.parametrize("meters", range(600, 3_000, 170))
def test_no_feeder_has_only_one_transformer_as_a_rule_could_not_tell_them_apart(meters):
    world = World(meters, 1, 2)
    own = [world.transformers_of_feeder(feeder) for feeder in range(world.feeders)]
    assert [transformer for part in own for transformer in part] == list(range(world.transformers))
    assert min(len(part) for part in own) >= 12
    assert all(world.feeder_of(transformer) == feeder for feeder, part in enumerate(own) for transformer in part)
