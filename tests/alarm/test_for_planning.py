"""Alarms to plan with: they are in the book and call nobody who did not ask for them by their type."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from alarm_cases import SinkStore, at, clock, episode, names
from hypothesis import given
from hypothesis import strategies as st
from routes_world import NOW_US, US, alarm, change, routes

from alarm.desk import AlarmDesk
from alarm.profile import ALARM_PROFILES, AlarmProfile
from alarm.routes.plan import Planner
from alarm.routes.rehearse import rehearse
from meterwatch.access.identity import Identity, within
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, AlarmType, AssetShelf, Draft, Transition
from meterwatch.episodes import Severity, Verdict
from meterwatch.notices import Kept
from meterwatch.one_call import ONE_CALL, calls

FORECAST = "FORECAST_OVERLOAD"
FILE = """
version: 1
targets:
  phone: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}}
  planners: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}}
  machine: {kind: alertmanager, url: "http://127.0.0.1:9"}
departments:
  night: {targets: [phone, machine]}
  planning: {targets: [planners]}
routes:
  - {name: all, department: night, group_wait_s: 0, group_interval_s: 0}
  - {name: foretold, match: {type: [FORECAST_OVERLOAD, OVERLOAD]}, department: planning, group_wait_s: 0,
     group_interval_s: 0}
"""


def foretold(alarm_id: str = "FOV", **changes: Any) -> Alarm:
    return alarm(alarm_id, rule=FORECAST, for_planning=True, **changes)


class Told:
    """A plan, and what each target was told."""

    def __init__(self) -> None:
        self.plan = Planner(routes(FILE), Kept(cursor=0), one_call=ONE_CALL)
        self.now_us, self.seq = NOW_US, 0

    def see(self, one: Alarm) -> list[tuple[str, str, str]]:
        """Target, alarm and change of each that is told of it within the minute."""
        self.seq += 1
        self.plan.take([change(self.seq, one, self.now_us)], self.now_us)
        return self.due()

    def due(self) -> list[tuple[str, str, str]]:
        self.now_us += 60 * US
        self.plan.plan(self.now_us)
        made = self.plan.drain().deliveries
        for one in made:
            self.plan.settled(one.target)
        return sorted((one.target, item.alarm_id, item.change.value) for one in made for item in one.items)


def test_a_route_tells_of_what_is_for_planning_if_it_names_the_type() -> None:
    told = Told()
    assert told.see(foretold()) == [("planners", "FOV", "NEW")]
    assert told.see(foretold(version=2, severity=Severity.CRITICAL)) == [("planners", "FOV", "CHANGED")]
    over = {"state": AlarmState.RTN_UNACK, "cleared_us": NOW_US}
    assert told.see(foretold(version=3, severity=Severity.CRITICAL, **over)) == [("planners", "FOV", "OVER")]


def test_what_is_there_calls_everybody_though_it_was_foretold() -> None:
    told = Told()
    told.see(foretold(severity=Severity.CRITICAL))
    expected = [(target, "OVL", "NEW") for target in ("machine", "phone", "planners")]
    assert told.see(alarm("OVL", rule="OVERLOAD")) == expected


def test_a_plan_made_anew_tells_the_same_of_what_is_for_planning() -> None:
    told = Told()
    told.plan.adopt([replace(foretold(), seq=1), replace(alarm("OUT"), seq=2)], told.now_us)
    expected = [("machine", "OUT", "NEW"), ("phone", "OUT", "NEW"), ("planners", "FOV", "NEW")]
    assert told.due() == expected


def test_a_rehearsal_knows_whom_it_calls() -> None:
    assert {one.target for one in rehearse(routes(FILE), foretold(), NOW_US)} == {"planners"}
    assert {one.target for one in rehearse(routes(FILE), alarm(rule=FORECAST), NOW_US)} == {
        "phone", "machine", "planners",
    }  # fmt: skip


alarms_ = st.builds(
    alarm,
    rule=st.sampled_from([FORECAST, "OVERLOAD", "USER/heat"]),
    state=st.sampled_from(list(AlarmState)),
    for_planning=st.booleans(),
    shelved_until_us=st.sampled_from([None, None, NOW_US]),
    out_of_service_by=st.sampled_from([None, None, "Kim"]),
)
rules_ = st.frozensets(st.sampled_from([FORECAST, "OVERLOAD", "USER", "USER/heat"]), max_size=2)


@given(alarms_, rules_, st.booleans())
def test_paging_only_is_what_pages_and_what_is_for_planning_and_named(
    one: Alarm, rules: frozenset[str], confined: bool
) -> None:
    put_off = one.shelved_until_us is not None or one.out_of_service_by is not None
    waits = one.state in ("UNACK_ACTIVE", "ACK_ACTIVE", "RTN_UNACK") and not put_off
    named = one.rule in rules or (one.rule == "USER/heat" and "USER" in rules)
    assert one.stands is waits
    assert one.pages is (waits and not one.for_planning)
    assert calls(one) is (one.pages and one.state != "RTN_UNACK")
    wanted = AlarmFilter(rules, paging_only=True)
    if confined:
        wanted = within(wanted, Identity("Kim", frozenset(), frozenset({"North"})))
    assert wanted.matches(one) is (waits and (named or (not rules and not one.for_planning)))


def said(rule: str, cleared: float | None = None, severity: Severity = Severity.HIGH) -> Verdict:
    return Verdict(rule, "transformer", 0, at(0), (episode(10, cleared, severity=severity),))


class Commits(SinkStore):
    """Also in whose call an alarm began to page."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts: list[Draft] = []

    async def commit(self, drafts: list[Draft], batch_ids: Any, **more: Any) -> list[int]:
        self.drafts += drafts
        return await super().commit(drafts, batch_ids, **more)


