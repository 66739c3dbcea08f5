"""A small call, repeated until it is answered: the same bytes under the same number, so repeating is harmless."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import grpc

from meterwatch.client.errors import Unreachable
from meterwatch.client.retry import BUGS_MAX, Backoff, failure_of, open_channel, why_silent

DEADLINE_S: Final = 60.0


class Repeated:
    """Calls of one address. Not for several threads at once, but for `close`."""

    def __init__(self, address: str, backoff: Backoff, give_up_after_s: float | None, credentials: Any) -> None:
        self._address = address
        self._backoff = Backoff(backoff.first_s, backoff.max_s)
        self._give_up_after_s, self._credentials = give_up_after_s, credentials
        self._channel: Any = None
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def answer(self, method: str, request: Any, response: Any) -> Any:
        """The answer, of type `response`; Refused or Unreachable if there is none to be had."""
        since = time.monotonic()
        bugs = 0
        while True:
            self._channel = self._channel or open_channel(self._address, self._credentials)
            try:
                send = self._channel.unary_unary(
                    method,
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=response.FromString,
                )
                answer = send(request, timeout=DEADLINE_S)
                self._backoff.reset()
                return answer
            except grpc.RpcError as error:
                failure = failure_of(error)
            bugs += failure.is_bug
            if not failure.retried or bugs > BUGS_MAX or self._closed.is_set():
                raise failure.error()
            silent_s = time.monotonic() - since
            if self._give_up_after_s is not None and silent_s >= self._give_up_after_s:
                why = why_silent(self._address, self._credentials) or failure.message
                raise Unreachable(f"no answer from {self._address} for {silent_s:.0f} s ({why})")
            self._channel.close()
            self._channel = None
            self._closed.wait(self._backoff.next_s(failure.retry_after_s))
