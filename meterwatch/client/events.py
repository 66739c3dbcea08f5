"""Events of a head-end: one call per request, repeated under its number until it is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import grpc
from numpy.typing import ArrayLike

from meterwatch.client.encode import checked_events
from meterwatch.client.errors import Unreachable
from meterwatch.client.retry import BUGS_MAX, Backoff, failure_of, open_channel
from meterwatch.client.totals import Totals
from meterwatch.v1.ingest_pb2 import EventCode, SendEventsRequest, SendEventsResponse

SEND_EVENTS: Final = "/meterwatch.v1.Ingest/SendEvents"
EVENTS_MAX: Final = 10_000
"""Events in one request."""
DEADLINE_S: Final = 60.0


class EventSender:
    """Sends events of one (head_end, epoch); requests are numbered from 1."""

    def __init__(
        self, address: str, head_end: str, epoch: int, backoff: Backoff, give_up_after_s: float | None, credentials: Any
    ) -> None:
        self._address, self._head_end, self._epoch = address, head_end, epoch
        self._backoff = Backoff(backoff.first_s, backoff.max_s)
        self._give_up_after_s, self._credentials = give_up_after_s, credentials
        self._seq = 0
        self._channel: Any = None
        self._closed = threading.Event()

    def send(self, meters: Sequence[str], at_us: ArrayLike, codes: ArrayLike) -> Totals:
        """Send events and wait for the answers; ValueError, Refused or Unreachable if that cannot be."""
        stamps, kinds = checked_events(meters, at_us, codes, max(EventCode.values()))
        totals = Totals()
        for at in range(0, len(stamps), EVENTS_MAX):
            part = slice(at, at + EVENTS_MAX)
            index: dict[str, int] = {}
            rows = [index.setdefault(meter, len(index)) for meter in meters[part]]
            self._seq += 1
            request = SendEventsRequest(
                head_end=self._head_end, epoch=self._epoch, seq=self._seq, meter=list(index), meter_index=rows
            )
            request.at_us.extend(stamps[part].tolist())
            request.code.extend(kinds[part].tolist())
            totals.add(self._answer(request))
            totals.sent += len(rows)
            totals.batches += 1
        return totals

    def close(self) -> None:
        self._closed.set()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _answer(self, request: SendEventsRequest) -> SendEventsResponse:
        since = time.monotonic()
        bugs = 0
        while True:
            self._channel = self._channel or open_channel(self._address, self._credentials)
            try:
                send = self._channel.unary_unary(
                    SEND_EVENTS,
                    request_serializer=SendEventsRequest.SerializeToString,
                    response_deserializer=SendEventsResponse.FromString,
                )
                answer: SendEventsResponse = send(request, timeout=DEADLINE_S)
                self._backoff.reset()
                return answer
            except grpc.RpcError as error:
                failure = failure_of(error)
            bugs += failure.is_bug
            if not failure.retried or bugs > BUGS_MAX or self._closed.is_set():
                raise failure.error()
            silent_s = time.monotonic() - since
            if self._give_up_after_s is not None and silent_s >= self._give_up_after_s:
                raise Unreachable(f"no answer from {self._address} for {silent_s:.0f} s ({failure.message})")
            self._channel.close()
            self._channel = None
            self._closed.wait(self._backoff.next_s(failure.retry_after_s))
