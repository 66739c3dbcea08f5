"""The path of a batch behind the endpoint, as one list:

    submit -> group -> COPY and ledger row, one transaction (worker thread) -> rules observe, in commit order
           -> rules evaluate -> alarm transitions and `evaluated`, one transaction -> answer

Promises: an answer means both transactions are committed; a batch is answered or fails, never forgotten, also when the
core ends; every queue has a limit; who stops waiting harms nobody. A failure of the database before the first commit
fails the batch (the sender sends it again); after it, the second commit is tried until it succeeds, because the reads
are stored and their alarms are owed. A batch that fails by itself fails alone: its group is written again one by one.
Of two batches with one key the second is written when the first is on its way to the rules, so a replay is never
answered before what it replays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from meterwatch import failpoints
from meterwatch.batch import Batch, EventBatch, Events, Stored
from meterwatch.clock import US, Clock
from meterwatch.episodes import Verdict
from meterwatch.errors import Overloaded, Rejected, Stale, StorageUnavailable
from meterwatch.hearing import Hearing
from meterwatch.metrics import Metrics
from meterwatch.reads_queue import GROUP_ROWS_MAX, ReadsQueue, Waiting
from meterwatch.registers import RegisterBatch, RegisterChange
from meterwatch.steady_time import SteadyTime
from meterwatch.tasks import ending
from meterwatch.topology import Topology
from meterwatch.unheard import Unheard, stands_us, stops_of

TICK_S = 0.5
"""How often the rules are asked when nothing arrives, so that timers end."""
QUEUE_EVENTS_MAX = 256
"""Requests of events not yet stored; beyond it senders are told to wait."""
QUEUE_REGISTERS_MAX = 16
"""The same for requests of register reads, which are larger."""
COMMITTED_MAX = 10_000
"""Batches and requests committed and not yet before the rules; beyond it the writers wait, and the queues before them
fill."""
RETRY_S = 1.0
NO_ROOM_RETRY_S = 10.0
"""When to come again while the disk is low: somebody has to make room."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class BatchWriter(Protocol):
    """storage.writer.Writer: blocking, one per thread."""

    def write(self, group: list[Batch], now_us: int) -> list[Stored]: ...
    def write_events(self, group: list[EventBatch], now_us: int) -> list[tuple[Stored, Events]]: ...
    def write_registers(self, request: RegisterBatch, now_us: int) -> tuple[Stored, RegisterChange]: ...


class Rules(Protocol):
    """What the pipeline drives: the rule engine with its history, as the app wires them."""

    def observe_reads(self, stored: Sequence[Stored], now_us: int) -> None: ...
    def observe_events(self, events: Events, now_us: int) -> None: ...
    def observe_registers(self, change: RegisterChange) -> None: ...
    def head_end(self, head_end_id: int, connected: bool, now_us: int) -> None: ...
    def deaf_to(self, head_ends: frozenset[int], now_us: int) -> None: ...
    async def evaluate(self, now_us: int) -> list[Verdict]: ...
    @property
    def due(self) -> bool: ...


@dataclass(slots=True)
class _Committed:
    stored: Stored
    events: Events | None
    answer: asyncio.Future[Stored]
    since_s: float
    """When it was queued, monotonic seconds."""
    registers: RegisterChange | None = None
    key: tuple[int, int, int] | None = None
    """Of events: head-end, epoch, seq."""

    @property
    def kind(self) -> str:
        """Label of what was sent."""
        if self.registers is not None:
            return "registers"
        return "reads" if self.events is None else "events"


