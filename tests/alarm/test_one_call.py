"""One cause, one call: the laws of who leads, of what a target is called for, and that no alarm changes by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import pytest
from alarm_cases import MINUTE_US, SinkStore, at, clock, episode, names
from hypothesis import given
from hypothesis import strategies as st
from routes_world import NOW_US, US, alarm, change, routes

from alarm.desk import AlarmDesk
from alarm.profile import AlarmProfile
from alarm.routes.model import Routes
from alarm.routes.plan import Planner
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, Draft, Priority
from meterwatch.episodes import Severity, Verdict
from meterwatch.notices import Change, Claim, Delivery, Kept, Notice, NoticeState
from meterwatch.one_call import LOAD_AND_HEAT, ONE_CALL, Calls, Ring, calls, rank

FILE = """
version: 1
targets:
  hook: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}, rate: {messages: 1000, per_s: 60}}
  heat: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}, rate: {messages: 1000, per_s: 60}}
  lead: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}, rate: {messages: 1000, per_s: 60}}
  machine: {kind: alertmanager, url: "http://127.0.0.1:9"}
departments:
  crews: {targets: [hook, machine]}
  thermal: {targets: [heat]}
  leads: {targets: [lead]}
routes:
  - {name: all, department: crews, group_interval_s: 0, group_by: [%s]%s}
  - {name: hot, match: {type: [HOT_SPOT]}, department: thermal, group_interval_s: 0}
