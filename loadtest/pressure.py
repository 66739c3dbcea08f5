"""Pressing a service hard: what is sent, and what is watched meanwhile: its health, its memory, what it holds open.

Promises: intervals are handed out without a jump, whatever was withheld; health is asked like any prober would ask, on
a connection of its own, and each answer that did not come is counted. Refuses to judge: loadtest.overload and
loadtest.soak do.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import psycopg

from loadtest import report
from loadtest.bench import START
from loadtest.cpu import rss_mb
from loadtest.database import Database
from loadtest.driver import Driver, Run
from loadtest.fleet import Fleet
from loadtest.load import Load
from loadtest.local import INGEST, LocalService
from meterwatch.client.retry import open_channel

HEALTH_TIMEOUT_S: Final = 5.0
QUEUE_ROWS_MAX: Final = 1_000_000
"""Reads that the service holds at most before they are stored (meterwatch/reads_queue.py; a test compares)."""
BYTES_PER_QUEUED_READ: Final = 200
COPIES_OF_A_MESSAGE: Final = 4
"""As bytes, parsed, as columns, as rows of a COPY."""
SPARE_MB: Final = 150.0
"""Loads, alarms, statements and what the allocator keeps."""
HELD: Final = ("descriptors", "threads", "connections", "temp_files")
"""What a service may hold more of for a while, and not for good."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is sent. Each stream's meters are a multiple of batch_rows."""

    meters: int
    streams: int
    batch_rows: int
    probe_intervals: int
    """At most so many are sent flat out to see what the service takes, and"""
    probe_s: float
    """at most for so long."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the service."""

    at_s: float
    """Since the watch began."""
    rss_mb: float
    descriptors: int
    threads: int
    connections: int
    """Sessions of its database; -1: not asked."""
    temp_files: int = 0
    """That queries of its database have open."""


@dataclass(slots=True)
class Health:
    """What a prober got."""

    asked: int = 0
    unanswered: int = 0
    not_serving: int = 0
    ms: list[float] = field(default_factory=list)

    def ms_max(self) -> float:
        """The longest way of an answer."""
        return round(max(self.ms, default=0.0), 1)


def memory_limit_mb(base_mb: float, streams: int, message_bytes: int, credits_max: int = 8) -> float:
    """Memory that a service may have under pressure: what it had idle, the full queue, and the messages under way."""
    queued = QUEUE_ROWS_MAX * BYTES_PER_QUEUED_READ / 1e6
    under_way = streams * credits_max * message_bytes * COPIES_OF_A_MESSAGE / 1e6
    return base_mb + queued + under_way + SPARE_MB


@dataclass(frozen=True, slots=True)
class Pressed:
    """A service of one's own with a fleet registered, and who sends for it."""

    size: Size
    fleet: Fleet
    service: LocalService
    database: Database
    sender: Sender


@contextmanager
def under_pressure(size: Size, database_url: str | None, say: Callable[[str], None]) -> Iterator[Pressed]:
    """Bring up a service, and take it down. What it said last is told if the run breaks."""
    fleet = Fleet(size.meters, size.streams, int(START.timestamp()) * 1_000_000)
    service = LocalService(fleet.start_us, database_url)
    try:
        with closing(Database(service.dsn)) as database:
            service.register(fleet)
            with closing(Driver(service.address, fleet)) as driver:
                yield Pressed(size, fleet, service, database, Sender(fleet, driver, size.batch_rows))
    except RuntimeError:
        say(f"the service said last: {service.log_tail()}")
        raise
    finally:
        service.close()


def written(size: Size, seconds: float, found: dict[str, Any]) -> dict[str, Any]:
    """What was found, with what it takes to compare it with another run."""
    return {
        "commit": report.commit(), "machine": report.machine(), "versions": report.versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": asdict(size), "seconds": seconds, **found,
    }  # fmt: skip


def owed(figures: dict[str, float]) -> list[tuple[bool, str]]:
    """What any run owes, as (it failed, the sentence): each read stored once, health answered all the time."""
    f = figures
    return [
        (f["sent_in_all"] != f["acked_in_all"], f"{f['sent_in_all']:.0f} reads sent, {f['acked_in_all']:.0f} accepted"),
        (f["stored_in_all"] != f["acked_in_all"],
         f"{f['acked_in_all']:.0f} reads acknowledged, {f['stored_in_all']:.0f} stored"),
        (f["health_asked"] == 0 or f["health_unanswered"] > 0,
         f"{f['health_unanswered']:.0f} of {f['health_asked']:.0f} questions after health had no answer"),
    ]  # fmt: skip


