"""The rule engine with the history it may ask for, and how it comes to know what is stored after a start.

Promise: after `rebuild` the engine answers as if it had seen every stored read and event since before the oldest open
alarm. Knows the database only through History; knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from alarm.desk import AlarmDesk
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.batch import Events, ReadChange, Stored
from meterwatch.clock import US, Clock
from meterwatch.contract_reads import begin as begin_contract
from meterwatch.contract_reads import judge_touched
from meterwatch.day_marks import DayMarks
from meterwatch.episodes import Verdict
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.known_loads import KnownLoads
from meterwatch.late_loads import judged, judged_turn, waiting
from meterwatch.quality import METHOD_MASK
from meterwatch.registers import RegisterChange
from meterwatch.standing_aside import StandingAside, SuspendedRule, listed
from meterwatch.stored_loads import RING_US, Told, restore
from meterwatch.time_share import TimeShare
from meterwatch.topology import Topology
from meterwatch.user_rules_at_work import AtWork
from meterwatch.whole_outages import from_before_outages
from meterwatch.wired_user_rules import UserRules
from rules.apart import Owing, Rule
from rules.engine import COMM_LOSS, CONTRACT, HOT_SPOT, LOOKBACK_S, MARGIN_S, Engine, Wanted
from rules.hot_words import RULE as HOT
from rules.overload import Overload
from rules.user.missed import is_users
from storage.arrived import Arrived
from storage.changes import joined
from storage.history import History
from storage.loads import load_view
from storage.past_loads import PastLoads

HEARD_US: Final = 48 * 3600 * US
"""A meter not heard for so long was never heard, as far as the rules know after a start."""
HEARD_TOGETHER: Final = 5_000
"""Meters looked up by one query: some 50 ms of the database."""
PUT_OFF_S: Final = 5.0
"""How far the stored loads may be behind the reads, when those come in no order. (ours)"""
PAST_SHARE: Final = 0.25
"""Of the time, for judging anew what had been judged for good, all rules together, while more of it comes. (ours)"""
PAST_SAVED_S: Final = 0.5
"""So much of it at once is judged before the ack; more waits its turn. (ours)"""
OWED_MAX: Final = 10_000
"""Rounds whose batches wait to be judged; of more the past is judged before the next ack, which slows its senders."""
HEAR_PAUSE_S: Final = 0.05
HEAR_RETRY_S: Final = 5.0
TOGETHER_METERS: Final = 5_000
TOGETHER_US: Final = 3600 * US
AHEAD_US: Final = 300 * US
"""Reads and events are taken up to so far in the future: more than the tolerance of validation. And as far as they are
known to be stored: the time of the rules may be further behind, where the clock was (meterwatch.steady_time)."""
LOADED: Final = ("OVERLOAD", "REVERSE", "PHASE", "UNBALANCE")
"""Rules that rest on the ring of loads."""
DAY_US: Final = 86_400 * US


class WiredRules:
    """The engine with the history it may ask for. version: of the rules, for the evidence of what they tell."""

    def __init__(
        self,
        engine: Engine,
        history: History,
        clock: Clock,
        marks: DayMarks | None = None,
        version: str = "",
        arrived: Arrived | None = None,
        user: UserRules | None = None,
        aside: StandingAside | None = None,
    ) -> None:
        """aside: told of rules that raise; None: the engine suspends none."""
        assert aside is not None or engine.apart.raising
        self.engine = engine
        self._aside = aside
        self._version = version
        self._marks = marks
        self._arrived = arrived
        self._history = history
        self._clock = clock
        self.user = user
        self.user_rules: AtWork | None = None
        """Of `user`, once these rules know what is stored."""
        self.newest_us = 0
        """Newest stamp that is known to be stored."""
        self._put_off_s: float | None = None
        self._past = TimeShare(PAST_SHARE, PAST_SAVED_S)
        self._owing: deque[tuple[int, list[int]]] = deque()
        """Batches evaluated and owed, and the turn of the overload rule in which their reads were observed."""
        self.counted: frozenset[int] = frozenset()
        """Batches whose loads `rebuild` counted before the rules saw them."""

    def observe_reads(self, stored: Sequence[Stored], now_us: int) -> None:
        """Take what these batches changed, in one piece: the kernels' price is by call as much as by read.

        What the service estimated is none of it: it says nothing of load, supply or who was heard.
        """
        for counted in (False, True):
            mine = [one.change for one in stored if one.change and (one.batch_id in self.counted) is counted]
            change = sent_only(joined(mine))
            if change is not None:
                self.newest_us = max(self.newest_us, int(change.end_us.max(initial=0)))
                self.engine.observe_reads(change, now_us, counted=counted)
                if self._marks is not None:
                    self._marks.observe_reads(change)
                if self._arrived is not None:
                    self._arrived.observe(change)
            if self.user_rules is not None:
                self.user_rules.observe([one for one in stored if (one.batch_id in self.counted) is counted], change)

    def observe_events(self, events: Events, now_us: int) -> None:
        self.newest_us = max(self.newest_us, int(events.at_us.max(initial=0)))
        self.engine.observe_events(events, now_us)
        if self._marks is not None:
            self._marks.observe_events(events)

    def observe_registers(self, change: RegisterChange) -> None:
        if self._marks is not None:
            self._marks.observe_registers(change)

    async def evaluate(self, now_us: int, *, whole: bool = False) -> list[Verdict]:
        """Load what the engine wants, then evaluate. Of the past as much as there is time for; whole: all of it."""
        wanted = await from_before_outages(self.engine, self._history, now_us)
        for together in _together(wanted):
            await self._give(together, self.stored_to_us(now_us))
        if self.user_rules is not None:
            await self.user_rules.judge()
        await self.engine.apart.wait_for(CONTRACT, lambda: judge_touched(self.engine.contract, self._history))
        whole = whole or len(self._owing) >= OWED_MAX
        self._past.start()
        found = await judged(
            self.engine.past, self.engine.overload, known_loads(self._history, self.engine.overload), now_us,
            lambda: self._charged(now_us), lambda: self._past.goes_on() or whole,
        )  # fmt: skip
        if self.user_rules is not None:
            found += self.user_rules.taken()
        self._notice()
        return signed(found, self._version)

    def stored_to_us(self, now_us: int) -> int:
        """No stamp that is stored is so late."""
        return max(now_us + AHEAD_US, self.newest_us + 1)

    @property
    def suspended(self) -> tuple[SuspendedRule, ...]:
        """Rules that have raised and stand aside."""
        return listed(self.engine.apart.suspended)

    def _notice(self) -> None:
        if self._aside is not None:
            self._aside.notice(self.engine.apart)

    async def owe_missed(self) -> None:
        """Commit who stands aside and what it missed, before what was judged without it. Raises StorageUnavailable."""
        if self._aside is not None and self.engine.apart.suspended:
            self._notice()
            overload = self.engine.overload
            newest_us = (overload.head + 1) * overload.window_us if overload.head >= 0 else self._clock.now_us()
            await self._aside.write(self.engine.apart, newest_us - RING_US)

    async def be_owed(self) -> None:
        """Have the rules judge what those before missed. Once they know what is stored. Raises StorageUnavailable."""
        if self._aside is not None:
            await self._aside.owed(self._owe_rule)

    def _owe_rule(self, rule: Rule, debt: Owing) -> None:
        if not is_users(rule):
            self.engine.owe(rule, *debt)
        elif self.user_rules is not None:
            self.user_rules.owe(rule, debt)

    async def begin_user_rules(self, topology: Topology, book: Iterable[Alarm]) -> None:
        """Put those of the files in force. Raises StorageUnavailable; then those before stay."""
        if self.user is not None:
            self.user_rules = await self.user.begin(topology, self.engine.overload, self.engine.apart, book)

    async def pay_missed(self) -> None:
        """What rules that stood aside found when they were owed it is recorded. Raises StorageUnavailable."""
        if self._aside is not None:
            await self._aside.paid(self.engine.apart)

    def _charged(self, now_us: int) -> list[Verdict]:
        """What the rules say now; what the past took is charged before, and this is not."""
        self._past.goes_on()
        return self.engine.evaluate(now_us)

    async def _give(self, wanted: list[Wanted], to_us: int) -> None:
        """Read for several groups at once, and give each its own: no meter is in two of them."""
        slots = np.concatenate([one.slots for one in wanted])
        order = np.argsort(slots)
        owner = np.repeat(np.arange(len(wanted)), [len(one.slots) for one in wanted])[order]
        from_us = min(one.from_us for one in wanted)

        def dealt(slot: NDArray[np.int32], at_us: NDArray[np.int64]) -> list[NDArray[np.intp]]:
            of = owner[np.searchsorted(slots[order], slot)]
            rows = np.argsort(of, kind="stable")
            parts = np.split(rows, np.searchsorted(of[rows], np.arange(1, len(wanted))))
            return [part[at_us[part] >= one.from_us] for part, one in zip(parts, wanted, strict=True)]

        reads: list[list[ReadChange]] = [[] for _ in wanted]
        async for change in self._history.reads_between(from_us, to_us, slots[order]):
            for mine, rows in zip(reads, dealt(change.slot, change.end_us), strict=True):
                mine.append(change.take(rows))
        events = await self._history.events_between(from_us, to_us, slots[order])
        for one, mine, rows in zip(wanted, reads, dealt(events.slot, events.at_us), strict=True):
            self.engine.given(one, mine, events.take(rows))

    async def record(self, desk: AlarmDesk, verdicts: Sequence[Verdict], batch_ids: Sequence[int]) -> None:
        """Commit verdicts, batches and the loads they made; scattered loads at most PUT_OFF_S later.

        Batches of which something of the past is not judged yet are marked so, and judged after a start; so are those
        put off.

        After a failure the loads are kept for the next try. Verdicts of the past come first and by themselves: an asset
        may have one of each, and the book takes one at a time.
        """
        if past := [verdict for verdict in verdicts if verdict.until_us is not None]:
            await desk.record(past, [])
            verdicts = [verdict for verdict in verdicts if verdict.until_us is None]
        overload = self.engine.overload
        if overload.scattered and not self._loads_due:
            if self._put_off_s is None:
                self._put_off_s = time.monotonic()
            await desk.record(verdicts, batch_ids)
            self._owe(batch_ids)
        else:
            await self.settle(desk, verdicts, batch_ids)

    async def settle(self, desk: AlarmDesk, verdicts: Sequence[Verdict] = (), batch_ids: Sequence[int] = ()) -> None:
        """Commit all loads, with verdicts and batches."""
        overload = self.engine.overload
        turn = self._judged_turn
        past_owed = turn < overload.turn
        done = list(takewhile(lambda owing: owing[0] <= turn, self._owing))
        batches = tuple(batch_id for _, some in done for batch_id in some)
        loads = replace(overload.unsaved(owing=past_owed), past_owed=past_owed, judged=batches)
        await desk.record(verdicts, batch_ids, loads)
        overload.saved(owing=past_owed)
        self._put_off_s = None
        for _ in done:
            self._owing.popleft()
        if past_owed:
            self._owe(batch_ids)

    def _owe(self, batch_ids: Sequence[int]) -> None:
        if batch_ids:
            self._owing.append((self.engine.overload.turn, list(batch_ids)))

    @property
    def puts_off(self) -> bool:
        """Loads of evaluated batches are not stored yet."""
        return self._put_off_s is not None

    @property
    def due(self) -> bool:
        """Record, even if there is nothing else: a rule has raised, loads were put off for long enough, or batches owe
        nothing more.
        """
        if self._aside is not None and self._aside.unwritten(self.engine.apart):
            return True
        if self.puts_off:
            return self._loads_due
        return bool(self._owing) and self._owing[0][0] <= self._judged_turn

    @property
    def _loads_due(self) -> bool:
        return self._put_off_s is not None and time.monotonic() - self._put_off_s > PUT_OFF_S

    @property
    def past_owed(self) -> int:
        """Transformers, and feeders, of which something of the past waits to be judged."""
        return waiting(self.engine.past)

    @property
    def _judged_turn(self) -> int:
        return judged_turn(self.engine.past, self.engine.overload.turn)

    def deaf_to(self, head_ends: frozenset[int], now_us: int) -> None:
        """These head-ends could not be heard up to now, for reasons of ours."""
        self.engine.apart.ask(COMM_LOSS, None, self.engine.silence.deaf_to, head_ends, now_us)

    def head_end(self, head_end_id: int, connected: bool, now_us: int) -> None:
        """A head-end opened its first stream, or lost its last."""
        silence = self.engine.silence
        told = silence.head_end_connected if connected else silence.head_end_gone
        self.engine.apart.ask(COMM_LOSS, None, told, head_end_id, now_us)


def known_loads(history: History, overload: Overload) -> KnownLoads:
    """The loads the rules rest on, after the next commit."""
    members = overload.members
    return KnownLoads(overload, PastLoads(history.pool, members.window_s, phases=members.phase is not None))


def signed(verdicts: list[Verdict], version: str) -> list[Verdict]:
    """The verdicts with the version of the rules in the evidence of every episode; as they are without one."""
    if not version:
        return verdicts
    return [
        replace(one, episodes=tuple(replace(e, evidence=e.evidence | {"rules": version}) for e in one.episodes))
        if one.episodes
        else one
        for one in verdicts
    ]


def sent_only(change: ReadChange | None) -> ReadChange | None:
    """The change without estimates of the service."""
    if change is None or not np.bitwise_or.reduce(change.quality) & METHOD_MASK:
        return change
    rows = np.flatnonzero(change.quality & METHOD_MASK == 0)
    return change.take(rows) if len(rows) else None


def _together(wanted: list[Wanted]) -> Iterator[list[Wanted]]:
    """Groups to read for at once: a few thousand meters, from about the same time on.

    A storm wants hundreds of them in a second; one by one they take ten round trips each.
    """
    part: list[Wanted] = []
    meters = 0
    for one in sorted(wanted, key=lambda one: one.from_us):
        if part and (meters + len(one.slots) > TOGETHER_METERS or one.from_us > part[0].from_us + TOGETHER_US):
            yield part
            part, meters = [], 0
        part.append(one)
        meters += len(one.slots)
    if part:
        yield part


async def known_until_us(history: History) -> int:
    """A time that has come, by what is stored; 0: nothing is.

    The clock when something was stored last, or the newest stamp, whichever is older: neither a clock that was ahead
    once nor meters that were make it later than it is.
    """
    return min(await history.newest_stored_us(), await history.newest_stamp_us())


async def judged_until_us(history: History, book: Iterable[Alarm]) -> int:
    """How far the rules had come at least: all of that, and the timers of the outages told."""
    outages = [a for a in book if a.rule == "OUTAGE" and a.state is not AlarmState.RETRACTED]
    told_us = [max(alarm.raised_us, alarm.cleared_us or 0) for alarm in outages]
    return max(await known_until_us(history), *told_us, 0)


async def rebuild(
    rules: WiredRules, topology: Topology, history: History, desk: AlarmDesk, now_us: int
) -> tuple[list[Verdict], list[int]]:
    """Bring an engine to what is stored; return its verdicts, and the batches not evaluated that they rest on.

    now_us: no earlier than judged_until_us, or what was told is taken back as if it had not happened yet.

    The overload ring comes from the stored loads (stored_loads). Batches not yet evaluated may be older than all of
    this: who reports OFF in them is judged from then on, as if they came now. When each meter was heard last follows
    with `hear`: here only of the meters whose silence is told, because only a told silence can end.
    """
    rules.newest_us = await history.newest_stamp_us()
    to_us = rules.stored_to_us(now_us)
    engine = rules.engine
    first_us = now_us - (LOOKBACK_S + MARGIN_S) * US
    open_alarms = [a for a in desk.book if a.lasts or _straddles(a, first_us)]
    loaded = [a for a in desk.book if a.rule in LOADED and a.state is not AlarmState.RETRACTED]
    told = [Told(t, a.onset_us, a.cleared_us) for a in loaded for t in _transformers_of(engine, a)]
    members, columnar = engine.overload.members, history.columnar
    phases = members.phase is not None
    async with load_view(history.pool, members.window_s, columnar=columnar, phases=phases) as view:
        owed_batches = await restore(engine.overload, topology, view, history, told, now_us, to_us)
    for rule in LOADED[1:]:
        engine.overload.recall(rule, np.unique(np.array([a.asset_id for a in loaded if a.rule == rule], np.int64)))
    rules.counted = frozenset(owed.batch_id for owed in owed_batches)
    hot = [a.asset_id for a in desk.book if a.rule == HOT and a.state is not AlarmState.RETRACTED]
    engine.apart.ask(HOT_SPOT, None, engine.hot_spot.restore_told, hot)
    for alarm in open_alarms:
        if alarm.rule == "COMM_LOSS":
            open_ = alarm.asset_kind, alarm.asset_id, alarm.onset_us, alarm.raised_us
            engine.apart.ask(COMM_LOSS, None, engine.silence.restore_open, *open_)
        if alarm.rule == "OUTAGE":
            reach = now_us if alarm.finished else None  # what only an old file tells may be too long to follow
            engine.restore_open(alarm.asset_kind, alarm.asset_id, alarm.onset_us - MARGIN_S * US, reach)
    silent = engine.apart.ask(COMM_LOSS, np.zeros(0, np.int32), engine.silence.told_slots)
    for at in range(0, len(silent), HEARD_TOGETHER):
        engine.heard(*await history.last_heard(silent[at : at + HEARD_TOGETHER], now_us - HEARD_US))
    owed, owed_us = await history.owed_off()
    for day in np.unique(owed_us // DAY_US):
        mine = owed_us // DAY_US == day
        engine.activate(owed[mine], int(owed_us[mine].min()) - MARGIN_S * US, now_us)
    slots = await history.supply_off_slots(first_us)
    engine.activate(slots[slots < topology.slots], first_us, now_us)
    begin = partial(begin_contract, engine.contract, history, topology, list(desk.book))
    await engine.apart.wait_for(CONTRACT, begin)
    await rules.begin_user_rules(topology, list(desk.book))
    await rules.be_owed()
    return await rules.evaluate(now_us, whole=True), [owed.batch_id for owed in owed_batches if not owed.evaluated]


def _straddles(alarm: Alarm, first_us: int) -> bool:
    """An outage that is over and of which the votes since first_us hold only the end: a group judged by them alone, on
    behalf of another outage, would take it back."""
    over = alarm.rule == "OUTAGE" and alarm.cleared_us is not None and alarm.state is not AlarmState.RETRACTED
    return over and alarm.onset_us < first_us <= alarm.end_us


def _transformers_of(engine: Engine, alarm: Alarm) -> list[int]:
    """Transformers whose loads an alarm of load rests on."""
    return engine.overload.supplied_by(alarm.asset_id).tolist() if alarm.asset_kind == "feeder" else [alarm.asset_id]


async def hear(rules: Callable[[], WiredRules], history: History, meters: int, from_us: int) -> None:
    """Tell the rules in place when each meter was heard last, a few at a time, while the service serves.

    Nothing waits for it: after a start a silence is counted from when the head-end connected, and this shows in
    evidence. Tried again while the database is away.
    """
    at = 0
    while at < meters:
        slots = np.arange(at, min(at + HEARD_TOGETHER, meters), dtype=np.int32)
        try:
            slot, last_us = await history.last_heard(slots, from_us)
        except (StorageUnavailable, Overloaded):
            await asyncio.sleep(HEAR_RETRY_S)
            continue
        rules().engine.heard(slot, last_us)
        at += HEARD_TOGETHER
        await asyncio.sleep(HEAR_PAUSE_S)
