"""The service as a process that can be killed: `meterwatch serve` on a port and a database that outlive it.

Promises: no process is left behind, also when the tests themselves are killed (parent-death signal, so start it from a
thread that lives as long as the process shall); a start that fails shows the service's own output. Knows no rule and
no table.
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
from datetime import datetime
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterwatch import data
from meterwatch.v1 import registry_pb2, registry_pb2_grpc

ROOT = Path(__file__).parents[2]
INGEST = "meterwatch.v1.Ingest"
ENOUGH_S = 150.0  # a limit for a hung test, not an expectation

SERVE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv.pop(1)):
    raise SystemExit("the test died before the service began")
{prelude}
from meterwatch.cli import app
app(["serve"])
"""


def free_port() -> int:
    """A port nobody listens on now; kept by the service over its restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceProcess:
    """One service, any number of lives. `output`: a file that all lives append to; dsn None: the embedded database.

    start None: the machine's clock. prelude: Python that runs before the service, such as what makes a part of it fail.
    """

    def __init__(
        self, dsn: str | None, start: datetime | None, output: Path, prelude: str = "", **settings: str
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.output = output
        self.lives = 0
        self._program = SERVE.format(prelude=prelude)
        self._settings = {
            "METERWATCH_SERVER__PORT": str(self.port),
            **({} if dsn is None else {"METERWATCH_DATABASE__URL": dsn}),
            **_clock(start),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Start and wait until it takes reads. extra: more environment, for this life only."""
        assert self._process is None, "one life at a time"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("METERWATCH_")}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._program, str(os.getpid())],
                cwd=ROOT,
                env=inherited | self._settings | dict(extra or {}),
                stdout=output,
                stderr=output,
            )
        self.lives += 1
        self._wait_ready()

    def kill(self) -> None:
        """kill -9, if it lives; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(ENOUGH_S)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Of the process that lives."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """It has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def descriptors(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def died(self) -> int:
        """Wait for it to end by itself; its exit status (-9: SIGKILL)."""
        assert self._process is not None
        try:
            status = self._process.wait(ENOUGH_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service still lives after {ENOUGH_S:.0f} s: {self.tail()}") from None
        self._process = None
        return status

    def tail(self) -> str:
        """The last of what the service said."""
        return self.output.read_text(errors="replace")[-4000:]

    def takes_reads(self) -> bool:
        """Whether it says that it takes reads; False if it does not answer."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            return _takes_reads(channel)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + ENOUGH_S
        with grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        ) as channel:
            while time.monotonic() < deadline:
                assert self._process is not None
                if self._process.poll() is not None:
                    raise AssertionError(f"the service ended with {self._process.returncode}: {self.tail()}")
                if _takes_reads(channel):
                    return
                time.sleep(0.05)  # between two questions
        raise AssertionError(f"the service is not ready after {ENOUGH_S:.0f} s: {self.tail()}")


def _clock(start: datetime | None) -> dict[str, str]:
    return {} if start is None else {"METERWATCH_CLOCK__MODE": "replay", "METERWATCH_CLOCK__START": start.isoformat()}


def _takes_reads(channel: grpc.Channel) -> bool:
    with contextlib.suppress(grpc.RpcError):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=INGEST), timeout=1)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


SIGKILLED = -int(signal.SIGKILL)


def import_grid(address: str) -> None:
    files = [
        registry_pb2.RegistryFile(kind=path.stem, name=path.name, content=path.read_bytes())
        for path in data.GRID.glob("*.csv")
    ]
    with grpc.insecure_channel(address) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).Import(
            registry_pb2.ImportRequest(file=files), timeout=ENOUGH_S
        )
    assert not answer.error, answer.error


def until(done: Callable[[], object], what: str, enough_s: float = ENOUGH_S) -> None:
    """Wait for something that happens in another thread or process."""
    deadline = time.monotonic() + enough_s
    while not done():
        assert time.monotonic() < deadline, f"after {enough_s:.0f} s still not: {what}"
        time.sleep(0.002)