def finish(problems: list[str], written_to: Path | None = None) -> NoReturn:
    """Say what is wrong and leave, with 1 if anything is."""
    if written_to:
        say_to_stderr(f"written to {written_to}")
    for problem in problems:
        say_to_stderr(f"FAILED: {problem}")
    raise SystemExit(1 if problems else 0)


def say_to_stderr(sentence: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"{sentence}\n")


class Sender:
    """Sends loads of a fleet one after the other, and adds up what became of them."""

    def __init__(self, fleet: Fleet, driver: Driver, batch_rows: int) -> None:
        """batch_rows: a divisor of a stream's meters."""
        self.counts: Counter[str] = Counter()
        self._fleet, self._driver, self._batch_rows = fleet, driver, batch_rows
        self._next_interval = 1

    @property
    def end_us(self) -> int:
        """End of the last interval of which anything was sent."""
        return self._fleet.end_us(self._next_interval - 1)

    def send(
        self, intervals: int, reads_per_s: float = math.inf, seconds: float = math.inf, *, overloaded: bool = False
    ) -> tuple[Load, Run]:
        """Send the next intervals. What `seconds` withheld is taken back: the next load begins after the last
        interval of which anything went."""
        load = Load(self._next_interval, intervals, self._batch_rows, overloaded=overloaded)
        self._driver.prepare(load)
        run = self._driver.run(reads_per_s, seconds)
        batches = len(self._fleet.meters_of(0)) // self._batch_rows
        self._next_interval += max(-(-len(went_s) // batches) for went_s in run.went_s)
        self.counts.update(run.counts)
        return load, run

    def capacity(self, intervals: int, seconds: float) -> float:
        """Reads a second that the service takes flat out, of at most so many intervals, in so many seconds."""
        self.send(1)
        _, run = self.send(intervals, seconds=seconds)
        return run.counts["sent"] / run.seconds


class Watch:
    """Looks at the service and asks for its health until it is closed."""

    def __init__(self, address: str, pid: int, every_s: float, dsn: str | None = None) -> None:
        """dsn: of its database, to count sessions."""
        self.looks: list[Look] = []
        self.health = Health()
        self._pid, self._every_s = pid, every_s
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._channel = open_channel(address)
        self._database: Any = None if dsn is None else psycopg.connect(dsn, autocommit=True)
        self._threads = [
            threading.Thread(target=self._repeat, args=(step,), name=f"watch-{step.__name__}", daemon=True)
            for step in (self._look, self._ask)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def began_s(self) -> float:
        """time.monotonic() of at_s = 0."""
        return self._began_s

    def rss_mb_max(self) -> float:
        """The most memory seen."""
        return max((look.rss_mb for look in self.looks), default=0.0)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(HEALTH_TIMEOUT_S + 5)
        self._channel.close()
        if self._database is not None:
            self._database.close()

    def _repeat(self, step: Callable[[], None]) -> None:
        while not self._stop.wait(self._every_s):
            step()

    def look(self) -> Look:
        """The service now; OSError if it has ended."""
        process = Path(f"/proc/{self._pid}")
        try:
            threads = int(process.joinpath("status").read_text().partition("Threads:")[2].split(maxsplit=1)[0])
        except IndexError:  # it ends just now
            raise ProcessLookupError from None
        descriptors = sum(1 for _ in process.joinpath("fd").iterdir())
        at_s = time.monotonic() - self._began_s
        return Look(at_s, rss_mb(self._pid), descriptors, threads, *self._of_database())

    def _look(self) -> None:
        with suppress(OSError):  # the run says by itself that it has ended
            self.looks.append(self.look())

    def _of_database(self) -> tuple[int, int]:
        """Sessions and temporary files."""
        if self._database is None:
            return -1, 0
        found = self._database.execute(
            "SELECT count(*), (SELECT count(*) FROM pg_ls_tmpdir())"
            " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
        return int(found[0]), int(found[1])

    def _ask(self) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        began_s = time.monotonic()
        check: Any = health_pb2_grpc.HealthStub(self._channel).Check
        self.health.asked += 1
        try:
            answer = check(health_pb2.HealthCheckRequest(service=INGEST), timeout=HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            self.health.unanswered += 1
            return
        self.health.ms.append(1000 * (time.monotonic() - began_s))
        self.health.not_serving += answer.status != health_pb2.HealthCheckResponse.SERVING
