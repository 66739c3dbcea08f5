"""The sending side: a process of its own that prepares batches, then pushes them through the streams it keeps open.

Lean on purpose: no re-sending, no reconnecting; anything but an ack of every batch is an error. It obeys the service's
credits like any client. Flat out the next batch goes as soon as there is a credit, so latencies are those of a full
pipe and no promise for a lightly loaded one; at a pace they count from the time a batch was due, sent by then or not.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

from loadtest.child import Child
from loadtest.fleet import Fleet
from loadtest.load import Backlog, Load, Sent, batches
from meterwatch.client.headend import DICTIONARY_PART, STREAM
from meterwatch.client.retry import open_channel
from meterwatch.v1.ingest_pb2 import Dictionary, Hello, IngestRequest, IngestResponse

RUN_TIMEOUT_S: Final = 600.0
ANSWERED: Final = ("accepted", "versions", "duplicates", "rejected")
"""What becomes of a row."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of the driver came to."""

    seconds: float
    """From the first send to the last ack, over all streams."""
    cpu_s: float
    counts: dict[str, int]
    """sent, accepted, versions, duplicates, rejected, batches."""
    wire_bytes: int
    ack_ms: list[float] = field(repr=False)
    """Send to ack of each batch; from the time it was due, if the run had a pace."""
    due_s: list[list[float]] = field(repr=False)
    """Per stream, when each batch was due (paced) or went: time.monotonic()."""
    went_s: list[list[float]] = field(default_factory=list, repr=False)
    """Per stream, when each batch went."""
    acked_s: list[float] = field(default_factory=list, repr=False)
    """When each ack of ack_ms came."""
    stream_rows: list[int] = field(default_factory=list)
    """Rows acknowledged of each stream."""
    withheld: int = 0
    """Rows that were still waiting for credit when the run was over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run sends: rows a second over all streams, and when it gives up what has not gone."""

    reads_per_s: float = math.inf
    seconds: float = math.inf


class Driver:
    """The process, seen from the bench. Close it."""

    def __init__(self, address: str, fleet: Fleet) -> None:
        self._child = Child("driver", _main, address, fleet)
        self._child.answer(str)

    def prepare(self, load: Load | Backlog) -> None:
        """Make the batches of a load ready."""
        self._child.obey(load)

    def run(self, reads_per_s: float = math.inf, seconds: float = math.inf) -> Run:
        """Send what was prepared, at this pace over all streams; returns when all that went is acknowledged.

        seconds: send nothing after so long; the rest is `withheld`.
        """
        return self._child.ask(Pace(reads_per_s, seconds), Run)

    def close(self) -> None:
        """End the streams and the process."""
        self._child.close()


