"""Every filter over a live subscription: by district, feeder, type, severity, priority, department, state and paging.

A history of faults and operators' actions goes on while subscribers come, break off in the midst and resume. Each is
sent the transitions of its alarms, those with which they become its own and those with which they leave, once and in
order, beginning at the cut of its snapshot; and what it then has is what the table has for it. What is its own a plain
sentence about one alarm says here, beside each filter.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from alarm_cases import act, episode, verdict
from routes_world import routes
from test_service import World, serving

from alarm.wire import PRIORITY_TO_WIRE, STATE_TO_WIRE
from meterwatch.alarms import Alarm, AlarmState, Priority, Transition, TransitionKind
from meterwatch.episodes import Severity, Verdict
from meterwatch.errors import Rejected
from meterwatch.v1 import alarms_pb2 as pb

Mine = Callable[[Alarm], bool]
ROUTES = routes(
    """
version: 1
targets:
  hook: {kind: alertmanager, url: "http://127.0.0.1:9"}
departments:
  crews: {targets: [hook]}
  planners: {targets: [hook]}
  chiefs: {targets: [hook]}
routes:
  - {name: outages, match: {type: [OUTAGE], district: [South]}, department: crews,
     escalate: [{after_s: 900, department: chiefs}]}
  - {name: loads, match: {type: [OVERLOAD], severity_min: HIGH}, department: planners}
"""
)
PAGED = (AlarmState.UNACK_ACTIVE, AlarmState.ACK_ACTIVE, AlarmState.RTN_UNACK)


def _of_crews(alarm: Alarm) -> bool:
    return alarm.rule == "OUTAGE" and alarm.district == "South"


def _of_planners(alarm: Alarm) -> bool:
    return alarm.rule == "OVERLOAD" and alarm.severity >= Severity.HIGH


def _pages(alarm: Alarm) -> bool:
    return alarm.state in PAGED and alarm.shelved_until_us is None and alarm.out_of_service_by is None


def _label(alarm: Alarm, name: str) -> str:
    return str(alarm.evidence.get("labels", {}).get(name, ""))


CASES: dict[str, tuple[pb.AlarmFilter, Mine]] = {
    "all": (pb.AlarmFilter(), lambda a: True),
    "district": (pb.AlarmFilter(district=["South", "West"]), lambda a: a.district == "South"),
    "feeder": (pb.AlarmFilter(feeder=["F0"]), lambda a: a.feeder == "F0"),
    "no such feeder": (pb.AlarmFilter(feeder=["F9"]), lambda a: False),
    "type": (pb.AlarmFilter(type=["OVERLOAD"]), lambda a: a.rule == "OVERLOAD"),
    "severity": (pb.AlarmFilter(severity_min=pb.SEVERITY_HIGH), lambda a: a.severity >= Severity.HIGH),
    "priority": (pb.AlarmFilter(priority_min=pb.PRIORITY_CRITICAL), lambda a: a.priority >= Priority.CRITICAL),
    "state": (
        pb.AlarmFilter(state=[pb.ALARM_STATE_ACK_ACTIVE, pb.ALARM_STATE_RTN_UNACK]),
        lambda a: a.state in (AlarmState.ACK_ACTIVE, AlarmState.RTN_UNACK),
    ),
    "paging": (pb.AlarmFilter(paging_only=True), _pages),
    "department": (pb.AlarmFilter(department=["planners"]), _of_planners),
    "departments": (pb.AlarmFilter(department=["crews", "planners"]), lambda a: _of_crews(a) or _of_planners(a)),
    "escalation, label": (
        pb.AlarmFilter(department=["chiefs"]), lambda a: _of_crews(a) or _label(a, "department") == "chiefs"
    ),
    "label": (
        pb.AlarmFilter(label=[pb.WantedLabel(name="network", value=["lv", "hv"])]),
        lambda a: _label(a, "network") == "lv",
    ),
    "labels": (
        pb.AlarmFilter(
            label=[pb.WantedLabel(name=n, value=[v]) for n, v in (("network", "mv"), ("department", "chiefs"))],
            type=["USER"],
        ),
        lambda a: _label(a, "network") == "mv",
    ),
    "no such label": (pb.AlarmFilter(label=[pb.WantedLabel(name="crew", value=["x"])]), lambda a: False),
    "several": (
        pb.AlarmFilter(
            department=["planners"], district=["North"], state=[pb.ALARM_STATE_UNACK_ACTIVE],
            severity_min=pb.SEVERITY_CRITICAL,
        ),
        lambda a: _of_planners(a) and a.district == "North" and a.state is AlarmState.UNACK_ACTIVE and a.severity == 4,
    ),
}  # fmt: skip


def concerns(names: Any) -> Any:
    if unknown := [name for name in names if name not in ROUTES.departments]:
        raise Rejected("FILTER_INVALID", f"there is no {unknown[0]}")
    return tuple(ROUTES.concerns(name) for name in names)


class History:
    """Faults and actions by a seed; `log` has every transition."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.dice, self.log = world, random.Random(seed), []  # type: tuple[World, random.Random, list[Transition]]
        world.desk.published = self.log.extend

    async def step(self) -> None:
        desk, dice = self.world.desk, self.dice
        known = [alarm.alarm_id for alarm in desk.book if not alarm.finished]
        if known and dice.random() < 0.4:
            kinds = (TransitionKind.ACKNOWLEDGED, TransitionKind.SHELVED, TransitionKind.UNSHELVED)
            kind = dice.choice(kinds)
            of = {"shelve_s": 60} if kind is TransitionKind.SHELVED else {}
            action = act(dice.choice(known), kind, f"{id(self)} {len(self.log)} {dice.random()}", **of)
            await desk.act_on_many(action, {action.alarm_id: 0})
            return
        await desk.record([self.fault(asset) for asset in dice.sample(range(4), dice.randint(1, 4))], [])

    def fault(self, asset: int) -> Verdict:
        dice = self.dice
        level = dice.choice(list(Severity))
        rule, evidence = dice.choice(["OUTAGE", "OVERLOAD", "USER/hot"]), {"affected": dice.randint(1, 500)}
        if rule == "USER/hot":
            evidence |= {"labels": {"network": "lv" if asset % 2 else "mv", "department": "chiefs"}}
        found = episode(10, dice.choice([None, None, 20]), severity=level, evidence=evidence)
        return replace(verdict(found, asset_id=asset, retract=True), rule=rule)


