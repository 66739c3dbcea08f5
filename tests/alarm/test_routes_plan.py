"""Laws of the plan: who is to be told of what, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from routes_world import NOW_US, US, alarm, change, made, routes, simple

from alarm.routes.model import Routes
from alarm.routes.pace import WAITING_MAX
from alarm.routes.plan import Planner
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.episodes import Severity
from meterwatch.notices import Change, Kept, NoticeState

HOOK = """
version: 1
link: https://console.example/alarms
targets:
  hook: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}, alarms_max: 3, rate: {messages: 4, per_s: 60}}
  other: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}}
departments:
  crews: {targets: [hook]}
  noc: {targets: [other, hook]}
schedules:
  office: {time_zone: UTC, hours: ["mon-fri 07:00-17:00"]}
routes:
  - name: r
    department: crews
    group_by: [feeder]
    %s
"""


def planner(extra: str = "") -> Planner:
    return Planner(routes(HOOK % extra), Kept(cursor=0))


def see(plan: Planner, seq: int, one: Alarm, at_us: int = NOW_US) -> None:
    plan.take([change(seq, one, at_us)], at_us)


def test_an_alarm_is_told_after_the_wait_of_its_group_and_not_again() -> None:
    plan = planner()
    see(plan, 1, alarm())
    assert made(plan, NOW_US + 9 * US) == []
    (one,) = made(plan, NOW_US + 10 * US)
    assert [(i.alarm_id, i.seq, i.change) for i in one.items] == [("A", 1, Change.NEW)]
    assert (one.target, one.department, one.route, one.group) == ("hook", "crews", "r", "feeder=F0")
    assert made(plan, NOW_US + 10_000 * US) == []


def test_many_changes_before_a_message_are_told_once_as_the_alarm_is_then() -> None:
    plan = planner()
    for version in range(1, 9):
        see(plan, version, alarm(version=version, severity=Severity.HIGH if version < 8 else Severity.CRITICAL))
    (one,) = made(plan, NOW_US + 10 * US)
    assert [item.seq for item in one.items] == [8]


def test_an_alarm_that_never_rests_is_told_all_the_same() -> None:
    plan = planner()
    told = 0
    for version in range(1, 30):
        at_us = NOW_US + version * 5 * US
        see(plan, version, alarm(version=version, severity=Severity(3 + version % 2)), at_us)
        told += len(made(plan, at_us))
    assert told > 1


def test_what_changes_after_a_message_waits_for_the_interval_of_its_group() -> None:
    plan = planner()
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    see(plan, 2, alarm(version=2, state=AlarmState.ACK_ACTIVE), NOW_US + 12 * US)
    assert made(plan, NOW_US + 69 * US) == []
    (one,) = made(plan, NOW_US + 70 * US)
    assert one.items[0].change is Change.CHANGED
    assert one.items[0].was_severity is Severity.HIGH


def test_a_change_and_back_before_the_message_is_not_told() -> None:
    plan = planner()
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    see(plan, 2, alarm(version=2, severity=Severity.CRITICAL), NOW_US + 12 * US)
    see(plan, 3, alarm(version=3), NOW_US + 13 * US)
    assert made(plan, NOW_US + 1000 * US) == []


@pytest.mark.parametrize(
    ("state", "notice"),
    [(AlarmState.RETRACTED, NoticeState.WITHDRAWN), (AlarmState.SUPPRESSED, NoticeState.WITHDRAWN)],
)
def test_what_calls_for_nobody_before_it_is_told_is_withdrawn(state: AlarmState, notice: NoticeState) -> None:
    plan = planner()
    see(plan, 1, alarm())
    see(plan, 2, alarm(version=2, state=state))
    plan.plan(NOW_US + 10 * US)
    changes = plan.drain()
    assert changes.deliveries == []
    assert [n.state for n in changes.notices.values()] == [notice]


def test_one_who_was_told_is_told_the_end_and_then_the_notice_is_over() -> None:
    plan = planner()
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    see(plan, 2, alarm(version=2, state=AlarmState.NORMAL, cleared_us=NOW_US), NOW_US + 11 * US)
    plan.plan(NOW_US + 70 * US)
    changes = plan.drain()
    assert [i.change for d in changes.deliveries for i in d.items] == [Change.OVER]
    assert [n.state for n in changes.notices.values()] == [NoticeState.TOLD]
    assert list(changes.claims.values()) == [None]
    assert len(plan) == 0


def test_an_alarm_that_came_and_went_is_told_as_over_while_it_is_not_acknowledged() -> None:
    plan = planner()
    see(plan, 1, alarm(state=AlarmState.RTN_UNACK, cleared_us=NOW_US))
    (one,) = made(plan, NOW_US + 10 * US)
    assert one.items[0].change is Change.OVER


def test_history_pages_nobody() -> None:
    plan = planner()
    see(plan, 1, alarm(state=AlarmState.NORMAL, cleared_us=NOW_US))
    assert made(plan, NOW_US + 1000 * US) == []


ESCALATE = "escalate: [{after_s: 600, department: noc}]"


def test_what_nobody_acknowledges_goes_to_the_next_department_and_is_urged_on_the_first() -> None:
    plan = planner(ESCALATE)
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    assert made(plan, NOW_US + 599 * US) == []
    found = made(plan, NOW_US + 600 * US) + made(plan, NOW_US + 610 * US)
    assert {(d.target, d.department, i.change) for d in found for i in d.items} == {
        ("hook", "crews", Change.ESCALATED),
        ("other", "noc", Change.ESCALATED),
    }
    see(plan, 2, alarm(version=2, state=AlarmState.ACK_ACTIVE), NOW_US + 700 * US)
    assert {d.target for d in made(plan, NOW_US + 2000 * US)} == {"hook", "other"}


@pytest.mark.parametrize("state", [AlarmState.ACK_ACTIVE, AlarmState.RTN_UNACK])
def test_what_is_acknowledged_or_over_is_not_escalated(state: AlarmState) -> None:
    plan = planner(ESCALATE)
    see(plan, 1, alarm())
    see(plan, 2, alarm(version=2, state=state), NOW_US + 500 * US)
    assert all(d.department == "crews" for d in made(plan, NOW_US + 5000 * US))


def test_a_rise_of_severity_after_the_acknowledgement_begins_the_escalation_anew() -> None:
    plan = planner(ESCALATE)
    see(plan, 1, alarm())
    see(plan, 2, alarm(version=2, state=AlarmState.ACK_ACTIVE), NOW_US + 500 * US)
    see(plan, 3, alarm(version=3, severity=Severity.CRITICAL), NOW_US + 1000 * US)
    assert {d.department for d in made(plan, NOW_US + 1599 * US)} == {"crews"}
    assert "noc" in {d.department for d in made(plan, NOW_US + 1600 * US) + made(plan, NOW_US + 1610 * US)}


def test_it_is_repeated_until_somebody_acknowledges() -> None:
    plan = planner("repeat_s: 300")
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    for n in (1, 2, 3):
        (one,) = made(plan, NOW_US + (10 + n * 300) * US)
        assert one.items[0].change is Change.REPEATED
    see(plan, 2, alarm(version=2, state=AlarmState.ACK_ACTIVE), NOW_US + 1000 * US)
    assert [i.change for d in made(plan, NOW_US + 90_000 * US) for i in d.items] == [Change.CHANGED]


def test_outside_its_hours_a_route_holds_and_tells_when_they_begin() -> None:
    plan = planner("schedule: office")  # it is Tuesday, 22:13
    see(plan, 1, alarm())
    see(plan, 2, alarm("B", feeder="F1"))
    see(plan, 3, alarm("B", feeder="F1", version=2, state=AlarmState.RETRACTED))
    opens_us = NOW_US + (8 * 3600 + 46 * 60 + 40) * US
    assert made(plan, opens_us - US) == []
    (one,) = made(plan, opens_us)
    assert [item.alarm_id for item in one.items] == ["A"]


def test_outside_its_hours_a_route_may_leave_it_to_others() -> None:
    plan = planner("schedule: office\n    outside: skip")
    see(plan, 1, alarm())
    assert made(plan, NOW_US + 86_400 * US) == []


def test_a_target_that_may_have_no_more_is_told_how_many_more_there_are() -> None:
    plan = planner()
    for n in range(300):
        see(plan, n + 1, alarm(f"A{n:03}", feeder=f"F{n}", severity=Severity(1 + n % 4)))
    found = made(plan, NOW_US + 10 * US)
    assert [len(d.items) for d in found] == [1, 1, 1, 297]
    assert [sum(i.shown for i in d.items) for d in found] == [1, 1, 1, 3]
    assert {i.alarm_id for d in found for i in d.items} == {f"A{n:03}" for n in range(300)}
    assert made(plan, NOW_US + 11 * US) == []


def test_a_target_that_takes_nothing_has_few_messages_waiting_and_then_one_of_the_rest() -> None:
    plan = Planner(replace_rate(routes(HOOK % "group_interval_s: 0"), 10_000), Kept(cursor=0))
    for n in range(50):
        see(plan, n + 1, alarm(f"A{n:03}", feeder=f"F{n}"), NOW_US + n * 20 * US)
        made(plan, NOW_US + (n * 20 + 10) * US)
    assert plan.waiting("hook") == WAITING_MAX
    plan.settled("hook")
    (one,) = made(plan, NOW_US + 2000 * US)
    assert len(one.items) == 50 - WAITING_MAX


def replace_rate(found: Routes, messages: int) -> Routes:
    return replace(found, targets={n: replace(t, messages=messages) for n, t in found.targets.items()})


def test_a_target_reached_by_two_routes_is_told_once() -> None:
    plan = planner("\n  - {name: s, department: noc}")
    see(plan, 1, alarm())
    found = made(plan, NOW_US + 10 * US)
    assert sorted((d.target, len(d.items)) for d in found) == [("hook", 1), ("other", 1)]


def test_a_plan_made_anew_of_what_is_kept_goes_on_as_the_old_one() -> None:
    extra = ESCALATE + "\n    repeat_s: 300"
    old = planner(extra)
    see(old, 1, alarm())
    see(old, 2, alarm("B"))
    old.plan(NOW_US + 10 * US)
    see(old, 3, alarm("B", version=2, severity=Severity.CRITICAL), NOW_US + 11 * US)
    changes = old.drain()
    kept = Kept(
        cursor=changes.cursor,
        next_number=changes.next_number or 1,
        notices=tuple(changes.notices.values()),
        claims=tuple(c for c in changes.claims.values() if c is not None),
        made_us={"hook": [NOW_US + 10 * US]},
        waiting={"hook": 1},
    )
    new = Planner(routes(HOOK % extra), kept)
    for second in range(11, 2000, 7):
        assert made(old, NOW_US + second * US) == made(new, NOW_US + second * US)


def test_a_new_route_is_told_of_the_alarms_there_are_and_a_lost_one_of_the_end() -> None:
    plan = planner()
    see(plan, 1, alarm())
    made(plan, NOW_US + 10 * US)
    moved = routes((HOOK % "").replace("name: r", "name: s").replace("department: crews", "department: noc"))
    plan.replace(moved, NOW_US + 20 * US)
    plan.adopt([alarm(seq=1)], NOW_US + 20 * US)
    (one,) = made(plan, NOW_US + 500 * US)
    assert (one.target, one.route) == ("other", "s")  # hook was told already
    see(plan, 2, alarm(version=2, state=AlarmState.NORMAL), NOW_US + 600 * US)
    assert {d.target for d in made(plan, NOW_US + 1000 * US)} == {"hook", "other"}


def test_notices_of_a_target_that_is_gone_are_dropped() -> None:
    plan = planner()
    see(plan, 1, alarm())
    plan.drain()
    without = (HOOK % "").replace("targets: [hook]", "targets: [other]").replace("[other, hook]", "[other]")
    without = without.replace(next(line for line in without.splitlines() if line.startswith("  hook:")), "")
    plan.replace(routes(without), NOW_US)
    assert [n.state for n in plan.drain().notices.values()] == [NoticeState.DROPPED]
    assert made(plan, NOW_US + 1000 * US) == []


def test_an_alertmanager_gets_all_that_is_due_in_one_message() -> None:
    plan = Planner(simple("group_by: [feeder]"), Kept(cursor=0))
    for n in range(20):
        see(plan, n + 1, alarm(f"A{n}", feeder=f"F{n}"))
    (one,) = made(plan, NOW_US + 10 * US)
    assert sum(item.shown for item in one.items) == 20


def test_transitions_seen_twice_change_nothing() -> None:
    plan = planner()
    see(plan, 1, alarm())
    plan.drain()
    see(plan, 1, alarm())
    assert not plan.drain()
