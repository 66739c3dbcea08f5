"""Jobs beside ingestion and rules: one that raises is told of and goes on, and ends nothing.

What raises in a job may do so each time, because of what is stored: a service that ended by it would end again after
each start. So what raises is logged once with its traceback, counted, told to operators (own_conditions) and tried
again, and all else of the job and of the service goes on. Refuses to know what jobs do. What is not run here ends the
service when it raises: docs/faults.md has the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import structlog

from meterwatch.errors import Overloaded, StorageUnavailable, said

FAILS_S: Final = 7200.0
"""So long after it raised last a job counts as failing: one that raises once an hour fails all the time. (ours)"""
AGAIN_S: Final = 5.0
AGAIN_S_MAX: Final = 60.0
"""A job begins anew after AGAIN_S, and after twice as long each time, up to this. (ours)"""
_log = structlog.get_logger(__name__)


class Failing(NamedTuple):
    """A job that raised within FAILS_S. error: what it raised last, in one line."""

    job: str
    error: str


class Jobs:
    """Those of one service, as far as they raise."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: dict[str, tuple[float, str]] = {}
        self.errors = 0
        """So often one raised."""

    def raised(self, job: str, error: Exception) -> None:
        """Take what a job has raised."""
        text, now_s = said(error), self._monotonic()
        before = self._last.get(job)
        if before is None or before[1] != text or now_s - before[0] >= FAILS_S:
            _log.error("a job has raised; it is tried again", job=job, exc_info=error)
        self._last[job] = now_s, text
        self.errors += 1

    @property
    def failing(self) -> list[Failing]:
        """By name."""
        now_s, last = self._monotonic(), list(self._last.items())  # threads ask, too
        return [Failing(job, text) for job, (at_s, text) in sorted(last) if now_s - at_s < FAILS_S]


async def kept_going(job: str, run: Callable[[], Awaitable[None]], jobs: Jobs) -> None:
    """Run a job until it ends or is cancelled; what it raises begins it anew."""
    again_s = AGAIN_S
    while True:
        began_s = time.monotonic()
        try:
            await run()
            return
        except (StorageUnavailable, Overloaded) as error:
            _log.info("a job waits for the database", job=job, error=error.message)
        except Exception as error:  # a job's boundary: the service serves without it
            jobs.raised(job, error)
        if time.monotonic() - began_s > AGAIN_S_MAX:
            again_s = AGAIN_S
        await asyncio.sleep(again_s)
        again_s = min(2 * again_s, AGAIN_S_MAX)
