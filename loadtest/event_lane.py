"""The events of one stream of a load test: each request goes at its time and waits for no other's answer.

Promises: what the service refuses for now is sent again after the time it asks for, under its number; latency counts
from the scheduled time all the same.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any

from loadtest.lane import RETRY_S, Lane, Next
from loadtest.plan import Message
from meterwatch.client.events import SEND_EVENTS
from meterwatch.client.repeated import DEADLINE_S
from meterwatch.client.retry import failure_of, open_channel
from meterwatch.v1.ingest_pb2 import SendEventsResponse


class EventLane(Lane):
    """Ingest.SendEvents of one head-end; a request never waits for the answer to another."""

    kind = "events"

    def __init__(self, stream: int, take: Next, address: str) -> None:
        super().__init__(stream, take)
        self._channel = open_channel(address)
        self._send = self._channel.unary_unary(SEND_EVENTS, None, SendEventsResponse.FromString)
        self._out: set[int] = set()
        self._again: list[tuple[float, int, Message, float]] = []
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._run, self._repeat)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        super().close()
        for thread in self._threads:
            thread.join(10)
        self._channel.close()

    def _pending(self) -> int:
        return len(self._out)

    def _run(self) -> None:
        with self._changed:  # nothing is taken before the start: the lane may yet be closed and another opened
            self._changed.wait_for(lambda: self._closing or self._start_s is not None)
        try:
            while not self._closed() and (message := self._take_next("events")):
                with self._changed:
                    if not self._until(message):
                        return
                    due_s = self._went(message, 0.0)
                    self._out.add(message.seq)
                    self.counts["events_sent"] += message.rows
                self._call(message, due_s)
        except RuntimeError as error:
            self._give_up(str(error))
        with self._changed:
            self._exhausted = True

    def _repeat(self) -> None:
        """Send again what was refused for now."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._again)
                if self._closing:
                    return
                wait_s = self._again[0][0] - time.monotonic()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                _, _, message, due_s = heapq.heappop(self._again)
            self._call(message, due_s)

    def _call(self, message: Message, due_s: float) -> None:
        future = self._send.future(message.request, timeout=DEADLINE_S)
        future.add_done_callback(lambda done: self._done(done, message, due_s))

    def _done(self, future: Any, message: Message, due_s: float) -> None:
        if self._closing:
            return
        error = future.exception()
        if error is None:
            answer = future.result()
            with self._changed:
                self._out.discard(message.seq)
                self._answered(due_s, 0)
                rejected = answer.rejected
                self.counts.update(
                    events_acked=message.rows, events_duplicates=answer.duplicates, events_rejected=rejected
                )
            return
        failure = failure_of(error)
        if not failure.retried:
            self._give_up(f"{failure.reason or failure.code}: {failure.message}")
            return
        with self._changed:
            self.counts["events_resent"] += 1
            at_s = time.monotonic() + (failure.retry_after_s or RETRY_S)
            heapq.heappush(self._again, (at_s, message.seq, message, due_s))
            self._changed.notify_all()
