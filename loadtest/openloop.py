"""The sending side of a load test: processes that play their streams of a plan against the clock, come what may.

Open loop: a message has a time, and its latency counts from that time, also while the service gives no credit for it. A
message that goes late although there was credit is the generator's own fault: `behind_s` says by how much. Messages are
made before the clock starts, as far as PREPARED_BYTES_MAX reaches; what is beyond is made ahead of its time by a thread
of the same process, and `prepared_whole` is False. A broken stream is opened again and what was unanswered sent again
under its numbers. Refuses to judge: it counts, loadtest.run decides.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from loadtest.child import Child
from loadtest.event_lane import EventLane
from loadtest.lane import Lane, ReadLane
from loadtest.plan import Message, Plan
from loadtest.scenarios import Knobs
from loadtest.world import World

PREPARED_BYTES_MAX: Final = 1 << 30
"""Of a process, shared by its streams."""
ANSWER_TIMEOUT_S: Final = 1800.0
TICK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What a process plays: these streams of the plan of (world, knobs, start_us, epoch)."""

    meters: int
    seed: int
    knobs: Knobs
    start_us: int
    epoch: int
    streams: tuple[int, ...]

    def plan(self) -> Plan:
        return plan_of(self.meters, self.seed, self.knobs, self.start_us, self.epoch)


def plan_of(meters: int, seed: int, knobs: Knobs, start_us: int, epoch: int) -> Plan:
    """The plan of a run: from a few numbers, so that each process makes its own."""
    return Plan(
        World(meters, knobs.streams, seed, knobs.three_phase_share, knobs.meters_per_transformer),
        knobs,
        start_us,
        epoch,
    )


class Prepared(NamedTuple):
    """How far the messages were made before the clock started."""

    whole: bool
    bytes: int
    seconds: float


class Welcomed(NamedTuple):
    """What the service said of its clock, and when it was heard on the machine's."""

    now_us: int
    clock_mode: str
    heard_s: float


@dataclass(slots=True)
class Tick:
    """What happened in one second since the start, in one process."""

    at_s: int
    reads_sent: int = 0
    reads_acked: int = 0
    ack_ms: list[float] = field(default_factory=list)
    behind_s: float = 0.0


@dataclass(slots=True)
class Played:
    """What a process came to."""

    counts: Counter[str]
    reasons: Counter[str]
    behind_s_max: float
    seconds: float
    """From the start to the last answer."""
    cpu_s: float
    histogram: bytes
    """Latencies of batches from their scheduled time, microseconds, as HdrHistogram.encode gives."""
    events_histogram: bytes
    sends: dict[tuple[str, int], list[float]]
    """(kind, stream) -> seconds at which each message went, rising."""
    problems: list[str]


class Generator:
    """A driving process, seen from the run. Close it."""

    def __init__(self, job: Job) -> None:
        self._child = Child("driver", _main, job, answers_in_s=ANSWER_TIMEOUT_S)

    @property
    def pid(self) -> int:
        return self._child.pid

    def prepared(self) -> Prepared:
        """Wait until its messages are ready."""
        return self._child.answer(Prepared)

    def connect(self, address: str) -> None:
        """Have it open its streams and announce its meters; `welcomed` tells when that is done."""
        self._child.send(address)

    def welcomed(self) -> Welcomed:
        return self._child.answer(Welcomed)

    def disconnect(self) -> None:
        """Have it close its streams; connect again."""
        self._child.send(None)

    def go(self, start_s: float) -> None:
        """Have it play from this time.monotonic(), which is one clock for all processes of a machine."""
        self._child.send(start_s)

    def poll(self) -> list[Tick] | Played | None:
        """What it has to say: seconds, in the end what it came to, None if nothing."""
        if not self._child.said():
            return None
        said = self._child.answer(object)
        assert isinstance(said, list | Played)
        return said

    def close(self) -> None:
        self._child.close()