"""
ESCALATE = ", escalate: [{after_s: 900, department: leads}]"


@cache
def read(group_by: str, more: str) -> Routes:
    return routes(FILE % (group_by, more))


class World:
    """A plan over alarms of transformers that change one by one, and all it has kept."""

    def __init__(self, group_by: str = "asset", more: str = "") -> None:
        self.routes = read(group_by, more)
        self.now_us, self.seq = NOW_US, 0
        self.alarms: dict[str, Alarm] = {}
        self.by_seq: dict[int, Alarm] = {}
        self.notices: dict[tuple[str, str], Notice] = {}
        self.claims: dict[tuple[str, str], Claim] = {}
        self.plan = Planner(self.routes, Kept(cursor=0), one_call=ONE_CALL)

    def keep(self) -> list[Delivery]:
        changes = self.plan.drain()
        self.notices |= changes.notices
        for key, claim in changes.claims.items():
            if claim is None:
                self.claims.pop(key, None)
            else:
                self.claims[key] = claim
        for one in changes.deliveries:
            self.plan.settled(one.target)
        return changes.deliveries

    def start_again(self) -> None:
        """As Dispatch, of what is kept and the alarms there are."""
        self.keep()
        numbers = [notice.told.number for notice in self.notices.values() if notice.told is not None]
        opened = tuple(notice for notice in self.notices.values() if notice.state is NoticeState.OPEN)
        kept = Kept(self.seq, max(numbers, default=0) + 1, opened, tuple(self.claims.values()))
        self.plan = Planner(self.routes, kept, one_call=ONE_CALL)
        self.plan.replace(self.routes, self.now_us)
        self.plan.adopt([one for one in self.alarms.values() if one.pages], self.now_us)
        self.keep()

    def see(self, rule: str, asset: int = 0, **changes: Any) -> None:
        """An alarm becomes so; a new one is HIGH and active."""
        alarm_id = f"{rule}-{asset}"
        before = self.alarms.get(alarm_id)
        if before is None:
            before = alarm(alarm_id, rule=rule, asset=f"T{asset}", asset_id=asset, priority=Priority.HIGH, version=0)
        if "severity" in changes:
            changes["priority"] = Priority(changes["severity"])
        self.seq += 1
        self.alarms[alarm_id] = replace(before, seq=self.seq, version=before.version + 1, **changes)
        self.by_seq[self.seq] = self.alarms[alarm_id]
        self.plan.take([change(self.seq, self.alarms[alarm_id], self.now_us)], self.now_us)

    def wait(self, seconds: int = 60) -> list[Delivery]:
        """All that is due by then."""
        self.now_us += seconds * US
        self.plan.plan(self.now_us)
        found = self.keep()
        self.plan.plan(self.now_us)
        return found + self.keep()

    def told(self, target: str = "hook", seconds: int = 60) -> list[list[tuple[str, str]]]:
        """Messages to a target: what each says of which alarm."""
        found = [one for one in self.wait(seconds) if one.target == target]
        return [sorted((item.alarm_id, item.change.value) for item in one.items) for one in found]


OVER = {"state": AlarmState.RTN_UNACK, "cleared_us": NOW_US}
SHELVED = {"shelved_until_us": NOW_US + 10_000 * US}


def test_what_is_no_graver_than_what_was_told_of_the_transformer_calls_nobody() -> None:
    world = World()
    world.see("OVERLOAD")
    assert world.told() == [[("OVERLOAD-0", "NEW")]]
    world.see("HOT_SPOT", severity=Severity.MEDIUM)
    world.see("HOT_SPOT", severity=Severity.HIGH)
    world.see("HOT_SPOT", asset=1)
    assert world.told() == [[("HOT_SPOT-1", "NEW")]]


def test_what_is_graver_calls_again() -> None:
    world = World()
    world.see("HOT_SPOT", severity=Severity.MEDIUM)
    world.wait()
    world.see("OVERLOAD")
    assert world.told() == [[("OVERLOAD-0", "NEW")]]
    world.see("HOT_SPOT", severity=Severity.HIGH)
    assert world.told() == []
    world.see("HOT_SPOT", severity=Severity.CRITICAL)
    assert world.told() == [[("HOT_SPOT-0", "CHANGED")]]


def test_what_is_there_calls_though_it_was_foretold_as_grave() -> None:
    world = World()
    world.see("FORECAST_OVERLOAD")
    world.wait()
    world.see("OVERLOAD")
    assert world.told() == [[("OVERLOAD-0", "NEW")]]
    world.see("FORECAST_OVERLOAD", **OVER)
    world.see("FORECAST_OVERLOAD", state=AlarmState.UNACK_ACTIVE, cleared_us=None)
    assert world.told() == []


@pytest.mark.parametrize("aside", [OVER, SHELVED, {"out_of_service_by": "Kim"}, {"state": AlarmState.RETRACTED}])
def test_the_message_that_it_is_over_says_who_leads_now(aside: dict[str, Any]) -> None:
    world = World()
    world.see("OVERLOAD")
    world.wait()
    world.see("HOT_SPOT")
    world.wait()
    world.see("OVERLOAD", **aside)
    assert world.told() == [[("HOT_SPOT-0", "LEADS"), ("OVERLOAD-0", "OVER")]]
    world.see("HOT_SPOT", **OVER)
    assert world.told() == [[("HOT_SPOT-0", "OVER")]]


def test_who_leads_no_more_by_a_fall_gives_way_in_the_same_message() -> None:
    world = World()
    world.see("OVERLOAD", severity=Severity.CRITICAL)
    world.wait()
    world.see("HOT_SPOT")
    world.wait()
    world.see("OVERLOAD", severity=Severity.MEDIUM)
    assert world.told() == [[("HOT_SPOT-0", "LEADS"), ("OVERLOAD-0", "CHANGED")]]


def test_what_stood_under_another_and_is_over_first_is_withdrawn() -> None:
    world = World()
    world.see("OVERLOAD")
    world.wait()
    world.see("HOT_SPOT")
    world.see("HOT_SPOT", state=AlarmState.NORMAL, cleared_us=NOW_US)
    assert world.told() == []
    assert world.notices["hook", "HOT_SPOT-0"].state is NoticeState.WITHDRAWN
    world.see("OVERLOAD", **OVER)
    assert world.told() == [[("OVERLOAD-0", "OVER")]]


def test_what_is_over_while_nobody_took_note_speaks_for_nothing() -> None:
    world = World()
    world.see("OVERLOAD")
    world.wait()
    world.see("OVERLOAD", **OVER)
    world.wait()
    world.see("HOT_SPOT", severity=Severity.LOW)
    assert world.told() == [[("HOT_SPOT-0", "NEW")]]


def test_a_department_that_is_told_of_heat_alone_is_called_for_it() -> None:
    world = World()
    world.see("OVERLOAD")
    world.wait()
    world.see("HOT_SPOT", severity=Severity.LOW)
    assert world.told("heat") == [[("HOT_SPOT-0", "NEW")]]


def test_an_alertmanager_gets_all() -> None:
    world = World()
    world.see("OVERLOAD")
    world.wait()
    world.see("HOT_SPOT")
    assert world.told("machine") == [[("HOT_SPOT-0", "NEW")]]


def test_what_is_due_for_both_comes_in_one_message_or_once() -> None:
    for group_by, first in (("asset", ["HOT_SPOT-0", "OVERLOAD-0"]), ("type", ["HOT_SPOT-0"])):
        world = World(group_by)
        world.see("HOT_SPOT")
        world.see("OVERLOAD")
        told = world.told()
        assert [[alarm_id for alarm_id, _ in one] for one in told] == [first]


def test_while_the_one_that_was_told_is_acknowledged_the_other_is_not_escalated_and_then_counts_anew() -> None:
    world = World(more=ESCALATE)
    world.see("OVERLOAD")
    world.wait(60)
    world.see("HOT_SPOT")
    world.see("OVERLOAD", state=AlarmState.ACK_ACTIVE)
    assert [one.target for one in world.wait(600) + world.wait(3000)].count("lead") == 0
    world.see("OVERLOAD", state=AlarmState.NORMAL, cleared_us=NOW_US)
    assert world.told("lead", 880) == []
    world.wait(40)
    assert world.told("lead") == [[("HOT_SPOT-0", "ESCALATED")]]


def test_one_of_a_call_is_repeated() -> None:
    world = World(more=", repeat_s: 600")
    world.see("HOT_SPOT")
    world.see("OVERLOAD")
    world.wait()
    assert world.told("hook", 700) == [[("OVERLOAD-0", "REPEATED")]]


def test_a_message_that_was_given_up_speaks_for_nobody_until_it_is_sent_again() -> None:
    world = World()
    world.see("OVERLOAD")
    [lost] = [one for one in world.wait() if one.target == "hook"]
    world.see("HOT_SPOT")
    assert world.told() == []
    world.plan.lost("hook", lost.number, world.now_us)
    assert world.told() == [[("HOT_SPOT-0", "LEADS")]]
    world.see("HOT_SPOT", state=AlarmState.NORMAL, cleared_us=NOW_US)
    world.plan.requeued("hook", 1)
    world.see("PHASE")
    assert world.told() == [[("HOT_SPOT-0", "OVER")]]


def test_where_each_calls_by_itself_both_are_told() -> None:
    world = World()
    world.plan = Planner(world.routes, Kept(cursor=0))
    world.see("OVERLOAD")
    world.wait()
    world.see("HOT_SPOT")
    assert world.told() == [[("HOT_SPOT-0", "NEW")]]


severities = st.sampled_from(list(Severity))
becomes = st.one_of(
    st.builds(lambda s: {"state": AlarmState.UNACK_ACTIVE, "cleared_us": None, "severity": s}, severities),
    st.builds(lambda s: {"state": AlarmState.UNACK_ACTIVE, "cleared_us": None, "severity": s}, severities),
    st.just({"state": AlarmState.ACK_ACTIVE, "cleared_us": None}),
    st.sampled_from([OVER, {"state": AlarmState.NORMAL, "cleared_us": NOW_US}, {"state": AlarmState.RETRACTED}]),
    st.sampled_from([SHELVED, {"shelved_until_us": None}, {"out_of_service_by": "Kim"}, {"out_of_service_by": None}]),
)
walks = st.lists(
    st.tuples(st.sampled_from(LOAD_AND_HEAT), st.integers(0, 1), becomes, st.booleans()), min_size=1, max_size=25
)


def families(alarms: list[Alarm]) -> dict[tuple[str, str] | None, list[Alarm]]:
    found: dict[tuple[str, str] | None, list[Alarm]] = {}
    for one in alarms:
        found.setdefault(ONE_CALL.family_of(one), []).append(one)
    return found


def rings(world: World, deliveries: list[Delivery], target: str = "hook") -> int:
    """Messages with something that calls anew: new, or graver than it was told."""
    found = 0
    for one in deliveries:
        items = [(item, world.by_seq[item.seq]) for item in one.items]
        found += one.target == target and any(
            item.change is Change.NEW
            or (item.change is Change.CHANGED and item.was_severity is not None and of.severity > item.was_severity)
            for item, of in items
        )
    return found


@given(walks, st.sampled_from(["asset", "type", ""]))
def test_each_target_is_called_at_the_rank_of_who_leads_and_no_oftener_than_the_calls(
    walk: list[tuple[str, int, dict[str, Any], bool]], group_by: str
) -> None:
    world, followed = World(group_by), Calls()
    for rule, asset, changes, again in walk:
        before = world.alarms.get(f"{rule}-{asset}")
        if before is not None and changes.get("state") is AlarmState.UNACK_ACTIVE and calls(before):
            changes = {**changes, "state": before.state} if changes["severity"] <= before.severity else changes
        world.see(rule, asset, **changes)
        if again:
            world.start_again()
        now = world.alarms[f"{rule}-{asset}"]
        family = ONE_CALL.family_of(now)
        assert family is not None
        heard = followed.take(family, now.alarm_id, rank(now.rule, now.priority) if calls(now) else None)
        assert rings(world, world.wait()) == (heard is not Ring.NOTHING)
        for name, mine in families(list(world.alarms.values())).items():
            for target, filter_ in (("hook", AlarmFilter()), ("heat", AlarmFilter(rules=frozenset({"HOT_SPOT"})))):
                leader = ONE_CALL.leader(one for one in mine if filter_.matches(one))
                if leader is None:
                    continue
                spoken = [
                    rank(one.rule, min(notice.told.priority, one.priority))
                    for one in mine
                    if calls(one)
                    and (notice := world.notices.get((target, one.alarm_id))) is not None
                    and notice.told is not None
                    and notice.told.pages
                    and notice.told.state in (AlarmState.UNACK_ACTIVE, AlarmState.ACK_ACTIVE)
                ]
                assert max(spoken, default=(0, False)) >= rank(leader.rule, leader.priority), (name, target)


@given(walks)
def test_a_plan_made_anew_goes_on_as_the_old_one(walk: list[tuple[str, int, dict[str, Any], bool]]) -> None:
    one, other = World("type"), World("type")
    for rule, asset, changes, again in walk:
        for world in (one, other):
            world.see(rule, asset, **changes)
        if again:
            other.start_again()
        first, second = (
            sorted((d.target, sorted((i.alarm_id, i.seq, i.change) for i in d.items)) for d in world.wait())
            for world in (one, other)
        )
        assert first == second


@given(st.lists(st.tuples(st.sampled_from(LOAD_AND_HEAT), severities, st.sampled_from(list(AlarmState))), max_size=5))
def test_who_leads_is_the_gravest_that_calls_and_does_not_depend_on_the_order(
    rows: list[tuple[str, Severity, AlarmState]],
) -> None:
    mine = [
        alarm(f"A{i}", rule=rule, priority=Priority(severity), state=state)
        for i, (rule, severity, state) in enumerate(rows)
    ]
    calling = [one for one in mine if calls(one)]
    found = {None if one is None else one.alarm_id for one in map(ONE_CALL.leader, permutations(mine))}
    assert len(found) == 1
    [leader_id] = found
    assert (leader_id is None) is (calling == [])
    if leader_id is not None:
        [leader] = [one for one in mine if one.alarm_id == leader_id]
        assert calls(leader)
        assert leader.priority == max(one.priority for one in calling)


class KeepsUnder(SinkStore):
    """Also in whose call an alarm began to page."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts: list[Draft] = []

    async def commit(self, drafts: list[Draft], batch_ids: Any, **more: Any) -> list[int]:
        self.drafts += drafts
        return await super().commit(drafts, batch_ids, **more)


