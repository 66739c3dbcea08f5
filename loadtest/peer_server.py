"""A server the bench compares with: started on the loopback in a directory that goes with it, ended with the bench.

Promises: a fresh directory, free ports, the program's own defaults but for places and ports; it dies with the process
that started it, however that ends.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loadtest.text import Posted, Poster, Posting, Way
from loadtest.tied import tied

PosterOf = Callable[[int, dict[str, str]], Poster]
"""Port, paths by text -> what sends there."""
READY_TIMEOUT_S: Final = 120.0
QUERY_TIMEOUT_S: Final = 300.0


def free_port() -> int:
    """A port of the loopback nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PeerServer(ABC):
    """A running server. command: how to run its program. Close it."""

    name: str
    durable: str
    """What its acknowledgement means."""
    ways: tuple[Way, ...]
    """Ways of sending to choose the fastest from."""
    quiet_after_s: float
    """How long after the last ack it may still begin to write out what it took."""
    paths: dict[str, str]

    def __init__(self, command: list[str], poster_of: PosterOf) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"meterwatch-{self.name}-", dir="/tmp"))
        self._program = command
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        try:
            self.start()
            self._poster: Poster = poster_of(self.port, self.paths)
        except BaseException:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def arguments(self) -> list[str]:
        """Its arguments: places and ports."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether it answers. OSError: not yet."""

    @abstractmethod
    def count(self, after_s: int, until_s: int) -> int:
        """Reads stored with after_s < time <= until_s; RuntimeError if its channels differ in number."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes on disk that hold reads and what finds them."""

    def start(self) -> float:
        """Start it; return the seconds until it answers."""
        began_s = time.monotonic()
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                tied([*self._program, *self.arguments()], "KILL"),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while time.monotonic() - began_s < READY_TIMEOUT_S:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at its start: {self.log_tail()}")
            try:
                if self.healthy():
                    return time.monotonic() - began_s
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} was not ready after {READY_TIMEOUT_S:.0f} s: {self.log_tail()}")

    def make_durable(self) -> None:  # noqa: B027 - most have nothing to do
        """Have it write what it only holds in memory; nothing if an acknowledgement means that."""

    def prepare(self, posting: Posting) -> None:
        """Make a load ready."""
        self._poster.prepare(posting)

    def run(self) -> Posted:
        """Send it."""
        return self._poster.run()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop it and remove its data."""
        try:
            self._poster.close()
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)
                self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self) -> str:
        """What it said last."""
        return (self.directory / "server.log").read_text(errors="replace")[-2000:]

    def ask(self, path: str, data: bytes | None = None) -> Any:
        """Answer to a request: JSON, or the text if it is none. OSError if it fails."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        with urllib.request.urlopen(request, timeout=QUERY_TIMEOUT_S) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError:
            return text.decode(errors="replace")


def directory_bytes(*directories: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for one in directories for path in one.rglob("*") if path.is_file())
