"""A head-end's side of Ingest.Stream, for programs that are not asynchronous.

The caller's thread checks, encodes and numbers batches; one thread of ours keeps a stream open and moves them:

    unanswered      every batch without ack or nack, by seq; a break of the stream changes nothing here
    waiting         those not yet sent on the present stream; after a break: all of them, in order
    in_flight       those sent on the present stream; never more than the service's credits

Promises: nothing leaves `unanswered` but by an answer to its own seq; a re-send carries the same bytes under the same
(head_end, epoch, seq); the caller's thread waits when queue_batches_max are unanswered. Refuses to keep anything on
disk: a program that dies sends again what it does not know to be answered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import grpc
import numpy as np
from numpy.typing import ArrayLike

from meterwatch.client.encode import NAME, Columns, Row, checked_columns, row_columns
from meterwatch.client.errors import Incomplete, Refused, Unreachable
from meterwatch.client.events import EventSender
from meterwatch.client.repeated import Repeated
from meterwatch.client.retry import BUGS_MAX, Backoff, Failure, failure_of, open_channel, why_silent
from meterwatch.client.stream import Pending, Stream
from meterwatch.client.totals import Totals
from meterwatch.v1.ingest_pb2 import Ack, Dictionary, Hello, IngestRequest, IngestResponse, Nack, Summary, Welcome

STREAM: Final = "/meterwatch.v1.Ingest/Stream"
DICTIONARY_PART: Final = 10_000
"""Meter numbers in one Dictionary message; 64 characters each stay well below the message limit."""
OVERHEAD_BYTES: Final = 1024
"""Room for field tags and lengths in a message."""

OnAck = Callable[[int, Ack, float], None]


def _as_is(request: bytes) -> bytes:
    return request


class HeadEnd:
    """A head-end that sends reads and events. Use it as a context manager, from one thread.

    epoch None: the time now, so that nothing sent earlier is taken for a repeat. give_up_after_s: raise Unreachable
    after so long without an answer; None: never. on_ack(seq, ack, latency_s) runs on the client's thread; latency is
    counted from the first sending. credentials: of `security`; None: as the environment says, else plain text.
    """

    def __init__(
        self,
        address: str,
        head_end: str,
        epoch: int | None = None,
        agent: str = "meterwatch-python",
        *,
        batch_rows: int = 20_000,
        queue_batches_max: int = 32,
        answer_timeout_s: float = 90.0,
        give_up_after_s: float | None = 300.0,
        on_ack: OnAck | None = None,
        backoff: Backoff | None = None,
        credentials: Any = None,
    ) -> None:
        if not NAME.fullmatch(head_end):
            raise ValueError(f"head_end {head_end!r}; expected 1 to 64 of A-Z a-z 0-9 _ . : -")
        if epoch is not None and epoch < 1:
            raise ValueError(f"epoch is {epoch}; expected a number from 1 that grows when the memory is lost")
        self.head_end = head_end
        self.epoch = time.time_ns() // 1000 if epoch is None else epoch
        self.unknown_meters: set[str] = set()
        """Meters the service does not know; their rows are put into quarantine."""
        self.reconnects = 0
        self._address, self._credentials = address, credentials
        self._hello = IngestRequest(hello=Hello(head_end=head_end, epoch=self.epoch, agent=agent[:128]))
        self._batch_rows, self._queue_max = batch_rows, queue_batches_max
        self._answer_timeout_s, self._give_up_after_s = answer_timeout_s, give_up_after_s
        self._on_ack = on_ack
        self._backoff = backoff or Backoff()
        calls = Repeated(address, self._backoff, give_up_after_s, credentials)
        self._events = EventSender(calls, head_end, self.epoch)
        self._changed = threading.Condition()
        self._meters: list[str] = []
        self._index: dict[str, int] = {}
        self._seq = 0
        self._unanswered: dict[int, Pending] = {}
        self._waiting: deque[int] = deque()
        self._stream = Stream()
        self._call: Any = None
        self._totals = Totals()
        self._welcome: Welcome | None = None
        self._closing = self._ended = False
        self._abandoned = threading.Event()
        self._error: BaseException | None = None
        self._silent_since = time.monotonic()
        self._bugs = 0
        self._thread = threading.Thread(target=self._run, name=f"meterwatch-{head_end}", daemon=True)

    @property
    def welcome(self) -> Welcome:
        """Limits and clock of the service, as it said last."""
        if self._welcome is None:
            raise RuntimeError("not connected; use HeadEnd as a context manager")
        return self._welcome

    def __enter__(self) -> Self:
        self._silent_since = time.monotonic()
        self._thread.start()
        try:
            self._wait(lambda: self._welcome is not None)
        except BaseException:
            self.abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    # -- the caller's thread ------------------------------------------------------------------------------------------

    def send_columns(
        self,
        meter: Sequence[str],
        meter_index: ArrayLike,
        end_us: ArrayLike,
        interval_s: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        origin: ArrayLike | None = None,
        starts: bool = False,
        secondary: bool = False,
        **channels: ArrayLike | None,
    ) -> None:
        """Queue reads given as columns; returns when the last batch is queued, not when it is stored.

        meter_index [n] integers into meter; end_us [n] UTC microseconds or datetime64; interval_s one number or [n];
        channels [n] by the names of meterwatch.channels; mask [n] bits of the channels present, None: all given;
        origin [n] as in the contract, None: measured; starts: the stamps are interval starts; secondary: the energies
        are those behind the instrument transformers. ValueError if something does not fit; then nothing is queued.
        """
        columns = checked_columns(meter, meter_index, end_us, interval_s, channels, mask, origin)
        self._send(replace(columns, starts=starts, secondary=secondary))

    def send_rows(self, rows: Iterable[Row | Mapping[str, Any]]) -> None:
        """Queue reads given one by one: Row, or mappings with its names. Slower than columns."""
        for columns in row_columns(rows, self._batch_rows):
            self._send(columns)

    def send_events(self, meters: Sequence[str], at_us: ArrayLike, codes: ArrayLike, phases: ArrayLike = 0) -> Totals:
        """Send events, one meter number, time and EventCode each; returns when they are stored and evaluated. phases:
        which they are about, bits 1 A, 2 B, 4 C, or 0 (event_phases makes them of other vocabularies' names)."""
        return self._events.send(meters, at_us, codes, phases)

    def send_registers(
        self, meters: Sequence[str], at_us: ArrayLike, value_wh: ArrayLike, registers: ArrayLike = 1
    ) -> Totals:
        """Send what cumulative registers showed, one meter number, time, primary Wh and Register each (1 import, 2
        export; one for all will do); returns when they are stored."""
        return self._events.send_registers(meters, at_us, value_wh, registers)

    def flush(self) -> Totals:
        """Wait until every batch is answered; return what became of them since the start."""
        self._wait(lambda: not self._unanswered)
        return self.totals()

    def totals(self) -> Totals:
        """What is known now, without waiting."""
        with self._changed:
            return self._totals.copy()

    def close(self) -> None:
        """Flush, end the stream and compare the service's count with ours; raise Incomplete if they differ."""
        try:
            self._wait(lambda: not self._unanswered)
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._wait(lambda: self._ended)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Stop at once; what is unanswered stays unknown."""
        with self._changed:
            self._abandoned.set()
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        if self._thread.is_alive():
            self._thread.join(10)
        self._events.close()

    def _send(self, columns: Columns) -> None:
        if columns.rows == 0:
            return
        limits = self.welcome
        fit = (limits.message_bytes_max - OVERHEAD_BYTES) // columns.row_bytes if limits.message_bytes_max else None
        rows_max = min(n for n in (self._batch_rows, limits.batch_rows_max or None, fit) if n is not None)
        used = np.unique(columns.meter_index)
        index_of = np.zeros(len(columns.meter), np.uint32)
        index_of[used] = [self._index_of(columns.meter[i]) for i in used.tolist()]
        for interval_s, rows in columns.parts(max(1, rows_max)):
            self._wait(lambda: len(self._unanswered) < self._queue_max)
            self._seq += 1
            request, count = columns.encode(self._seq, interval_s, rows, index_of)
            with self._changed:
                self._unanswered[self._seq] = Pending(self._seq, request, count, len(self._meters))
                self._waiting.append(self._seq)
                self._totals.sent += count
                self._totals.batches += 1
                self._changed.notify_all()

    def _index_of(self, meter: str) -> int:
        index = self._index.get(meter)
        if index is None:
            most = self.welcome.dictionary_entries_max
            if most and len(self._meters) >= most:
                raise ValueError(f"more than {most} meters on one HeadEnd; open a second one for the others")
            index = self._index[meter] = len(self._meters)
            self._meters.append(meter)
        return index

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            while not done():
                if self._error is not None:
                    raise self._error
                if self._ended or self._abandoned.is_set():
                    raise RuntimeError("the HeadEnd is closed; open a new one")
                self._break_if_stalled()
                self._changed.wait(0.5)
            if self._error is not None:
                raise self._error

    def _break_if_stalled(self) -> None:
        oldest = min(self._stream.in_flight.values(), default=None)
        if oldest is not None and time.monotonic() - oldest > self._answer_timeout_s and self._call is not None:
            self._call.cancel()

    # -- the client's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (failure := self._one_stream()) is not None:
                with self._changed:
                    delay_s = self._after(failure)
                    self.reconnects += 1
                    if self._changed.wait_for(lambda: self._abandoned.is_set() or self._done(), delay_s):
                        return
        except BaseException as error:  # the thread's boundary: raised again in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _done(self) -> bool:
        return self._closing and not self._unanswered

    def _after(self, failure: Failure) -> float:
        """Seconds to wait before the next stream; raises if there is to be none."""
        self._bugs += failure.is_bug
        if not failure.retried or self._bugs > BUGS_MAX:
            raise failure.error()
        silent_s = time.monotonic() - self._silent_since
        if self._give_up_after_s is not None and silent_s >= self._give_up_after_s:
            why = why_silent(self._address, self._credentials) or "start the service or check the address"
            raise Unreachable(
                f"no answer from {self._address} for {silent_s:.0f} s ({failure.code}: {failure.message}); "
                f"{len(self._unanswered)} batches are unanswered; {why}"
            )
        return self._backoff.next_s(failure.retry_after_s)

    def _one_stream(self) -> Failure | None:
        """Open a stream and work it to its end; None: it ended as it should."""
        channel = open_channel(self._address, self._credentials)
        with self._changed:
            if self._abandoned.is_set():
                channel.close()
                return None
            stream = self._stream = Stream()
            self._waiting = deque(self._unanswered)
        call: Any = None
        try:
            open_stream = channel.stream_stream(
                STREAM, request_serializer=_as_is, response_deserializer=IngestResponse.FromString
            )
            call = self._call = open_stream(self._requests(stream))
            for response in call:
                self._take(stream, response)
            return (
                None
                if self._abandoned.is_set() or stream.finished
                else Failure("UNAVAILABLE", "", "the stream ended", None)
            )
        except grpc.RpcError as error:
            if self._abandoned.is_set():
                return None
            return failure_of(error)
        finally:
            with self._changed:
                stream.over = True
                self._call = None
                self._changed.notify_all()
            if call is not None:
                call.cancel()
            channel.close()

    def _requests(self, stream: Stream) -> Iterator[bytes]:
        """What goes out on one stream; runs on a thread of grpc."""
        yield self._hello.SerializeToString()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: stream.over or self._abandoned.is_set() or self._may_go_on(stream))
                if stream.over or self._abandoned.is_set():
                    return
                if not self._waiting:
                    stream.finished = True
                    return
                pending = self._unanswered[self._waiting.popleft()]
                meters = self._meters[stream.announced : pending.meters]
                stream.announced = max(stream.announced, pending.meters)
                now = time.monotonic()
                stream.in_flight[pending.seq] = now
                stream.batches += 1
                stream.rows += pending.rows
                pending.sent_s = now if pending.sent_s is None else pending.sent_s
            for at in range(0, len(meters), DICTIONARY_PART):
                part = Dictionary(meter=meters[at : at + DICTIONARY_PART])
                yield IngestRequest(dictionary=part).SerializeToString()
            yield pending.request

    def _may_go_on(self, stream: Stream) -> bool:
        if stream.welcome is None:
            return False
        return len(stream.in_flight) < stream.credits if self._waiting else self._done()

    def _take(self, stream: Stream, response: IngestResponse) -> None:
        kind = response.WhichOneof("message")
        answered: tuple[Pending, Ack] | None = None
        with self._changed:
            if kind == "welcome":
                self._welcome = stream.welcome = response.welcome
                stream.credits = response.welcome.credits
                if not self._unanswered:
                    self._answered()
            elif kind == "dictionary_ack":
                self.unknown_meters.update(self._meters[i] for i in response.dictionary_ack.unknown_index)
            elif kind == "ack":
                answered = self._take_ack(stream, response.ack), response.ack
            elif kind == "nack":
                self._take_nack(stream, response.nack)
            elif kind == "summary":
                self._compare(stream, response.summary)
            self._changed.notify_all()
        if answered is not None and self._on_ack is not None:
            pending, ack = answered
            self._on_ack(pending.seq, ack, time.monotonic() - (pending.sent_s or 0.0))

    def _answered(self) -> None:
        self._silent_since = time.monotonic()
        self._bugs = 0
        self._backoff.reset()

    def _take_ack(self, stream: Stream, ack: Ack) -> Pending:
        if ack.seq not in stream.in_flight:
            raise Incomplete(f"the service acknowledged batch {ack.seq}, which is not open on this stream")
        del stream.in_flight[ack.seq]
        pending = self._unanswered.pop(ack.seq)
        counted = ack.accepted + ack.versions + ack.duplicates + ack.rejected
        if counted != pending.rows:
            raise Incomplete(f"the service accounts for {counted} rows of batch {ack.seq}; {pending.rows} were sent")
        stream.acked += 1
        stream.credits = ack.credits or stream.credits
        self._totals.add(ack, ack.versions)
        self._answered()
        return pending

    def _take_nack(self, stream: Stream, nack: Nack) -> None:
        stream.nacked += 1
        stream.credits = nack.credits or stream.credits
        if nack.seq not in stream.in_flight:  # a dictionary, or a message that could not be read
            raise Refused("OK", nack.reason, nack.message)
        del stream.in_flight[nack.seq]
        if not nack.permanent:
            self._waiting.append(nack.seq)
            return
        pending = self._unanswered.pop(nack.seq)
        self._totals.nacked += 1
        self._totals.nacked_rows += pending.rows
        self._totals.nack_reasons[f"{nack.reason}: {nack.message}"] += 1
        self._answered()

    def _compare(self, stream: Stream, summary: Summary) -> None:
        ours = (stream.batches, stream.acked, stream.nacked, stream.rows)
        theirs = (summary.batches, summary.acked, summary.nacked, summary.rows)
        if stream.nacked:  # rows of a batch that could not be read are not in the service's count
            ours, theirs = (*ours[:3], 0), (*theirs[:3], 0)
        if stream.finished and ours != theirs:
            raise Incomplete(
                f"the service counted {theirs} batches, acked, nacked, rows; sent were {ours}; look at its log"
            )
