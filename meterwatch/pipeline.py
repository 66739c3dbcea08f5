"""The path of a batch behind the endpoint, as one list:

    submit -> group -> COPY and ledger row, one transaction (worker thread) -> rules observe, in commit order
           -> rules evaluate -> alarm transitions and `evaluated`, one transaction -> answer

Promises: an answer means both transactions are committed; a batch is answered or fails, never forgotten; every queue
has a limit. A failure of the database before the first commit fails the batch (the sender sends it again); after it,
the second commit is tried until it succeeds, because the reads are stored and their alarms are owed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from meterwatch.batch import Batch, Events, ReadChange, Rejects, Stored
from meterwatch.clock import Clock
from meterwatch.episodes import Verdict
from meterwatch.errors import MeterwatchError, Overloaded, StorageUnavailable
from meterwatch.topology import Topology

GROUP_ROWS_MAX = 60_000
"""Rows coalesced into one COPY: beyond this a COPY gets no cheaper."""
QUEUE_ROWS_MAX = 1_000_000
"""Rows validated and not yet stored; beyond it senders are told to wait."""
TICK_S = 0.5
"""How often the rules are asked when nothing arrives, so that timers end."""
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


class BatchWriter(Protocol):
    """storage.writer.Writer: blocking, one per thread."""

    def write(self, group: list[Batch], now_us: int) -> list[Stored]: ...
    def write_events(
        self,
        head_end_id: int,
        epoch: int,
        seq: int,
        digest: bytes,
        events: Events,
        rejects: Rejects,
        rows: int,
        now_us: int,
    ) -> tuple[Stored, Events]: ...


class Rules(Protocol):
    """What the pipeline drives: the rule engine with its history, as the app wires them."""

    def observe_reads(self, change: ReadChange, now_us: int) -> None: ...
    def observe_events(self, events: Events, now_us: int) -> None: ...
    async def evaluate(self, now_us: int) -> list[Verdict]: ...


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    answer: asyncio.Future[Stored]


@dataclass(slots=True)
class _Committed:
    stored: Stored
    events: Events | None
    answer: asyncio.Future[Stored]


class Pipeline:
    """See the module head. `run()` is the core task: when it ends, the service must end."""

    def __init__(
        self,
        clock: Clock,
        writers: list[BatchWriter],
        rules: Rules,
        record: Callable[[list[Verdict], list[int]], Awaitable[None]],
        last_acked: Callable[[int, int], Awaitable[int]],
        topology: Topology,
        connection_change: Callable[[int, bool], None],
    ) -> None:
        self.clock = clock
        self.rules = rules
        self._writers = writers
        self._record = record
        self._last_acked = last_acked
        self._topology = topology
        self._connection_change = connection_change
        self._streams: dict[int, int] = {}
        self._waiting: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._arrived = asyncio.Event()
        self._committed: asyncio.Queue[_Committed] = asyncio.Queue(10_000)
        self._threads = ThreadPoolExecutor(len(writers) + 1, thread_name_prefix="copy")
        self._events_lock = asyncio.Lock()
        self._not_ready: str | None = "the service is starting"
        self._rules_lock = asyncio.Lock()

    def topology(self) -> Topology:
        return self._topology

    def paused(self) -> asyncio.Lock:
        """Lock under which nothing is evaluated: for putting other rules in place."""
        return self._rules_lock

    def replace(self, topology: Topology, rules: Rules) -> None:
        """Go on with another registry snapshot and the rules built for it; only while paused."""
        self._topology = topology
        self.rules = rules

    def ready(self, reason: str | None = None) -> None:
        """Take reads from now on; or, with a reason, do not."""
        self._not_ready = reason

    def check_ready(self) -> None:
        if self._not_ready is not None:
            raise StorageUnavailable(self._not_ready)

    async def last_acked(self, head_end_id: int, epoch: int) -> int:
        return await self._last_acked(head_end_id, epoch)

    def connected(self, head_end_id: int) -> None:
        self._streams[head_end_id] = self._streams.get(head_end_id, 0) + 1
        if self._streams[head_end_id] == 1:
            self._connection_change(head_end_id, True)

    def gone(self, head_end_id: int) -> None:
        self._streams[head_end_id] -= 1
        if self._streams[head_end_id] == 0:
            self._connection_change(head_end_id, False)

    async def submit(self, batch: Batch) -> Stored:
        if self._waiting_rows > QUEUE_ROWS_MAX:
            raise Overloaded("QUEUE_FULL", f"{self._waiting_rows} rows wait for the database; send again later", 1.0)
        answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(batch, answer))
        self._waiting_rows += batch.rows_sent
        self._arrived.set()
        return await answer

    async def submit_events(
        self, head_end_id: int, epoch: int, seq: int, digest: bytes, events: Events, rejects: Rejects, rows_sent: int
    ) -> Stored:
        loop = asyncio.get_running_loop()
        async with self._events_lock:
            stored, fresh = await loop.run_in_executor(
                self._threads, self._writers[-1].write_events,
                head_end_id, epoch, seq, digest, events, rejects, rows_sent, self.clock.now_us(),
            )  # fmt: skip
        answer: asyncio.Future[Stored] = loop.create_future()
        await self._committed.put(_Committed(stored, fresh, answer))
        return await answer

    async def run(self) -> None:
        """Write and evaluate until cancelled. The last writer is kept for events."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for writer in self._writers[:-1]:
                    tasks.create_task(self._write(writer))
                tasks.create_task(self._evaluate())
        finally:
            self._threads.shutdown(wait=False)

    async def _write(self, writer: BatchWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            group: list[_Waiting] = []
            rows = 0
            while self._waiting and (not group or rows + self._waiting[0].batch.rows_sent <= GROUP_ROWS_MAX):
                group.append(self._waiting.popleft())
                rows += group[-1].batch.rows_sent
            self._waiting_rows -= rows
            group = [item for item in group if not item.answer.done()]
            if not group:
                continue
            try:
                stored = await loop.run_in_executor(
                    self._threads, writer.write, [item.batch for item in group], self.clock.now_us()
                )
            except MeterwatchError as error:
                _log.warning("batches not stored", batches=len(group), error=str(error))
                for item in group:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                continue
            for item, outcome in zip(group, stored, strict=True):
                await self._committed.put(_Committed(outcome, None, item.answer))

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
            async with self._rules_lock:
                await self._judge(batch)
            for item in batch:
                if not item.answer.done():
                    item.answer.set_result(item.stored)

    async def _judge(self, batch: list[_Committed]) -> None:
        now_us = self.clock.now_us()
        for item in batch:
            if item.stored.change is not None:
                self.rules.observe_reads(item.stored.change, now_us)
            if item.events is not None and item.events.rows:
                self.rules.observe_events(item.events, now_us)
        fresh = [item.stored.batch_id for item in batch if not (item.stored.replayed or item.stored.reused)]
        verdicts: list[Verdict] | None = None
        while True:
            try:
                if verdicts is None:
                    verdicts = await self.rules.evaluate(now_us)
                if verdicts or fresh:
                    await self._record(verdicts, fresh)
                return
            except StorageUnavailable as error:
                _log.warning("alarms wait for the database", batches=len(batch), error=error.message)
                await asyncio.sleep(RETRY_S)