class Subscriber:
    """One who keeps its cursor over breaks, what it was sent, and what it has."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.wanted, self.mine = CASES[name]
        self.cut = self.cursor = 0
        self.log_id = ""
        self.seqs: list[int] = []
        self.have: dict[str, pb.Alarm] = {}

    async def lives(self, until: asyncio.Event, dice: random.Random) -> None:
        """Come, read for a while, break off, come again; at the end read all there is."""
        while not until.is_set():
            await self.reads(dice.randint(1, 6), None)
            await asyncio.sleep(0)
        await self.reads(1 << 40, self.world.desk.hub.seq)

    async def reads(self, most: int, upto: int | None) -> None:
        request = pb.SubscribeRequest(
            filter=self.wanted, from_seq=self.cursor, log_id=self.log_id, transitions_max=0 if most % 2 else 3
        )
        call = self.world.stub.Subscribe(request)
        for _ in range(most):
            if upto is not None and self.cursor >= upto:
                break
            self.take(await call.read())
        call.cancel()

    def take(self, message: pb.SubscribeResponse) -> None:
        assert not message.HasField("coalesced")
        if message.HasField("snapshot"):
            assert message.snapshot.complete
            self.cut = self.cursor = message.snapshot.seq
            self.log_id = message.snapshot.log_id
            self.have = {alarm.alarm_id: alarm for alarm in message.snapshot.alarm}
        elif message.HasField("bookmark"):
            assert message.bookmark.seq >= self.cursor
            self.cursor = message.bookmark.seq
        several = message.transitions.transition or ([message.transition] if message.HasField("transition") else [])
        for transition in several:
            assert transition.seq > self.cursor, "again, or out of order"
            self.cursor = transition.seq
            self.seqs.append(transition.seq)
            self.have[transition.alarm.alarm_id] = transition.alarm

    def check(self, log: list[Transition]) -> None:
        before: dict[str, Alarm] = {}
        expected = []
        for transition in log:
            was = before.get(transition.alarm.alarm_id)
            if transition.seq > self.cut and (self.mine(transition.alarm) or (was is not None and self.mine(was))):
                expected.append(transition.seq)
            before[transition.alarm.alarm_id] = transition.alarm
        assert self.seqs == expected
        own = {alarm_id: alarm for alarm_id, alarm in before.items() if self.mine(alarm) and not alarm.finished}
        for alarm_id, alarm in own.items():
            had = self.have[alarm_id]
            assert (had.version, had.state) == (alarm.version, STATE_TO_WIRE[alarm.state])
            assert had.priority == PRIORITY_TO_WIRE[alarm.priority]
        versions = {(t.alarm.alarm_id, t.alarm.version): t.alarm for t in log}
        for alarm_id in self.have.keys() - own.keys():  # it was told that the alarm left
            last = versions[alarm_id, self.have[alarm_id].version]
            assert last.finished or not self.mine(last)


@pytest.mark.parametrize("ring_max", [10_000, 3])
async def test_every_filter_is_kept_live_over_breaks_and_from_the_cut_of_the_snapshot(dsn: str, ring_max: int) -> None:
    async with serving(dsn, ring_max, concerns=concerns, bookmark_s=0.05) as world:
        history = History(world, seed=ring_max)
        for _ in range(5):
            await history.step()
        over = asyncio.Event()
        subscribers = [Subscriber(world, name) for name in CASES]
        lives = [asyncio.create_task(one.lives(over, random.Random(i))) for i, one in enumerate(subscribers)]
        for _ in range(60):
            await history.step()
            await asyncio.sleep(0)
        over.set()
        await asyncio.gather(*lives)
        assert len(history.log) > 60
        for one in subscribers:
            one.check(history.log)
        told = {name: len(one.seqs) for name, one in zip(CASES, subscribers, strict=True)}
        assert told["no such feeder"] == told["no such label"] == 0
        assert all(count for name, count in told.items() if not name.startswith("no such")), told


async def test_a_subscription_keeps_the_meaning_of_a_department_it_began_with(dsn: str) -> None:
    in_force = [ROUTES]

    def by_file(names: Any) -> Any:
        return tuple(in_force[0].concerns(name) for name in names)

    async with serving(dsn, concerns=by_file) as world:
        call = world.stub.Subscribe(pb.SubscribeRequest(filter=pb.AlarmFilter(department=["crews"])))
        assert (await call.read()).snapshot.complete
        in_force[0] = replace(ROUTES, routes=())  # another file
        south, _ = await world.desk.record([verdict(episode(10), asset_id=i) for i in (3, 0)], [])
        while not (message := await call.read()).HasField("transition"):
            assert message.HasField("bookmark")
        assert message.transition.seq == south.seq
        call.cancel()
