"""The time table: same seed same bytes, ordered, every read once, and what is lost is named."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loadtest.plan import GHOST, Message, Plan
from loadtest.scenarios import SCENARIOS, Knobs
from loadtest.world import INTERVAL_US, World
from meterwatch.v1.ingest_pb2 import EventCode, IngestRequest, SendEventsRequest

START_US = 1_770_076_800_000_000


def plan_of(name: str, meters: int = 1_500, seed: int = 3, **more) -> Plan:
    knobs = replace(SCENARIOS[name][2], **({"streams": 2, "intervals": 12} | more))
    return Plan(
        World(meters, knobs.streams, seed, knobs.three_phase_share, knobs.meters_per_transformer), knobs, START_US
    )


def messages(plan: Plan) -> list[tuple[int, Message]]:
    return [(stream, message) for stream in range(plan.knobs.streams) for message in plan.messages(stream)]


def reads(plan: Plan) -> list[tuple[str, int, int]]:
    """(meter, end_us on its grid, import_wh) of every row, in order of sending."""
    rows = []
    for stream, message in messages(plan):
        if message.kind == "reads":
            batch = IngestRequest.FromString(message.request).batch
            names = plan.dictionary(stream)
            assert len(batch.meter_index) == message.rows
            assert batch.seq == message.seq
            grid = [round((at - START_US) / INTERVAL_US) * INTERVAL_US + START_US for at in batch.stamp_us]
            rows += list(zip((names[i] for i in batch.meter_index), grid, batch.import_wh, strict=True))
    return rows


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_bytes(name):
    def digest(plan: Plan) -> str:
        return hashlib.sha256(b"".join(message.request for _, message in messages(plan))).hexdigest()

    assert digest(plan_of(name)) == digest(plan_of(name))
    assert digest(plan_of(name)) != digest(plan_of(name, seed=4))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_stream_s_messages_come_in_the_order_of_their_times_and_numbers(name):
    plan = plan_of(name)
    for stream in range(plan.knobs.streams):
        mine = list(plan.messages(stream))
        offsets = [message.offset_s for message in mine]
        assert offsets == sorted(offsets)
        assert all(0 <= offset <= plan.seconds + plan.knobs.flush_s for offset in offsets)
        for kind in ("reads", "events"):
            assert [m.seq for m in mine if m.kind == kind] == list(range(1, sum(m.kind == kind for m in mine) + 1))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_meter_s_intervals_are_complete_but_for_the_declared_losses(name):
    plan = plan_of(name, malformed_share=0.0, clock_drift_s=0.0)
    found = Counter((meter, end_us) for meter, end_us, _ in reads(plan))
    expected = set()
    for stream in range(plan.knobs.streams):
        for interval in plan.intervals_of(stream):
            lost = set(plan.lost(stream, interval).tolist())
            end_us = START_US + interval * INTERVAL_US
            expected |= {(plan.world.name(m), end_us) for m in plan.world.meters_of_stream(stream) if m not in lost}
    assert set(found) == expected
    copies = sum(message.copies for _, message in messages(plan))
    assert sum(found.values()) == len(expected) + copies


def test_a_copy_carries_the_values_of_the_read():
    plan = plan_of("steady", duplicate_share=0.2, resent_days=1.0)
    values: dict[tuple[str, int], int] = {}
    for meter, end_us, wh in reads(plan):
        assert values.setdefault((meter, end_us), wh) == wh


@pytest.mark.parametrize("intervals", [3, 12])
def test_nothing_is_sent_before_it_is_there(intervals):
    plan = plan_of("storm", out_of_order_depth_messages=5, intervals=intervals)
    for _, message in messages(plan):
        if message.kind == "reads":
            batch = IngestRequest.FromString(message.request).batch
            newest = max(batch.stamp_us) - START_US
        else:
            newest = max(SendEventsRequest.FromString(message.request).at_us) - START_US
        assert message.offset_s * plan.knobs.speed * 1e6 > newest


def test_who_is_without_supply_sends_no_reads_and_says_so_if_its_last_gasp_arrives():
    plan = plan_of("storm", meters=3_000, spurious_events_per_1000_meters=0.0, gasp_probability=0.6)
    feeder = next(fault for fault in plan.faults if fault.asset_kind == "feeder")
    asset = plan.world.feeder(int(feeder.asset[1:]))
    mine = {plan.world.name(meter) for meter in range(asset.first, asset.last)}
    assert not [row for row in reads(plan) if row[0] in mine and feeder.onset_us <= row[1] < feeder.end_us]
    codes: Counter[int] = Counter()
    for _, message in messages(plan):
        if message.kind == "events":
            request = SendEventsRequest.FromString(message.request)
            for index, at_us, code in zip(request.meter_index, request.at_us, request.code, strict=True):
                if request.meter[index] in mine:
                    codes[code] += 1
                    assert feeder.onset_us <= at_us <= feeder.end_us + 10_000_000
    assert codes[EventCode.EVENT_CODE_POWER_RESTORED] == asset.meters
    assert 0.5 < codes[EventCode.EVENT_CODE_POWER_FAIL] / asset.meters < 0.7


def test_a_dead_concentrator_keeps_its_reads_until_it_is_back():
    plan = plan_of("storm", intervals=16, out_of_order_depth_messages=0)
    dead = plan.trouble.dead[0]
    names = {plan.world.name(meter) for meter in dead.meters.tolist()}
    sent_us = []
    for stream, message in messages(plan):
        if message.kind == "reads":
            batch = IngestRequest.FromString(message.request).batch
            dictionary = plan.dictionary(stream)
            if any(dictionary[i] in names for i in batch.meter_index):
                sent_us.append(START_US + message.offset_s * plan.knobs.speed * 1e6)
    slack_us = 2 * plan.knobs.flush_s * plan.knobs.speed * 1e6
    assert not [at for at in sent_us if dead.from_us + slack_us < at < dead.to_us]
    assert [at for at in sent_us if at > dead.to_us]


def test_damaged_copies_are_of_every_kind_and_counted():
    plan = plan_of("steady", malformed_share=0.05)
    damaged = sum(message.malformed for _, message in messages(plan))
    rows = reads(plan)
    assert damaged > 100
    assert any(meter == GHOST for meter, _, _ in rows)
    assert any(wh < 0 for _, _, wh in rows)
    assert any(end_us > plan.end_us(plan.knobs.intervals) for _, end_us, _ in rows)
    lost = sum(len(plan.lost(s, i)) for s in range(2) for i in plan.intervals_of(s))
    assert len(rows) == plan.world.meters * plan.knobs.intervals - lost + damaged


def test_overtaking_delays_messages_and_loses_none():
    plain, mixed = plan_of("steady"), plan_of("steady", out_of_order_depth_messages=6)
    assert sorted(reads(plain)) == sorted(reads(mixed))
    assert reads(plain) != reads(mixed)


def test_late_reads_come_later_and_are_no_other_reads():
    plain, late = plan_of("steady"), plan_of("steady", late_share=0.5)
    assert sorted(reads(plain)) == sorted(reads(late))
    sent = [sum(m.rows for _, m in messages(p) if m.offset_s < p.seconds / 4) for p in (plain, late)]
    assert sent[1] < 0.8 * sent[0]


def test_a_head_end_that_returns_begins_with_its_backlog():
    plan = plan_of("catchup", intervals=2, backlog_hours=3.0)
    first = [message for message in plan.messages(0) if not message.paced]
    assert sum(message.rows for message in first) > 0.98 * 12 * len(plan.world.meters_of_stream(0))
    assert {message.offset_s for message in first} == {0.0}
    assert all(message.paced for message in plan.messages(1))


def test_a_plan_can_be_drawn_bit_by_bit():
    plan = Plan(World(1_500, 2, 3), Knobs(intervals=100_000), START_US)
    stream = plan.messages(0)
    assert [next(stream).seq for _ in range(50)] == list(range(1, 51))


def test_drift_stays_within_what_the_service_snaps():
    plan = plan_of("steady", clock_drift_s=30.0)
    off_s = []
    for _, message in messages(plan):
        batch = IngestRequest.FromString(message.request).batch
        off_s += [(at - START_US + 450_000_000) % INTERVAL_US / 1e6 - 450 for at in batch.stamp_us]
    assert 3.5 < np.abs(off_s).max() < 5
