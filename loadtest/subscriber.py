"""Those who follow the alarms of a load test: one that listens and keeps what it was told, and some that do not read.

Promises: every alarm of the grid of which a transition came is in `told`, as last seen, with the time it first came. A
stalled one takes its first message and no other, for as long as the test lasts. Refuses to judge: loadtest.score does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, Final

from loadtest.record import Told
from meterwatch.alarms import PAGED, AlarmType
from meterwatch.client import AlarmFeed
from meterwatch.client.retry import open_channel
from meterwatch.one_call import CALLING, ONE_CALL, Calls, Ring, rank
from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc

READY_TIMEOUT_S: Final = 60.0
_PAGED: Final = frozenset(alarms_pb2.AlarmState.Value(f"ALARM_STATE_{state}") for state in PAGED)
_CALLING: Final = frozenset(alarms_pb2.AlarmState.Value(f"ALARM_STATE_{state}") for state in CALLING)


class Subscriber:
    """Follows all alarms from now on, in a thread. Close it."""

    def __init__(self, address: str) -> None:
        self._feed = AlarmFeed(address, give_up_after_s=READY_TIMEOUT_S)
        self._lock = threading.Lock()
        self._told: dict[str, Told] = {}
        self._first: dict[str, tuple[float, bool]] = {}
        self._calls = Calls()
        self._rings: dict[str, Counter[Ring]] = {}
        self._before: set[str] = set()
        self._ready = threading.Event()
        self.transitions = 0
        self.coalesced = 0
        self.error = ""
        self._thread = threading.Thread(target=self._follow, name="subscriber", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """Wait for the snapshot; alarms that are in it are not this test's."""
        if not self._ready.wait(READY_TIMEOUT_S) or self.error:
            raise RuntimeError(f"no alarms to follow: {self.error or 'no snapshot came'}")

    def told(self, start_s: float) -> list[Told]:
        """Every alarm since the snapshot, in the order they came; received_s counts from start_s (time.monotonic())."""
        with self._lock:
            return [_since(told, start_s) for told in self._told.values()]

    def count(self) -> int:
        """Alarms that were paged so far."""
        with self._lock:
            return sum(told.paged for told in self._told.values())

    def close(self) -> None:
        self._feed.close()
        self._thread.join(5)

    def _follow(self) -> None:
        try:
            for message in self._feed:
                kind = message.WhichOneof("message")
                if kind == "snapshot":
                    self._before.update(alarm.alarm_id for alarm in message.snapshot.alarm)
                    if message.snapshot.complete:
                        self._ready.set()
                elif kind == "transition":
                    self._take(message.transition)
                elif kind == "coalesced":
                    self.coalesced += message.coalesced.merged
        except Exception as error:  # the thread's boundary: told to the run
            self.error = f"{type(error).__name__}: {error}"
            self._ready.set()

    def _take(self, transition: alarms_pb2.Transition) -> None:
        alarm, now_s = transition.alarm, time.monotonic()
        self.transitions += 1
        if alarm.alarm_id in self._before or alarm.type == AlarmType.SYSTEM:
            return  # the service speaks of itself: that is no fault of the grid, and no false alarm
        with self._lock:
            first_s, paged = self._first.get(alarm.alarm_id, (now_s, False))
            paged = paged or (alarm.state in _PAGED and not alarm.parent_id and not alarm.for_planning)
            self._first[alarm.alarm_id] = first_s, paged
            rings = self._rings.setdefault(alarm.alarm_id, Counter())
            if (family := ONE_CALL.family(alarm.type, alarm.asset_kind, alarm.asset)) is not None:
                now = rank(alarm.type, alarm.priority) if _calls(alarm) else None
                rings[self._calls.take(family, alarm.alarm_id, now)] += 1
            self._told[alarm.alarm_id] = Told(
                alarm_id=alarm.alarm_id,
                type=alarm.type,
                asset_kind=alarm.asset_kind,
                asset=alarm.asset,
                severity=alarms_pb2.Severity.Name(alarm.severity).removeprefix("SEVERITY_"),
                onset_us=alarm.onset_us,
                raised_us=alarm.raised_us,
                cleared_us=alarm.cleared_us or None,
                recorded_us=alarm.recorded_us,
                received_s=first_s,
                paged=paged,
                retracted=alarm.state == alarms_pb2.ALARM_STATE_RETRACTED,
                calls=rings[Ring.CALL],
                escalations=rings[Ring.ESCALATION],
                for_planning=alarm.for_planning,
            )


def _calls(alarm: alarms_pb2.Alarm) -> bool:
    overlaid = alarm.shelved_until_us or alarm.out_of_service_by
    return alarm.state in _CALLING and not overlaid and not alarm.for_planning


def _since(told: Told, start_s: float) -> Told:
    from dataclasses import replace

    return replace(told, received_s=round(told.received_s - start_s, 3))


class Stalled:
    """A subscriber that has stopped to read. Close it."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        stub: Any = alarms_pb2_grpc.AlarmsStub(self._channel)
        self._call = stub.Subscribe(alarms_pb2.SubscribeRequest())
        next(self._call)

    def close(self) -> None:
        self._call.cancel()
        self._channel.close()
