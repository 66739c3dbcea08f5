"""Storms: when they begin and end, who stands aside, and what messages and lists do with those. No alarm changes."""

from __future__ import annotations

import pytest
from alarm_cases import at, episode, names, verdict
from hypothesis import given
from hypothesis import strategies as st
from routes_world import NOW_US, US, alarm, change, made, routes

from alarm.book import Book
from alarm.profile import ATTENDED, StormLimits
from alarm.routes.plan import ASIDE_AGAIN_US, Planner
from alarm.storm import Storms, no_storms, roots_first
from alarm.wire import storms_to_wire
from meterwatch.alarms import Alarm, Priority
from meterwatch.episodes import Severity
from meterwatch.notices import Change, Kept
from meterwatch.storms import EVERYWHERE, Census, Storm, StormReason
from meterwatch.v1 import alarms_pb2 as pb

LIMITS = StormLimits()
OFF, FLOOD = StormReason.OFF, StormReason.FLOOD


def stormy(*districts: str) -> Storms:
    storms = Storms(LIMITS)
    storms.step({name: Census(1000, 100, 3) for name in districts}, False, NOW_US)
    return storms


def single(alarm_id: str = "M", **changes: object) -> Alarm:
    return alarm(alarm_id, **{"asset_kind": "meter", "asset": "M1", "priority": Priority.MEDIUM} | changes)


@pytest.mark.parametrize(
    ("meters", "off", "begins"),
    [(1000, 50, False), (1000, 51, True), (100, 6, True), (99, 99, False), (100, 5, False), (0, 0, False)],
)
def test_a_district_is_in_a_storm_when_more_than_a_twentieth_of_its_meters_is_off(
    meters: int, off: int, begins: bool
) -> None:
    storms = Storms(LIMITS)
    changed = storms.step({"North": Census(meters, off, 1), "South": Census(1000)}, False, NOW_US)
    assert [storm.key for storm in changed] == ([(OFF, "North")] if begins else [])
    assert storms.lasting() == changed


def test_it_ends_when_few_have_been_off_for_long_enough_and_not_before() -> None:
    storms = stormy("North")

    def step(off: int, after_s: int) -> bool:
        storms.step({"North": Census(1000, off, 1)}, False, NOW_US + after_s * US)
        return bool(storms.lasting())

    assert step(25, 10_000)  # a fortieth is enough to go on, however long
    assert step(24, 10_001)
    assert step(24, 10_000 + LIMITS.calm_s)
    assert step(25, 10_000 + LIMITS.calm_s + 1)
    assert step(0, 20_000)
    assert step(0, 20_000 + LIMITS.calm_s - 1)
    assert not step(0, 20_000 + LIMITS.calm_s)
    assert not step(50, 30_000)


def test_a_flood_is_a_storm_everywhere_as_long_as_it_lasts() -> None:
    storms = Storms(LIMITS)
    [begun] = storms.step({"North": Census(1000)}, True, NOW_US)
    assert begun.key == (FLOOD, EVERYWHERE)
    assert storms.stands_aside(single(district="South"))
    [over] = storms.step({"North": Census(1000)}, False, NOW_US + US)
    assert over.until_us == NOW_US + US
    assert not storms.stands_aside(single(district="South"))


def test_what_was_kept_goes_on_after_a_start_and_a_district_that_is_gone_has_none() -> None:
    kept = [Storm(OFF, name, NOW_US, Census(1000), 100, 3) for name in ("North", "Gone")]
    storms = Storms(LIMITS, kept)
    changed = storms.step({"North": Census(1000, 30, 1)}, False, NOW_US + US)
    assert [(one.district, one.until_us) for one in changed] == [("Gone", NOW_US + US)]
    assert [(one.district, one.since_us, one.off_max) for one in storms.lasting()] == [("North", NOW_US, 100)]


steps = st.lists(
    st.tuples(st.integers(0, 120), st.integers(0, 80), st.booleans(), st.integers(1, 900)), min_size=1, max_size=30
)


@given(steps)
def test_storms_are_those_of_a_scalar_walk(walk: list[tuple[int, int, bool, int]]) -> None:
    storms, now_s = Storms(LIMITS), 0
    open_since: dict[str, int] = {}
    calm_since: dict[str, int | None] = {}
    flood_since: int | None = None
    for north, south, flood, pause_s in walk:
        now_s += pause_s
        storms.step({"North": Census(1000, north, 1), "South": Census(1000, south, 1)}, flood, now_s * US)
        for name, off in (("North", north), ("South", south)):
            if name not in open_since:
                if off > 50:
                    open_since[name], calm_since[name] = now_s, None
            elif off >= 25:
                calm_since[name] = None
            else:
                since = calm_since[name] = now_s if calm_since[name] is None else calm_since[name]
                if since is not None and now_s - since >= 600:
                    del open_since[name]
        flood_since = (now_s if flood_since is None else flood_since) if flood else None
        expected = {(OFF, name): since * US for name, since in open_since.items()}
        if flood_since is not None:
            expected[FLOOD, EVERYWHERE] = flood_since * US
        assert {storm.key: storm.since_us for storm in storms.lasting()} == expected


