"""Tasks that end when they are told to.

A cancellation can get lost: Python 3.11's wait_for, with which psycopg's pool waits for a connection, returns its
result instead when both come at once. A job that goes on for ever then goes on, and who waits for its end does too.
Promise: a job run by `ending` is cancelled again until it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

AGAIN_S: Final = 2.0
"""A job that is still there so long after it was cancelled is cancelled again. It may be finishing in good order."""
_T = TypeVar("_T")


async def ending(job: Coroutine[Any, Any, _T]) -> _T:
    """Run a job to its end; cancelled, it is gone when this returns."""
    task = asyncio.ensure_future(job)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=AGAIN_S)
        if not task.cancelled():
            task.exception()  # seen: nobody waits for it any more
        raise
    return task.result()
