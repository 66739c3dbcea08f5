"""Book, desk, hub and routes together under whatever may happen, in any order: a state machine drives them.

Verdicts, operators' actions, shelves that end, commits that fail or whose outcome is unknown, subscribers that read,
stall, disconnect and resume, restarts of the service, routes files that change, targets that take a message, fail, or
take it and the answer is lost. At every moment: no subscriber gets a transition twice, late, or out of order, and what
was merged is counted; no target gets an older state of an alarm after a newer one, and one id always says the same. At
the end, after everything had time: every subscriber has every alarm as it is, every target knows of each alarm what it
should, and nothing waits anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from alarm_cases import BASE_US, MINUTE_US, SinkStore, act, episode, names, verdict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from routes_world import SinkOutbox, routes

from alarm import hub as hub_module
from alarm.desk import AlarmDesk
from alarm.hub import Coalesced, Subscription
from alarm.profile import AlarmClass, AlarmProfile
from alarm.routes import pace as pace_module
from alarm.routes.faces import face
from alarm.routes.plan import Planner
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, AssetShelf, Priority, TransitionKind
from meterwatch.clock import ReplayClock
from meterwatch.episodes import Severity, Verdict
from meterwatch.errors import Missing, Rejected, Stale, StorageUnavailable
from meterwatch.notices import DeliveryState, NoticeState, Parcel

T = TypeVar("T")
US = 1_000_000
QUEUE_MAX, RING_MAX, UNACKNOWLEDGED_MAX = 3, 6, 2

FILE = """
version: 1
targets:
  a: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}, alarms_max: 2, rate: {messages: 2, per_s: 300}}
  b: {kind: webhook, url: "http://127.0.0.1:9", secret: {env: HOME}}
  c: {kind: alertmanager, url: "http://127.0.0.1:9"}
departments:
  crews: {targets: [a]}
  noc: {targets: [b, c]}
schedules:
  day: {time_zone: UTC, hours: ["mon-sun 07:00-17:00"]}
routes:
  - {name: outages, match: {type: [OUTAGE]}, department: crews, group_by: [asset], repeat_s: 1800,
     escalate: [{after_s: 900, department: noc}]}
  - {name: south, match: {district: [South], severity_min: HIGH}, department: noc, schedule: day}
"""
FILES = (FILE, FILE.replace("[a]", "[a, b]").replace("name: south", "name: southern"), FILE.replace("[b, c]", "[c]"))
FILTERS = (
    AlarmFilter(),
    AlarmFilter(paging_only=True),
    AlarmFilter(districts=frozenset({"South"}), severity_min=Severity.HIGH),
    AlarmFilter(states=frozenset({AlarmState.UNACK_ACTIVE})),
    AlarmFilter(priority_min=Priority.CRITICAL),
    AlarmFilter(any_of=(routes(FILE).concerns("crews"), routes(FILE).concerns("noc")), paging_only=True),
)
PROFILE = AlarmProfile(
    "of the machine",
    (
        AlarmClass(
            "OUTAGE", "transformer", priority={Severity.HIGH: Priority.CRITICAL}, off_delay_s=60, re_alarm_s=600,
            chatter_raises=3,
        ),
    ),
)  # fmt: skip
"""Every number of a class at work but the delay before an alarm: what is over by then is never told."""
ACTIONS = (
    TransitionKind.ACKNOWLEDGED,
    TransitionKind.SHELVED,
    TransitionKind.UNSHELVED,
    TransitionKind.OUT_OF_SERVICE,
    TransitionKind.RETURNED_TO_SERVICE,
    TransitionKind.COMMENTED,
    TransitionKind.ASSIGNED,
)
AWAY = StorageUnavailable("the database is away")


_SEVERITIES = st.sampled_from([Severity.LOW, Severity.HIGH, Severity.HIGH, Severity.CRITICAL])
_RARELY = st.sampled_from([False, False, False, False, True])
SEEN = st.tuples(st.integers(0, 2), st.sampled_from([None, None, None, 1, 3]), _SEVERITIES, _RARELY, _RARELY)
"""onset and end, severity, folded into the feeder's, gone."""


class Subscriber:
    """One who keeps the last cursor, and what every alarm was."""

    def __init__(self, wanted: AlarmFilter) -> None:
        self.wanted = wanted
        self.cursor: int | None = None
        self.began = 0
        self.subscription: Subscription | None = None
        self.backlog: list[Any] = []
        self.have: dict[str, Alarm] = {}
        self.joined = 0
        """Cursor the subscription began after."""
        self.got = 0
        """Transitions it was sent since then, and told to be merged."""


