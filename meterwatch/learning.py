"""Learning delivery probabilities, a task of the service: once a day, by its clock. See meterwatch.delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from meterwatch.clock import US, Clock
from meterwatch.delivery import DAY_US, LEARNT_DAYS, OUTAGE_S_MIN, SETTLED_DAYS, Learnt, Reported, learn
from meterwatch.errors import Overloaded, StorageUnavailable

LOOK_S: Final = 60.0
_log = structlog.get_logger(__name__)


class Store(Protocol):
    """What learning needs of the database."""

    async def outages(self, from_us: int, to_us: int, lasted_us: int) -> list[Reported]: ...

    async def learnt(self) -> list[Learnt]: ...

    async def keep(self, rows: list[Learnt], now_us: int) -> None: ...


class Learning:
    """Learns once a day and tells `taught`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        first: Callable[[str], float],
        taught: Callable[[list[Learnt]], Awaitable[None]],
    ) -> None:
        self._store, self._clock, self._first, self._taught = store, clock, first, taught
        self._done_us = 0

    async def run(self) -> None:
        """Until cancelled; while the database is away it waits."""
        while True:
            try:
                await self.look()
            except (StorageUnavailable, Overloaded) as error:
                _log.warning("delivery not learnt", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Learn if this day has not been learnt yet; only what differs from the newest row is kept."""
        now_us = self._clock.now_us()
        today_us = now_us // DAY_US * DAY_US
        if today_us <= self._done_us:
            return
        before = {row.comm_mode: row for row in sorted(await self._store.learnt())}
        until_us = today_us - SETTLED_DAYS * DAY_US
        outages = await self._store.outages(until_us - LEARNT_DAYS * DAY_US, until_us, OUTAGE_S_MIN * US)
        rows = [
            row
            for row in learn(outages, self._first, today_us + DAY_US)
            if row.comm_mode not in before
            or (before[row.comm_mode].from_us < row.from_us and before[row.comm_mode].p_gasp != row.p_gasp)
        ]
        if rows:
            await self._store.keep(rows, now_us)
            await self._taught(await self._store.learnt())
            _log.info("delivery learnt", rows=[(row.comm_mode, row.p_gasp) for row in rows])
        self._done_us = today_us
