"""Watches the disk of the embedded database, and has reads refused before it is full.

A PostgreSQL that cannot write its WAL goes down and does not come up again until there is room, so the last of it is
not given to reads. Events are taken on: they are few, and outages rest on them. Looked at are the place of the data and
that of the WAL, which may be a disk of its own; the one with less counts. Refuses to know what fills the disk. The disk
of a database by URL is its operator's to watch; what the service says when that is full is in storage.faults.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final

import structlog

EVERY_S: Final = 2.0
"""Between two looks a disk that takes 100 MB/s fills by 200 MB."""
WARN_TIMES: Final = 10
"""Below so many times what must be free it is spoken of. (ours)"""
AGAIN: Final = 1.25
"""A state is left for a better one only with so much more than would begin it: no flapping. (ours)"""
MIB: Final = 1 << 20
_log = structlog.get_logger(__name__)


class Room(IntEnum):
    """How much there is, the better the higher."""

    NONE = 0
    """Reads are refused."""
    LITTLE = 1
    ENOUGH = 2


def room_of(free_bytes: float, least_bytes: int, was: Room) -> Room:
    """The state with so much free, after `was`. least_bytes 0: there is always enough."""
    for room, edge_bytes in ((Room.NONE, least_bytes), (Room.LITTLE, WARN_TIMES * least_bytes)):
        if free_bytes < edge_bytes * (AGAIN if was <= room else 1):
            return room
    return Room.ENOUGH


def free_bytes_of(place: Path) -> int:
    """What PostgreSQL, which is not root, may still write there. OSError if it cannot be found out."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


class DiskWatch:
    """The disk of one cluster. `refuse` is told why reads are not taken; with an empty reason they are."""

    def __init__(
        self,
        places: Sequence[Path],
        least_bytes: int,
        refuse: Callable[[str], None],
        free_bytes_of: Callable[[Path], int] = free_bytes_of,
    ) -> None:
        self._places, self.least_bytes, self._refuse, self._free_bytes_of = places, least_bytes, refuse, free_bytes_of
        self.free_bytes = math.nan
        """As of the last look."""
        self.room = Room.ENOUGH

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                free_bytes = await asyncio.to_thread(lambda: min(map(self._free_bytes_of, self._places)))
            except OSError as error:
                _log.error("free disk not found out", error=repr(error))
            else:
                self.judge(free_bytes)
            await asyncio.sleep(EVERY_S)

    def judge(self, free_bytes: int) -> None:
        """Take what a look has found."""
        self.free_bytes = free_bytes
        was, self.room = self.room, room_of(free_bytes, self.least_bytes, self.room)
        if self.room is was:
            return
        free_mib, least_mib = free_bytes // MIB, self.least_bytes // MIB
        self._refuse(
            f"the disk of the database has {free_mib} MiB left, expected at least {least_mib} "
            "(database.disk_free_min_mib); nothing was acknowledged; send again later, and have an operator make room"
            if self.room is Room.NONE
            else ""
        )
        say = {Room.NONE: _log.error, Room.LITTLE: _log.warning, Room.ENOUGH: _log.info}[self.room]
        says = {Room.NONE: "NO ROOM ON THE DISK, reads are refused", Room.LITTLE: "little room on the disk"}
        say(says.get(self.room, "room on the disk again"), free_mib=free_mib, least_mib=least_mib)