class Machine(RuleBasedStateMachine):
    """See the head of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.make_loop()
        self.clock = self.make_clock()
        self.store, self.outbox = self.make_stores()
        self.file = FILES[0]
        self.action = 0
        self.subscribers = [Subscriber(wanted) for wanted in FILTERS]
        self.told: dict[str, dict[str, Any]] = {}
        """target -> alarm_id -> its newest item received."""
        self.messages: dict[int, Any] = {}
        self.start_service()
        for who in range(len(FILTERS)):
            self.subscriber_reads(who, 1)

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def make_stores(self) -> tuple[SinkStore, SinkOutbox]:
        store = SinkStore()
        return store, SinkOutbox(store.log)

    def make_clock(self) -> ReplayClock:
        return ReplayClock(BASE_US)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.at_the_end()
        finally:
            self.loop.close()

    # the service

    @rule()
    def start_service(self) -> None:
        """A start, or a restart: what was in memory is gone."""
        self.store.fail = self.outbox.fail = None
        self.desk = self.run(AlarmDesk.open(self.store, names(), self.clock, profile=PROFILE))
        self.desk.book._unacknowledged_max = UNACKNOWLEDGED_MAX
        self.desk.hub._queue_max = QUEUE_MAX
        self.desk.hub._ring = type(self.desk.hub._ring)(maxlen=RING_MAX)
        for one in self.subscribers:
            one.subscription, one.backlog = None, []
        self.start_routes()

    def start_routes(self) -> None:
        """As Dispatch: of what is kept, with the file and the alarms there are."""
        planner = Planner(routes(self.file), self.run(self.outbox.load(self.clock.now_us() - 300 * US)))
        planner.replace(routes(self.file), self.clock.now_us())
        planner.begin(self.desk.newest_seq())
        planner.adopt(self.desk.standing(), self.clock.now_us())
        self.run(self.outbox.commit(planner.drain(), self.clock.now_us()))
        self.planner = planner

    @rule(seconds=st.sampled_from([1, 30, 30, 120, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.clock._now_us = self.clock.now_us() + seconds * US

    @rule(after=st.booleans(), asset=st.integers(0, 3), severity=st.sampled_from([Severity.LOW, Severity.CRITICAL]))
    def a_commit_fails(self, after: bool, asset: int, severity: Severity) -> None:
        self.store.fail, self.store.fail_after = AWAY, after
        self.attempt(self.desk.record([self.seen(asset, 1, None, severity, False, False)], ()))
        self.store.fail = None

    def attempt(self, work: Coroutine[Any, Any, Any]) -> None:
        with suppress(StorageUnavailable, Missing, Rejected, Stale):  # told to whoever asked; what is kept is compared
            self.run(work)

    @rule(verdicts=st.dictionaries(st.integers(0, 3), SEEN, min_size=1))
    def verdicts_come(self, verdicts: dict[int, Any]) -> None:
        self.attempt(self.desk.record([self.seen(asset, *seen) for asset, seen in verdicts.items()], ()))

    def seen(
        self, asset: int, onset: int, cleared: int | None, severity: Severity, folded: bool, gone: bool
    ) -> Verdict:
        """What the rule says of a transformer: an episode that began and ended minutes ago, or none any more."""
        now = (self.clock.now_us() - BASE_US) / MINUTE_US
        ended = None if cleared is None else now - onset + cleared / 2
        found = episode(now - onset, ended, severity=severity, parent=("feeder", 0) if folded else None)
        return verdict(*([] if gone else [found]), asset_id=asset, since=now - 60, retract=True)

    @rule(which=st.integers(0, 5), kind=st.sampled_from(ACTIONS), same=_RARELY, many=st.booleans())
    def operator_acts(self, which: int, kind: TransitionKind, same: bool, many: bool) -> None:
        known = [alarm.alarm_id for alarm in self.store.alarms() if not alarm.finished]
        if not known:
            return
        alarm_id = known[which % len(known)]
        self.action += not same
        of = {"shelve_s": 600} if kind is TransitionKind.SHELVED else {}
        action = act(alarm_id, kind, f"a{self.action}", **of)
        if many:
            self.attempt(self.desk.act_on_many(action, AlarmFilter(districts=frozenset({"South"}))))
        else:
            self.attempt(self.desk.act(action, 0))

    @rule(asset=st.integers(0, 3), lift=_RARELY)
    def operator_shelves_an_asset(self, asset: int, lift: bool) -> None:
        self.action += 1
        shelf_s = 0 if lift else 600
        shelf = AssetShelf(f"a{self.action}", "", "transformer", f"T{asset}", shelf_s, "Kim", "crew")
        self.attempt(self.desk.shelve_asset(shelf))

    @rule()
    def the_desk_keeps_time(self) -> None:
        for work in (self.desk.lift_shelves, self.desk.end_delays, self.desk.announce_again, self.desk.lapse):
            self.attempt(work())

    # subscribers

    @rule(who=st.integers(0, len(FILTERS) - 1))
    def subscriber_leaves(self, who: int) -> None:
        one = self.subscribers[who]
        if one.subscription is not None:
            one.subscription.close()
        one.subscription, one.backlog = None, []

    @rule(who=st.integers(0, len(FILTERS) - 1), most=st.integers(1, 4))
    def subscriber_reads(self, who: int, most: int) -> None:
        """Joins, by a snapshot or its cursor, if it is not there; then takes a little."""
        one = self.subscribers[who]
        hub = self.desk.hub
        if one.subscription is None:
            if one.cursor is None:
                one.cursor, alarms, one.subscription = hub.subscribe_now(one.wanted.wants)
                one.began = one.joined = one.cursor
                one.got = 0
                one.have = {alarm.alarm_id: alarm for alarm in alarms if one.wanted.matches(alarm)}
                return
            position = one.joined = one.cursor
            one.got = 0
            while (joined := hub.subscribe_after(position, one.wanted.wants)) is None:
                page = self.run(self.store.log_after(position, 2))
                assert page, "the ring and the log leave a gap"
                one.backlog += [t for t in page if one.wanted.wants(t)]
                position = page[-1].seq
            one.subscription = joined
        for transition in one.backlog[:most]:
            self.received(one, transition)
        if one.backlog:
            del one.backlog[:most]
            return
        taken = one.subscription.take(most)
        if isinstance(taken, Coalesced):
            one.got += taken.merged
            return
        for transition in taken:
            self.received(one, transition)
        if one.subscription._folded is None:  # a bookmark
            one.cursor = max(one.cursor or 0, one.subscription.sent_seq)

    def received(self, one: Subscriber, transition: Any) -> None:
        assert one.cursor is not None
        assert transition.seq > one.cursor, "doubled, or out of order"
        one.cursor = transition.seq
        one.got += 1
        one.have[transition.alarm.alarm_id] = transition.alarm

    # routes

    @rule(which=st.integers(0, len(FILES) - 1))
    def file_changes(self, which: int) -> None:
        self.file = FILES[which]
        self.start_routes()

    @rule(page=st.integers(1, 4), fails=st.sampled_from([None, None, None, False, True]))
    def routes_step(self, page: int, fails: bool | None) -> None:
        """As Dispatch: a page of the log, then what is due; a failed commit is a new beginning."""
        if fails is not None:
            self.outbox.fail, self.outbox.fail_after = AWAY, fails
        planner = self.planner
        try:
            if planner.cursor is not None and self.desk.newest_seq() > planner.cursor:
                planner.take(self.run(self.store.log_after(planner.cursor, page)), self.clock.now_us())
                self.commit_plan()
            if planner.cursor == self.desk.newest_seq():
                planner.plan(self.clock.now_us())
                self.commit_plan()
        except StorageUnavailable:
            self.start_routes()
        self.outbox.fail = None

    def commit_plan(self) -> None:
        if changes := self.planner.drain():
            self.run(self.outbox.commit(changes, self.clock.now_us()))

    @rule(to=st.sampled_from("abc"), comes=st.booleans(), answered=st.booleans())
    def target_is_tried(self, to: str, comes: bool, answered: bool) -> None:
        """A try: the message comes or not, its answer comes or not."""
        parcel = self.run(self.outbox.next_parcel(to))
        if parcel is None:
            return
        if comes:
            self.message_comes(to, parcel)
        if comes and answered:
            now_us = self.clock.now_us()
            self.run(self.outbox.tried(parcel.delivery.number, DeliveryState.SENT, now_us, now_us, now_us, ""))
            self.planner.settled(to)

    def message_comes(self, to: str, parcel: Parcel) -> None:
        """A target has a message, maybe once more."""
        one = parcel.delivery
        content = (one.items, one.waiting, [alarm for _, alarm in parcel.alarms])
        first = one.number not in self.messages
        assert self.messages.setdefault(one.number, content) == content, "one id says two things"
        for item in one.items if first else ():
            before = self.told.setdefault(to, {}).get(item.alarm_id)
            assert before is None or before.seq <= item.seq, "an older state after a newer one"
            assert before is None or before.seq < item.seq or item.change in ("REPEATED", "ESCALATED", "NEW"), item
            self.told[to][item.alarm_id] = item

    # what holds

    @invariant()
    def book_and_hub_are_not_ahead_of_the_table(self) -> None:
        table = {alarm.alarm_id: alarm for alarm in self.store.alarms()}
        for alarm in self.desk.book:
            assert alarm.seq <= table[alarm.alarm_id].seq
        assert self.desk.newest_seq() <= len(self.store.log)

    @invariant()
    def nothing_waits_without_bound(self) -> None:
        for target in "abc":
            waiting = [n for n, d in self.outbox.deliveries.items() if d.target == target]
            assert sum(self.outbox.state[n] == "WAITING" for n in waiting) <= pace_module.WAITING_MAX

    def at_the_end(self) -> None:
        """After everything had time."""
        self.store.fail = self.outbox.fail = None
        self.run(self.desk.lift_shelves())
        self.run(self.desk.end_delays())
        for one in range(len(self.subscribers)):
            self.subscriber_ends(one)
        self.everybody_is_told()
        self.targets_know_what_they_should()

    def everybody_is_told(self) -> None:
        for _ in range(100):
            self.clock._now_us += 20_000 * US
            while self.planner.cursor != self.desk.newest_seq():
                self.routes_step(100, None)
            self.routes_step(100, None)
            for target in "abc":
                while self.run(self.outbox.next_parcel(target)) is not None:
                    self.target_is_tried(target, True, True)
            if all(notice.due_us is None for notice in self.outbox.notices.values()):
                break

    def subscriber_ends(self, who: int) -> None:
        one = self.subscribers[who]
        for _ in range(len(self.store.log) + 10):
            self.subscriber_reads(who, 4)
        newest = {t.alarm.alarm_id: t.alarm for t in self.store.log}
        assert one.cursor == len(self.store.log)
        assert one.got == sum(one.wanted.wants(t) for t in self.store.log[one.joined :]), "merged and not told"
        for alarm_id, alarm in newest.items():
            if one.wanted.matches(alarm) and not (alarm.finished and alarm.seq <= one.began):
                assert one.have[alarm_id] == alarm, "lost"
        for alarm_id, alarm in one.have.items():
            assert one.wanted.matches(alarm) == one.wanted.matches(newest[alarm_id]), "stuck"

    def targets_know_what_they_should(self) -> None:
        found = routes(self.file)
        for key, notice in self.outbox.notices.items():
            assert notice.due_us is None, f"stuck: {key}"
            if notice.told is not None:
                had = self.told.get(key[0], {}).get(key[1])
                assert had is not None, f"said to be told, and was not: {key}"
                assert had.seq == notice.told.seq, f"said to be told, and was not: {key}"
        for alarm in self.store.alarms():
            for route in found.routes:
                wanted = alarm.pages and route.match.matches(alarm)
                targets = found.departments[route.department].targets if wanted else ()
                for target in targets:
                    item = self.told.get(target, {}).get(alarm.alarm_id)
                    assert item is not None, f"lost: {target} {alarm}"
            for target in found.targets:
                notice = self.outbox.notices.get((target, alarm.alarm_id))
                item = self.told.get(target, {}).get(alarm.alarm_id)
                if notice is None or item is None:
                    continue
                known = self.outbox.stored(item)
                if notice.state is NoticeState.OPEN:
                    assert face(known) == face(alarm), f"stale: {target} {alarm}"
                elif notice.state is NoticeState.TOLD:  # a cleared one may be retracted since
                    assert face(known)[0] in ("CLEARED", "RETRACTED"), f"stale: {target} {alarm}"
                    assert not alarm.pages, f"stale: {target} {alarm}"
        assert not any(state is DeliveryState.WAITING for state in self.outbox.state.values()), "stuck"


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "WAITING_MAX", 3)
    monkeypatch.setattr(hub_module, "ALARMS_MAX", 64)


@pytest.mark.usefixtures("_small_limits")
class TestMachine(Machine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=60, stateful_step_count=80, suppress_health_check=[HealthCheck.too_slow], deadline=None
    )