class _Stream:
    """One stream: sends from a thread of grpc, counts answers on a thread of ours."""

    def __init__(self, address: str, fleet: Fleet, number: int) -> None:
        self._changed = threading.Condition()
        self._todo: list[Sent] = []
        self._sent_s: dict[int, float] = {}
        self._gap_s = 0.0
        self._next_s = 0.0
        self.due_s: list[float] = []
        self.went_s: list[float] = []
        self.acked_s: list[float] = []
        self.wire_bytes = self.rows_sent = self.rows_withheld = 0
        self._credits = 0
        self._closing = False
        self._error = ""
        self.counts: Counter[str] = Counter()
        self.ack_ms: list[float] = []
        self._hello = Hello(head_end=fleet.head_end(number), epoch=time.time_ns() // 1000, agent="meterwatch-bench")
        self._names = [fleet.name(meter) for meter in fleet.meters_of(number)]
        self._announced = 0
        self._channel = open_channel(address)
        call = self._channel.stream_stream(STREAM, None, IngestResponse.FromString)(self._requests())
        self._thread = threading.Thread(target=self._read, args=(call,), daemon=True)
        self._thread.start()
        self._wait(lambda: self._announced == len(self._names))

    def start(self, todo: list[Sent], first_s: float, gap_s: float) -> None:
        """Begin to send: a batch every gap_s from first_s (time.monotonic()), whatever is answered; 0: flat out."""
        with self._changed:
            self.counts, self.ack_ms, self.due_s = Counter(), [], []
            self.went_s, self.acked_s = [], []
            self.wire_bytes = self.rows_sent = self.rows_withheld = 0
            self._next_s, self._gap_s = first_s, gap_s
            self._todo = todo[::-1]
            self._changed.notify_all()

    def finish(self, by_s: float) -> None:
        """Wait until all is acknowledged; from by_s (time.monotonic()) on, all that has gone."""
        with self._changed:
            if math.isfinite(by_s):
                self._changed.wait_for(lambda: self._error or not self._todo, max(by_s - time.monotonic(), 0))
                self.rows_withheld = sum(sent.rows for sent in self._todo)
                self._todo.clear()
        self._wait(lambda: not self._todo and not self._sent_s)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(10)
        self._channel.close()

    def _wait(self, done: Any) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._error or done(), RUN_TIMEOUT_S):
                raise RuntimeError(f"no answer for {RUN_TIMEOUT_S:.0f} s")
            if self._error:
                raise RuntimeError(self._error)

    def _requests(self) -> Iterator[bytes]:
        yield IngestRequest(hello=self._hello).SerializeToString()
        for at in range(0, len(self._names), DICTIONARY_PART):
            part = Dictionary(meter=self._names[at : at + DICTIONARY_PART])
            yield IngestRequest(dictionary=part).SerializeToString()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or (self._todo and len(self._sent_s) < self._credits))
                while not self._closing and (early_s := self._next_s - time.monotonic()) > 0:
                    self._changed.wait(early_s)
                if self._closing:
                    return
                if not self._todo:  # the run was over before the next was due
                    continue
                sent = self._todo.pop()
                due_s = self._next_s if self._gap_s else time.monotonic()
                self._next_s += self._gap_s
                self._sent_s[sent.seq] = due_s
                self.due_s.append(due_s)
                self.went_s.append(time.monotonic())
                self.rows_sent += sent.rows
                self.wire_bytes += len(sent.request)
            yield sent.request

    def _read(self, call: Any) -> None:
        try:
            for response in call:
                with self._changed:
                    self._take(response)
                    self._changed.notify_all()
        except Exception as error:  # the thread's boundary: raised again by _wait
            with self._changed:
                self._error = f"{type(error).__name__}: {error}"
                self._changed.notify_all()

    def _take(self, response: IngestResponse) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._credits = response.welcome.credits
            case "dictionary_ack":
                if response.dictionary_ack.unknown_index:
                    raise RuntimeError(f"{len(response.dictionary_ack.unknown_index)} meters are not registered")
                self._announced += response.dictionary_ack.count
            case "ack":
                ack = response.ack
                self.acked_s.append(time.monotonic())
                self.ack_ms.append(1000 * (self.acked_s[-1] - self._sent_s.pop(ack.seq)))
                self._credits = ack.credits or self._credits
                self.counts.update(
                    batches=1,
                    accepted=ack.accepted,
                    versions=ack.versions,
                    duplicates=ack.duplicates,
                    rejected=ack.rejected,
                )
            case "nack":
                raise RuntimeError(f"batch {response.nack.seq} was refused: {response.nack.reason}")
            case _:
                pass


def _main(pipe: Connection, address: str, fleet: Fleet) -> None:
    streams: list[_Stream] = []
    try:
        streams += [_Stream(address, fleet, number) for number in range(fleet.streams)]
        next_seq = [1] * fleet.streams
        ready: list[list[Sent]] = []
        pipe.send("")
        while True:
            order = pipe.recv()
            if isinstance(order, Load | Backlog):
                ready = [list(batches(fleet, order, number, next_seq[number])) for number in range(fleet.streams)]
                next_seq = [seq + len(todo) for seq, todo in zip(next_seq, ready, strict=True)]
                pipe.send("")
            else:
                pipe.send(_run(streams, ready, order))
    except EOFError:  # the bench has closed its end
        for stream in streams:
            stream.close()
    except Exception as error:  # the process's boundary: told to the bench
        pipe.send(f"{type(error).__name__}: {error}")


def _run(streams: list[_Stream], ready: list[list[Sent]], pace: Pace) -> Run:
    began_s, cpu_s = time.monotonic(), time.process_time()
    batch_rows = max(sent.rows for todo in ready for sent in todo)
    gap_s = len(streams) * batch_rows / pace.reads_per_s  # 0 for an infinite rate
    for number, (stream, todo) in enumerate(zip(streams, ready, strict=True)):
        stream.start(todo, began_s + number * gap_s / len(streams), gap_s)
    for stream in streams:
        stream.finish(began_s + pace.seconds)
    seconds, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    counts: Counter[str] = Counter(sent=sum(stream.rows_sent for stream in streams))
    for stream in streams:
        counts.update(stream.counts)
    return Run(
        seconds,
        cpu_s,
        dict(counts),
        sum(stream.wire_bytes for stream in streams),
        [ms for stream in streams for ms in stream.ack_ms],
        [stream.due_s for stream in streams],
        [stream.went_s for stream in streams],
        [at_s for stream in streams for at_s in stream.acked_s],
        [sum(stream.counts[name] for name in ANSWERED) for stream in streams],
        sum(stream.rows_withheld for stream in streams),
    )
