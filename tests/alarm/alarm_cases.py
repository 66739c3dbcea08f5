"""A small grid and the verdicts the alarm tests are made of. Minutes of one hour stand for event time."""

from __future__ import annotations

from typing import Any

import numpy as np

from meterwatch.alarms import Action, Alarm, AssetShelf, Draft, Transition, TransitionKind
from meterwatch.clock import ReplayClock
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.topology import Topology

BASE_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000


def at(minute: float) -> int:
    return BASE_US + int(minute * MINUTE_US)


def names() -> Topology:
    """4 transformers on 1 feeder, a meter each."""
    ids = np.arange(4, dtype=np.int32)
    return Topology(
        as_of_us=BASE_US,
        meter=[f"M{i}" for i in ids],
        transformer_of=ids,
        concentrator_of=np.full(4, -1, np.int32),
        head_end_of=np.zeros(4, np.int32),
        phases=np.full(4, 7, np.uint8),
        nominal_v=np.full(4, 230, np.float32),
        rated_a=np.full(4, 100, np.float32),
        contract_kw=np.full(4, np.nan, np.float32),
        interval_s=np.full(4, 900, np.int32),
        installed_us=np.zeros(4, np.int64),
        retired_us=np.full(4, np.iinfo(np.int64).max),
        comm_mode=np.zeros(4, np.int16),
        comm_modes=["PLC"],
        transformer=[f"T{i}" for i in ids],
        feeder_of=np.zeros(4, np.int32),
        rated_kva=np.full(4, 400.0),
        transformer_district=["North", "North", "South", "South"],
        feeder=["F0"],
        feeder_district=["North"],
        concentrator=[],
        concentrator_head_end=np.zeros(0, np.int32),
        head_end=["H0"],
        late_window_us=np.zeros(1, np.int64),
        slot_of={f"M{i}": int(i) for i in ids},
    )


def episode(onset: float, cleared: float | None = None, **changes: Any) -> Episode:
    values: dict[str, Any] = {
        "onset_us": at(onset),
        "raised_us": at(onset + 1),
        "cleared_us": None if cleared is None else at(cleared),
        "severity": Severity.HIGH,
        "level": "SUSTAINED",
        "summary": "transformer without supply",
        "evidence": {"affected": 100},
    }
    return Episode(**(values | changes))


def verdict(
    *episodes: Episode, asset_id: int = 0, kind: str = "transformer", since: float = 0, **changes: Any
) -> Verdict:
    return Verdict("OUTAGE", kind, asset_id, at(since), episodes, **changes)


def act(
    alarm_id: str, kind: TransitionKind, action_id: str = "a1", *, operator: str = "Kim", note: str = "why", **of: Any
) -> Action:
    return Action(action_id, alarm_id, kind, operator, note, **of)


def ack(alarm_id: str, action_id: str = "a1", *, operator: str = "Kim") -> Action:
    return act(alarm_id, TransitionKind.ACKNOWLEDGED, action_id, operator=operator)


def clock(minute: float = 30) -> ReplayClock:
    return ReplayClock(at(minute))


class SinkStore:
    """A log in memory with the store's interface; `fail` is raised by the next commit, before or after it holds."""

    def __init__(self) -> None:
        self.log: list[Transition] = []
        self.batches: list[int] = []
        self.shelves: dict[str, AssetShelf] = {}
        self.actions: dict[tuple[str, str], tuple[Action, Alarm]] = {}
        self.fail: Exception | None = None
        self.fail_after = False

    async def load_open_and_recent(self, since_us: int) -> list[Alarm]:
        return [a for a in self.alarms() if not a.finished or a.shelved_until_us is not None or a.end_us >= since_us]

    def alarms(self) -> list[Alarm]:
        """The table: what the log leaves."""
        return list({t.alarm.alarm_id: t.alarm for t in self.log}.values())

    async def load_shelves(self, now_us: int) -> list[AssetShelf]:
        last = {shelf.over: shelf for shelf in self.shelves.values()}
        return [shelf for shelf in last.values() if shelf.until_us > now_us]

    async def find_shelf(self, action_id: str) -> AssetShelf | None:
        return self.shelves.get(action_id)

    async def commit(
        self, drafts: list[Draft], batch_ids: Any, *, now_us: int, loads: Any = None, shelf: AssetShelf | None = None
    ) -> list[int]:
        fail, self.fail = self.fail, None
        if fail is not None and not self.fail_after:
            raise fail
        seqs = [len(self.log) + 1 + i for i in range(len(drafts))]
        self.log += [draft.numbered(seq, now_us) for draft, seq in zip(drafts, seqs, strict=True)]
        self.batches += batch_ids
        self.shelves |= {shelf.action_id: shelf} if shelf else {}
        done = self.log[len(self.log) - len(drafts) :]
        self.actions |= {
            (t.action.action_id, t.alarm.alarm_id): (t.action, t.alarm) for t in done if t.action is not None
        }
        if fail is not None:
            raise fail
        return seqs

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        return self.log[seq : seq + limit]

    async def newest_seq(self) -> int:
        return len(self.log)

    async def log_id(self) -> str:
        return "log"

    async def get_many(self, alarm_ids: Any) -> list[Alarm]:
        return [a for a in self.alarms() if a.alarm_id in alarm_ids]

    async def within(self, verdicts: Any) -> list[Alarm]:
        return [
            a
            for a in self.alarms()
            for v in verdicts
            if (a.rule, a.asset_kind, a.asset_id) == (v.rule, v.asset_kind, v.asset_id)
            and (a.cleared_us is None or a.cleared_us >= v.from_us)
            and (v.until_us is None or a.onset_us < v.until_us)
        ]

    async def find_actions(self, action_id: str) -> list[tuple[Action, Alarm]]:
        return [done for (done_id, _), done in self.actions.items() if done_id == action_id]
