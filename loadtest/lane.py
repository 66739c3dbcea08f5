"""One stream of a load test on the wire: its lane for reads, and what it shares with the one for events.

A lane sends a message when its time has come and, for reads, the service gives credit. Latency counts from the
scheduled time. behind_s is lateness that nobody but the sender is to blame for: from the scheduled time or the credit,
whichever is later. Promises: every message is answered in the end, or `problems` says why not. Refuses to know what is
in them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import grpc
from hdrh.histogram import HdrHistogram

from loadtest.plan import Message
from meterwatch.client.headend import DICTIONARY_PART, STREAM
from meterwatch.client.retry import failure_of, open_channel
from meterwatch.client.totals import reason_name
from meterwatch.v1.ingest_pb2 import Dictionary, Hello, IngestRequest, IngestResponse, Welcome

LATENCY_US_MAX: Final = 3_600_000_000
SILENCE_S_MAX: Final = 120.0
"""No answer for so long while some are due ends the lane."""
RETRY_S: Final = 0.5

Next = Callable[[str], Message | None]


class Note(NamedTuple):
    """One thing that happened."""

    at_s: int
    reads_sent: int = 0
    reads_acked: int = 0
    behind_s: float = 0.0
    ack_ms: float | None = None


class Lane:
    """What reads and events have in common. Close it."""

    kind = ""

    def __init__(self, stream: int, take: Next) -> None:
        self.stream = stream
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.problems: list[str] = []
        self.sends: list[float] = []
        self.behind_s_max = 0.0
        self.last_s = 0.0
        self.histogram = HdrHistogram(1, LATENCY_US_MAX, 3)
        self._take_next = take
        self._changed = threading.Condition()
        self._start_s: float | None = None
        self._notes: list[Note] = []
        self._exhausted = False
        self._closing = False
        self._heard_s = time.monotonic()

    @classmethod
    def histogram_of(cls, lanes: Sequence[Lane]) -> Any:
        """The sum of those of this kind."""
        total = HdrHistogram(1, LATENCY_US_MAX, 3)
        for lane in lanes:
            if isinstance(lane, cls):
                total.add(lane.histogram)
        return total

    def start(self, start_s: float) -> None:
        """Offset 0 is at this time.monotonic()."""
        with self._changed:
            self._start_s = self._heard_s = start_s
            self._changed.notify_all()

    def notes(self) -> list[Note]:
        """What happened since the last call."""
        with self._changed:
            notes, self._notes = self._notes, []
            return notes

    def finished(self) -> bool:
        """True when all is answered, or it has given up."""
        with self._changed:
            if self._pending() and not self.problems and time.monotonic() - self._heard_s > SILENCE_S_MAX:
                self.problems.append(f"stream {self.stream}: no answer to {self.kind} for {SILENCE_S_MAX:.0f} s")
            return bool(self.problems) or (self._exhausted and not self._pending())

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _pending(self) -> int:
        raise NotImplementedError

    def _until(self, message: Message) -> bool:
        """With the lock held: wait for the message's time; False if the lane is closed instead."""
        while not self._closed():
            assert self._start_s is not None
            wait_s = self._start_s + message.offset_s - time.monotonic()
            if wait_s <= 0:
                return True
            self._changed.wait(wait_s)
        return False

    def _closed(self) -> bool:
        return self._closing

    def _went(self, message: Message, could_s: float) -> float:
        """Note a send; could_s: when credit was there. Returns the time from which its latency counts."""
        now_s = time.monotonic()
        assert self._start_s is not None
        due_s = self._start_s + message.offset_s if message.paced else now_s
        behind_s = max(now_s - max(due_s, could_s), 0.0) if message.paced else 0.0
        self.behind_s_max = max(self.behind_s_max, behind_s)
        self.sends.append(now_s - self._start_s)
        reads = message.rows if self.kind == "reads" else 0
        self._notes.append(Note(int(now_s - self._start_s), reads_sent=reads, behind_s=behind_s))
        return due_s

    def _answered(self, due_s: float, reads: int) -> None:
        now_s = self._heard_s = time.monotonic()
        assert self._start_s is not None
        self.last_s = now_s - self._start_s
        self.histogram.record_value(min(max(round((now_s - due_s) * 1e6), 1), LATENCY_US_MAX))
        if self.kind == "reads":
            self._notes.append(Note(int(self.last_s), reads_acked=reads, ack_ms=(now_s - due_s) * 1000))

    def _give_up(self, why: str) -> None:
        with self._changed:
            self.problems.append(f"stream {self.stream}, {self.kind}: {why}")
            self._changed.notify_all()