def test_single_meters_of_the_district_stand_aside_unless_their_priority_is_high() -> None:
    storms = stormy("North")
    assert storms.stands_aside(single())
    assert not storms.stands_aside(single(priority=Priority.HIGH))
    assert not storms.stands_aside(single(district="South"))
    assert not storms.stands_aside(alarm())
    assert not no_storms().stands_aside(single())


def test_in_a_storm_a_list_begins_with_what_stands_for_most_meters() -> None:
    feeder, root = alarm("F", asset_kind="feeder"), alarm("T")
    folded, alone = alarm("C", parent_id="F"), single()
    grave = single("G", priority=Priority.HIGH)
    assert sorted([folded, alone, grave, root, feeder], key=roots_first) == [feeder, root, grave, alone, folded]


def test_the_wire_says_what_pages_in_a_storm_and_what_of_it_stands_aside() -> None:
    storms = stormy("North")
    storms.step({"North": Census(1000, 100, 3)}, True, NOW_US)
    flood, north = storms_to_wire(storms, [single(), alarm(), single("S", district="South")])
    assert (north.reason, north.district, north.meters, north.meters_off, north.roots) == (
        pb.STORM_REASON_OFF, "North", 1000, 100, 3,
    )  # fmt: skip
    assert (north.paging, north.aside) == (2, 1)
    assert (flood.reason, flood.district, flood.paging, flood.aside) == (pb.STORM_REASON_FLOOD, "", 3, 2)


# Messages to departments ---------------------------------------------------------

ROUTES = """
version: 1
link: https://console.example/alarms
targets:
  hook: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}}
  machine: {kind: alertmanager, url: "http://127.0.0.1:9"}
departments:
  crews: {targets: [hook]}
  noc: {targets: [machine]}
routes:
  - {name: r, department: crews, repeat_s: 100, escalate: [{after_s: 150, department: noc}]}
"""


def told(plan: Planner, at_us: int) -> list[tuple[str, str, Change, bool]]:
    return [(one.target, item.alarm_id, item.change, item.shown) for one in made(plan, at_us) for item in one.items]


def test_a_message_shows_roots_and_counts_single_meters_and_urges_nobody_about_them_before_the_storm_is_over() -> None:
    storms = stormy("North")
    plan = Planner(routes(ROUTES), Kept(cursor=0), storms.stands_aside)
    plan.take([change(1, single()), change(2, alarm("T")), change(3, single("N"))], NOW_US)
    assert told(plan, NOW_US + 10 * US) == [
        ("hook", "T", Change.NEW, True), ("hook", "M", Change.NEW, False), ("hook", "N", Change.NEW, False),
    ]  # fmt: skip
    urged = told(plan, NOW_US + 1000 * US) + told(plan, NOW_US + 1010 * US)
    assert [row[:3] for row in urged] == [("hook", "T", Change.REPEATED), ("machine", "T", Change.ESCALATED)]
    storms.step({"North": Census(1000)}, False, NOW_US)
    storms.step({"North": Census(1000)}, False, NOW_US + LIMITS.calm_s * US)
    assert storms.lasting() == []
    again_us = NOW_US + 1010 * US + ASIDE_AGAIN_US
    later = told(plan, again_us) + told(plan, again_us + 10 * US)
    assert {(target, alarm_id) for target, alarm_id, _, _ in later} >= {
        ("hook", "M"),
        ("machine", "M"),
        ("machine", "N"),
    }
    assert all(shown for *_, shown in later)


def test_a_message_of_single_meters_alone_shows_one_and_a_machine_gets_all() -> None:
    storms = stormy("North")
    plan = Planner(
        routes(ROUTES.replace("department: crews,", "department: noc,")), Kept(cursor=0), storms.stands_aside
    )
    plan.take([change(1, single()), change(2, single("N"))], NOW_US)
    assert [row[3] for row in told(plan, NOW_US + 10 * US)] == [True, True]
    plan = Planner(routes(ROUTES), Kept(cursor=0), storms.stands_aside)
    plan.take([change(1, single()), change(2, single("N"))], NOW_US)
    assert [row[3] for row in told(plan, NOW_US + 10 * US)] == [True, False]


def test_what_stands_aside_is_not_announced_again() -> None:
    standing = single(recorded_us=at(0), rule="OUTAGE")
    book = Book([standing], names(), ATTENDED)
    long_after = at(60 * 24)
    assert [draft.alarm.alarm_id for draft in book.announce_again(long_after)] == ["M"]
    book.aside = stormy("North").stands_aside
    assert book.announce_again(long_after) == []


def test_a_storm_changes_no_alarm() -> None:
    fair, in_storm = Book([], names()), Book([], names())
    in_storm.aside = lambda _: True
    said = [
        (episode(1),),
        (episode(1, severity=Severity.CRITICAL),),
        (episode(1, 9), episode(20)),
        (episode(20, 22),),
        (),
    ]
    for book in (fair, in_storm):
        for minute, episodes in enumerate(said):
            drafts = book.reconcile([verdict(*episodes, kind="meter")], at(10 * minute + 2))
            assert drafts
            book.apply([draft.alarm for draft in drafts])
    assert list(fair) == list(in_storm)
