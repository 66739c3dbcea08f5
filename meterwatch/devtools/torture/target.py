"""The service with its embedded PostgreSQL as processes that can be killed.

Promises: nothing is left behind, also when the harness itself is killed (parent-death signal, so start it from a thread
that lives as long as the process). The harness is what a supervisor is in production: it starts the service again when
it has died, and does nothing else by hand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import grpc
import numpy as np
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterwatch import failpoints
from meterwatch.devtools.torture.town import START_US
from storage.embedded import EmbeddedCluster, find_or_provision, processes

INGEST: Final = "meterwatch.v1.Ingest"
POLL_S: Final = 0.02

_SERVE: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):
    raise SystemExit("the harness died before the service began")
from meterwatch.devtools.torture.controls import put_in_place
put_in_place(sys.argv[2])
del sys.argv[1:]
{prelude}
from meterwatch.cli import app
app(["serve"])
"""


class NotRecovered(Exception):
    """The service did not come back by itself."""


class Target:
    """One service on one directory, any number of lives. control: a promise broken on purpose, see controls.

    prelude: Python that runs in each life before the service.
    """

    def __init__(self, directory: Path, control: str = "", recover_s_max: float = 180.0, *, prelude: str = "") -> None:
        self.directory = directory
        self.recover_s_max = recover_s_max
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.lives = 0
        self.killed_s = 0.0
        """When something was killed last, monotonic."""
        self._control = control
        self._program = _SERVE.format(prelude=prelude)
        self._data = directory / "data"
        self._output = directory / "service.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_service()
        self.kill_postgres()

    @property
    def dsn(self) -> str:
        """URL of the embedded database; NotRecovered if it does not run."""
        found = EmbeddedCluster(self._data, find_or_provision(lambda _: None)).running_dsn()
        if found is None:
            raise NotRecovered(f"the embedded database does not run: {self.tail()}")
        return found

    @property
    def _pgdata(self) -> Path:
        return Path(os.path.realpath(self._data)) / "pgdata"

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Begin a life; does not wait. extra: more environment, for this life only."""
        assert self._process is None, "one life at a time"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("METERWATCH_")}
        inherited |= {name: value for name, value in os.environ.items() if name == "METERWATCH_CACHE_DIR"}
        settings = {
            "METERWATCH_SERVER__PORT": str(self.port),
            "METERWATCH_DATABASE__DATA_DIR": str(self._data),
            "METERWATCH_CLOCK__MODE": "replay",
            "METERWATCH_CLOCK__START": datetime.fromtimestamp(START_US // 1_000_000, UTC).isoformat(),
        }
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._program, str(os.getpid()), self._control],
                env=inherited | settings | dict(extra or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the harness
            )
        self.lives += 1

    def kill_service(self) -> None:
        """kill -9, if it lives."""
        if self._process is not None:
            self.killed_s = time.monotonic()
            self._process.kill()
            self._process.wait()
            self._process = None

    def kill_postgres(self) -> None:
        """kill -9 of every process of PostgreSQL, at once."""
        self.killed_s = time.monotonic()
        processes.kill_all(self._pgdata)

    def kill_backend(self, rng: np.random.Generator) -> bool:
        """kill -9 of one process of PostgreSQL beside its postmaster; False: there was none."""
        found = processes.postmaster(self._pgdata)
        others = [pid for pid in processes.of_cluster(self._pgdata) if found is not None and pid != found.pid]
        if not others:
            return False
        self.killed_s = time.monotonic()
        processes.send(int(rng.choice(others)), signal.SIGKILL)
        return True

    def await_death(self) -> None:
        """Wait until the service has ended by itself."""
        assert self._process is not None
        try:
            self._process.wait(self.recover_s_max)
        except subprocess.TimeoutExpired:
            raise NotRecovered("the service did not end by itself") from None
        self.killed_s = time.monotonic()
        self._process = None

    def await_ready(self) -> None:
        """Wait until it takes reads and its database answers. A supervisor: a service that ended is started again."""

        def ready() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._process = None
                self.start()
            return self._takes_reads() and self._database_answers()

        self.until(ready, "the service takes reads")

    def until(self, done: Callable[[], object], what: str) -> None:
        """Wait for something; NotRecovered after recover_s_max."""
        deadline = time.monotonic() + self.recover_s_max
        while not done():
            if time.monotonic() > deadline:
                raise NotRecovered(f"after {self.recover_s_max:.0f} s still not: {what}; {self.tail()}")
            time.sleep(POLL_S)  # between two questions

    def tail(self) -> str:
        """The last of what the service said."""
        return self._output.read_text(errors="replace")[-2000:] if self._output.exists() else ""

    def _takes_reads(self) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(self.address, options=options) as channel:
            request = health_pb2.HealthCheckRequest(service=INGEST)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    def _database_answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError, NotRecovered), psycopg.connect(self.dsn, connect_timeout=5):
            return True
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Kill = Callable[[Target, np.random.Generator], None]


def service(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of the service; its PostgreSQL is told to stop by the kernel."""
    target.kill_service()


def postgres(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of all of PostgreSQL under a living service."""
    target.kill_postgres()


def backend(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of one process of PostgreSQL, which then recovers from a crash under a living service."""
    target.kill_backend(rng)


def both(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of all of PostgreSQL and of the service, at once."""
    target.kill_postgres()
    target.kill_service()


def recovery(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of PostgreSQL, and of the service while PostgreSQL is recovering."""
    target.kill_postgres()
    time.sleep(rng.uniform(0.0, 2.5))  # the moment within the recovery
    target.kill_service()


def failpoint(target: Target, rng: np.random.Generator) -> None:
    """kill -9 of the service by itself at a place on a batch's way, after a restart that arms it."""
    target.kill_service()
    point = str(rng.choice(failpoints.POINTS))
    target.start({failpoints.VARIABLE: f"{point}:{rng.integers(1, 7)}"})
    target.await_death()


KILLS: Final[dict[str, tuple[Kill, float]]] = {
    "service": (service, 0.3), "postgres": (postgres, 0.2), "backend": (backend, 0.15), "both": (both, 0.1),
    "recovery": (recovery, 0.15), "failpoint": (failpoint, 0.1),
}  # fmt: skip
"""Kinds of kills, and the share of each."""
