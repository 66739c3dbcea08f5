"""Memory that was needed once, back to the system.

What a start and a change of the registry need for a second, glibc keeps where arrays still in use lie between the free
ones: some 10 MB at a million meters, and 30 MB after work.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return free heap to the system; some 10 ms. Does nothing where the C library has no malloc_trim."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
