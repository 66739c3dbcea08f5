"""Batches of reads that wait for the database, and which of them go into one COPY.

Promises: streams have their turns (meterwatch.turns), and one with more than its share of a full queue is told to wait;
of two batches with one key the second is held back until the first is on its way to the rules; what nobody waits for
any more is dropped. Knows no writer and no rule. Not thread-safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from meterwatch.batch import Batch, EventBatch, Stored
from meterwatch.errors import Overloaded
from meterwatch.registers import RegisterBatch
from meterwatch.turns import Turns

B = TypeVar("B", Batch, EventBatch, RegisterBatch)

GROUP_ROWS_MAX = 60_000
"""Rows coalesced into one COPY: beyond this a COPY gets no cheaper."""
SECOND_COPY_ROWS = 20_000
"""A second COPY beside a running one begins for so many rows: fewer wait and go together, because a COPY of a thousand
rows costs almost what one of ten thousand costs."""
QUEUE_ROWS_MAX = 1_000_000
"""Rows validated and not yet stored; beyond it streams with more than their share of it are told to wait."""


@dataclass(slots=True)
class Waiting(Generic[B]):
    """A batch, or a request of events or registers, and who waits for what becomes of it."""

    batch: B
    answer: asyncio.Future[Stored]
    since_s: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[int, int, int]:
        return self.batch.head_end_id, self.batch.epoch, self.batch.seq

    @property
    def stream(self) -> tuple[int, int]:
        return self.batch.head_end_id, self.batch.epoch


class ReadsQueue:
    """See the module head."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows validated and not yet handed to a writer."""
        self._waiting: Turns[Waiting[Batch]] = Turns()
        self._arrived = asyncio.Event()
        self._writing: dict[tuple[int, int, int], list[Waiting[Batch]]] = {}
        """Keys being written, each with the batches of the same key held back until that is done."""

    @property
    def crowded(self) -> bool:
        """More than half of the queue waits."""
        return self.rows > QUEUE_ROWS_MAX // 2

    def check_room(self, batch: Batch) -> None:
        """Overloaded if the queue is full and the batch's stream has its share of it."""
        own = self._waiting.rows_of((batch.head_end_id, batch.epoch))
        if self.rows > QUEUE_ROWS_MAX and own >= QUEUE_ROWS_MAX // max(self._waiting.lines, 1):
            raise Overloaded(
                "QUEUE_FULL",
                f"{self.rows} rows wait for the database, {own} of them of this stream; send again later",
                1.0,
            )

    def add(self, item: Waiting[Batch]) -> None:
        """Put a batch at the end of its stream's line."""
        self._waiting.add(item.stream, item, item.batch.rows_sent)
        self.rows += item.batch.rows_sent
        self._arrived.set()

    async def group(self) -> list[Waiting[Batch]]:
        """Wait for the next batches for one COPY, and take them; `written` must follow."""
        while True:
            while not self._waiting or (self._writing and self.rows < SECOND_COPY_ROWS):
                self._arrived.clear()
                await self._arrived.wait()
            if found := self._take():
                return found

    def written(self, group: Sequence[Waiting[Batch]]) -> None:
        """A group is on its way to the rules, or has failed: what it held back is next in its line."""
        for item in group:
            held = self._writing.pop(item.key)
            self._waiting.put_back(item.stream, [(one, one.batch.rows_sent) for one in held])
        self._arrived.set()

    def _take(self) -> list[Waiting[Batch]]:
        """The next batches, from the streams in turn; what nobody waits for any more is dropped."""
        found: list[Waiting[Batch]] = []
        rows = 0
        while self._waiting:
            if found and rows + self._waiting.peek()[1] > GROUP_ROWS_MAX:
                break
            item = self._waiting.take()
            if item.key in self._writing and not item.answer.done():
                self._writing[item.key].append(item)
                continue
            self.rows -= item.batch.rows_sent
            if not item.answer.done():
                self._writing[item.key] = []
                found.append(item)
                rows += item.batch.rows_sent
        return found
