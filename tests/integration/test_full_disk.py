"""The disk of the database is full: refused with a time to come back, reading goes on, and room made is enough.

A PostgreSQL of its own in a mount namespace of its own, its database in a tablespace on a small tmpfs. That needs root
(`unshare -m`); without them the test is skipped and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from served import ENOUGH_S, HEAD_END, METERS, Ended, Served, ended, fresh_end_us, fresh_epoch, reads, serving

from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc
from meterwatch.v1 import ingest_pb2 as pb

ROWS = 4000
HOST = """
import os, subprocess, sys
from pathlib import Path
import psycopg
from storage.embedded import EmbeddedCluster, find_or_provision
home = Path(sys.argv[1])
small = home / "small"
small.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=0755", "none", small], check=True)
with EmbeddedCluster(home / "cluster", find_or_provision(lambda _: None)) as cluster:
    space = small / "space"
    space.mkdir()
    owner = (home / "cluster" / "pgdata").stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    with psycopg.connect(cluster.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        connection.execute("CREATE DATABASE small TABLESPACE small")
    with psycopg.connect(cluster.dsn_of("small"), autocommit=True) as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute("CREATE EXTENSION timescaledb")
    print(cluster.dsn_of("small"), flush=True)
    for line in sys.stdin:
        if line == "fill\\n":
            with (small / "ballast").open("wb") as file:
                free = os.statvfs(small)
                file.write(bytes(free.f_bavail * free.f_frsize - 300_000))
        else:
            (small / "ballast").unlink()
        print("done", flush=True)
"""


class SmallDisk:
    """The process that has the database; `fill` leaves 300 kB."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            ["unshare", "-m", sys.executable, "-c", HOST, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.dsn = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the database on the small disk did not start"
        return line

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def end(self) -> None:
        self._process.communicate(timeout=ENOUGH_S)


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    may = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if may.returncode or os.geteuid() != 0:
        pytest.skip(f"no small disk can be made here: {may.stderr.decode().strip() or 'not root'}")
    home = Path(tempfile.mkdtemp(prefix="meterwatch-disk-", dir="/tmp"))
    home.chmod(0o755)
    made = SmallDisk(home)
    yield made
    made.end()
    with suppress(OSError):
        shutil.rmtree(home)


def sent(served: Served, epoch: int, batch: pb.ReadBatch) -> int | Ended:
    """Rows accounted for, or how the stream ended."""
    with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw:
        try:
            ack = raw.ask(batch).ack
        except grpc.RpcError as error:
            return ended(error)
        return int(ack.accepted + ack.duplicates)


def batch_of(seq: int) -> pb.ReadBatch:
    ends = [fresh_end_us() for _ in range(ROWS // len(METERS))]
    return reads(
        seq,
        ROWS,
        meter_index=[i % len(METERS) for i in range(ROWS)],
        stamp_us=[ends[i // len(METERS)] for i in range(ROWS)],
    )


@pytest.mark.timeout(240)
def test_a_full_disk_refuses_reads_for_now_and_serves_the_rest(disk: SmallDisk) -> None:
    with serving(disk.dsn) as served:
        epoch = fresh_epoch()
        assert sent(served, epoch, batch_of(1)) == ROWS
        disk.tell("fill")
        acked, refused = 1, None
        for seq in range(2, 40):
            batch = batch_of(seq)
            found = sent(served, epoch, batch)
            if isinstance(found, Ended):
                refused = found
                break
            acked += 1
        assert refused is not None, "300 kB are enough for everything"
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "DATABASE_FULL"), refused
        assert refused.retry_s is not None
        assert "room" in refused.message
        assert served.sql("SELECT count(*) FROM reads") == [(acked * ROWS,)]
        with grpc.insecure_channel(served.address) as channel:
            alarms_pb2_grpc.AlarmsStub(channel).ListAlarms(alarms_pb2.ListAlarmsRequest(), timeout=ENOUGH_S)
        assert not served.service.core.done()

        disk.tell("free")
        limit = time.monotonic() + ENOUGH_S
        while isinstance(found := sent(served, epoch, batch), Ended):
            assert time.monotonic() < limit, found
            time.sleep(0.1)
        assert found == ROWS
        assert served.sql("SELECT count(*) FROM reads") == [((acked + 1) * ROWS,)]
