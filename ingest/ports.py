"""What the ingest endpoint needs from the rest of the service, so that it knows neither database nor rules."""

from __future__ import annotations

from typing import Protocol

from meterwatch.batch import Batch, EventBatch, Stored
from meterwatch.clock import Clock
from meterwatch.registers import RegisterBatch
from meterwatch.topology import Topology


class Pipeline(Protocol):
    """Takes validated batches to the database and through the rules."""

    clock: Clock

    def topology(self) -> Topology:
        """The registry as it is now."""
        ...

    @property
    def crowded(self) -> bool:
        """Much waits for the database: grant fewer credits."""
        ...

    def check_ready(self) -> None:
        """Raise StorageUnavailable while the service cannot take reads (starting, database away, draining)."""
        ...

    async def last_acked(self, head_end_id: int, epoch: int) -> int:
        """Highest seq of evaluated batches of that epoch, 0 if none."""
        ...

    async def submit(self, batch: Batch) -> Stored:
        """Return when the batch is committed and every transition it causes is committed."""
        ...

    async def submit_events(self, batch: EventBatch) -> Stored:
        """The same for events."""
        ...

    def put_off(self, batch: EventBatch) -> None:
        """Events that were refused for now: no timer passes them until they come again."""
        ...

    async def submit_registers(self, batch: RegisterBatch) -> Stored:
        """The same for register reads; what they say is judged later."""
        ...

    def connected(self, head_end_id: int) -> None:
        """A stream of that head-end has opened."""
        ...

    def gone(self, head_end_id: int) -> None:
        """A stream of that head-end has ended."""
        ...
