"""What every arm of `make bench-peers` can do, and the arms: a peer's server, the service, plain INSERT beside it.

Promises: an arm counts what it stored by a query of its own, and its CPU is counted until it is quiet again, so that
work put off until after the acknowledgement is not lost from sight.
"""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from loadtest.cpu import process_s, tree_s
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.fleet import Fleet
from loadtest.load import Load
from loadtest.local import LocalService
from loadtest.naive import WAYS, Naive
from loadtest.peer_server import PeerServer
from loadtest.text import Posted, Posting, Way

QUIET_CPU_S: Final = 0.05
"""An arm is quiet when it used no more than this in a second."""
QUIET_TIMEOUT_S: Final = 60.0
NAIVE_SHIFT_DAYS: Final = 30


class Arm(ABC):
    """One way to have reads stored."""

    name: str
    ways: tuple[Way, ...]
    durable: str

    @abstractmethod
    def prepare(self, posting: Posting) -> None:
        """Make a load ready, outside the clock."""

    @abstractmethod
    def run(self) -> Posted:
        """Send it; returns when all is acknowledged."""

    @abstractmethod
    def cpu_s(self) -> float:
        """CPU-seconds of all servers behind it."""

    @abstractmethod
    def write_out(self) -> None:
        """Let it write to its files what it would write later."""

    @abstractmethod
    def count(self, after_us: int, until_us: int) -> int:
        """Reads it has stored with after_us < end <= until_us."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes on disk of all its reads, indexes included."""

    def crash(self, now_us: int) -> float | None:
        """Kill its servers with -9 and start them again; the seconds until it answers. None: it has none of its own."""
        return None

    @abstractmethod
    def close(self) -> None:
        """End what sends for it, and its server if it is its own."""

    def make_durable(self) -> None:  # noqa: B027 - most have nothing to do
        """Make sure that a crash loses nothing of what was acknowledged, if an acknowledgement does not mean that."""

    def until_quiet(self) -> None:
        """Wait until it works no more."""
        began_s = time.monotonic()
        self.write_out()
        last_s = self.cpu_s()
        while time.monotonic() - began_s < QUIET_TIMEOUT_S:
            time.sleep(1.0)  # the window over which quiet is defined
            now_s = self.cpu_s()
            if now_s - last_s <= QUIET_CPU_S:
                break
            last_s = now_s


class PeerArm(Arm):
    """A peer's server."""

    def __init__(self, server: PeerServer) -> None:
        self._server = server
        self.name, self.ways, self.durable = server.name, server.ways, server.durable

    def prepare(self, posting: Posting) -> None:
        self._server.prepare(posting)

    def run(self) -> Posted:
        return self._server.run()

    def cpu_s(self) -> float:
        return process_s(self._server.pid)

    def make_durable(self) -> None:
        self._server.make_durable()

    def write_out(self) -> None:
        time.sleep(self._server.quiet_after_s)

    def count(self, after_us: int, until_us: int) -> int:
        return self._server.count(after_us // 1_000_000, until_us // 1_000_000)

    def stored_bytes(self) -> int:
        return self._server.stored_bytes()

    def crash(self, now_us: int) -> float:
        self._server.kill()
        return self._server.start()

    def close(self) -> None:
        self._server.close()


class _InTimescale(Arm):
    """An arm whose reads end in the service's database, in one day's chunk."""

    def __init__(self, service: LocalService, day_us: int) -> None:
        self._service, self._day_us = service, day_us
        self._connect()
        self._database.make_chunk(day_us)

    def cpu_s(self) -> float:
        return process_s(self._service.pid) + tree_s(self._postmaster)

    def write_out(self) -> None:
        self._database.checkpoint()

    def stored_bytes(self) -> int:
        return self._database.chunk_bytes(self._day_us)[0]

    def _count(self, after_us: int, until_us: int) -> int:
        span = [datetime.fromtimestamp(us / 1e6, UTC) for us in (after_us, until_us)]
        row = self._questions.execute("SELECT count(*) FROM reads WHERE end_at > %s AND end_at <= %s", span).fetchone()
        assert row is not None
        return int(row[0])

    def _connect(self) -> None:
        self._questions: psycopg.Connection[Any] = psycopg.connect(self._service.dsn, autocommit=True)
        self._database = Database(self._service.dsn)
        self._postmaster = self._database.postmaster()

    def _disconnect(self) -> None:
        self._questions.close()
        self._database.close()


class Meterwatch(_InTimescale):
    """The service."""

    name = "meterwatch"
    ways = tuple(Way(n, rows, "") for n in (1, 2, 4) for rows in (5_000, 10_000))
    durable = "yes: committed and fsynced (synchronous_commit = on)"

    def __init__(self, service: LocalService, fleet: Fleet) -> None:
        super().__init__(service, fleet.start_us)
        self._fleet = fleet
        self._driver: Driver | None = None
        self._streams = 0

    def prepare(self, posting: Posting) -> None:
        if self._streams != posting.way.connections:
            self._end_driver()
            fleet = type(self._fleet)(
                self._fleet.meters, posting.way.connections, self._fleet.start_us, self._fleet.seed
            )
            self._driver, self._streams = Driver(self._service.address, fleet), posting.way.connections
        assert self._driver is not None
        self._driver.prepare(Load(posting.first, posting.intervals, posting.way.batch_rows))

    def run(self) -> Posted:
        assert self._driver is not None
        run = self._driver.run()
        if run.counts["accepted"] != run.counts["sent"]:
            raise RuntimeError(f"sent {run.counts['sent']} reads, the service counted {run.counts}; look at its log")
        return Posted(run.seconds, run.cpu_s, run.counts["sent"], run.wire_bytes)

    def count(self, after_us: int, until_us: int) -> int:
        return self._count(after_us, until_us)

    def crash(self, now_us: int) -> float:
        postmaster, service = self._postmaster, self._service.pid
        os.kill(postmaster, signal.SIGKILL)
        os.kill(service, signal.SIGKILL)
        self._end_driver()
        self._disconnect()
        self._service.stop()
        seconds = self._service.start(now_us)
        self._connect()
        return seconds

    def close(self) -> None:
        self._end_driver()
        self._disconnect()

    def _end_driver(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self._driver, self._streams = None, 0


class Executemany(_InTimescale):
    """Plain INSERT into the same table, weeks ahead of what the service looks at."""

    name = "executemany"
    ways = WAYS
    durable = "yes: committed and fsynced (synchronous_commit = on)"

    def __init__(self, service: LocalService, fleet: Fleet) -> None:
        self._shift_us = NAIVE_SHIFT_DAYS * 86_400_000_000
        super().__init__(service, fleet.start_us + self._shift_us)
        database = self._database
        self._naive = Naive(service.dsn, fleet, database.slots(fleet), database.usual_quality(), NAIVE_SHIFT_DAYS)

    def prepare(self, posting: Posting) -> None:
        self._naive.prepare(posting)

    def run(self) -> Posted:
        return self._naive.run()

    def count(self, after_us: int, until_us: int) -> int:
        return self._count(after_us + self._shift_us, until_us + self._shift_us)

    def close(self) -> None:
        self._naive.close()
        self._disconnect()