class Pipeline:
    """See the module head. `run()` is the core task: when it ends, the service must end."""

    def __init__(
        self,
        clock: Clock,
        writers: list[BatchWriter],
        rules: Rules,
        record: Callable[[list[Verdict], list[int]], Awaitable[object]],
        last_acked: Callable[[int, int], Awaitable[int]],
        topology: Topology,
        metrics: Metrics | None = None,
        registers: BatchWriter | None = None,
    ) -> None:
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.rules = rules
        self._writers = writers
        self._registers_writer = registers or writers[-1]
        self._record = record
        self._last_acked = last_acked
        self._topology = topology
        self._streams: dict[int, int] = {}
        self._replayed_us = clock.now_us()
        self._judged_us = 0
        self._unheard = Unheard()
        self.steady = SteadyTime(clock)
        self._hearing = Hearing()
        self._reads = ReadsQueue()
        self._waiting_events: asyncio.Queue[Waiting[EventBatch]] = asyncio.Queue(QUEUE_EVENTS_MAX)
        self._waiting_registers: asyncio.Queue[Waiting[RegisterBatch]] = asyncio.Queue(QUEUE_REGISTERS_MAX)
        self._committed: asyncio.Queue[_Committed] = asyncio.Queue(COMMITTED_MAX)
        self._owed: set[asyncio.Future[Stored]] = set()
        self._threads = ThreadPoolExecutor(len(writers) + 1, thread_name_prefix="copy")
        self._not_ready: str | None = "the service is starting"
        self._ended = False
        self._no_room = ""
        self._rules_lock = asyncio.Lock()
        self._oldest_s: float | None = None
        """When the oldest batch now before the rules came, monotonic seconds."""
        self.visited = False
        """A head-end was here since the start: it opened a stream, or sent something."""
        self._owed_verdicts: list[Verdict] | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows validated and not yet handed to a writer."""
        return self._reads.rows

    @property
    def waiting_requests(self) -> tuple[int, int, int]:
        """Requests of events, of registers, and all that is committed and waits for the rules."""
        return self._waiting_events.qsize(), self._waiting_registers.qsize(), self._committed.qsize()

    @property
    def behind_s(self) -> float:
        """For how long the oldest batch now before the rules has been in the service; 0: none is."""
        return 0.0 if self._oldest_s is None else time.monotonic() - self._oldest_s

    @property
    def crowded(self) -> bool:
        """More than half of the queue waits: grant fewer credits."""
        return self._reads.crowded

    @property
    def not_ready(self) -> str:
        """Why reads are not taken now, or are taken much faster than they are stored; empty: neither."""
        if self._not_ready is not None:
            return self._not_ready
        if self._no_room:
            return self._no_room
        return f"{self._reads.rows} rows wait for the database" if self.crowded else ""

    def topology(self) -> Topology:
        return self._topology

    def paused(self) -> asyncio.Lock:
        """Lock under which nothing is evaluated: for putting other rules in place."""
        return self._rules_lock

    def replace(self, topology: Topology, rules: Rules, verdicts: list[Verdict], now_us: int) -> None:
        """Go on with another registry snapshot, the rules built for it and what they know at now_us; only while paused.

        The verdicts are owed until `settle` or the next judgement has recorded them: rules say a thing once.
        """
        self._topology = topology
        self.rules = rules
        self._owed_verdicts = verdicts
        self._judged_us = self.steady.begin(now_us)
        for head_end_id, streams in self._streams.items():
            if streams:
                rules.head_end(head_end_id, True, self._judged_us)

    async def settle(self) -> None:
        """Record what rules just put in place know; only while paused. What fails here the next judgement does."""
        if self._owed_verdicts is not None:
            await self._record(self._owed_verdicts, [])
            self._owed_verdicts = None

    def ready(self, reason: str | None = None) -> None:
        """Take reads from now on; or, with a reason, do not."""
        self._not_ready = reason

    def refuse_reads(self, reason: str) -> None:
        """Take no reads and no registers while there is a reason; events are taken."""
        self._no_room = reason
        self._hearing.refusing = bool(reason)

    def check_ready(self) -> None:
        if self._not_ready is not None:
            raise StorageUnavailable(self._not_ready)

    async def last_acked(self, head_end_id: int, epoch: int) -> int:
        return await self._last_acked(head_end_id, epoch)

    def connected(self, head_end_id: int) -> None:
        self.visited = True
        self._streams[head_end_id] = self._streams.get(head_end_id, 0) + 1
        if self._streams[head_end_id] == 1:
            self.rules.head_end(head_end_id, True, self.steady.now_us())

    def gone(self, head_end_id: int) -> None:
        self._streams[head_end_id] -= 1
        if self._streams[head_end_id] == 0:
            self.rules.head_end(head_end_id, False, self.steady.now_us())

    async def submit(self, batch: Batch) -> Stored:
        self._refuse_if_ended()
        self._refuse_if_no_room()
        self._reads.check_room(batch)
        failpoints.passed("after_decode")
        answer = self._promise(batch.head_end_id)
        self._reads.add(Waiting(batch, answer))
        return await answer

    async def submit_events(self, batch: EventBatch) -> Stored:
        self._refuse_if_ended()
        key = batch.head_end_id, batch.epoch, batch.seq
        now_us = self.clock.now_us()
        self._unheard.arrived(key, stands_us(batch.events, now_us))
        if len(stops_us := stops_of(batch.events)):
            self.metrics.restored_delay_seconds.observe((now_us - int(stops_us.min())) / US)
        if self._waiting_events.full():
            self._unheard.failed(key, time.monotonic())
            raise Overloaded(
                "QUEUE_FULL", f"{QUEUE_EVENTS_MAX} requests of events wait for the database; send again later", 1.0
            )
        failpoints.passed("after_decode")
        answer = self._promise(batch.head_end_id)
        answer.add_done_callback(lambda done: self._answered(key, done))
        self._waiting_events.put_nowait(Waiting(batch, answer))
        return await answer

    def put_off(self, batch: EventBatch) -> None:
        """Note events that are told to come again: no timer passes them meanwhile."""
        key = batch.head_end_id, batch.epoch, batch.seq
        self._unheard.arrived(key, stands_us(batch.events, self.clock.now_us()))
        self._unheard.failed(key, time.monotonic())

    def _answered(self, key: tuple[int, int, int], done: asyncio.Future[Stored]) -> None:
        """Events are stored and heard, or come again, or are refused for good."""
        comes_again = done.cancelled() or isinstance(done.exception(), StorageUnavailable | Overloaded)
        if comes_again:
            self._unheard.failed(key, time.monotonic())
        else:
            self._unheard.heard(key)

    async def submit_registers(self, batch: RegisterBatch) -> Stored:
        self._refuse_if_ended()
        self._refuse_if_no_room()
        if self._waiting_registers.full():
            raise Overloaded("QUEUE_FULL", f"{QUEUE_REGISTERS_MAX} requests of registers wait; send again later", 1.0)
        failpoints.passed("after_decode")
        answer = self._promise(batch.head_end_id)
        self._waiting_registers.put_nowait(Waiting(batch, answer))
        return await answer

    def _promise(self, head_end_id: int) -> asyncio.Future[Stored]:
        answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._owed.add(answer)
        self.visited |= head_end_id > 0  # others are people and the service itself
        self._hearing.sent(head_end_id)
        answer.add_done_callback(self._owed.discard)
        answer.add_done_callback(lambda _: self._hearing.answered(head_end_id))
        return answer

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise StorageUnavailable(self._not_ready or "the service has stopped")

    def _refuse_if_no_room(self) -> None:
        if self._no_room:
            raise Overloaded("DISK_LOW", self._no_room, NO_ROOM_RETRY_S)

    async def run(self) -> None:
        """Write and evaluate until cancelled. The last writer is kept for events."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for writer in self._writers[:-1]:
                    tasks.create_task(ending(self._write(writer)))
                tasks.create_task(ending(self._write_events(self._writers[-1])))
                tasks.create_task(ending(self._write_registers(self._registers_writer)))
                tasks.create_task(ending(self._evaluate()))
                tasks.create_task(ending(self.steady.run()))
        finally:
            self._ended = True
            self.ready("the service has stopped evaluating reads; send again when it is back")
            _fail(list(self._owed), StorageUnavailable(self._not_ready or ""))
            self._threads.shutdown(wait=False)

    async def _write(self, writer: BatchWriter) -> None:
        while True:
            group = await self._reads.group()
            await self._store(writer, group)
            self._reads.written(group)

    async def _store(self, writer: BatchWriter, group: list[Waiting[Batch]]) -> None:
        """Write a group and hand it to the rules, or fail it; what fails by itself is found by writing one by one."""
        batches = [item.batch for item in group]
        try:
            stored = await self._in_thread(writer.write, batches, self.clock.now_us())
            outcomes = list(zip(group, stored, strict=True))
        except (StorageUnavailable, Overloaded) as error:
            _log.warning("batches not stored", batches=len(group), error=error.message)
            self._hearing.failing = True
            self.metrics.groups_failed.inc()
            _fail([item.answer for item in group], error)
        except Exception as error:
            if len(group) == 1:
                if isinstance(error, Stale | Rejected):  # an edit's editor decided on something old: no failure of ours
                    _fail([group[0].answer], error)
                    return
                self.metrics.groups_failed.inc()
                _log.error("batch not stored", key=group[0].key, error=repr(error))
                _fail([group[0].answer], error)
                return
            _log.error("a group failed; its batches are written one by one", batches=len(group), error=repr(error))
            for item in group:
                await self._store(writer, [item])
        else:
            failpoints.passed("after_copy")
            self._hearing.failing = False
            self.metrics.copy_groups.inc()
            self.metrics.copy_rows.inc(sum(batch.rows_sent for batch in batches))
            for item, outcome in outcomes:
                self.metrics.commit_seconds.observe(time.monotonic() - item.since_s)
                await self._committed.put(_Committed(outcome, None, item.answer, item.since_s))

    async def _write_events(self, writer: BatchWriter) -> None:
        """All requests that wait go into one transaction: in a storm each by itself would wait minutes for its own."""
        while True:
            group = [await self._waiting_events.get()]
            rows = group[0].batch.rows_sent
            while not self._waiting_events.empty() and rows < GROUP_ROWS_MAX:
                group.append(self._waiting_events.get_nowait())
                rows += group[-1].batch.rows_sent
            await self._store_events(writer, [item for item in group if not item.answer.done()])

    async def _store_events(self, writer: BatchWriter, group: list[Waiting[EventBatch]]) -> None:
        """As _store; a request that fails by itself fails alone."""
        if not group:
            return
        try:
            stored = await self._in_thread(writer.write_events, [item.batch for item in group], self.clock.now_us())
        except Exception as error:
            self.metrics.groups_failed.inc()
            away = isinstance(error, StorageUnavailable | Overloaded)
            self._hearing.failing |= away
            _log.warning("events not stored", requests=len(group), error=repr(error))
            if away or len(group) == 1:
                _fail([item.answer for item in group], error)
            else:
                for item in group:
                    await self._store_events(writer, [item])
        else:
            failpoints.passed("after_copy")
            self._hearing.failing = False
            for item, (outcome, fresh) in zip(group, stored, strict=True):
                self.metrics.commit_seconds.observe(time.monotonic() - item.since_s)
                await self._committed.put(_Committed(outcome, fresh, item.answer, item.since_s, key=item.key))

    async def _write_registers(self, writer: BatchWriter) -> None:
        """A request is a transaction: they are large, and no alarm waits for them."""
        while True:
            item = await self._waiting_registers.get()
            if item.answer.done():
                continue
            try:
                stored, change = await self._in_thread(writer.write_registers, item.batch, self.clock.now_us())
            except Exception as error:
                self.metrics.groups_failed.inc()
                self._hearing.failing |= isinstance(error, StorageUnavailable | Overloaded)
                _log.warning("registers not stored", error=repr(error))
                _fail([item.answer], error)
            else:
                failpoints.passed("after_copy")
                self._hearing.failing = False
                self.metrics.commit_seconds.observe(time.monotonic() - item.since_s)
                await self._committed.put(_Committed(stored, None, item.answer, item.since_s, change))

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def _evaluate(self) -> None:
        while True:
            batch: list[_Committed] = []
            try:
                async with asyncio.timeout(TICK_S):
                    batch.append(await self._committed.get())
            except TimeoutError:
                pass
            while not self._committed.empty():
                batch.append(self._committed.get_nowait())
            self._oldest_s = min((item.since_s for item in batch), default=None)
            async with self._rules_lock:
                await self._judge(batch)
            self._oldest_s = None
            for item in batch:
                self.metrics.evaluation_seconds.observe(time.monotonic() - item.since_s)
                self.metrics.stored(item.kind, item.stored)
                if not item.answer.done():
                    item.answer.set_result(item.stored)

    def _now_us(self, batch: list[_Committed]) -> int:
        """The time the rules live in. A replay clock is moved by what arrives; the rules only know what is stored.

        It does not pass events that have arrived and wait to be stored: "restored" among them would come after the
        timer that it stops.
        """
        for item in batch:
            if item.key is not None:
                self._unheard.heard(item.key)
        if self.clock.mode != "replay":
            now_us = self.steady.now_us()
            oldest_us = self._unheard.oldest_us(time.monotonic())
            self._judged_us = max(self._judged_us, now_us if oldest_us is None else min(now_us, oldest_us))
            return self._judged_us
        for item in batch:
            if item.stored.change is not None:
                self._replayed_us = max(self._replayed_us, int(item.stored.change.end_us.max()))
            if item.events is not None and item.events.rows:
                self._replayed_us = max(self._replayed_us, int(item.events.at_us.max()))
        return self._replayed_us

    async def _judge(self, batch: list[_Committed]) -> None:
        now_us = self._now_us(batch)
        self.rules.deaf_to(self._hearing.deaf_to(self._streams, leapt=self.steady.leapt()), now_us)
        self.rules.observe_reads([item.stored for item in batch if item.stored.change is not None], now_us)
        for item in batch:
            if item.events is not None and item.events.rows:
                self.rules.observe_events(item.events, now_us)
            if item.registers is not None:
                self.rules.observe_registers(item.registers)
        fresh = [item.stored.batch_id for item in batch if not (item.stored.replayed or item.stored.reused)]
        verdicts: list[Verdict] | None = None
        while True:
            try:
                await self.settle()
                if verdicts is None:
                    verdicts = await self.rules.evaluate(now_us)
                if verdicts or fresh or self.rules.due:
                    await self._record(verdicts, fresh)
                return
            except (StorageUnavailable, Overloaded) as error:
                _log.warning("alarms wait for the database", batches=len(batch), error=error.message)
                self.metrics.evaluation_retries.inc()
                self._hearing.failing = True
                await asyncio.sleep(RETRY_S)


def _fail(answers: list[asyncio.Future[Stored]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