class ReadLane(Lane):
    """Ingest.Stream of one head-end, opened again when it breaks."""

    kind = "reads"

    def __init__(self, stream: int, take: Next, address: str, head_end: str, epoch: int, meters: list[str]) -> None:
        super().__init__(stream, take)
        self._address, self._meters = address, meters
        self._hello = Hello(head_end=head_end, epoch=epoch, agent="meterwatch-loadtest")
        self._welcome: Welcome | None = None
        self.welcomed_s = 0.0
        self._announced = 0
        self._credits = 0
        self._credit_s = 0.0
        self._unanswered: dict[int, tuple[Message, float]] = {}
        self._waiting: Message | None = None
        self._call_number = 0
        self._welcomed_call = 0
        self._channel: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def connected(self) -> Welcome:
        """Wait until the service knows the head-end's meters. RuntimeError if it refuses."""
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self.problems or self._announced == len(self._meters), SILENCE_S_MAX + len(self._meters) / 1e4
            )
            if self.problems or not ready:
                raise RuntimeError(self.problems[0] if self.problems else "no answer to the dictionary")
            assert self._welcome is not None
            return self._welcome

    def close(self) -> None:
        super().close()
        self._thread.join(10)

    def _pending(self) -> int:
        return len(self._unanswered)

    def _run(self) -> None:
        tries_until_s = time.monotonic() + SILENCE_S_MAX
        while not self._closing and not self.problems:
            self._call_number += 1
            self._announced = 0
            self._channel = open_channel(self._address)
            try:
                call = self._channel.stream_stream(STREAM, None, IngestResponse.FromString)(
                    self._requests(self._call_number)
                )
                for response in call:
                    with self._changed:
                        self._take(response)
                        self._changed.notify_all()
                    tries_until_s = time.monotonic() + SILENCE_S_MAX
            except grpc.RpcError as error:
                failure = failure_of(error)
                if self._closed():
                    break
                if not failure.retried or time.monotonic() > tries_until_s:
                    self._give_up(f"{failure.reason or failure.code}: {failure.message}")
                self.counts["breaks"] += 1
                self.reasons[f"BREAK {failure.reason or failure.code}"] += 1
                time.sleep(failure.retry_after_s or RETRY_S)
            except Exception as error:  # the thread's boundary: told in problems
                self._give_up(f"{type(error).__name__}: {error}")
            finally:
                self._channel.close()

    def _requests(self, number: int) -> Iterator[bytes]:
        yield IngestRequest(hello=self._hello).SerializeToString()
        for at in range(0, len(self._meters), DICTIONARY_PART):
            part = Dictionary(meter=self._meters[at : at + DICTIONARY_PART])
            yield IngestRequest(dictionary=part).SerializeToString()
        yield from self._again(number)
        with self._changed:  # nothing is taken before the start: the lane may yet be closed and another opened
            self._changed.wait_for(lambda: self._over(number) or self._start_s is not None)
        while not self._over(number):
            if self._waiting is None:
                try:
                    self._waiting = self._take_next("reads")
                except RuntimeError as error:
                    self._give_up(str(error))
                    return
            message = self._waiting
            with self._changed:
                if message is None:
                    self._exhausted = True
                    self._changed.wait_for(lambda: self._over(number))
                    return
                if not self._until(message):
                    return
                self._changed.wait_for(lambda: self._over(number) or len(self._unanswered) < self._granted(number))
                if self._over(number):
                    return
                self._waiting = None
                self._unanswered[message.seq] = (message, self._went(message, self._credit_s))
                self.counts.update(
                    batches=1, sent=message.rows, copies_sent=message.copies, malformed_sent=message.malformed
                )
            yield message.request

    def _again(self, number: int) -> Iterator[bytes]:
        """What was unanswered, as far as the new stream gives credit: it may be less than the broken one had given."""
        with self._changed:
            todo = sorted(self._unanswered)
        gone: set[int] = set()
        for seq in todo:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._over(number) or len(gone.intersection(self._unanswered)) < self._granted(number)
                )
                if self._over(number):
                    return
                gone.add(seq)
                self.counts["resent"] += 1
                request = self._unanswered[seq][0].request
            yield request

    def _granted(self, number: int) -> int:
        """Credits of this call; none before its Welcome."""
        return self._credits if self._welcomed_call == number else 0

    def _over(self, number: int) -> bool:
        return self._closing or bool(self.problems) or number != self._call_number

    def _take(self, response: IngestResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._welcome, self.welcomed_s = response.welcome, time.monotonic()
            self._credits, self._welcomed_call = response.welcome.credits, self._call_number
        elif kind == "dictionary_ack":
            unknown = response.dictionary_ack.unknown_index
            if len(unknown) > 1:  # the last meter is unknown on purpose
                raise RuntimeError(f"{len(unknown)} meters are not registered; import the fleet's registry first")
            self._announced += response.dictionary_ack.count
        elif kind == "ack":
            ack = response.ack
            self._freed(ack.seq, ack.credits)
            self.counts.update(
                acked=ack.accepted + ack.versions + ack.duplicates + ack.rejected,
                accepted=ack.accepted, versions=ack.versions, duplicates=ack.duplicates, rejected=ack.rejected,
                replayed=int(ack.replayed),
            )  # fmt: skip
            self.reasons.update(reason_name(code) for code in ack.rejected_reason)
        elif kind == "nack":
            nack = response.nack
            self._freed(nack.seq, nack.credits)
            self.counts["nacked"] += 1
            self.reasons[f"NACK {nack.reason}"] += 1

    def _freed(self, seq: int, credits: int) -> None:
        message, due_s = self._unanswered[seq]
        if len(self._unanswered) >= self._credits:
            self._credit_s = time.monotonic()
        del self._unanswered[seq]
        self._credits = credits or self._credits
        self._answered(due_s, message.rows)
