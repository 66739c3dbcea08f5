"""Routes for the tests, and an outbox in memory with the interface of the one in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alarm.routes.file import parse_routes
from alarm.routes.model import Routes
from alarm.routes.plan import Planner
from meterwatch.alarms import Alarm, AlarmState, Transition, TransitionKind
from meterwatch.episodes import Severity
from meterwatch.errors import StorageUnavailable
from meterwatch.notices import Changes, Delivery, DeliveryState, Item, Kept, Notice, NoticeState, Parcel

US = 1_000_000
NOW_US = 1_700_000_000 * US  # a Tuesday, 22:13:20 UTC


def routes(text: str) -> Routes:
    return parse_routes(text.encode(), "routes.yaml", Path())


def simple(route: str = "", targets: str = "", departments: str = "", schedules: str = "", **target: Any) -> Routes:
    """One department `noc` with one target `hook`; `route` is put into its only route."""
    of_target = "".join(f", {name}: {value}" for name, value in target.items())
    return routes(
        f"""
version: 1
link: https://console.example/alarms
targets:
  hook: {{kind: alertmanager, url: "http://127.0.0.1:9"{of_target}}}
  {targets}
departments:
  noc: {{targets: [hook]}}
  {departments}
schedules: {{{schedules}}}
routes:
  - name: all
    department: noc
    {route}
"""
    )


def alarm(alarm_id: str = "A", **changes: Any) -> Alarm:
    made = Alarm(
        alarm_id, "OUTAGE", "transformer", 0, "T0", "F0", "North", AlarmState.UNACK_ACTIVE, Severity.HIGH, "SUSTAINED",
        NOW_US - 60 * US, NOW_US - 30 * US, None, NOW_US, 1, 0, None, "out", {"affected": 3},
    )  # fmt: skip
    return replace(made, **changes)


def change(seq: int, alarm: Alarm, at_us: int = NOW_US) -> Transition:
    kind = TransitionKind.RAISED if alarm.version == 1 else TransitionKind.AMENDED
    return Transition(seq, kind, replace(alarm, seq=seq), at_us)


class SinkOutbox:
    """`fail`: raised by the next commit, before or after it holds."""

    def __init__(self, log: Sequence[Transition]) -> None:
        self.log = log
        self.cursor: int | None = None
        self.next_number = 1
        self.notices: dict[tuple[str, str], Notice] = {}
        self.claims: dict[tuple[str, str], Any] = {}
        self.deliveries: dict[int, Delivery] = {}
        self.state: dict[int, DeliveryState] = {}
        self.attempts: dict[int, int] = {}
        self.next_try_us: dict[int, int] = {}
        self.queued_us: dict[int, int] = {}
        self.errors: dict[int, str] = {}
        self.fail: StorageUnavailable | None = None
        self.fail_after = False

    async def load(self, made_since_us: int) -> Kept:
        made: dict[str, list[int]] = {}
        waiting: dict[str, int] = {}
        for number, one in self.deliveries.items():
            if one.made_us > made_since_us:
                made.setdefault(one.target, []).append(one.made_us)
            if self.state[number] is DeliveryState.WAITING:
                waiting[one.target] = waiting.get(one.target, 0) + 1
        opened = tuple(notice for notice in self.notices.values() if notice.state is NoticeState.OPEN)
        return Kept(self.cursor, self.next_number, opened, tuple(self.claims.values()), made, waiting)

    async def commit(self, changes: Changes, queued_us: int) -> None:
        fail, self.fail = self.fail, None
        if fail is not None and not self.fail_after:
            raise fail
        if changes.cursor is not None:
            self.cursor = changes.cursor
        if changes.next_number is not None:
            self.next_number = changes.next_number
        self.notices |= changes.notices
        for key, claim in changes.claims.items():
            if claim is None:
                self.claims.pop(key, None)
            else:
                self.claims[key] = claim
        for one in changes.deliveries:
            assert one.number not in self.deliveries
            self.deliveries[one.number] = one
            self.state[one.number] = DeliveryState.WAITING
            self.attempts[one.number] = 0
            self.next_try_us[one.number] = self.queued_us[one.number] = queued_us
        if changes.targets is not None:
            for number, one in self.deliveries.items():
                if one.target not in changes.targets and self.state[number] is DeliveryState.WAITING:
                    self.state[number] = DeliveryState.DEAD
        if fail is not None:
            raise fail

    async def next_parcel(self, target: str) -> Parcel | None:
        waiting = [n for n, one in self.deliveries.items() if one.target == target and self.state[n] == "WAITING"]
        if not waiting:
            return None
        number = min(waiting)
        one = self.deliveries[number]
        shown = tuple((item, self.stored(item)) for item in one.items if item.shown)
        return Parcel(one, shown, self.attempts[number], self.next_try_us[number], self.queued_us[number])

    def stored(self, item: Item) -> Alarm:
        """The alarm of an item, as the log has it."""
        (found,) = (t.alarm for t in self.log if t.seq == item.seq)
        return found

    async def tried(
        self, number: int, state: DeliveryState, tried_us: int, ended_us: int, next_try_us: int, error: str
    ) -> None:
        self.state[number] = state
        self.attempts[number] += 1
        self.next_try_us[number] = next_try_us
        self.errors[number] = error

    async def told_active(self, target: str, after: str, limit: int) -> list[Alarm]:
        told = [n for n in self.notices.values() if n.target == target and n.state == "OPEN" and n.told is not None]
        active = ("UNACK_ACTIVE", "ACK_ACTIVE")
        found = [n.alarm for n in told if n.told is not None and n.told.pages and n.told.state in active]
        return sorted((a for a in found if a.alarm_id > after), key=lambda a: a.alarm_id)[:limit]

    async def retry(self, target: str, now_us: int) -> int:
        dead = [n for n, one in self.deliveries.items() if one.target == target and self.state[n] == "DEAD"]
        for number in dead:
            self.state[number] = DeliveryState.WAITING
            self.next_try_us[number] = self.queued_us[number] = now_us
        return len(dead)


def made(planner: Planner, now_us: int) -> list[Delivery]:
    """The messages made by now."""
    planner.plan(now_us)
    return planner.drain().deliveries
