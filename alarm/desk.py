"""The desk: the only place where alarms change.

Promise: one change at a time, and always in this order: propose (book), commit (store), apply (book), publish (hub). If
the commit fails nothing is applied and nobody hears of it. If its outcome is unknown, the next change first reads what
the log has after the last published cursor, and applies and publishes that. So book and hub are never ahead of the
database, and behind it only while a change is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog

from alarm.actions import check_action, check_shelf
from alarm.book import KEEP_US, Book
from alarm.hub import SUBSCRIBERS_MAX, Hub
from alarm.profile import AlarmProfile
from alarm.shaping import Key, Waiting, key_of, shaped_all
from meterwatch import failpoints
from meterwatch.alarms import Action, Alarm, AlarmFilter, AssetShelf, Draft, Transition, TransitionKind
from meterwatch.clock import Clock
from meterwatch.episodes import Verdict
from meterwatch.errors import Missing, Overloaded, Rejected, Stale, StorageUnavailable
from meterwatch.loads import LoadChange
from meterwatch.topology import Topology

LOG_PAGE_MAX: Final = 1000
TICK_S: Final = 1.0
"""How late a shelf may be lifted."""
ACT_ALARMS_MAX: Final = 1000
"""Of one action; as alarms.proto says."""
Refusal = Missing | Rejected | Stale
_log = structlog.get_logger(__name__)


class Store(Protocol):
    """What the desk needs of the database."""

    async def load_open_and_recent(self, since_us: int) -> list[Alarm]: ...

    async def commit(
        self,
        drafts: Sequence[Draft],
        evaluated_batch_ids: Sequence[int],
        *,
        now_us: int,
        loads: LoadChange | None = None,
        shelf: AssetShelf | None = None,
    ) -> list[int]: ...

    async def load_shelves(self, now_us: int) -> list[AssetShelf]: ...

    async def find_shelf(self, action_id: str) -> AssetShelf | None: ...

    async def log_after(self, seq: int, limit: int) -> list[Transition]: ...

    async def newest_seq(self) -> int: ...

    async def log_id(self) -> str: ...

    async def get_many(self, alarm_ids: Sequence[str]) -> list[Alarm]: ...

    async def within(self, verdicts: Sequence[Verdict]) -> list[Alarm]: ...

    async def find_actions(self, action_id: str) -> list[tuple[Action, Alarm]]: ...


class AlarmDesk:
    """Records verdicts, the actions of operators, and the time that runs out for them."""

    def __init__(self, book: Book, store: Store, hub: Hub, clock: Clock) -> None:
        self.book = book
        self.hub = hub
        self.published: Callable[[Sequence[Transition]], None] = lambda _: None
        """Told of every committed transition, once."""
        self.raised: Callable[[str, Exception], None] = _raise
        """Told of an error of ours with what only the time makes necessary: all else of it goes on."""
        self.time_us: Callable[[], int] = clock.now_us
        """The time the rules live in: delays end by it."""
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._in_doubt = False
        """A commit was begun and its outcome not seen."""
        self._waiting: dict[Key, Waiting] = {}
        """Verdicts of which more is to be told when a delay ends."""

    @classmethod
    async def open(
        cls,
        store: Store,
        names: Topology,
        clock: Clock,
        subscribers_max: int = SUBSCRIBERS_MAX,
        profile: AlarmProfile | None = None,
    ) -> AlarmDesk:
        """A desk with book and hub as the database has them."""
        seq = await store.newest_seq()
        alarms = await store.load_open_and_recent(clock.now_us() - KEEP_US)
        hub = Hub(alarms, seq, await store.log_id(), subscribers_max=subscribers_max)
        book = Book(alarms, names, profile)
        for shelf in await store.load_shelves(clock.now_us()):
            book.put_over(shelf)
        return cls(book, store, hub, clock)

    def newest_seq(self) -> int:
        """Cursor of the last transition published."""
        return self.hub.seq

    async def stored(self, alarm_ids: Sequence[str]) -> list[Alarm]:
        """These alarms, as they are stored; without those that are not known."""
        return await self._store.get_many(alarm_ids)

    def standing(self) -> list[Alarm]:
        """The alarms that call for somebody, or are for planning, as of that cursor."""
        return [alarm for alarm in self.book if alarm.stands]

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        """Transitions after a cursor, as they are stored."""
        return await self._store.log_after(seq, limit)

    async def record(
        self, verdicts: Sequence[Verdict], batch_ids: Sequence[int], loads: LoadChange | None = None
    ) -> list[Transition]:
        """Commit what the verdicts change, with the fact that these batches are evaluated and the loads they made."""
        async with self._turn:
            await self._settle()
            now_us = self._clock.now_us()
            await self._remember(verdicts, now_us)
            time_us = self.time_us()
            told, later = shaped_all([*verdicts, *self._due(verdicts, time_us)], self.book.profile, time_us)
            drafts = self.book.reconcile(told, now_us)
            while forgotten := await self._forgotten(drafts):
                self.book.adopt(forgotten)
                drafts = self.book.reconcile(told, now_us)
            transitions = await self._commit(drafts, batch_ids, now_us, loads)
            self._wait(later)
            return transitions

    async def act(self, action: Action, expected_version: int) -> Alarm:
        """Commit an operator's action; the alarm after it. The same action again gets the same answer.

        Missing, Stale, Rejected as Book.act; Rejected also for an action_id already used for something else.
        """
        answer = (await self.act_on_many(action, {action.alarm_id: expected_version}))[action.alarm_id]
        if isinstance(answer, Alarm):
            return answer
        raise answer

    async def act_on_many(self, action: Action, targets: Mapping[str, int] | AlarmFilter) -> dict[str, Alarm | Refusal]:
        """Commit an action on many alarms in one transaction; per alarm_id the alarm after it, or why it was not done.

        `targets`: alarm_id -> version expected (0: any), or a filter over the alarms that are not finished. Under the
        same action_id what was done gets the same answer, and what was refused is tried again; a filter then means
        those it was done to. Rejected as a whole: an action that is wrong by itself, an action_id used for something
        else, more than ACT_ALARMS_MAX alarms.
        """
        check_action(action)
        async with self._turn:
            await self._settle()
            done = {before.alarm_id: (before, a) for before, a in await self._store.find_actions(action.action_id)}
            if isinstance(targets, AlarmFilter):
                targets = dict.fromkeys(done, 0) or self._matching(targets)
            _check_same(action, targets, [before for before, _ in done.values()])
            _check_count(len(targets))
            new = [alarm_id for alarm_id in targets if alarm_id not in done]
            if forgotten := [alarm_id for alarm_id in new if alarm_id not in self.book]:
                self.book.adopt(await self._store.get_many(forgotten))
            now_us = self._clock.now_us()
            answers: dict[str, Alarm | Refusal] = {alarm_id: alarm for alarm_id, (_, alarm) in done.items()}
            drafts = []
            for alarm_id in new:
                try:
                    drafts.append(self.book.act(replace(action, alarm_id=alarm_id), targets[alarm_id], now_us))
                except (Missing, Rejected, Stale) as refusal:
                    answers[alarm_id] = refusal
            if drafts:
                answers |= {t.alarm.alarm_id: t.alarm for t in await self._commit(drafts, (), now_us)}
            return {alarm_id: answers[alarm_id] for alarm_id in targets}

    async def shelve_asset(self, shelf: AssetShelf) -> tuple[AssetShelf, list[Alarm]]:
        """Commit a shelf over an asset, or its end, with all alarms under it: the shelf, and those alarms after it.

        The same again gets the same shelf and does nothing. Rejected as act_on_many.
        """
        check_shelf(shelf)
        async with self._turn:
            await self._settle()
            now_us = self._clock.now_us()
            done = await self._store.find_shelf(shelf.action_id)
            if done is not None:
                _check_same_shelf(shelf, done)
                return done, [alarm for _, alarm in await self._store.find_actions(shelf.action_id)]
            if other := await self._store.find_actions(shelf.action_id):
                raise _reused(other[0][0])
            shelf = replace(shelf, until_us=now_us + shelf.shelve_s * 1_000_000)
            alarms = self.book.beneath(shelf)
            _check_count(len(alarms))
            kind = TransitionKind.SHELVED if shelf.shelve_s else TransitionKind.UNSHELVED
            what = Action(shelf.action_id, "", kind, shelf.operator, shelf.reason, shelve_s=shelf.shelve_s)
            drafts = [self.book.act(replace(what, alarm_id=alarm.alarm_id), 0, now_us) for alarm in alarms]
            transitions = await self._commit(drafts, (), now_us, shelf=shelf)
            self.book.put_over(shelf)
            return shelf, [transition.alarm for transition in transitions]

    async def lift_shelves(self) -> list[Transition]:
        """Commit the end of the shelves whose time is over."""
        return await self._propose(self.book.expire)

    async def announce_again(self) -> list[Transition]:
        """Announce again what has stood for too long."""
        return await self._propose(self.book.announce_again)

    async def lapse(self) -> list[Transition]:
        """Commit that nobody acknowledges the oldest of too many alarms that are over."""
        return await self._propose(lambda _: self.book.lapse())

    async def end_delays(self) -> list[Transition]:
        """Tell what the end of a delay changes."""
        return await self.record((), ()) if self._waiting else []

    async def keep_time(self, tick_s: float = TICK_S) -> None:
        """Do what only the time makes necessary, until cancelled. While the database is away it waits for it."""
        while True:
            for due in (self.lift_shelves, self.end_delays, self.announce_again, self.lapse):
                try:
                    await due()
                except (StorageUnavailable, Overloaded) as error:
                    _log.warning("alarms wait for the database", error=str(error))
                    break
                except Exception as error:  # what raises for one alarm would raise again after a start
                    self.raised("the time of alarms", error)
            await asyncio.sleep(tick_s)

    async def _propose(self, proposed: Callable[[int], list[Draft]]) -> list[Transition]:
        async with self._turn:
            await self._settle()
            now_us = self._clock.now_us()
            drafts = proposed(now_us)
            return await self._commit(drafts, (), now_us) if drafts else []

    def _due(self, verdicts: Sequence[Verdict], now_us: int) -> list[Verdict]:
        """What is to be told again by now, unless there is a newer verdict."""
        if not self._waiting:
            return []
        newer = {key_of(verdict) for verdict in verdicts}
        return [one.verdict for key, one in self._waiting.items() if one.due_us <= now_us and key not in newer]

    def _wait(self, later: Mapping[Key, Waiting | None]) -> None:
        for key, one in later.items():
            if one is None:
                self._waiting.pop(key, None)
            else:
                self._waiting[key] = one

    def _matching(self, wanted: AlarmFilter) -> dict[str, int]:
        return {a.alarm_id: 0 for a in self.book if not a.finished and wanted.matches(a)}

    async def _commit(
        self,
        drafts: Sequence[Draft],
        batch_ids: Sequence[int],
        now_us: int,
        loads: LoadChange | None = None,
        shelf: AssetShelf | None = None,
    ) -> list[Transition]:
        self._in_doubt = True
        drafts = self.book.placed(drafts)
        if drafts:
            failpoints.passed("before_transitions")
        seqs = await self._store.commit(drafts, batch_ids, now_us=now_us, loads=loads, shelf=shelf)
        if drafts:
            failpoints.passed("before_publish")
        transitions = [draft.numbered(seq, now_us) for draft, seq in zip(drafts, seqs, strict=True)]
        self._take(transitions)
        self._in_doubt = False
        if drafts:
            failpoints.passed("after_transitions")
        return transitions

    async def _settle(self) -> None:
        """After a commit of unknown outcome: take what the log has and we have not."""
        while self._in_doubt:
            missed = await self._store.log_after(self.hub.seq, LOG_PAGE_MAX)
            self._take(missed)
            for shelf in await self._store.load_shelves(self._clock.now_us()):
                self.book.put_over(shelf)
            self._in_doubt = len(missed) == LOG_PAGE_MAX

    def _take(self, transitions: Sequence[Transition]) -> None:
        self.book.apply([transition.alarm for transition in transitions])
        self.hub.publish(transitions)
        self.published(transitions)

    async def _remember(self, verdicts: Sequence[Verdict], now_us: int) -> None:
        """Take from the table what verdicts of the past are about and the book no longer has."""
        horizon_us = max(self.book.horizon_us, now_us - KEEP_US)
        if old := [verdict for verdict in verdicts if verdict.from_us < horizon_us]:
            self.book.adopt(alarm for alarm in await self._store.within(old) if alarm.alarm_id not in self.book)

    async def _forgotten(self, drafts: Sequence[Draft]) -> list[Alarm]:
        """Stored alarms that the book no longer has and whose identity is about to be given again (late data).

        However young the new one is: an alarm keeps the identity of the onset that was told first, and may since have
        been amended to one that ended before the book's time.
        """
        old = [draft.alarm.alarm_id for draft in drafts if draft.kind is TransitionKind.RAISED]
        return await self._store.get_many(old) if old else []


def _raise(_: str, error: Exception) -> None:
    raise error


def _check_same(action: Action, targets: Iterable[str], done: Sequence[Action]) -> None:
    """Rejected when the action under this id was another one, or on another alarm."""
    for before in done:
        if before.alarm_id not in targets or replace(before, alarm_id=action.alarm_id) != action:
            raise _reused(before)


def _reused(before: Action) -> Rejected:
    return Rejected(
        "ACTION_ID_REUSED",
        f"action_id {before.action_id!r} was used before, by somebody else, for another alarm, or with another kind, "
        "note or time; choose a new one for each action",
    )


def _check_same_shelf(shelf: AssetShelf, done: AssetShelf) -> None:
    if replace(done, until_us=shelf.until_us) != shelf:
        raise Rejected(
            "ACTION_ID_REUSED",
            f"action_id {done.action_id!r} was used before, by somebody else, for another shelf, or with another "
            "reason or time; choose a new one for each action",
        )


def _check_count(alarms: int) -> None:
    if alarms > ACT_ALARMS_MAX:
        raise Rejected(
            "TOO_MANY_ALARMS",
            f"the action is for {alarms} alarms; at most {ACT_ALARMS_MAX} at once are allowed; narrow the filter",
        )