class _Maker:
    """Makes the messages of one stream ahead of their time, in a thread."""

    def __init__(self, plan: Plan, stream: int, bytes_max: int) -> None:
        self._bytes_max, self.bytes = bytes_max, 0
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Message]] = {"reads": deque(), "events": deque()}
        self.done = False
        self.error = ""
        self._closed = False
        self._thread = threading.Thread(target=self._make, args=(plan, stream), daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        """Wait until all is made (True) or no more may wait (False)."""
        with self._changed:
            self._changed.wait_for(lambda: self.done or self.bytes >= self._bytes_max)
            if self.error:
                raise RuntimeError(self.error)
            return self.done

    def next(self, kind: str) -> Message | None:
        """The next message of a kind, waiting for it to be made; None: there are no more."""
        with self._changed:
            queue = self._queues[kind]
            self._changed.wait_for(lambda: queue or self.done or self._closed)
            if self.error:
                raise RuntimeError(self.error)
            if not queue:
                return None
            message = queue.popleft()
            self.bytes -= len(message.request)
            self._changed.notify_all()
            return message

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _make(self, plan: Plan, stream: int) -> None:
        try:
            for message in plan.messages(stream):
                with self._changed:
                    # an empty queue is filled in any case: the other kind may be what the bytes are
                    self._changed.wait_for(lambda: self._closed or self.bytes < self._bytes_max)
                    if self._closed:
                        return
                    self._queues[message.kind].append(message)
                    self.bytes += len(message.request)
                    self._changed.notify_all()
        except Exception as error:  # the thread's boundary: raised again by ready and next
            self.error = f"{type(error).__name__}: {error}"
        with self._changed:
            self.done = True
            self._changed.notify_all()


def _main(pipe: Connection, job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes the pipe
    lanes: list[Lane] = []
    makers: list[_Maker] = []
    try:
        began_s, plan = time.monotonic(), job.plan()
        makers += [_Maker(plan, stream, PREPARED_BYTES_MAX // len(job.streams)) for stream in job.streams]
        whole = min(maker.ready() for maker in makers)
        pipe.send(Prepared(whole, sum(maker.bytes for maker in makers), time.monotonic() - began_s))
        while not isinstance(order := pipe.recv(), float):
            for lane in lanes:
                lane.close()
            lanes = []
            if order is not None:
                for stream, maker in zip(job.streams, makers, strict=True):
                    head_end = plan.world.head_end(stream)
                    reads = ReadLane(stream, maker.next, order, head_end, job.epoch, plan.dictionary(stream))
                    lanes += [reads, EventLane(stream, maker.next, order)]
                pipe.send(_welcomed(lanes))
        pipe.send(_play(pipe, lanes, order))
    except EOFError:  # the run has closed its end
        pass
    except Exception as error:  # the process's boundary: told to the run
        with contextlib.suppress(OSError):
            pipe.send(f"{type(error).__name__}: {error}")
    for maker in makers:
        maker.close()
    for lane in lanes:
        lane.close()


def _welcomed(lanes: list[Lane]) -> Welcomed:
    """Wait for all of them; what the last one heard."""
    welcomed = Welcomed(0, "", 0.0)
    for lane in lanes:
        if isinstance(lane, ReadLane):
            welcome = lane.connected()
            welcomed = Welcomed(welcome.now_us, welcome.clock_mode, lane.welcomed_s)
    return welcomed


def _play(pipe: Connection, lanes: list[Lane], start_s: float) -> Played:
    cpu_s = time.process_time()
    for lane in lanes:
        lane.start(start_s)
    while any(not lane.finished() for lane in lanes):
        time.sleep(TICK_S)
        pipe.send(_ticks(lanes))
    pipe.send(_ticks(lanes))
    played = Played(Counter(), Counter(), 0.0, 0.0, time.process_time() - cpu_s, b"", b"", {}, [])
    reads, events = ReadLane.histogram_of(lanes), EventLane.histogram_of(lanes)
    played.histogram, played.events_histogram = reads.encode(), events.encode()
    for lane in lanes:
        played.counts.update(lane.counts)
        played.reasons.update(lane.reasons)
        played.behind_s_max = max(played.behind_s_max, lane.behind_s_max)
        played.seconds = max(played.seconds, lane.last_s)
        played.sends[lane.kind, lane.stream] = lane.sends
        played.problems += lane.problems
    return played


def _ticks(lanes: list[Lane]) -> list[Tick]:
    """What the lanes noted since the last call, by second."""
    seconds: dict[int, Tick] = {}
    for lane in lanes:
        for note in lane.notes():
            tick = seconds.setdefault(note.at_s, Tick(note.at_s))
            tick.reads_sent += note.reads_sent
            tick.reads_acked += note.reads_acked
            tick.behind_s = max(tick.behind_s, note.behind_s)
            if note.ack_ms is not None:
                tick.ack_ms.append(note.ack_ms)
    return list(seconds.values())
