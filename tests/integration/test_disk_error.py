"""The disk refuses to make anything safe (EIO from fsync, fdatasync): nothing is acknowledged that is not stored.

PostgreSQL gives up at once, because what a failed fsync was to write may be gone from memory. The library that lets it
fail is tests/preload/failing_sync.c, in PostgreSQL only. Part of `make faults`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import psycopg
import pytest
from preloaded import compiled, loading
from served import Raw, ended
from service_process import ServiceProcess, import_grid
from test_out_of_memory import METERS, START, STEPS, acked, batch, meters

from meterwatch.devtools.torture.run import Run
from meterwatch.devtools.torture.target import Target
from meterwatch.v1 import ingest_pb2 as pb
from storage.embedded import EmbeddedCluster, find_or_provision

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("METERWATCH_FAULT_SEEDS" not in os.environ, reason="minutes; make faults runs it"),
]
CYCLES = max(3, int(os.environ.get("METERWATCH_FAULT_SEEDS", "0")) // 4)
SEED = 15
"""With it the first three cycles are of three kinds."""
EX_CONFIG = 78
TOLD = "Input/output error"


class Faults:
    """What fails in PostgreSQL; its methods that take a target are ways to die for the harness."""

    def __init__(self, directory: Path) -> None:
        self._place = directory / "faults"
        self._place.mkdir()
        self._place.chmod(0o777)  # PostgreSQL may be another user
        self._log = directory / "data" / "log"
        library = compiled("failing_sync", directory)
        self.prelude = loading(library, METERWATCH_SYNC_FAULTS=str(self._place))
        self._all = [self._place / name for name in ("fsync", "fdatasync")]

    def begin(self) -> None:
        """From now on all fails."""
        for path in self._all:
            path.touch()

    def end(self) -> None:
        for path in self._all:
            path.unlink()

    def for_a_while(self, target: Target, _: np.random.Generator) -> None:
        """All fails until the service has given up."""
        self.begin()
        target.await_death()
        self.end()

    def wal_once(self, target: Target, _: np.random.Generator) -> None:
        """The WAL cannot be made safe, once."""
        self._once(target, "fdatasync")

    def checkpoint_once(self, target: Target, _: np.random.Generator) -> None:
        """A file that a checkpoint wrote cannot be made safe, once."""
        self._once(target, "fsync", "CHECKPOINT")

    def _once(self, target: Target, function: str, statement: str = "") -> None:
        target.killed_s = time.monotonic()
        begun_anew = self._begun_anew()
        (self._place / f"{function}.once").touch()
        if statement:
            with suppress(psycopg.OperationalError), psycopg.connect(target.dsn, autocommit=True) as connection:
                connection.execute(statement.encode())
        target.until(lambda: self._begun_anew() > begun_anew, f"PostgreSQL gave up over {function}")

    def _begun_anew(self) -> int:
        """How often PostgreSQL has begun anew after a failure."""
        return sum(
            path.read_text(errors="replace").count("all server processes terminated; reinitializing")
            for path in self._log.glob("*.log")
        )


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="meterwatch-disk-", dir="/tmp"))  # short: a socket's path is below it
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_while_nothing_can_be_synced_nothing_is_acknowledged_and_the_service_says_why(directory: Path) -> None:
    faults = Faults(directory)
    data = directory / "data"
    settings = {"METERWATCH_DATABASE__DATA_DIR": str(data)}
    with ServiceProcess(None, START, directory / "output", faults.prelude, **settings) as service:
        service.start()
        import_grid(service.address)
        with Raw(service.address) as stream:
            stream.ask(pb.IngestRequest(hello=pb.Hello(head_end="HES-1", epoch=1)))
            stream.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=meters())))
            assert [stream.ask(batch(seq)).ack.seq for seq in (1, 2)] == [1, 2]
            faults.begin()
            with pytest.raises(grpc.RpcError) as refused:
                stream.ask(batch(3))
            assert ended(refused.value).code == "UNAVAILABLE"
        assert service.died() == EX_CONFIG
        said = service.output.read_text()
        assert "has died; starting anew" in said
        assert "PostgreSQL did not start" in said
        assert TOLD in said.rpartition("PostgreSQL did not start")[2]
        faults.end()
        service.start()
        dsn = EmbeddedCluster(data, find_or_provision(lambda _: None)).running_dsn()
        assert dsn is not None
        with psycopg.connect(dsn, autocommit=True) as connection:
            ledger = connection.execute("SELECT seq, accepted, evaluated FROM batches ORDER BY seq").fetchall()
            assert ledger[:2] == [(1, METERS * STEPS, True), (2, METERS * STEPS, True)]
            assert ledger[2:] in ([], [(3, METERS * STEPS, True)])  # its fate was unknown
            assert acked(service, range(1, 4)) == {1, 2, 3}
            stored = connection.execute("SELECT count(*), count(DISTINCT (slot, end_at)) FROM reads").fetchone()
        assert stored == (3 * METERS * STEPS,) * 2


def test_disk_errors_under_load_lose_and_double_nothing(directory: Path) -> None:
    faults = Faults(directory)
    kinds = {"for a while": faults.for_a_while, "wal once": faults.wal_once, "checkpoint once": faults.checkpoint_once}
    kills = {name: (kind, 1 / len(kinds)) for name, kind in kinds.items()}
    run = Run(directory, SEED, kills=kills, prelude=faults.prelude)
    run.go(CYCLES)
    report = run.report()
    print(report)
    assert report["kept"], report
    assert (report["cycles"], report["kills"].keys()) == (CYCLES, kinds.keys())
