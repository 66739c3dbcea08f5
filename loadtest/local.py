"""A service of the bench's own: `meterwatch serve` as a process, its database in a directory that goes with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc

from loadtest.database import embedded_url
from loadtest.fleet import Fleet
from loadtest.tied import tied
from meterwatch.client.registry import RegistryFile, import_registry
from meterwatch.client.retry import open_channel

READY_TIMEOUT_S: Final = 300.0
READY_EVERY_S: Final = 0.02
INGEST: Final = "meterwatch.v1.Ingest"
"""The last to serve: alarms are served before the rules are rebuilt."""
IMPORT_TIMEOUT_S: Final = 600.0
DIRECTORIES: Final = Path("/tmp")
PREFIX: Final = "meterwatch-bench-"
LOCK: Final = "in-use"
"""Locked as long as the run lives that made the directory."""
VALID_FROM_US: Final = 946_684_800_000_000
MESSAGE_BYTES_MAX: Final = 64 << 20
"""The registry of a million meters is one message."""


def sweep() -> None:
    """Remove what services of runs left that were killed: a minute at full rate is 5 GB."""
    for lock in DIRECTORIES.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open() as file:  # somebody else's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


class LocalService:
    """A running `meterwatch serve`. Close it.

    database: URL to use; None: the embedded one in a fresh directory. settings: more of its variables, without prefix.
    """

    def __init__(
        self, clock_start_us: int, database: str | None = None, settings: dict[str, str] | None = None
    ) -> None:
        sweep()
        self._directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=DIRECTORIES))
        self._directory.chmod(0o755)  # as root, PostgreSQL runs as another user
        self._lock = (self._directory / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._database = database
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        try:
            self.start(clock_start_us)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def dsn(self) -> str:
        """URL of its database."""
        return self._database or embedded_url(self._directory / "data")

    def start(self, clock_start_us: int, mode: str = "replay", speed: float = 1.0) -> float:
        """Start it, its clock in this mode; return the seconds until it serves."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("METERWATCH_")}
        if "METERWATCH_CACHE_DIR" in os.environ:
            environment["METERWATCH_CACHE_DIR"] = os.environ["METERWATCH_CACHE_DIR"]
        environment |= {
            "METERWATCH_SERVER__PORT": str(port),
            "METERWATCH_SERVER__IDLE_TIMEOUT_S": "3600",
            "METERWATCH_SERVER__MESSAGE_BYTES_MAX": str(MESSAGE_BYTES_MAX),
            "METERWATCH_CLOCK__MODE": mode,
            "METERWATCH_CLOCK__SPEED": f"{speed:g}",
            "METERWATCH_CLOCK__START": datetime.fromtimestamp(clock_start_us / 1e6, UTC).isoformat(),
        }
        environment |= {f"METERWATCH_{name}": value for name, value in self._settings.items()}
        if self._database is None:
            environment["METERWATCH_DATABASE__DATA_DIR"] = str(self._directory / "data")
        else:
            environment["METERWATCH_DATABASE__URL"] = self._database
        began_s = time.monotonic()
        with (self._directory / "service.log").open("ab") as log:
            command = [str(Path(sys.executable).parent / "meterwatch"), "serve"]
            self._process = subprocess.Popen(
                tied(command, "TERM"),
                env=environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._until_ready(began_s)
        return time.monotonic() - began_s

    def stop(self) -> None:
        """Stop it, keep its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """Stop it and remove its data."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._lock.close()

    def alive(self) -> bool:
        """It has not ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that it said."""
        return (self._directory / "service.log").read_text(errors="replace")

    def log_tail(self) -> str:
        """What it said last."""
        return self.log()[-2000:]

    def register(self, fleet: Fleet) -> float:
        """Import the fleet's registry in one call; return the seconds it took."""
        files = [RegistryFile(kind, f"{kind}.csv", content) for kind, content in fleet.registry()]
        began_s = time.monotonic()
        answer = import_registry(self.address, files, VALID_FROM_US, deadline_s=IMPORT_TIMEOUT_S)
        if answer.error:
            raise RuntimeError(f"the registry was refused: {answer.error[0].message}")
        return time.monotonic() - began_s

    def _until_ready(self, began_s: float) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        assert self._process is not None
        channel = open_channel(self.address)
        try:
            check: Any = health_pb2_grpc.HealthStub(channel).Check
            while time.monotonic() - began_s < READY_TIMEOUT_S:
                if self._process.poll() is not None:
                    raise RuntimeError(f"the service ended before it was ready: {self.log_tail()}")
                try:
                    if check(health_pb2.HealthCheckRequest(service=INGEST), timeout=2).status == 1:
                        return
                except grpc.RpcError:  # a channel that was refused would wait up to seconds before it tries again
                    channel.close()
                    channel = open_channel(self.address)
                    check = health_pb2_grpc.HealthStub(channel).Check
                time.sleep(READY_EVERY_S)
        finally:
            channel.close()
        raise RuntimeError(f"the service was not ready after {READY_TIMEOUT_S:.0f} s: {self.log_tail()}")
