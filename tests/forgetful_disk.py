"""A disk that forgets when its power is cut: what tests/preload/forgetful_disk.c wrote down is undone.

What a disk owes, and no more:

    contents   what was in a file when an fsync or fdatasync of it began that has returned. Of what was written since,
               each block of 4 KiB is as it was at some moment since, and so is the size; a file that was made shorter
               since is as it was, whole, at some moment since.
    names      come back in the order in which they were given, as in the journals of ext4 and XFS: if one is there, so
               are all before it. A new name is safe when its directory was synced or its file, a renamed or removed
               one when the directory was.

Without a generator of chances nothing survives that need not; with one, what does is drawn.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("=6Q")
TAIL = struct.Struct("=Q")
BLOCK_BYTES = 4096


class Change(NamedTuple):
    """A record of the journal; see the C side for what its fields are in each kind."""

    place: int
    kind: str
    inode: int
    at: int
    size: int
    old_size: int
    data: memoryview


class Forgotten(NamedTuple):
    """What a cut took."""

    changes: int
    """Writes and changes of size that were not safe; some may be kept in part."""
    names: int


class ForgetfulDisk:
    """What is below `root`; the journal is kept in `directory`, which must be on the same file system."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._directory = directory
        self._journal, self._graves = directory / "journal", directory / "graves"
        self.environment = {"METERWATCH_DISK_ROOT": str(self.root), "METERWATCH_DISK": str(directory)}
        """For the processes that the library is loaded into."""

    def begin(self) -> None:
        """What is there now is safe. Only while nobody writes."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._graves.mkdir(parents=True)
        self._journal.write_bytes(TAIL.pack(TAIL.size))
        for path, mode in ((self._directory, 0o711), (self._graves, 0o777), (self._journal, 0o666)):
            path.chmod(mode)  # PostgreSQL may be another user

    def cut(self, chance: random.Random | None) -> Forgotten:
        """The power is gone, and is back. Only when those who wrote are dead; `begin` is next."""
        changes = list(self._changes())
        safe: dict[int, int] = defaultdict(int)
        for change in changes:
            if change.kind == "S":
                safe[change.inode] = max(safe[change.inode], change.at)
        unsafe: dict[int, list[Change]] = defaultdict(list)
        for change in changes:
            if change.kind in "WT" and change.place >= safe[change.inode]:
                unsafe[change.inode].append(change)
        paths = {path.stat().st_ino: path for path in self._files()}
        for inode, since in unsafe.items():
            if inode in paths:
                _forget(paths[inode], since, chance)
        names = [change for change in changes if change.kind in "CRU"]
        first = max((n for n, change in enumerate(names, 1) if _name_is_safe(change, safe)), default=0)
        kept = first if chance is None else chance.randint(first, len(names))
        for change in reversed(names[kept:]):
            self._unname(change)
        return Forgotten(sum(map(len, unsafe.values())), len(names) - kept)

    def _changes(self) -> Iterator[Change]:
        journal = memoryview(self._journal.read_bytes())
        place, (end,) = TAIL.size, TAIL.unpack_from(journal)
        while place < end:
            kind, inode, at, size, old_size, length = RECORD.unpack_from(journal, place)
            begin = place + RECORD.size
            yield Change(place, chr(kind), inode, at, size, old_size, journal[begin : begin + length])
            place = begin + length

    def _files(self) -> Iterator[Path]:
        for top in (self.root, self._graves):
            for directory, _, names in os.walk(top):
                yield from (path for name in names if (path := Path(directory, name)).is_file())

    def _unname(self, change: Change) -> None:
        """Take a name back. What was killed between its record and its deed has nothing to be taken back."""
        old, *new = (Path(os.fsdecode(part)) for part in bytes(change.data).split(b"\0"))
        grave = self._graves / str(change.place)
        if change.kind == "C":
            old.unlink(missing_ok=True)
        elif change.kind == "U":
            if not old.exists():
                grave.rename(old)
        elif new[0].exists() and new[0].stat().st_ino == change.inode:
            new[0].rename(old)
            if change.size:
                grave.rename(new[0])


def _name_is_safe(change: Change, safe: dict[int, int]) -> bool:
    """Its directory was synced after it; for a new file its own sync does as well."""
    return change.place < safe.get(change.at, 0) or (change.kind == "C" and change.place < safe.get(change.inode, 0))


def _forget(path: Path, since: Sequence[Change], chance: random.Random | None) -> None:
    """Make a file what a cut leaves of it, after these changes that were not safe."""
    content = bytearray(path.read_bytes())
    size = len(content)
    content.extend(bytes(max(0, max(change.old_size for change in since) - size)))
    drawn: dict[int, int] = {}

    def keeps(block: int) -> int:
        """How many of the changes a block has seen."""
        if block not in drawn:
            drawn[block] = 0 if chance is None else chance.randint(0, len(since))
        return drawn[block]

    whole = any(change.kind == "T" and change.size < change.old_size for change in since)
    keeps_size = keeps(-1)
    for n, change in reversed(list(enumerate(since))):
        if change.kind == "T":
            if n >= keeps_size:
                content[change.size : change.size + len(change.data)] = change.data
            continue
        was = bytes(change.data).ljust(change.size, b"\0")
        end = change.at + change.size
        for begin in range(change.at // BLOCK_BYTES * BLOCK_BYTES, end, BLOCK_BYTES):
            low, high = max(begin, change.at), min(begin + BLOCK_BYTES, end)
            if n >= (keeps_size if whole else keeps(begin // BLOCK_BYTES)):
                content[low:high] = was[low - change.at : high - change.at]
    if keeps_size < len(since):
        size = since[keeps_size].old_size
    with path.open("r+b") as file:
        file.write(memoryview(content)[:size])
        file.truncate(size)
