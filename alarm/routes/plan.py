"""The plan of the routes: who is to be told of what, and when a message is due.

Argument. A transition makes or changes notices: a notice is what one target knows of one alarm, and it is due while the
alarm shows another face than the one told. What is due of one group goes in one message, with the alarms as they are
then; so an alarm that changes ten times before is told once, and none is told older than another time. A target that is
not to be flooded (rate, or messages that wait) gets what is due of all its groups in one message, which counts what it
does not show. Nothing is due no more but by a message that covers it, or because the alarm called for nobody any more
before anybody was told: that notice is withdrawn.

The plan changes in memory and says in `changes` what; whoever runs it commits that in one transaction, or, when the
commit fails, throws the plan away and makes it anew of what is kept. No clock, no I/O, no event loop.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from alarm.routes.faces import face, told_face
from alarm.routes.families import Families, held_back
from alarm.routes.groups import GroupKey, Groups, group_key
from alarm.routes.message import message_of
from alarm.routes.model import COVERED_MAX, Route, Routes, Target
from alarm.routes.pace import Pace
from meterwatch.alarms import Alarm, AlarmState, Transition
from meterwatch.notices import Change, Changes, Claim, ClaimKey, Kept, Notice, NoticeState, Told
from meterwatch.one_call import OneCall

TIMERS_MAX: Final = 500
"""Steps of time before others have their turn."""
ASIDE_AGAIN_US: Final = 60_000_000
"""What stands aside in a storm is not urged; it is looked at again after so long."""

_GROUP, _CLAIM, _REPEAT, _TARGET = range(4)
_Timer = tuple[int, int, tuple[str | int, ...]]


def none_stands_aside(_: Alarm) -> bool:
    """No storm."""
    return False


class Planner:
    """The notices that are not over, in memory."""

    def __init__(
        self,
        routes: Routes,
        kept: Kept,
        aside: Callable[[Alarm], bool] = none_stands_aside,
        one_call: OneCall | None = None,
    ) -> None:
        """aside: who stands aside in a storm. one_call: which alarms call once; None: each by itself."""
        self.routes = routes
        self._by_name = {route.name: route for route in routes.routes}
        self.cursor = kept.cursor
        self.changes = Changes()
        self._aside = aside
        self._next_number = kept.next_number
        self._notices: dict[tuple[str, str], Notice] = {}
        self._families = Families(one_call or OneCall(), self._notices)
        self._targets_of: dict[str, set[str]] = {}
        self._claims: dict[ClaimKey, Claim] = {claim.key: claim for claim in kept.claims}
        self._groups = Groups()
        self._pace = Pace(kept)
        self._timers: list[_Timer] = []
        for notice in kept.notices:
            self._keep(notice)
            if notice.told is not None:
                group = self._groups.of(notice)
                group.flushed_us = max(group.flushed_us or 0, notice.told.at_us)
                self._time_repeat(notice)
            if notice.due_us is not None:
                self._due(notice, notice.due_us)
        for claim in kept.claims:
            self._time_escalation(claim)

    def __len__(self) -> int:
        return len(self._notices)

    def waiting(self, target: str) -> int:
        """Messages of a target that are made and not sent."""
        return self._pace.waiting(target)

    def take(self, transitions: Iterable[Transition], now_us: int) -> None:
        """See committed transitions, in the order of their cursors. Those seen already are ignored."""
        for transition in transitions:
            if self.cursor is None or transition.seq > self.cursor:
                self._see(transition.alarm, transition.recorded_us, now_us)
                self.cursor = self.changes.cursor = transition.seq

    def begin(self, cursor: int) -> None:
        """Where the tables keep no cursor: what was before this is known from the alarms that are adopted."""
        if self.cursor is None:
            self.cursor = self.changes.cursor = cursor
        self.changes.targets = frozenset(self.routes.targets)

    def adopt(self, alarms: Iterable[Alarm], now_us: int) -> None:
        """See alarms as they are: at a start, and after a change of the file, that nobody new is forgotten."""
        for alarm in alarms:
            if alarm.stands:
                self._see(alarm, now_us, now_us)

    def replace(self, routes: Routes, now_us: int) -> None:
        """Take another file; `adopt` follows. Who was told is told the end, though no route leads there any more."""
        self.routes = routes
        self._by_name = {route.name: route for route in routes.routes}
        self.changes.targets = frozenset(routes.targets)
        for key in [key for key in self._claims if key[0] not in self._by_name]:
            self._end_claim(key)
        for notice in list(self._notices.values()):
            gone = notice.target not in routes.targets
            if gone or (notice.told is None and notice.route not in self._by_name):
                self._close(notice, NoticeState.DROPPED)
        self._pace.keep_only(routes.targets)
        self._groups.keep_ripe_only(routes.targets)
        for claim in self._claims.values():
            self._time_escalation(claim)
        self._families.clear()
        for notice in self._notices.values():
            self._time_repeat(notice)
            self._join(notice)
        for notice in list(self._notices.values()):
            self._speak_up(notice, now_us)

    def settled(self, target: str) -> None:
        """A message of a target waits no more."""
        self._pace.settled(target)

    def lost(self, target: str, number: int, now_us: int) -> None:
        """A message to a target was given up: what it told speaks for nobody. Cost: linear in the notices."""
        for notice in list(self._notices.values()):
            if notice.target == target and notice.told is not None and notice.told.number == number:
                self._notices[notice.key] = replace(notice, told=replace(notice.told, lost=True))
                for other in list(self._families.others(notice)):
                    self._speak_up(other, now_us)

    def requeued(self, target: str, messages: int) -> None:
        """So many dead messages of a target wait again."""
        self._pace.requeued(target, messages)
        for key, notice in self._notices.items():
            if key[0] == target and notice.told is not None and notice.told.lost:
                self._notices[key] = replace(notice, told=replace(notice.told, lost=False))

    def plan(self, now_us: int) -> None:
        """Do all that is due: escalate, repeat, make messages."""
        while self.tick(now_us, TIMERS_MAX):
            pass
        for target in self.ready():
            self.make(target, now_us)

    def tick(self, now_us: int, most: int) -> bool:
        """Escalate, repeat, and see which groups are due: at most so many steps. True: there are more."""
        for _ in range(most):
            if not self._timers or self._timers[0][0] > now_us:
                return False
            _, kind, key = heapq.heappop(self._timers)
            if kind == _GROUP:
                self._ripe(key, now_us)  # type: ignore[arg-type]
            elif kind == _CLAIM:
                self._escalate(key, now_us)  # type: ignore[arg-type]
            elif kind == _REPEAT:
                self._repeat(key, now_us)  # type: ignore[arg-type]
        return True

    def ready(self) -> list[str]:
        """Targets with something due."""
        return sorted(self._groups.ripe)

    def next_us(self) -> int | None:
        """When time does the next thing, or may; None: never."""
        return self._timers[0][0] if self._timers else None

    def drain(self) -> Changes:
        """The changes since the last drain."""
        changes, self.changes = self.changes, Changes()
        return changes

    # what transitions do to claims and notices

    def _see(self, alarm: Alarm, at_us: int, now_us: int) -> None:
        known = [self._notices[target, alarm.alarm_id] for target in self._targets_of.get(alarm.alarm_id, ())]
        if any(notice.alarm.seq > alarm.seq for notice in known):
            return  # adopted since as it was later
        for notice in known:
            if notice.alarm.seq < alarm.seq:
                self._update(replace(notice, alarm=alarm), now_us)
        finished, stands = alarm.finished, alarm.stands
        for route in self.routes.routes:
            key = (route.name, alarm.alarm_id)
            claim = self._claims.get(key)
            if claim is None:
                if route.match.calls_for(alarm) and route.match.matches(alarm) and not route.leaves(at_us):
                    self._set_claim(Claim(*key, at_us if _unacknowledged(alarm) else None))
                    self._notify(route, 0, alarm, now_us)
            elif finished:
                self._end_claim(key)
            else:
                self._follow(claim, alarm, at_us)
                if stands:
                    self._notify(route, claim.step, alarm, now_us)
        for notice in known:
            for other in list(self._families.others(notice)):
                self._speak_up(other, now_us)

    def _follow(self, claim: Claim, alarm: Alarm, at_us: int) -> None:
        if _unacknowledged(alarm) == (claim.since_us is not None):
            return
        again = claim.since_us is None
        self._set_claim(replace(claim, since_us=at_us if again else None, step=0 if again else claim.step))

    def _notify(self, route: Route, steps: int, alarm: Alarm, now_us: int) -> None:
        """A notice for each target of the departments up to a step that has none, or whose route is gone."""
        for step in range(min(steps, len(route.escalations)) + 1):
            department = self.routes.departments[route.department_of_step(step)]
            for target in department.targets:
                notice = self._notices.get((target, alarm.alarm_id))
                if notice is None or notice.route not in self._by_name:
                    self._forget(notice)
                    told = None if notice is None else notice.told
                    group = route.group_of(alarm)
                    made = Notice(target, alarm, route.name, department.name, step, group, told=told)
                    self._keep(made)
                    self._update(made, now_us)

    def _update(self, notice: Notice, now_us: int) -> None:
        """Keep a changed notice, due or not as its alarm now is. What is due already is not put off."""
        if notice.told is None or notice.urged is not None or face(notice.alarm) != told_face(notice.told):
            if self._families.holds_back(notice):
                self._hold_back(notice)
                return
            if notice.due_us is None or notice.urged is not None:
                notice = replace(notice, due_us=self._due(notice, now_us + self._delay_us(notice, now_us)))
            self._set(notice)
            return
        self._groups.undo(notice)
        if notice.alarm.finished:
            self._close(notice, NoticeState.TOLD)
        else:
            self._set(replace(notice, due_us=None))

    def _hold_back(self, notice: Notice) -> None:
        """Tell nothing of it while another speaks for it."""
        self._groups.undo(notice)
        if notice.told is None and not notice.alarm.stands:
            self._close(notice, NoticeState.WITHDRAWN)
        else:
            self._set(replace(notice, due_us=None, urged=None))

    def _speak_up(self, notice: Notice, now_us: int) -> None:
        """Tell what was held back if nobody speaks for it any more. Escalations count from now: who was called came."""
        if not held_back(notice) or self._families.holds_back(notice):
            return
        self._update(replace(notice, urged=Change.LEADS), now_us)
        for route in self.routes.routes:
            claim = self._claims.get((route.name, notice.alarm.alarm_id))
            if claim is not None and claim.since_us is not None:
                self._set_claim(replace(claim, since_us=now_us))

    def _delay_us(self, notice: Notice, now_us: int) -> int:
        group, route = self._groups.of(notice), self._by_name.get(notice.route)
        if route is None or notice.urged in (Change.REPEATED, Change.ESCALATED):
            return 0
        if group.flushed_us is None:
            return route.group_wait_us
        return max(0, group.flushed_us + route.group_interval_us - now_us)

    # what time does

    def _ripe(self, key: GroupKey, now_us: int) -> None:
        group = self._groups.get(key)
        if group is None or group.due_us is None or group.due_us > now_us:
            return
        route = self._by_name.get(key[1])
        opens_us = now_us if route is None or route.hours is None else route.hours.next_open_us(now_us)
        if opens_us > now_us:
            group.due_us = opens_us
            heapq.heappush(self._timers, (opens_us, _GROUP, key))
        else:
            self._groups.ripen(key)

    def _escalate(self, key: ClaimKey, now_us: int) -> None:
        claim, route = self._claims.get(key), self._by_name.get(key[0])
        at_us = None if claim is None or route is None else route.escalates_us(claim)
        targets = self._targets_of.get(key[1])
        if claim is None or route is None or at_us is None or at_us > now_us or not targets:
            return
        alarm = self._notices[min(targets), key[1]].alarm
        if self._aside(alarm) or self._spoken_for(route, claim):
            heapq.heappush(self._timers, (now_us + ASIDE_AGAIN_US, _CLAIM, key))
            return
        claim = replace(claim, step=claim.step + 1)
        known = [self._notices.get((t, key[1])) for t in self._department_targets(route, claim.step)]
        self._notify(route, claim.step, alarm, now_us)
        for notice in known:
            if notice is not None and notice.told is not None:
                self._update(replace(notice, urged=Change.ESCALATED), now_us)
        self._set_claim(claim)

    def _repeat(self, key: tuple[str, str], now_us: int) -> None:
        notice = self._notices.get(key)
        at_us = None if notice is None else self._repeats_us(notice)
        if notice is None or at_us is None or at_us > now_us:
            return
        if self._aside(notice.alarm) or self._families.silent(notice):
            heapq.heappush(self._timers, (now_us + ASIDE_AGAIN_US, _REPEAT, key))
        else:
            self._update(replace(notice, urged=Change.REPEATED), now_us)

    def _repeats_us(self, notice: Notice) -> int | None:
        route = self._by_name.get(notice.route)
        quiet = notice.told is None or notice.due_us is not None or not _unacknowledged(notice.alarm)
        if route is None or route.repeat_us is None or quiet:
            return None
        assert notice.told is not None
        return notice.told.at_us + route.repeat_us

    def _spoken_for(self, route: Route, claim: Claim) -> bool:
        """True: to all people the route has told, or would have by now, another alarm of its family speaks for it."""
        names = {name for step in range(claim.step + 1) for name in self._department_targets(route, step)}
        told = [self._notices.get((name, claim.alarm_id)) for name in names if not self.routes.targets[name].batches]
        people = [notice for notice in told if notice is not None]
        return bool(people) and all(self._families.silent(notice) for notice in people)

    def _department_targets(self, route: Route, step: int) -> Sequence[str]:
        return self.routes.departments[route.department_of_step(step)].targets

    # messages

    def make(self, name: str, now_us: int) -> None:
        """As many messages of what is due as the target may have now; the last one has all the rest."""
        target = self.routes.targets[name]
        ready = self._groups.ripe[name]
        room = self._pace.room(target, now_us)
        keys = deque(sorted(ready, key=self._urgency)) if room > 0 else deque[GroupKey]()
        while keys and room > 0:
            several = target.batches or room == 1
            chosen = list(keys) if several else [keys[0]]
            if self._message(target, chosen, now_us):
                room -= 1
                self._pace.made(target, now_us)
            while keys and keys[0] not in ready:  # what is left of a group is due still
                keys.popleft()
            if several:
                keys = deque(key for key in keys if key in ready)
        if not ready:
            del self._groups.ripe[name]
        elif (opens_us := self._pace.opens_us(target)) is not None:
            heapq.heappush(self._timers, (opens_us, _TARGET, (name,)))

    def _urgency(self, key: GroupKey) -> tuple[int, int, GroupKey]:
        group = self._groups[key]
        return -max(self._notices[key[0], a].alarm.severity for a in group.due), group.due_us or 0, key

    def _message(self, target: Target, keys: Sequence[GroupKey], now_us: int) -> bool:
        """Make one message of what is due in the groups. False: all of it was withdrawn, there is none."""
        found = [self._notices[target.name, alarm_id] for key in keys for alarm_id in self._groups[key].due]
        held = {notice.key for notice in found if self._families.holds_back(notice)}
        due = [n for n in found if n.key not in held and (n.told is not None or n.alarm.stands)]
        for notice in found:
            if notice.key in held:
                self._hold_back(notice)
            elif notice.told is None and not notice.alarm.stands:
                self._close(notice, NoticeState.WITHDRAWN)
        counted = {n.key for n in due if self._only_counted(target, n)}
        due.sort(key=lambda n: (n.key in counted, -n.alarm.severity, n.alarm.onset_us, n.alarm.alarm_id))
        covered = due[:COVERED_MAX]
        if covered:
            waiting = len(due) - len(covered)
            made = message_of(self._next_number, target, covered, counted, waiting, now_us)
            self.changes.deliveries.append(made)
            self._next_number += 1
            self.changes.next_number = self._next_number
        for notice in covered:
            self._tell(notice, now_us)
        return bool(covered)

    def _only_counted(self, target: Target, notice: Notice) -> bool:
        """True: the message has it among those it counts, because it stands aside and is new."""
        return not target.batches and notice.told is None and self._aside(notice.alarm)

    def _tell(self, notice: Notice, now_us: int) -> None:
        alarm = notice.alarm
        number = self._next_number - 1
        told = Told(alarm.seq, alarm.state, alarm.severity, alarm.stands, now_us, number, alarm.priority)
        self._groups.undo(notice)
        self._groups.of(notice).flushed_us = now_us
        notice = replace(notice, told=told, due_us=None, urged=None)
        if alarm.finished:
            self._close(notice, NoticeState.TOLD)
        else:
            self._set(notice)
            self._time_repeat(notice)

    # bookkeeping

    def _due(self, notice: Notice, due_us: int) -> int:
        """Put a notice among those due of its group; when the group is."""
        if self._groups.due(notice, due_us):
            heapq.heappush(self._timers, (due_us, _GROUP, group_key(notice)))
        return self._groups.of(notice).due_us or due_us

    def _set(self, notice: Notice) -> None:
        self._notices[notice.key] = self.changes.notices[notice.key] = notice

    def _keep(self, notice: Notice) -> None:
        self._notices[notice.key] = notice
        self._targets_of.setdefault(notice.alarm.alarm_id, set()).add(notice.target)
        self._groups.keep(notice)
        self._join(notice)

    def _join(self, notice: Notice) -> None:
        """Put a notice to people into its family; a machine gets all and folds by itself."""
        target = self.routes.targets.get(notice.target)
        if target is not None and not target.batches:
            self._families.keep(notice)

    def _forget(self, notice: Notice | None) -> None:
        if notice is None:
            return
        self._groups.forget(notice)
        self._families.forget(notice)
        del self._notices[notice.key]
        targets = self._targets_of[notice.alarm.alarm_id]
        targets.discard(notice.target)
        if not targets:
            del self._targets_of[notice.alarm.alarm_id]

    def _close(self, notice: Notice, state: NoticeState) -> None:
        self.changes.notices[notice.key] = replace(notice, state=state, due_us=None, urged=None)
        self._forget(notice)

    def _set_claim(self, claim: Claim) -> None:
        self._claims[claim.key] = self.changes.claims[claim.key] = claim
        self._time_escalation(claim)

    def _end_claim(self, key: ClaimKey) -> None:
        del self._claims[key]
        self.changes.claims[key] = None

    def _time_escalation(self, claim: Claim) -> None:
        route = self._by_name.get(claim.route)
        at_us = None if route is None else route.escalates_us(claim)
        if at_us is not None:
            heapq.heappush(self._timers, (at_us, _CLAIM, claim.key))

    def _time_repeat(self, notice: Notice) -> None:
        if (at_us := self._repeats_us(notice)) is not None:
            heapq.heappush(self._timers, (at_us, _REPEAT, notice.key))


def _unacknowledged(alarm: Alarm) -> bool:
    return alarm.state is AlarmState.UNACK_ACTIVE and alarm.stands
