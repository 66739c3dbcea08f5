"""The lifecycle under random verdicts, actions, failures, restarts and passing time, against a plain account of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import pytest
from alarm_cases import SinkStore, act, clock, episode, names, verdict

from alarm.actions import ACTIONS, SHELVE_S_MAX
from alarm.desk import AlarmDesk
from alarm.hub import Subscription
from alarm.profile import AlarmClass, AlarmProfile
from meterwatch.alarms import PAGED, Action, Alarm, AlarmFilter, AlarmState, TransitionKind
from meterwatch.clock import ReplayClock
from meterwatch.episodes import Severity
from meterwatch.errors import Rejected, Stale, StorageUnavailable

K = TransitionKind
KINDS: Final = sorted(ACTIONS)
RE_ALARM_S: Final = 1800
UNACKNOWLEDGED_MAX: Final = 1
PROFILE: Final = AlarmProfile("test", (AlarmClass(re_alarm_s=RE_ALARM_S, off_delay_s=120),))


class Walk:
    """A desk over a store in memory, one listener, and who is silenced by a plain account of the log.

    Drawn by a seeded generator and not by Hypothesis, whose walks seldom got as far as the end of a shelf.
    """

    def __init__(self, seed: int, runner: asyncio.Runner) -> None:
        self.draw = random.Random(seed)
        self.loop = runner
        self.store = SinkStore()
        self.clock: ReplayClock = clock()
        self.shift = 30
        """Minute before which the present faults happen."""
        self.answers: list[tuple[Action, int, Alarm]] = []
        self.told: dict[str, Alarm] = {}
        """Alarms as a listener with paging_only has them, while they page."""
        self.desk: AlarmDesk
        self.heard: Subscription
        self.restart()

    def step(self) -> None:
        """Do one thing, then look whether everything still holds."""
        rare = (self.restart, self.the_next_commit_fails, self.time_passes)
        self.draw.choice((self.judge, self.judge, self.operate, self.operate, self.repeat, self.draw.choice(rare)))()
        self.versions_and_cursors_rise_by_one()
        self.every_action_is_in_the_log_once()
        self.the_book_is_what_the_log_leaves()
        self.what_is_put_aside_pages_nobody()
        self.what_became_worse_is_not_acknowledged()
        self.a_listener_has_what_pages_and_nothing_else()

    def restart(self) -> None:
        self.desk = self.loop.run(AlarmDesk.open(self.store, names(), self.clock, profile=PROFILE))
        self.desk.book._unacknowledged_max = UNACKNOWLEDGED_MAX
        wanted = AlarmFilter(paging_only=True)
        _, alarms, self.heard = self.desk.hub.subscribe_now(wanted.wants)
        self.told = {alarm.alarm_id: alarm for alarm in alarms if wanted.matches(alarm)}

    def judge(self) -> None:
        """Tell of at most two faults of an asset, with the same few onsets, so that one verdict meets another."""
        draw = self.draw
        onsets = draw.choice([[], [-20], [-20], [-20], [-20], [-10], [-20, -10]])
        episodes = [
            episode(
                self.shift + onset,
                draw.choice([None, None, self.shift + onset + 2]) if onset == onsets[-1] else self.shift + onset + 3,
                severity=draw.choice([Severity.LOW, Severity.CRITICAL]),
                parent=draw.choice([None, None, None, ("feeder", 0)]),
            )
            for onset in onsets
        ]
        stated = verdict(*episodes, asset_id=draw.randrange(2), since=self.shift - 25, retract=draw.random() < 0.5)
        self.attempt(self.desk.record([stated], []))

    def operate(self) -> None:
        alarms = self.store.alarms()[-4:]
        if not alarms:
            return
        alarm, kind = self.draw.choice(alarms), self.draw.choice(KINDS)
        shelf = {}
        if kind is K.SHELVED:
            shelf = {"shelve_s": self.draw.choice([60, 600, SHELVE_S_MAX]), "once": self.draw.random() < 0.5}
        action = act(alarm.alarm_id, kind, f"a{len(self.answers)}-{len(self.store.log)}", **shelf)
        expected = alarm.version - self.draw.choice([0, 0, 0, 1])
        answer = self.attempt(self.desk.act(action, expected))
        if answer is not None:
            assert expected in (0, alarm.version), "a stale action was done"
            self.answers.append((action, expected, answer))

    def repeat(self) -> None:
        if not self.answers:
            return
        action, expected, answer = self.draw.choice(self.answers)
        length = len(self.store.log)
        assert self.attempt(self.desk.act(action, expected)) == answer
        assert len(self.store.log) == length

    def the_next_commit_fails(self) -> None:
        self.store.fail, self.store.fail_after = StorageUnavailable("away"), self.draw.random() < 0.5

    def time_passes(self) -> None:
        minutes = self.draw.choice([1, 1, 7, 60, 9 * 60])
        self.clock.saw(self.clock.now_us() + minutes * 60_000_000)
        self.shift += minutes if minutes > 60 else 0
        self.attempt(self.desk.lift_shelves())
        self.loop.run(self.desk.lift_shelves())
        now_us = self.clock.now_us()
        assert [a for a in self.store.alarms() if (a.shelved_until_us or now_us + 1) <= now_us] == []
        self.attempt(self.desk.end_delays())
        self.attempt(self.desk.announce_again())
        self.loop.run(self.desk.announce_again())
        since_us = now_us - RE_ALARM_S * 1_000_000
        calling = [a for a in self.store.alarms() if a.pages and a.cleared_us is None]
        assert [a for a in calling if max(a.announced_us or 0, a.acknowledged_us or 0) <= since_us] == []
        assert self.loop.run(self.desk.announce_again()) == []
        self.attempt(self.desk.lapse())
        self.loop.run(self.desk.lapse())
        assert sum(a.state is AlarmState.RTN_UNACK for a in self.store.alarms()) <= UNACKNOWLEDGED_MAX

    def versions_and_cursors_rise_by_one(self) -> None:
        assert [t.seq for t in self.store.log] == list(range(1, len(self.store.log) + 1))
        versions: dict[str, int] = {}
        for t in self.store.log:
            assert t.alarm.version == versions.get(t.alarm.alarm_id, 0) + 1
            versions[t.alarm.alarm_id] = t.alarm.version

    def every_action_is_in_the_log_once(self) -> None:
        made = [(t.action.action_id, t.alarm.alarm_id) for t in self.store.log if t.action is not None]
        assert sorted(made) == sorted(self.store.actions)
        assert {(action.action_id, action.alarm_id) for action, *_ in self.answers} <= set(made)

    def the_book_is_what_the_log_leaves(self) -> None:
        stored = {a.alarm_id: a for a in self.store.alarms()}
        behind = {t.alarm.alarm_id for t in self.store.log[self.desk.hub.seq :]}  # a commit of unknown outcome
        assert [a for a in self.desk.book if a.alarm_id not in behind and stored[a.alarm_id] != a] == []
        kept = {a.alarm_id for a in self.desk.book} | behind
        assert [a for a in stored.values() if not a.finished and a.alarm_id not in kept] == []

    def what_is_put_aside_pages_nobody(self) -> None:
        silenced = self.silenced()
        assert [a for a in self.store.alarms() if a.pages != (a.state in PAGED and a.alarm_id not in silenced)] == []

    def what_became_worse_is_not_acknowledged(self) -> None:
        worse = [t for t in self.store.log if t.was is not None and t.alarm.severity > t.was.severity]
        assert [t for t in worse if t.alarm.state is AlarmState.ACK_ACTIVE] == []

    def a_listener_has_what_pages_and_nothing_else(self) -> None:
        while self.heard.sent_seq < self.desk.hub.seq:
            taken = self.heard.take(1)
            assert isinstance(taken, list), "one that listens at every step is not slow"
            for t in taken:
                self.told.pop(t.alarm.alarm_id, None)
                if t.alarm.pages:
                    self.told[t.alarm.alarm_id] = t.alarm
        published = {t.alarm.alarm_id: t.alarm for t in self.store.log[: self.desk.hub.seq]}
        assert self.told == {a.alarm_id: a for a in published.values() if a.pages}

    def attempt(self, call: Any) -> Any:
        """The answer; None where the service refuses."""
        with suppress(Rejected, Stale, StorageUnavailable):
            return self.loop.run(call)
        return None

    def silenced(self) -> set[str]:
        """Alarms that operators have put aside, by the kinds in the log alone."""
        shelved: dict[str, bool] = {}
        out: set[str] = set()
        for t in self.store.log:
            alarm_id, over = t.alarm.alarm_id, t.was is not None and t.was.cleared_us is None
            over = over and t.alarm.cleared_us is not None
            if t.kind is K.SHELVED and t.action is not None:
                shelved[alarm_id] = t.action.once
            elif t.kind is K.UNSHELVED or (shelved.get(alarm_id) and (over or t.kind is K.RETRACTED)):
                shelved.pop(alarm_id, None)
            if t.kind is K.OUT_OF_SERVICE:
                out.add(alarm_id)
            out -= {alarm_id} if t.kind is K.RETURNED_TO_SERVICE else set()
        return out | shelved.keys()


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_to_alarms_their_laws_hold(seed: int) -> None:
    made: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        for i in range(30):
            walk = Walk(1000 * seed + i, runner)
            for _ in range(60):
                walk.step()
            made.update(t.kind.value for t in walk.store.log)
    assert set(made) == set(TransitionKind), "a walk that meets less proves less"
