"""Alarms as they change, over breaks of the connection.

Promises: iterating gives the messages of Alarms.Subscribe; after a break the feed goes on from the last cursor it has
seen, so a caller that keeps max(version) per alarm sees every transition. A break inside a snapshot begins the snapshot
anew. Refuses to merge: what a message means for a list of alarms is the caller's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import grpc

from meterwatch.client.errors import Unreachable
from meterwatch.client.receipts import FeedReceipts
from meterwatch.client.retry import BUGS_MAX, Backoff, failure_of, open_channel, why_silent
from meterwatch.v1.alarms_pb2 import AlarmFilter, SubscribeRequest, SubscribeResponse

SUBSCRIBE: Final = "/meterwatch.v1.Alarms/Subscribe"
TRANSITIONS_MAX: Final = 100
"""Transitions taken in one message; those of a storm come by so many."""


class AlarmFeed:
    """Iterator over SubscribeResponse, each transition by itself.

    log_id: the log that from_seq is of. from_seq 0 without it: a snapshot first. Refused (OUT_OF_RANGE,
    FAILED_PRECONDITION) if the cursor is older than the log, newer, or of another log.
    subscriber: a name under which the service keeps receipts. With `shows` a message counts as shown when the caller
    comes back for the next one; without it the caller says so (`shown`).
    """

    def __init__(
        self,
        address: str,
        from_seq: int = 0,
        filter: AlarmFilter | None = None,
        *,
        log_id: str = "",
        give_up_after_s: float | None = None,
        backoff: Backoff | None = None,
        credentials: Any = None,
        subscriber: str = "",
        shows: bool = True,
    ) -> None:
        self.seq = from_seq
        """Last cursor seen: give it as from_seq, with log_id, to go on in another run."""
        self.log_id = log_id
        self.reconnects = 0
        self._address, self._filter, self._credentials = address, filter, credentials
        self._give_up_after_s = give_up_after_s
        self._backoff = backoff or Backoff()
        self._closed = threading.Event()
        self._call: Any = None
        self._subscriber, self._shows = subscriber, shows
        self._receipts = FeedReceipts(address, subscriber, credentials) if subscriber else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._receipts is not None:
            self._receipts.join()

    def close(self) -> None:
        """End the feed, from any thread."""
        self._closed.set()
        if self._receipts is not None:
            self._receipts.close()
        if self._call is not None:
            self._call.cancel()

    def shown(self, seq: int) -> None:
        """Everything up to a cursor was shown to somebody; for a feed with a subscriber's name, from any thread."""
        if self._receipts is not None:
            self._receipts.shown(seq)

    def __iter__(self) -> Iterator[SubscribeResponse]:
        heard_s = time.monotonic()
        bugs = 0
        while not self._closed.is_set():
            channel = open_channel(self._address, self._credentials)
            retry_after_s: float | None = None
            why = "the stream ended"
            try:
                request = SubscribeRequest(
                    from_seq=self.seq,
                    log_id=self.log_id,
                    filter=self._filter,
                    transitions_max=TRANSITIONS_MAX,
                    subscriber=self._subscriber,
                )
                subscribe = channel.unary_stream(
                    SUBSCRIBE,
                    request_serializer=SubscribeRequest.SerializeToString,
                    response_deserializer=SubscribeResponse.FromString,
                )
                self._call = subscribe(request)
                if self._closed.is_set():  # closed meanwhile, when there was no call to cancel yet
                    return
                for message in self._call:
                    heard_s = time.monotonic()
                    bugs = 0
                    self._backoff.reset()
                    if self._receipts is not None and (told := _told_upto(message)):
                        self._receipts.start()
                        self._receipts.received(told)
                    for one in _each(message):
                        yield one
                        self._note(one)  # after the yield: what the caller has not finished is sent again
                    if self._shows and (told := _told_upto(message)):
                        self.shown(told)
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return
                failure = failure_of(error)
                bugs += failure.is_bug
                if not failure.retried or bugs > BUGS_MAX:
                    raise failure.error() from None
                retry_after_s, why = failure.retry_after_s, failure.message
            finally:
                if self._call is not None:
                    self._call.cancel()
                channel.close()
            silent_s = time.monotonic() - heard_s
            if self._give_up_after_s is not None and silent_s >= self._give_up_after_s:
                why = why_silent(self._address, self._credentials) or why
                raise Unreachable(f"no alarm feed from {self._address} for {silent_s:.0f} s ({why})")
            self.reconnects += 1
            self._closed.wait(self._backoff.next_s(retry_after_s))

    def _note(self, message: SubscribeResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "transition":
            self.seq = message.transition.seq
        elif kind == "snapshot":
            if message.snapshot.complete:  # before, the cursor 0 without a log means: the snapshot anew
                self.seq = message.snapshot.seq
                self.log_id = message.snapshot.log_id or self.log_id
        elif kind == "bookmark":
            self.seq = message.bookmark.seq
            self.log_id = message.bookmark.log_id or self.log_id


def _told_upto(message: SubscribeResponse) -> int:
    """Cursor up to which a message brings the news; 0: it brings none, or not all of it yet."""
    match message.WhichOneof("message"):
        case "snapshot":
            return message.snapshot.seq if message.snapshot.complete else 0
        case "transition":
            return message.transition.seq
        case "transitions":
            return message.transitions.transition[-1].seq
        case _:
            return 0


def _each(message: SubscribeResponse) -> Iterator[SubscribeResponse]:
    """The message, or its transitions one by one."""
    if message.WhichOneof("message") != "transitions":
        yield message
        return
    for transition in message.transitions.transition:
        yield SubscribeResponse(transition=transition)
