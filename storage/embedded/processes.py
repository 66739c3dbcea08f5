"""The processes of one cluster, found by looking at them rather than by trusting `postmaster.pid`.

A pid in that file may have been given to somebody else since. A process counts as the cluster's if its program is
called `postgres` and its working directory is the cluster's data directory, as it is for every one of them.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
FAST_STOP_TIMEOUT_S = 60  # a shutdown checkpoint writes up to shared_buffers
IMMEDIATE_STOP_TIMEOUT_S = 10
REMAINS_TIMEOUT_S = 2  # without a postmaster an idle process ends at once, and what a busy one does is lost anyway
PROGRESS_EVERY_S = 5


@dataclass(frozen=True, slots=True)
class PidFile:
    """What `postmaster.pid` says."""

    pid: int
    socket_dir: str
    status: str  # starting, ready, stopping, standby; empty while the file is being written


def read_pid_file(pgdata: Path) -> PidFile | None:
    """None if there is none, or not yet a whole one."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        lines += [""] * (8 - len(lines))
        return PidFile(int(lines[0]), lines[4], lines[7].strip())
    except (OSError, ValueError, IndexError):
        return None


def belongs(pid: int, pgdata: Path) -> bool:
    """Whether this pid is a living PostgreSQL process of the cluster in `pgdata` (a real path)."""
    try:
        exe = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        return os.path.basename(exe) == "postgres" and os.readlink(f"/proc/{pid}/cwd") == str(pgdata)
    except OSError:  # gone, a zombie, or another user's: not ours
        return False


def of_cluster(pgdata: Path) -> list[int]:
    """Pids of the cluster's living processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and belongs(int(name), pgdata)]


def run_from(directory: Path) -> list[int]:
    """Pids of living processes whose program lies in this directory (a real path)."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # no process, gone, or another user's
            if name.isdigit() and Path(os.readlink(f"/proc/{name}/exe")).is_relative_to(directory):
                found.append(int(name))
    return found


def postmaster(pgdata: Path) -> PidFile | None:
    """The living postmaster of the cluster; None if there is none."""
    file = read_pid_file(pgdata)
    return file if file is not None and belongs(file.pid, pgdata) else None


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until_none(pgdata: Path, timeout_s: float) -> bool:
    """Wait until the cluster has no process left; False if it still has one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while of_cluster(pgdata):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def kill_all(pgdata: Path) -> None:
    """kill -9 every process of the cluster; returns when none is left."""
    while pids := of_cluster(pgdata):
        for pid in pids:
            send(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def shut_down(pgdata: Path, progress: Callable[[str], None]) -> None:
    """Stop the cluster: fast shutdown, then immediate, then kill -9; returns when no process is left."""
    found = postmaster(pgdata)
    if found is None:
        patience_s = REMAINS_TIMEOUT_S
    else:
        patience_s = IMMEDIATE_STOP_TIMEOUT_S
        send(found.pid, signal.SIGINT)
        for _ in range(0, FAST_STOP_TIMEOUT_S, PROGRESS_EVERY_S):
            if wait_until_none(pgdata, PROGRESS_EVERY_S):
                return
            progress("Waiting for PostgreSQL to stop")
        send(found.pid, signal.SIGQUIT)
    if not wait_until_none(pgdata, patience_s):
        kill_all(pgdata)
