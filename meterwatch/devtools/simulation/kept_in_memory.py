"""What the service stores, in memory, and the same answers as the readers of storage give.

A crash of the service leaves it as it is. Reads are cells (slot, interval) that hold a row of the day; of two rows the
higher rank stays. Promise: nothing here waits, and no clock is asked. What is not asked for by rules, book and hub is
not kept. Refuses to know any rule.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.alarms import USER_PREFIX, Action, Alarm, AlarmState, AssetShelf, Draft, Transition
from meterwatch.batch import EventCode, Events, ReadChange, Reads, Stored
from meterwatch.devtools.simulation.small_grid import INTERVAL_S, INTERVAL_US, START_US
from meterwatch.devtools.simulation.told_day import OFF, Day, Rows
from meterwatch.episodes import Verdict
from meterwatch.errors import StorageUnavailable
from meterwatch.loads import LoadChange, Loads
from storage.evidence import Told
from storage.loads import Dirty, Owed

Ints = NDArray[np.int64]
FIRST_WINDOW: Final = START_US // INTERVAL_US
BEGINS: Final = (int(EventCode.POWER_FAIL), int(EventCode.PHASE_LOSS))
FOREVER: Final = int(np.iinfo(np.int64).max)
_NOBODY: Final = np.zeros(0, np.uint32), np.zeros(0, np.uint8)


class Killed(Exception):
    """The service died here, and with it all that it had in memory."""


@dataclass(slots=True)
class Kept:
    """A batch: the rows it stored, those they replaced, and whether its alarms are committed."""

    rows: Rows
    of_events: bool
    received_us: int
    evaluated: bool = False

    def ends_us(self, day: Day) -> tuple[int, int]:
        """Of its reads; both 0: it stored none."""
        if self.of_events or not len(self.rows):
            return 0, 0
        end_us = day.end_us[self.rows]
        return int(end_us.min()), int(end_us.max())


class Memory:
    """Tables of the database, as far as they are needed. `died` and `fail` are what goes wrong with the next commit."""

    def __init__(self, day: Day, meters: int, transformers: int) -> None:
        self.day = day
        self.row_at = np.full((meters, day.intervals), -1, np.int32)
        """By cell, the row of the day that is current; -1: none."""
        self.event_is = np.zeros(len(day.event_us), np.bool_)
        self.batches: dict[int, Kept] = {}
        self.log: list[Transition] = []
        self.alarms: dict[str, Alarm] = {}
        self.actions: dict[tuple[str, str], tuple[Action, Alarm]] = {}
        self.shelves: dict[str, AssetShelf] = {}
        self.loads = np.zeros((day.intervals, transformers, 6), np.int64)
        """wh, varh, covered, and wh of each phase."""
        self.load_is = np.zeros((day.intervals, transformers), np.bool_)
        self.digest = np.zeros(transformers, np.int64)
        self.owing: dict[int, bool] = {}
        """Batches evaluated of which something is owed, and whether their loads are counted."""
        self.dies: str = ""
        """"before" or "after": the next commit of something is the end of the service."""
        self.fails: str = ""
        """The same, and the service only does not hear what became of it."""

    # What a batch does

    def store_reads(self, rows: Rows, now_us: int) -> Stored:
        """Store rows, of no cell two, as one batch."""
        day = self.day
        slot, interval = day.slot[rows], day.interval[rows]
        before = self.row_at[slot, interval]
        wins = (before != rows) & ((before < 0) | (day.rank[rows] >= day.rank[before]))
        new, old = rows[wins], before[wins]
        self.row_at[slot[wins], interval[wins]] = new
        batch_id = len(self.batches) + 1
        self.batches[batch_id] = Kept(new, of_events=False, received_us=now_us)
        change = self.change(new, old[old >= 0]) if len(new) else None
        return Stored(batch_id, batch_id, len(new), 0, len(rows) - len(new), *_NOBODY, False, False, change)

    def store_events(self, rows: Rows, now_us: int) -> tuple[Stored, Events]:
        """Store events; those that are new."""
        new = rows[~self.event_is[rows]]
        self.event_is[new] = True
        batch_id = len(self.batches) + 1
        self.batches[batch_id] = Kept(new, of_events=True, received_us=now_us)
        stored = Stored(batch_id, batch_id, len(new), 0, len(rows) - len(new), *_NOBODY, False, False, None)
        return stored, self.events(new)

    def change(self, new: Rows, old: Rows | NDArray[np.int32]) -> ReadChange:
        """These rows stored and those replaced."""
        day = self.day
        rows = np.concatenate([new, old]).astype(np.intp)
        none, n = np.zeros(len(rows), np.int32), len(rows)
        sign = np.repeat(np.array([1, -1], np.int8), [len(new), len(old)])
        yes, no = np.ones(n, np.bool_), np.zeros(n, np.bool_)
        interval_s = np.full(n, INTERVAL_S, np.int32)
        return ReadChange(
            day.slot[rows], day.end_us[rows], interval_s, day.quality[rows], day.wh[rows], none, none, none, yes, no,
            sign, (self.reads(new),) if len(new) else (),
        )  # fmt: skip

    def reads(self, rows: Rows) -> Reads:
        """Rows with their channels."""
        day = self.day
        channels = {"import_wh": day.wh[rows]}
        return Reads(day.slot[rows], day.end_us[rows], INTERVAL_S, day.quality[rows], channels)

    def events(self, rows: Rows) -> Events:
        """Rows as events."""
        day = self.day
        return Events(day.event_slot[rows], day.event_us[rows], day.event_code[rows], day.event_phases[rows])

    # What is current

    def current(self, slots: NDArray[np.int32] | None, from_us: int, to_us: int) -> Rows:
        """Rows with from_us <= end < to_us."""
        first = max(-(-(from_us - START_US) // INTERVAL_US) - 1, 0)
        stop = max(-(-(to_us - START_US) // INTERVAL_US) - 1, 0)
        cells = self.row_at[:, first:stop] if slots is None else self.row_at[slots, first:stop]
        return cells[cells >= 0].astype(np.intp)

    def owed_rows(self, *, of_events: bool) -> Rows:
        """Of batches not evaluated."""
        rows = [one.rows for one in self.batches.values() if not one.evaluated and one.of_events is of_events]
        return np.concatenate([np.zeros(0, np.intp), *rows])

    # The store of alarm.desk

    async def load_open_and_recent(self, since_us: int) -> list[Alarm]:
        alarms = self.alarms.values()
        return [a for a in alarms if not a.finished or a.shelved_until_us is not None or a.end_us >= since_us]

    async def load_shelves(self, now_us: int) -> list[AssetShelf]:
        last = {shelf.over: shelf for shelf in self.shelves.values()}
        return [shelf for shelf in last.values() if shelf.until_us > now_us]

    async def find_shelf(self, action_id: str) -> AssetShelf | None:
        return self.shelves.get(action_id)

    async def commit(
        self,
        drafts: Sequence[Draft],
        evaluated_batch_ids: Sequence[int],
        *,
        now_us: int,
        loads: LoadChange | None = None,
        shelf: AssetShelf | None = None,
    ) -> list[int]:
        self._goes_wrong("before")
        seqs = [len(self.log) + 1 + i for i in range(len(drafts))]
        done = [draft.numbered(seq, now_us) for draft, seq in zip(drafts, seqs, strict=True)]
        self.log += done
        self.alarms |= {one.alarm.alarm_id: one.alarm for one in done}
        self.actions |= {(t.action.action_id, t.alarm.alarm_id): (t.action, t.alarm) for t in done if t.action}
        if shelf is not None:
            self.shelves[shelf.action_id] = shelf
        self._mark_evaluated(evaluated_batch_ids, loads)
        self._goes_wrong("after")
        return seqs

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        return self.log[seq : seq + limit]

    async def newest_seq(self) -> int:
        return len(self.log)

    async def log_id(self) -> str:
        return "simulated"

    async def get_many(self, alarm_ids: Sequence[str]) -> list[Alarm]:
        return [self.alarms[alarm_id] for alarm_id in alarm_ids if alarm_id in self.alarms]

    async def within(self, verdicts: Sequence[Verdict]) -> list[Alarm]:
        return [
            a
            for a in self.alarms.values()
            for v in verdicts
            if (a.rule, a.asset_kind, a.asset_id) == (v.rule, v.asset_kind, v.asset_id)
            and (a.cleared_us is None or a.cleared_us >= v.from_us)
            and (v.until_us is None or a.onset_us < v.until_us)
        ]

    async def find_actions(self, action_id: str) -> list[tuple[Action, Alarm]]:
        return [done for (done_id, _), done in self.actions.items() if done_id == action_id]

    def _goes_wrong(self, when: str) -> None:
        if self.dies == when:
            self.dies = ""
            raise Killed(f"{when} a commit")
        if self.fails == when:
            self.fails = ""
            raise StorageUnavailable("the database is away")

    def _mark_evaluated(self, batch_ids: Sequence[int], loads: LoadChange | None) -> None:
        """As storage.loads.mark_evaluated."""
        marked = [one for one in batch_ids if not self.batches[one].evaluated]
        for one in marked:
            self.batches[one].evaluated = True
        if loads is None or loads.past_owed:
            reads = [one for one in marked if self.batches[one].ends_us(self.day)[1]]
            self.owing |= dict.fromkeys(reads, loads is not None)
        if loads is None or (batch_ids and not marked):
            return
        brought = sum(not counted for counted in self.owing.values())
        if loads.past_owed:
            self.owing = {one: True for one in self.owing if one not in loads.judged}
        else:
            self.owing = {}
        if batch_ids or brought or not len(loads.added):
            self._store_loads(loads)

    def _store_loads(self, change: LoadChange) -> None:
        for cells, added in ((change.counted, False), (change.added, True)):
            at = cells.window - FIRST_WINDOW, cells.transformer
            assert not len(cells) or int(at[0].min()) >= 0, "a load of before the day"
            columns = [cells.wh, cells.varh, cells.covered]
            phases = np.zeros((len(cells), 3), np.int64) if cells.phase_wh is None else cells.phase_wh
            values = np.concatenate([np.stack(columns, axis=1), phases], axis=1)
            self.loads[at] = self.loads[at] + values if added else values
            self.load_is[at] = True
        self.digest[change.members] = change.digest


class MemoryHistory:
    """storage.history.History; `pool` is what the readers of storage are given, and their stand-ins below."""

    columnar = False

    def __init__(self, memory: Memory) -> None:
        self.pool = memory

    async def reads_between(
        self, from_us: int, to_us: int, slots: NDArray[np.int32] | None
    ) -> AsyncIterator[ReadChange]:
        rows = self.pool.current(slots, from_us, to_us)
        if len(rows):
            yield self.pool.change(rows, rows[:0])

    async def events_between(self, from_us: int, to_us: int, slots: NDArray[np.int32] | None) -> Events:
        day = self.pool.day
        mine = self.pool.event_is & (day.event_us >= from_us) & (day.event_us < to_us)
        if slots is not None:
            mine &= np.isin(day.event_slot, slots)
        rows = np.flatnonzero(mine)
        return self.pool.events(rows[np.argsort(day.event_us[rows], kind="stable")])

    async def supply_off_slots(self, from_us: int) -> NDArray[np.int32]:
        day, rows = self.pool.day, self.pool.current(None, from_us, FOREVER)
        off = day.slot[rows[day.quality[rows] & OFF != 0]]
        told = self.pool.event_is & (day.event_us >= from_us) & np.isin(day.event_code, BEGINS)
        return np.unique(np.concatenate([off, day.event_slot[told]]))

    async def owed_off(self) -> tuple[NDArray[np.int32], Ints]:
        memory, day = self.pool, self.pool.day
        reads, events = memory.owed_rows(of_events=False), memory.owed_rows(of_events=True)
        reads = reads[day.quality[reads] & OFF != 0]
        events = events[np.isin(day.event_code[events], BEGINS)]
        slot = np.concatenate([day.slot[reads], day.event_slot[events]])
        return slot, np.concatenate([day.end_us[reads], day.event_us[events]])

    async def outages_around(self, asset_kind: str, asset: NDArray[np.int32], from_us: Ints) -> Ints:
        around_us = from_us.copy()
        for alarm in self.pool.alarms.values():
            if alarm.rule == "OUTAGE" and alarm.asset_kind == asset_kind and alarm.state is not AlarmState.RETRACTED:
                ended_us = FOREVER if alarm.cleared_us is None else alarm.cleared_us
                mine = (asset == alarm.asset_id) & (alarm.onset_us < from_us) & (ended_us >= from_us)
                around_us[mine] = np.minimum(around_us[mine], alarm.onset_us)
        return around_us

    async def newest_stored_us(self) -> int:
        received = [kept.received_us for kept in self.pool.batches.values()]
        return max(received + [one.recorded_us for one in self.pool.log[-1:]], default=0)

    async def newest_stamp_us(self) -> int:
        day, rows = self.pool.day, self.pool.current(None, 0, FOREVER)
        return max(int(day.end_us[rows].max(initial=0)), int(day.event_us[self.pool.event_is].max(initial=0)))

    async def newest_end_us(self, before_us: int) -> int:
        rows = self.pool.current(None, 0, before_us)
        return int(self.pool.day.end_us[rows].max(initial=0))

    async def last_heard(self, slots: NDArray[np.int32], from_us: int) -> tuple[NDArray[np.int32], Ints]:
        rows = self.pool.current(slots, from_us, FOREVER)
        last_us = np.zeros(len(self.pool.row_at), np.int64)
        np.maximum.at(last_us, self.pool.day.slot[rows], self.pool.day.end_us[rows])
        heard = np.flatnonzero(last_us)
        return heard.astype(np.int32), last_us[heard]


class MemoryLoads:
    """storage.loads.LoadView and storage.past_loads.PastLoads."""

    def __init__(self, memory: Memory, window_s: int, *, phases: bool = False) -> None:
        assert window_s == INTERVAL_S
        self._memory, self._phases = memory, phases

    async def owed(self) -> list[Owed]:
        memory = self._memory
        wanted = [(one, False) for one, kept in memory.batches.items() if not kept.evaluated]
        wanted += [(one, True) for one in memory.owing]
        return [Owed(one, known, *memory.batches[one].ends_us(memory.day), one) for one, known in sorted(wanted)]

    async def members(self, transformers: int) -> Ints:
        return self._memory.digest[:transformers].copy()

    async def dirty(self) -> list[Dirty]:
        return []

    async def newest_end_us(self, before_us: int) -> int:
        last = before_us // INTERVAL_US - FIRST_WINDOW
        covered = np.flatnonzero((self._memory.loads[: max(last, 0), :, 2] > 0).any(axis=1))
        return int(FIRST_WINDOW + covered[-1] + 1) * INTERVAL_US if len(covered) else 0

    async def loads(self, from_us: int, to_us: int, transformers: list[int] | None = None) -> AsyncIterator[Loads]:
        mine = None if transformers is None else np.array(transformers, np.int64)
        cells = self._cells(from_us // INTERVAL_US, to_us // INTERVAL_US, mine)
        if len(cells):
            yield cells

    async def touched(self, owed: list[Owed]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        day = self._memory.day
        kept = [self._memory.batches[one.batch_id] for one in owed if one.last_end_us]
        rows = np.concatenate([np.zeros(0, np.intp), *(one.rows for one in kept)])
        return day.slot[rows], day.end_us[rows], np.full(len(rows), INTERVAL_S)

    async def reads(
        self, slots: NDArray[np.int32], all_slots: int, from_us: int, to_us: int
    ) -> AsyncIterator[ReadChange]:
        rows = self._memory.current(slots, from_us + 1, to_us + INTERVAL_US)
        if len(rows):
            yield self._memory.change(rows, rows[:0])

    async def oldest(self, transformers: Ints) -> int | None:
        windows = np.flatnonzero(self._memory.load_is[:, transformers].any(axis=1))
        return int(windows[0]) + FIRST_WINDOW if len(windows) else None

    async def between(self, transformers: Ints, first: int, stop: int) -> Loads:
        return self._cells(first, stop, transformers)

    def _cells(self, first: int, stop: int, transformers: Ints | None) -> Loads:
        first, stop = (max(window - FIRST_WINDOW, 0) for window in (first, stop))
        there = self._memory.load_is[first:stop]
        if transformers is not None:
            there = there & np.isin(np.arange(there.shape[1]), transformers)
        window, transformer = np.nonzero(there)
        values = self._memory.loads[first + window, transformer]
        phase_wh = values[:, 3:] if self._phases else None
        columns = (values[:, 0], values[:, 1], values[:, 2])
        return Loads(transformer, window + (first + FIRST_WINDOW), *columns, phase_wh)


@asynccontextmanager
async def memory_load_view(
    memory: Memory, window_s: int, *, columnar: bool, phases: bool
) -> AsyncIterator[MemoryLoads]:
    """storage.loads.load_view."""
    assert not columnar
    yield MemoryLoads(memory, window_s, phases=phases)


class MemoryEvidence:
    """storage.evidence.EvidenceStore."""

    def __init__(self, memory: Memory) -> None:
        self.pool = memory

    async def reads(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> list[Reads]:
        rows = self.pool.current(slots, from_us + 1, to_us + 1)
        return [self.pool.reads(rows)] if len(rows) else []

    async def bounds_us(self) -> tuple[int, int]:
        rows = self.pool.current(None, 0, FOREVER)
        end_us = self.pool.day.end_us[rows]
        return (int(end_us.min()), int(end_us.max())) if len(rows) else (0, 0)

    async def told(self) -> list[Told]:
        found: dict[tuple[str, str], set[int]] = {}
        for alarm in self.pool.alarms.values():
            if alarm.rule.startswith(USER_PREFIX):
                found.setdefault((alarm.rule, alarm.asset_kind), set()).add(alarm.asset_id)
        return [Told(*what, np.array(sorted(assets), np.int32)) for what, assets in sorted(found.items())]

    async def told_by(self, rule: str) -> NDArray[np.int32]:
        alarms = self.pool.alarms.values()
        return np.array(sorted({a.asset_id for a in alarms if a.rule == rule}), np.int32)

    async def owed(self) -> tuple[NDArray[np.int32], Ints]:
        rows = self.pool.owed_rows(of_events=False)
        return self.pool.day.slot[rows], self.pool.day.end_us[rows]
