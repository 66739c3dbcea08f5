"""Clients that come and go beside a steady load: what a service meets in a week, in minutes.

Subscriptions that are cancelled after their first message, streams that are opened anew to send once more what was
sent before, a subscriber that reads slowly, some that do not read and then leave. Promises: what is sent again is
always the same batch under the same number, so it adds no read after the first time; the first error of each is kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from loadtest.fleet import INTERVAL_S, ONE_PHASE, Fleet
from loadtest.subscriber import Stalled
from meterwatch.client import HeadEnd
from meterwatch.client.retry import open_channel
from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc

RESENT_ROWS: Final = 500
CANCEL_EVERY_S: Final = 0.2
RESEND_EVERY_S: Final = 1.0
SLOW_READ_S: Final = 0.3
SLOW_READS: Final = 100
"""After so many messages the slow reader comes again."""
STALLED: Final = 3
STALLED_S: Final = 20.0


class Churn:
    """The clients, a thread for each kind. Close it."""

    def __init__(self, address: str, fleet: Fleet, interval: int) -> None:
        """interval: whose reads of the first stream are stored, to be sent again."""
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._address, self._fleet, self._interval = address, fleet, interval
        self._epoch = time.time_ns() // 1000
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(step, every_s), name=f"churn{step.__name__}", daemon=True)
            for step, every_s in (
                (self._cancelled, CANCEL_EVERY_S),
                (self._resent, RESEND_EVERY_S),
                (self._slow, CANCEL_EVERY_S),
                (self._stalled, CANCEL_EVERY_S),
            )
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, step: Callable[[], None], every_s: float) -> None:
        try:
            while not self._stop.wait(every_s):
                step()
        except Exception as error:  # the thread's boundary: told to the run
            self.errors.append(f"{step.__name__.strip('_')}: {type(error).__name__}: {error}")

    def _cancelled(self) -> None:
        """A connection, a subscription, its first message, and away."""
        Stalled(self._address).close()
        self.counts["cancelled"] += 1

    def _resent(self) -> None:
        fleet, meters = self._fleet, range(min(RESENT_ROWS, len(self._fleet.meters_of(0))))
        values = fleet.values(self._interval, ONE_PHASE)
        columns: dict[str, Any] = {name: values[name][: len(meters)] for name in ONE_PHASE}
        end_us = [fleet.end_us(self._interval)] * len(meters)
        with HeadEnd(self._address, fleet.head_end(0), self._epoch) as head_end:
            head_end.send_columns([fleet.name(meter) for meter in meters], meters, end_us, INTERVAL_S, **columns)
            totals = head_end.flush()
        self.counts["resent"] += 1
        self.counts["replayed"] += totals.replayed
        self.counts["resent_accepted"] += totals.accepted

    def _slow(self) -> None:
        channel = open_channel(self._address)
        stub: Any = alarms_pb2_grpc.AlarmsStub(channel)
        call = stub.Subscribe(alarms_pb2.SubscribeRequest())
        try:
            for _ in range(SLOW_READS):
                next(call)
                self.counts["read_slowly"] += 1
                if self._stop.wait(SLOW_READ_S):
                    break
        finally:
            call.cancel()
            channel.close()

    def _stalled(self) -> None:
        idle = [Stalled(self._address) for _ in range(STALLED)]
        self._stop.wait(STALLED_S)
        for one in idle:
            one.close()
        self.counts["stalled"] += len(idle)
