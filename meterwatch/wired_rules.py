"""The rule engine with the history it may ask for, and how it comes to know what is stored after a start.

Promise: after `rebuild` the engine answers as if it had seen every stored read and event since before the oldest open
alarm. Knows the database only through History; knows nothing of gRPC.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from alarm.desk import AlarmDesk
from meterwatch.alarms import AlarmState
from meterwatch.batch import Events, ReadChange
from meterwatch.clock import US, Clock
from meterwatch.episodes import Verdict
from meterwatch.topology import Topology
from rules.engine import LOOKBACK_S, MARGIN_S, Engine
from storage.history import History

REBUILD_S: Final = 48 * 3600
"""How far back from the newest read the rules read at start: the ring of the overload rule."""
AHEAD_US: Final = 300 * US
"""Reads and events are taken up to so far in the future: more than the tolerance of validation."""
DAY_US: Final = 86_400 * US


class WiredRules:
    """The engine with the history it may ask for."""

    def __init__(self, engine: Engine, history: History, clock: Clock) -> None:
        self.engine = engine
        self._history = history
        self._clock = clock

    def observe_reads(self, change: ReadChange, now_us: int) -> None:
        self.engine.observe_reads(change, now_us)

    def observe_events(self, events: Events, now_us: int) -> None:
        self.engine.observe_events(events, now_us)

    async def evaluate(self, now_us: int) -> list[Verdict]:
        """Load what the engine wants, then evaluate (in a thread when it is much)."""
        for wanted in self.engine.wanted():
            to_us = now_us + AHEAD_US
            reads = [c async for c in self._history.reads_between(wanted.from_us, to_us, wanted.slots)]
            events = await self._history.events_between(wanted.from_us, to_us, wanted.slots)
            self.engine.given(wanted, reads, events)
        return self.engine.evaluate(now_us)

    def head_end(self, head_end_id: int, connected: bool) -> None:
        """A head-end opened its first stream, or lost its last."""
        silence, now_us = self.engine.silence, self._clock.now_us()
        if connected:
            silence.head_end_connected(head_end_id, now_us)
        else:
            silence.head_end_gone(head_end_id, now_us)


async def rebuild(
    rules: WiredRules, topology: Topology, history: History, desk: AlarmDesk, clock: Clock
) -> list[Verdict]:
    """Bring an engine to what the stored reads and events say; return its verdicts.

    The overload ring ends with the newest read, however long we were away; a transformer whose alarm is older than the
    ring is followed from its onset. Batches not yet evaluated may be older than all of this: who reports OFF in them is
    judged from then on, as if they came now.
    """
    now_us = clock.now_us()
    to_us = now_us + AHEAD_US
    engine = rules.engine
    open_alarms = [a for a in desk.book if a.state not in (AlarmState.NORMAL, AlarmState.RETRACTED)]
    ring_us = min(await history.newest_end_us(to_us), now_us) - REBUILD_S * US
    since_us = {a.asset_id: a.onset_us for a in open_alarms if a.rule == "OVERLOAD" and a.cleared_us is None}
    long = [transformer for transformer, onset_us in since_us.items() if onset_us < ring_us]
    members = np.flatnonzero(np.isin(topology.transformer_of, long)).astype(np.int32)
    for day_us in range(min((since_us[i] for i in long), default=ring_us), ring_us, DAY_US):  # the ring goes with time
        async for change in history.reads_between(day_us, min(day_us + DAY_US, ring_us), members):
            engine.overload.observe(change, now_us)
    async for change in history.reads_between(ring_us, to_us, None):
        engine.overload.observe(change, now_us)
    heard = await history.last_heard(now_us - REBUILD_S * US)
    slot = np.flatnonzero(heard[: topology.slots]).astype(np.int32)
    engine.silence.heard(slot, heard[slot])
    first_us = now_us - LOOKBACK_S * US
    for alarm in open_alarms:
        if alarm.rule == "COMM_LOSS" and alarm.cleared_us is None:
            engine.silence.restore_open(alarm.asset_kind, alarm.asset_id, alarm.onset_us, alarm.raised_us)
        if alarm.rule == "OUTAGE" and alarm.cleared_us is None:
            first_us = min(first_us, alarm.onset_us)
            engine.restore_open(alarm.asset_kind, alarm.asset_id, alarm.onset_us - MARGIN_S * US)
    owed, owed_us = await history.owed_off()
    for day in np.unique(owed_us // DAY_US):
        mine = owed_us // DAY_US == day
        engine.activate(owed[mine], int(owed_us[mine].min()) - MARGIN_S * US)
    slots = await history.supply_off_slots(first_us - MARGIN_S * US)
    engine.activate(slots[slots < topology.slots], first_us - MARGIN_S * US)
    return await rules.evaluate(now_us)
