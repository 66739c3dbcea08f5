"""People at the service: subscribers that read a little, stall, leave and resume, and operators that act.

A subscriber keeps what any client keeps: its cursor, and each alarm as it heard it last. What it is told twice, late,
out of order or never is a finding, in words. Refuses to know rules and time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from alarm.desk import AlarmDesk
from alarm.hub import Coalesced, Subscription
from meterwatch.alarms import Action, Alarm, AlarmFilter, AssetShelf, Transition, TransitionKind
from meterwatch.devtools.simulation.kept_in_memory import Memory
from meterwatch.devtools.simulation.one_thread import at_once
from meterwatch.episodes import Severity
from meterwatch.errors import Missing, Rejected, Stale, StorageUnavailable

FILTERS: Final = (AlarmFilter(), AlarmFilter(paging_only=True), AlarmFilter(severity_min=Severity.HIGH))
PAGE: Final = 5
"""Of the log, for who resumes."""
READ_MAX: Final = 8
LEAVES: Final = 0.15
STALLS: Final = 0.4
ACTIONS: Final = (
    TransitionKind.ACKNOWLEDGED,
    TransitionKind.SHELVED,
    TransitionKind.UNSHELVED,
    TransitionKind.OUT_OF_SERVICE,
    TransitionKind.RETURNED_TO_SERVICE,
    TransitionKind.COMMENTED,
    TransitionKind.ASSIGNED,
)
SHELVE_S_MAX: Final = 7200


class Subscriber:
    """One that wants some alarms."""

    def __init__(self, wanted: AlarmFilter) -> None:
        self.wanted = wanted
        self.cursor: int | None = None
        self.began = 0
        """Cursor of its snapshot."""
        self.wrong: list[str] = []
        self.heard: list[int] = []
        """Cursors it was sent, in order."""
        self._subscription: Subscription | None = None
        self._backlog: list[Transition] = []
        self._have: dict[str, Alarm] = {}
        self._joined = 0
        self._got = 0
        """Transitions sent since it joined, and told to be merged."""

    def lost(self) -> None:
        """The connection is gone, with what was on its way."""
        if self._subscription is not None:
            self._subscription.close()
        self._subscription, self._backlog = None, []

    def looks(self, desk: AlarmDesk, memory: Memory, rng: np.random.Generator) -> None:
        """Leaves, stalls or reads a little; joins first if it is not there."""
        drawn = rng.random()
        if drawn < LEAVES:
            self.lost()
        elif drawn > LEAVES + STALLS or self.cursor is None:
            self.reads(desk, memory, int(rng.integers(1, READ_MAX)))

    def reads(self, desk: AlarmDesk, memory: Memory, most: int) -> None:
        """Takes at most so many."""
        if self._subscription is None:
            self._join(desk, memory)
        assert self._subscription is not None
        assert self.cursor is not None
        if self._backlog:
            for transition in self._backlog[:most]:
                self._received(transition)
            del self._backlog[:most]
            return
        taken = self._subscription.take(most)
        if isinstance(taken, Coalesced):
            self._got += taken.merged
            return
        for transition in taken:
            self._received(transition)
        if self._subscription._folded is None:
            self.cursor = max(self.cursor, self._subscription.sent_seq)

    def _join(self, desk: AlarmDesk, memory: Memory) -> None:
        hub, wants = desk.hub, self.wanted.wants
        self._got = 0
        if self.cursor is None:
            self.cursor, alarms, self._subscription = hub.subscribe_now(wants)
            self.began = self._joined = self.cursor
            self._have = {alarm.alarm_id: alarm for alarm in alarms if self.wanted.matches(alarm)}
            return
        position = self._joined = self.cursor
        while (joined := hub.subscribe_after(position, wants)) is None:
            page = at_once(memory.log_after(position, PAGE))
            if not page:
                self.wrong.append(f"between cursor {position} and the ring of the hub the log has nothing")
                joined = hub.subscribe_now(wants)[2]
                break
            self._backlog += [one for one in page if wants(one)]
            position = page[-1].seq
        self._subscription = joined

    def _received(self, transition: Transition) -> None:
        assert self.cursor is not None
        before = self._have.get(transition.alarm.alarm_id)
        if transition.seq <= self.cursor:
            self.wrong.append(f"cursor {transition.seq} came after {self.cursor}: twice, or out of order")
        if before is not None and transition.alarm.version <= before.version:
            self.wrong.append(f"{transition.alarm.alarm_id}: version {transition.alarm.version} after {before.version}")
        self.cursor = max(self.cursor, transition.seq)
        self._got += 1
        self.heard.append(transition.seq)
        self._have[transition.alarm.alarm_id] = transition.alarm

    def ends(self, desk: AlarmDesk, memory: Memory) -> list[str]:
        """Reads all there is; what it then has wrong."""
        for _ in range(2 * len(memory.log) + 10):
            self.reads(desk, memory, READ_MAX)
        if self.cursor != len(memory.log):
            self.wrong.append(f"stands at cursor {self.cursor}, the log at {len(memory.log)}")
        wanted = sum(map(self.wanted.wants, memory.log[self._joined :]))
        if self._got != wanted:
            self.wrong.append(f"was told of {self._got} transitions since cursor {self._joined}, {wanted} were for it")
        for alarm in memory.alarms.values():
            news = not alarm.finished or alarm.seq > self.began
            if self.wanted.matches(alarm) and news and self._have.get(alarm.alarm_id) != alarm:
                self.wrong.append(f"does not have {alarm.alarm_id} as it is at version {alarm.version}")
        for alarm_id, had in self._have.items():
            if self.wanted.matches(had) and not self.wanted.matches(memory.alarms[alarm_id]):
                self.wrong.append(f"was never told that {alarm_id} left its filter")
        return self.wrong


@dataclass(slots=True)
class Operators:
    """Act on what is there, some twice under one id. shelved: shelves over assets, since which cursor."""

    rng: np.random.Generator
    wrong: list[str] = field(default_factory=list)
    shelved: list[tuple[AssetShelf, int]] = field(default_factory=list)
    acted: int = 0

    def acts(self, desk: AlarmDesk, memory: Memory) -> None:
        """One action."""
        self.acted += 1
        with suppress(StorageUnavailable, Missing, Rejected, Stale):  # told to who acted
            if self.rng.random() < 0.25:
                self._shelves_asset(desk, memory)
            else:
                self._acts_on_alarm(desk, memory)

    def _acts_on_alarm(self, desk: AlarmDesk, memory: Memory) -> None:
        known = [alarm.alarm_id for alarm in memory.alarms.values() if not alarm.finished]
        which, kind = int(self.rng.integers(0, 1 << 20)), ACTIONS[int(self.rng.integers(0, len(ACTIONS)))]
        shelve_s = int(self.rng.integers(60, SHELVE_S_MAX)) if kind is TransitionKind.SHELVED else 0
        if not known:
            return
        action = Action(f"A{self.acted}", known[which % len(known)], kind, "Kim", "seen", shelve_s=shelve_s)
        first = at_once(desk.act(action, 0))
        again = at_once(desk.act(action, 0))
        if first != again:
            self.wrong.append(f"{action.action_id} a second time: version {again.version}, not {first.version}")

    def _shelves_asset(self, desk: AlarmDesk, memory: Memory) -> None:
        alarms = list(memory.alarms.values())
        which, lift = int(self.rng.integers(0, 1 << 20)), self.rng.random() < 0.2
        shelve_s = 0 if lift else int(self.rng.integers(60, SHELVE_S_MAX))
        if not alarms:
            return
        over = alarms[which % len(alarms)]
        shelf = AssetShelf(f"S{self.acted}", "", over.asset_kind, over.asset, shelve_s, "Kim", "crew")
        done, _ = at_once(desk.shelve_asset(shelf))
        self.shelved.append((done, len(memory.log)))
