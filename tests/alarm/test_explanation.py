"""An explanation says what each change changed, and names the family of an alarm; real database, real wire."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import grpc
import orjson
from alarm_cases import ack, episode, verdict
from hypothesis import given
from hypothesis import strategies as st
from test_service import refusal, serving

from alarm.explain import differences, limits_told
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.episodes import Severity
from meterwatch.explained import Delivery, LoadSeen, MeterSeen, MetersSeen, Seen
from meterwatch.v1 import alarms_pb2 as pb

ALARM = Alarm(
    "OUT-1", "OUTAGE", "feeder", 0, "F0", "F0", "North", AlarmState.UNACK_ACTIVE, Severity.HIGH, "SUSTAINED",
    10, 20, None, 30, 1, 1, None, "out", {"affected": 3, "thresholds": {"posterior_min": 0.99}},
)  # fmt: skip
changes_ = st.fixed_dictionaries(
    {},
    optional={
        "severity": st.sampled_from(Severity),
        "state": st.sampled_from(AlarmState),
        "cleared_us": st.none() | st.integers(0, 99),
        "note": st.none() | st.text(max_size=3),
        "summary": st.text(max_size=3),
        "evidence": st.dictionaries(st.sampled_from(["affected", "posterior", "thresholds"]), st.integers(0, 3)),
    },
)


@given(changes_)
def test_the_differences_turn_the_version_before_into_the_one_after(changes: dict[str, Any]) -> None:
    now = replace(ALARM, version=2, **changes)
    was, evidence = ALARM.to_json(), dict(ALARM.evidence)
    for name, before, after in differences(ALARM, now):
        assert before != after
        if name.startswith("evidence."):
            part = name.removeprefix("evidence.")
            assert evidence.pop(part, None) == before
            if after is not None:
                evidence[part] = after
        else:
            assert was[name] == before
            was[name] = after
    assert was | {"evidence": evidence, "version": 2} == now.to_json()


def test_a_new_alarm_differs_from_nothing() -> None:
    assert list(differences(None, ALARM)) == []


def test_the_limits_of_every_rule_are_found_in_its_evidence() -> None:
    assert limits_told(ALARM.evidence) == {"posterior_min": 0.99}
    assert limits_told({"peak_b": 1.3, "raise_pu": 1.0, "hold_s": 7200}) == {"raise_pu": 1.0, "hold_s": 7200}


async def test_an_explanation_names_parent_children_and_what_each_change_changed(dsn: str) -> None:
    async with serving(dsn) as world:
        root = verdict(episode(10, evidence={"affected": 4}), kind="feeder")
        await world.desk.record([verdict(episode(10), asset_id=i) for i in range(3)], [])
        folded = [verdict(episode(10, parent=("feeder", 0)), asset_id=i) for i in range(3)]
        (raised, *_) = await world.desk.record([root, *folded], [])
        await world.desk.act(ack(raised.alarm.alarm_id), 0)
        await world.desk.record([verdict(episode(9, evidence={"affected": 4}), kind="feeder")], [])

        found = await world.stub.Explain(pb.ExplainRequest(alarm_id=raised.alarm.alarm_id))
        assert [(c.state, c.alarms) for c in found.child_count] == [(pb.ALARM_STATE_SUPPRESSED, 3)]
        assert len(found.child) == 3
        assert not found.HasField("parent")
        assert [(c.kind, c.version, c.operator, c.note) for c in found.change] == [
            ("RAISED", 1, "", ""), ("ACKNOWLEDGED", 2, "Kim", "why"), ("AMENDED", 3, "", ""),
        ]  # fmt: skip
        amended = {f.name: (orjson.loads(f.before_json), orjson.loads(f.after_json)) for f in found.change[2].field}
        assert amended["onset_us"] == (raised.alarm.onset_us, raised.alarm.onset_us - 60_000_000)

        child = await world.stub.Explain(pb.ExplainRequest(alarm_id=found.child[0].alarm_id))
        assert child.parent.alarm_id == raised.alarm.alarm_id
        assert list(child.child_count) == []


async def test_children_shown_are_bounded_and_counted_in_full(dsn: str) -> None:
    async with serving(dsn) as world:
        root = verdict(episode(10), kind="feeder")
        many = [episode(10 + i * 30, 11 + i * 30) for i in range(70)]  # too far apart to chatter
        await world.desk.record([verdict(*many)], [])
        folded = verdict(*(replace(one, parent=("feeder", 0)) for one in many))
        (raised, *_) = await world.desk.record([root, folded], [])
        found = await world.stub.Explain(pb.ExplainRequest(alarm_id=raised.alarm.alarm_id))
        assert (sum(c.alarms for c in found.child_count), len(found.child)) == (70, 50)


async def test_what_the_witness_saw_travels_whole(dsn: str) -> None:
    meter = MeterSeen("M0", "T0", "OFF", 1, "EVENT", 2, 3, "READ", 4, 5, 6)
    load = LoadSeen(7, 1.25, 0.5, True, "HEAVY", 900, 0)
    delivery = Delivery(1, "NEW", "grid", "outages", "pager", 2, "SENT", 8, 9, 3, "refused once")
    seen = Seen("default", {"posterior_min": 0.9}, MetersSeen(9, 8, 7, 6, 5, (meter,)), (load,), (delivery,))

    async def witness(_: Alarm, districts: Collection[str]) -> Seen:
        return seen

    async with serving(dsn, witness=witness) as world:
        evidence = {"rules": "then", "thresholds": {"posterior_min": 0.99}}
        (raised,) = await world.desk.record([verdict(episode(10, evidence=evidence))], [])
        found = await world.stub.Explain(pb.ExplainRequest(alarm_id=raised.alarm.alarm_id))
        assert (found.told_by, found.rules_version) == ("then", "default")
        assert [(one.name, one.told_json, one.now_json) for one in found.limit] == [("posterior_min", "0.99", "0.9")]
        for message, made in ((found.meters.meter[0], meter), (found.load[0], load), (found.delivery[0], delivery)):
            names = list(type(made).__dataclass_fields__)
            assert {field.name for field in message.DESCRIPTOR.fields} == set(names)
            assert [getattr(message, name) for name in names] == [getattr(made, name) for name in names]
        assert (found.meters.members, found.meters.looked_at, found.meters.off) == (9, 8, 7)
        assert (found.meters.on, found.meters.silent) == (6, 5)


async def test_an_unknown_alarm_is_not_explained(dsn: str) -> None:
    async with serving(dsn) as world:
        assert (await refusal(world.stub.Explain(pb.ExplainRequest(alarm_id="OUT-x"))))[:2] == (
            grpc.StatusCode.NOT_FOUND,
            "ALARM_UNKNOWN",
        )