said = st.lists(
    st.tuples(
        st.sampled_from(["OVERLOAD", "HOT_SPOT"]), st.integers(0, 1),
        st.lists(st.tuples(st.integers(0, 50), st.sampled_from([None, 5, 20]), severities), max_size=2),
    ),
    max_size=12,
)  # fmt: skip


def verdicts(parts: list[tuple[str, int, list[tuple[int, int | None, Severity]]]]) -> list[Verdict]:
    found = []
    for rule, asset, spans in parts:
        episodes = [
            episode(onset, None if lasts is None else onset + lasts, severity=severity)
            for onset, lasts, severity in sorted(spans, key=lambda one: one[0])
        ]
        apart = [
            one
            for one, then in zip(episodes, [*episodes[1:], None], strict=False)
            if then is None or (one.cleared_us is not None and one.cleared_us < then.onset_us)
        ]
        found.append(Verdict(rule, "transformer", asset, at(0), tuple(apart)))
    return found


async def desk_after(profile: AlarmProfile, steps: list[Verdict]) -> KeepsUnder:
    store, time = KeepsUnder(), clock(60)
    desk = await AlarmDesk.open(store, names(), time, profile=profile)
    together: dict[tuple[str, int], Verdict] = {}
    for one in [*steps, *steps[-1:]]:
        if (one.rule, one.asset_id) in together or len(together) == 3:
            time.resume(time.now_us() + MINUTE_US)
            await desk.record(list(together.values()), ())
            together = {}
        together[one.rule, one.asset_id] = one
    return store


@given(said)
def test_the_alarm_table_and_the_log_are_the_same_without_it_and_each_call_is_counted_once(
    parts: list[tuple[str, int, list[tuple[int, int | None, Severity]]]],
) -> None:
    steps = verdicts(parts)
    folded = asyncio.run(desk_after(AlarmProfile(), steps))
    apart = asyncio.run(desk_after(AlarmProfile(one_call=()), steps))
    assert folded.log == apart.log
    assert folded.alarms() == apart.alarms()
    assert all(draft.under is None for draft in apart.drafts)
    calling: dict[str, set[str]] = {}
    for draft in folded.drafts:
        one = draft.alarm
        there = calling.setdefault(one.asset, set())
        begins = one.pages and not (draft.was is not None and draft.was.pages)
        assert (draft.under is not None) is (begins and bool(there - {one.alarm_id}))
        assert draft.under is None or draft.under in there
        (there.add if calls(one) else there.discard)(one.alarm_id)
