"""What is off in each district, counted from the alarms; storms that are kept; metrics."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from alarm.profile import StormLimits
from loadtest.world import World
from meterwatch.alarms import Alarm, AlarmState, Pages
from meterwatch.clock import US, ReplayClock
from meterwatch.devtools.storm_score import START_US, topology_of
from meterwatch.episodes import Severity
from meterwatch.errors import StorageUnavailable
from meterwatch.metrics import Metrics
from meterwatch.storm_watch import Districts, StormWatch, open_outages
from meterwatch.storms import Census, Storm, StormReason
from meterwatch.topology import PHASE_A, Topology

WORLD = World(2_000, 1, 1)


def county() -> Topology:
    """Feeders in North and South by turns, and one in no district."""
    plain = topology_of(WORLD)
    feeder = [("North", "South")[i % 2] for i in range(len(plain.feeder))]
    feeder[-1] = ""
    return replace(plain, feeder_district=feeder)


COUNTY = county()


def outage(kind: str, asset_id: int, **changes: Any) -> Alarm:
    transformer = int(COUNTY.transformer_of[asset_id]) if kind == "meter" else asset_id
    feeder = asset_id if kind == "feeder" else int(COUNTY.feeder_of[transformer])
    made = Alarm(
        f"{kind}-{asset_id}", "OUTAGE", kind, asset_id, "", "", COUNTY.feeder_district[feeder],
        AlarmState.UNACK_ACTIVE, Severity.HIGH, "SUSTAINED", START_US, START_US, None, START_US, 1, 1, None, "",
    )  # fmt: skip
    return replace(made, **changes)


def counted(outages: Sequence[Alarm], now_us: int, topology: Topology = COUNTY) -> dict[str, Census]:
    """The same meter by meter."""
    meters: Counter[str] = Counter()
    off: Counter[str] = Counter()
    for slot in range(topology.slots):
        transformer = int(topology.transformer_of[slot])
        feeder = int(topology.feeder_of[transformer])
        above = {("meter", slot), ("transformer", transformer), ("feeder", feeder)}
        if not topology.installed_us[slot] <= now_us < topology.retired_us[slot]:
            continue
        name = topology.feeder_district[feeder]
        meters[name] += 1
        off[name] += any(
            (one.asset_kind, one.asset_id) in above
            and (one.evidence.get("phase") != "A" or topology.phases[slot] == PHASE_A)
            for one in outages
        )
    roots = Counter(one.district for one in outages)
    return {name: Census(meters[name], off[name], roots[name]) for name in meters if name}


@pytest.mark.parametrize("seed", range(5))
def test_what_is_off_is_counted_as_by_hand_each_meter_once(seed: int) -> None:
    rng = random.Random(seed)
    outages = [outage("feeder", rng.randrange(len(COUNTY.feeder)))]
    outages += [outage("transformer", rng.randrange(len(COUNTY.transformer))) for _ in range(4)]
    outages += [outage("meter", rng.randrange(COUNTY.slots)) for _ in range(9)]
    outages.append(outage("transformer", rng.randrange(len(COUNTY.transformer)), evidence={"phase": "A"}))
    retired = COUNTY.retired_us.copy()
    retired[rng.sample(range(COUNTY.slots), 50)] = START_US
    topology = replace(COUNTY, retired_us=retired)
    assert Districts(topology).census(outages, START_US + US) == counted(outages, START_US + US, topology)


def test_only_open_outages_that_call_for_somebody_count() -> None:
    counts = [
        outage("transformer", 0),
        outage("transformer", 1, state=AlarmState.ACK_ACTIVE, shelved_until_us=START_US),
    ]
    others = [
        outage("transformer", 2, state=AlarmState.SUPPRESSED),
        outage("transformer", 3, state=AlarmState.RTN_UNACK, cleared_us=START_US),
        outage("transformer", 4, state=AlarmState.RETRACTED),
        outage("transformer", 5, state=AlarmState.NORMAL),
        outage("transformer", 6, rule="OVERLOAD"),
    ]
    assert open_outages([*counts, *others]) == counts


class Table:
    """Storms in memory; away: the next call fails."""

    def __init__(self) -> None:
        self.rows: dict[tuple[StormReason, str, int], Storm] = {}
        self.away = False
        self.given = 0
        """Storms of the last call."""

    async def lasting(self) -> list[Storm]:
        return [storm for storm in self.rows.values() if storm.until_us is None]

    async def keep(self, storms: Sequence[Storm]) -> None:
        self.given = len(storms)
        if self.away:
            raise StorageUnavailable("away")
        self.rows |= {(*storm.key, storm.since_us): storm for storm in storms}


class Watched:
    """A watch over alarms put into its hand, and over so many pages in the last window."""

    def __init__(self, table: Table) -> None:
        self.clock = ReplayClock(START_US)
        self.alarms: list[Alarm] = []
        self.pages = 0
        desk: Any = SimpleNamespace(book=self.alarms)
        reader: Any = SimpleNamespace(pages=self.read)
        self.watch = StormWatch(table, reader, desk, lambda: COUNTY, self.clock, 1, StormLimits())

    async def read(self, *_: Any, **__: Any) -> Pages:
        return Pages({0: self.pages}, [], [])


async def test_storms_are_kept_and_go_on_after_a_start_and_end_with_their_outages() -> None:
    table = Table()
    first = Watched(table)
    await first.watch.start()
    await first.watch.refresh()
    assert table.rows == {}
    north = [i for i, name in enumerate(COUNTY.feeder_district) if name == "North"]
    first.alarms += [outage("feeder", feeder) for feeder in north]
    table.away = True
    with pytest.raises(StorageUnavailable):
        await first.watch.refresh()
    assert [storm.key for storm in first.watch.storms.lasting()] == [(StormReason.OFF, "North")]
    table.away = False
    await first.watch.refresh()
    [kept] = table.rows.values()
    assert (kept.district, kept.off_max, kept.roots_max, kept.until_us) == (
        "North", int(np.isin(COUNTY.feeder_of[COUNTY.transformer_of], north).sum()), len(north), None,
    )  # fmt: skip
    assert first.watch.stands_aside(outage("meter", 0, district="North"))

    again = Watched(table)
    await again.watch.start()
    assert again.watch.stands_aside(outage("meter", 0, district="North"))
    await again.watch.refresh()
    again.clock.saw(START_US + StormLimits().calm_s * US)
    await again.watch.refresh()
    assert not again.watch.storms.lasting()
    [ended] = table.rows.values()
    assert ended.until_us == again.clock.now_us()


async def test_what_the_database_does_not_take_is_kept_once_a_storm() -> None:
    table = Table()
    watched = Watched(table)
    await watched.watch.start()
    north = [i for i, name in enumerate(COUNTY.feeder_district) if name == "North"]
    table.away = True
    for feeder in north:  # each look finds more of it off
        watched.alarms.append(outage("feeder", feeder))
        watched.clock.saw(watched.clock.now_us() + 5 * US)
        with suppress(StorageUnavailable):
            await watched.watch.refresh()
    assert table.given == 1
    table.away = False
    await watched.watch.refresh()
    [kept] = table.rows.values()
    assert kept.roots_max == len(north)


async def test_metrics_tell_how_many_storms_there_are_and_how_much_is_off() -> None:
    watched, metrics = Watched(Table()), Metrics()
    watched.watch.watch(metrics)
    watched.alarms += [outage("feeder", 1)]
    watched.pages = 11
    await watched.watch.refresh()
    text = generate_latest(metrics.registry).decode()
    off = int((COUNTY.feeder_of[COUNTY.transformer_of] == 1).sum())
    south = counted([], START_US)["South"].meters
    assert "meterwatch_storms 2.0" in text
    assert f"meterwatch_storm_meters_off {float(off)}" in text
    assert f"meterwatch_district_off_share_max {off / south}" in text
