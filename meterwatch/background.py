"""Work that is done step by step beside ingestion, and gives way to it.

Promises: half of one core at most, a tenth while reads wait for the database; a failure is told (meterwatch.jobs),
counted and tried again, and the service serves without it. Refuses to know what the steps do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.jobs import Jobs

EVERY_S: Final = 5.0
"""How often it is asked whether there is something to do."""
REST_SHARE: Final = 1.0
"""Rest after a step, as a share of the time it took: half of one core at most."""
BUSY_REST_S: Final = 2.0
"""And at least so long while more than BUSY_ROWS reads wait for the database: a tenth of one core."""
BUSY_ROWS: Final = 20_000
_log = structlog.get_logger(__name__)


async def in_background(
    what: str,
    once: Callable[[], Awaitable[bool]],
    failed: Callable[[], None],
    waiting_rows: Callable[[], int],
    jobs: Jobs,
) -> None:
    """Run steps until cancelled. once: a step, False: nothing is to be done; failed: told of an error of ours."""
    while True:
        began_s = time.monotonic()
        worked = False
        try:
            worked = await once()
        except (StorageUnavailable, Overloaded) as error:
            _log.info(f"{what} put off", error=error.message)
        except Exception as error:  # the task's boundary: the service serves without it
            failed()
            jobs.raised(what, error)
        rest_s = (time.monotonic() - began_s) * REST_SHARE if worked else EVERY_S
        await asyncio.sleep(max(rest_s, BUSY_REST_S) if waiting_rows() > BUSY_ROWS else rest_s)
