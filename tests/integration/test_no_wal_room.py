"""The disk of the WAL is full: PostgreSQL goes down and the service says why; with room both are back with all acks.

The WAL on a small disk of its own, which needs root (`unshare -m`): without it the test is skipped and says so. The
service's own watch of the disk, which is to keep it from coming to this, is off. Part of `make faults`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from service_process import ENOUGH_S, ServiceProcess, import_grid, until
from test_out_of_memory import METERS, START, STEPS, acked

from storage.embedded import EmbeddedCluster, find_or_provision

pytestmark = pytest.mark.skipif("METERWATCH_FAULT_SEEDS" not in os.environ, reason="half a minute; make faults runs it")
EX_CONFIG = 78
SIZE_MIB, BALLAST_MIB = 144, 96
BATCHES = 100
"""Far more than the WAL has room for."""
HOLD = f'mount -t tmpfs -o size={SIZE_MIB}m,mode=0755 none "$0" && echo mounted && read end'
JOIN = """
import ctypes
with open("/proc/{pid}/ns/mnt") as place:
    if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0):
        raise OSError(ctypes.get_errno(), "setns")
"""


class SmallDisk:
    """A small disk at `place`, for those who join it; all others see it at `seen`."""

    def __init__(self, place: Path) -> None:
        command = ["unshare", "-m", "sh", "-c", HOLD, str(place)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n", "the small disk was not mounted"
        self.place = place
        self.join = JOIN.format(pid=self._holder.pid)
        self.seen = Path(f"/proc/{self._holder.pid}/root{place}")
        self.ballast = self.seen / "ballast"
        self.ballast.write_bytes(bytes(BALLAST_MIB << 20))

    def takes_wal_of(self, pgdata: Path) -> None:
        """Move the WAL of a stopped cluster here."""
        owner = pgdata.stat()
        shutil.move(pgdata / "pg_wal", self.seen / "wal")
        for path in (self.seen / "wal", *(self.seen / "wal").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        (pgdata / "pg_wal").symlink_to(self.place / "wal")

    def end(self) -> None:
        self._holder.communicate("end\n", timeout=ENOUGH_S)


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="meterwatch-wal-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def disk(directory: Path) -> Iterator[SmallDisk]:
    may = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if may.returncode or os.geteuid() != 0:
        pytest.skip(f"no small disk can be made here: {may.stderr.decode().strip() or 'not root'}")
    (directory / "small").mkdir()
    made = SmallDisk(directory / "small")
    yield made
    made.end()


def test_without_room_for_the_wal_the_service_ends_and_is_back_with_all_acks_when_there_is_room(
    disk: SmallDisk, directory: Path, tmp_path: Path
) -> None:
    cluster = EmbeddedCluster(directory / "cluster", find_or_provision(lambda _: None))
    with cluster:
        pass
    disk.takes_wal_of(directory / "cluster" / "pgdata")
    settings = {
        "METERWATCH_DATABASE__DATA_DIR": str(directory / "cluster"),
        "METERWATCH_DATABASE__DISK_FREE_MIN_MIB": "0",
    }
    with ServiceProcess(None, START, tmp_path / "output", disk.join, **settings) as service:
        service.start()
        import_grid(service.address)
        told = acked(service, range(1, BATCHES + 1))
        assert 0 < len(told) < BATCHES
        assert service.died() == EX_CONFIG
        said = service.output.read_text()
        assert "has died; starting anew" in said
        assert "PostgreSQL did not start" in said
        assert "No space left on device" in said
        disk.ballast.unlink()
        service.start()
        dsn = cluster.running_dsn()
        assert dsn is not None
        with psycopg.connect(dsn) as connection:
            ledger = connection.execute("SELECT seq, accepted, evaluated FROM batches").fetchall()
            stored = connection.execute("SELECT count(*), count(DISTINCT (slot, end_at)) FROM reads").fetchone()
        assert {(seq, METERS * STEPS, True) for seq in told} <= set(ledger)
        assert stored == (len(ledger) * METERS * STEPS,) * 2
        more = range(1, max(told) + 3)
        assert acked(service, more) == set(more)
    until(lambda: not cluster.is_running(), "the database has ended with the service")
