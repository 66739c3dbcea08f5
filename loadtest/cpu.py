"""CPU time and memory by process, from /proc. Linux only, as the whole bench is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class _Stat(NamedTuple):
    parent: int
    own_s: float
    reaped_s: float
    """CPU of children that have ended and were waited for."""


def process_s(pid: int) -> float:
    """CPU-seconds (user and system, all threads) of one process since it started."""
    return _stat(pid).own_s


def tree_s(pid: int) -> float:
    """CPU-seconds of a process, its descendants, and those of its descendants that have ended.

    For a postmaster: PostgreSQL as a whole. A backend that ends between two looks is not lost: the postmaster reaps it.
    """
    stats: dict[int, _Stat] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = _stat(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    total_s, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        total_s += stats[one].own_s + stats[one].reaped_s
        todo += [child for child, stat in stats.items() if stat.parent == one]
    return total_s


def machine_s() -> float:
    """CPU-seconds the machine has worked for anybody since it started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * TICK_S  # all but idle and iowait


def rss_mb(pid: int) -> float:
    """Resident memory now, MB (1e6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def parent_of(pid: int) -> int:
    """Process that started it."""
    return _stat(pid).parent


def _stat(pid: int) -> _Stat:
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return _Stat(int(fields[1]), own * TICK_S, reaped * TICK_S)
