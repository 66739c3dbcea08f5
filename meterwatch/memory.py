"""Memory that was needed once, back to the system.

What a start and a change of the registry need for a second, glibc keeps where arrays still in use lie between the free
ones: some 10 MB at a million meters, and 30 MB after work. Under load it is the same: each thread has a heap of its
own, and each keeps what its largest arrays needed.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

GIVE_BACK_S: Final = 300.0


def give_back() -> None:
    """Return free heap to the system; some 10 ms. Does nothing where the C library has no malloc_trim."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def keep_giving_back(every_s: float = GIVE_BACK_S) -> None:
    """Do so again and again, in a thread, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(give_back)
