"""The watchdog: every EVERY_S a batch of the service's own goes the way of all batches, and how long ago the last one
came through is in every bookmark, in the metrics, and nowhere stored.

It waits its turn in the queue, is written with its ledger row and committed, is before the rules when they judge, and
is answered when the second transaction is committed: whatever of that stands still, a console says within BLIND_S that
it is blind, although bookmarks come. It holds no read: a read would be somebody's, and decoding is done on the sender's
own stream. Where reads are refused for good reasons (little disk) it goes as a request of events, which are taken; that
they are refused is an alarm of its own. Refuses to know what is wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import structlog

from meterwatch.batch import Batch, EventBatch, Events, Reads, Rejects, Stored
from meterwatch.errors import Overloaded, StorageUnavailable

EVERY_S: Final = 30.0
BLIND_S: Final = 90.0
"""Three in a row that did not come through: as in docs/console.md and the alert MeterwatchBlind."""
ANSWER_S: Final = 30.0
"""So long one is waited for, then it counts for nothing and the next one goes."""
BY_WATCHDOG: Final = -2
"""Its number among head-ends; -1 is the service's estimates."""
INTERVAL_S: Final = 900
_NONE: Final = np.zeros(0, np.int32)
_NONE_US: Final = np.zeros(0, np.int64)
_READS: Final = Reads(_NONE, _NONE_US, INTERVAL_S, _NONE, {})
_EVENTS: Final = Events(_NONE, _NONE_US, np.zeros(0, np.int16))
_REJECTS: Final = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])

_log = structlog.get_logger(__name__)


class Watchdog:
    """See the module head. `run()` is a task; the service serves without it."""

    def __init__(
        self,
        reads: Callable[[Batch], Awaitable[Stored]],
        events: Callable[[EventBatch], Awaitable[Stored]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reads, self._events, self._monotonic = reads, events, monotonic
        self._epoch, self._seq = secrets.randbits(62) + 1, 0
        self._through_s = monotonic()

    @property
    def age_s(self) -> float:
        """How long ago the last one came through; before the first, for how long there is this watchdog."""
        return self._monotonic() - self._through_s

    async def run(self) -> None:
        """Send one every EVERY_S until cancelled. Before that the service starts, which bookmarks say as well."""
        self._through_s = self._monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
            except (StorageUnavailable, Overloaded, TimeoutError) as error:
                _log.warning("the watchdog did not come through", age_s=round(self.age_s), error=repr(error))
            except Exception as error:  # the task's boundary: the service serves without it
                _log.error("the watchdog failed", error=repr(error))

    async def once(self) -> None:
        """Send one and wait for its answer. Raises what kept it from coming through."""
        self._seq += 1
        key = BY_WATCHDOG, self._epoch, self._seq, hashlib.blake2b(b"%d" % self._seq, digest_size=16).digest()
        async with asyncio.timeout(ANSWER_S):
            try:
                await self._reads(Batch(*key, _READS, _REJECTS, 0, 0))
            except Overloaded:
                await self._events(EventBatch(*key, _EVENTS, _REJECTS, 0))
        self._through_s = self._monotonic()