async def record(*steps: Verdict, profile: AlarmProfile | None = None) -> tuple[AlarmDesk, Commits]:
    store, time = Commits(), clock()
    desk = await AlarmDesk.open(store, names(), time, profile=profile)
    for step in steps:
        time.saw(time.now_us() + 60 * US)
        await desk.record([step], [])
    return desk, store


@pytest.mark.parametrize("profile", ALARM_PROFILES.values(), ids=ALARM_PROFILES)
async def test_forecasts_are_for_planning_and_nothing_else_is(profile: AlarmProfile) -> None:
    assert {type_ for type_ in AlarmType if profile.plans(type_)} == {FORECAST}
    desk, store = await record(said(FORECAST), said("OVERLOAD"), said("HOT_SPOT"), profile=profile)
    foretold_, over, hot = store.alarms()
    assert (foretold_.stands, foretold_.pages, over.pages, hot.pages) == (True, False, True, True)
    assert [draft.under for draft in store.drafts] == [None, None, over.alarm_id]
    assert desk.book.called_with(foretold_) == []
    assert [one.alarm_id for one in desk.book.called_with(hot)] == [over.alarm_id, hot.alarm_id]
    assert [one.alarm_id for one in desk.standing()] == [one.alarm_id for one in store.alarms()]


async def test_a_profile_that_plans_with_nothing_has_forecasts_call() -> None:
    profile = AlarmProfile(for_planning=())
    _, store = await record(said(FORECAST), said("OVERLOAD", severity=Severity.MEDIUM), profile=profile)
    foretold_, over = store.alarms()
    assert (foretold_.pages, over.pages) == (True, True)
    assert store.drafts[1].under == foretold_.alarm_id


async def test_an_alarm_takes_what_a_new_profile_says_with_its_next_change() -> None:
    desk, store = await record(said(FORECAST), profile=AlarmProfile(for_planning=()))
    desk.book.profile = AlarmProfile()
    await desk.record([said(FORECAST, severity=Severity.CRITICAL)], [])
    assert [t.alarm.pages for t in store.log] == [True, False]
    desk.book.profile = AlarmProfile(for_planning=())
    await desk.record([said(FORECAST)], [])
    assert [t.alarm.pages for t in store.log] == [True, False, True]


async def test_a_shelf_over_an_asset_covers_what_is_for_planning_too() -> None:
    desk, store = await record()
    await desk.shelve_asset(AssetShelf("s1", "", "transformer", "T0", 3600, "Kim", "crew"))
    await desk.record([said(FORECAST)], [])
    [one] = store.alarms()
    assert (one.stands, one.shelved_by) == (False, "Kim")


steps_ = st.lists(
    st.tuples(
        st.sampled_from([FORECAST, "OVERLOAD", "HOT_SPOT"]), st.sampled_from([None, 20.0]), st.sampled_from(Severity)
    ),
    max_size=8,
)


@given(steps_)
def test_only_who_is_called_depends_on_it(steps: list[tuple[str, float | None, Severity]]) -> None:
    def log(profile: AlarmProfile) -> list[Transition]:
        return asyncio.run(record(*(said(*step) for step in steps), profile=profile))[1].log

    plain = [replace(t, alarm=replace(t.alarm, for_planning=False)) for t in log(AlarmProfile())]
    bare = [replace(t, was=None) for t in plain]
    assert bare == [replace(t, was=None) for t in log(AlarmProfile(for_planning=()))]
