"""`make bench` at a million meters: seconds of a start and memory of the service, measured there and not multiplied.

Alone: `python -m loadtest.scale [METERS]`.

A service of its own takes some intervals of all its meters; the load of every transformer is in the database for 48 h,
as after two days. Then it is stopped and started, several times. Seconds are from the start of the process, the
embedded PostgreSQL's included, until it takes reads; files are in the page cache, as they are after a restart.
Memory is resident memory above that of the same service without meters: at work since registration, and at work after
a start, head-ends connected and their meters announced in both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from loadtest.cpu import process_s, rss_mb, tree_s
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.fleet import Fleet
from loadtest.load import Load
from loadtest.local import LocalService

START: Final = datetime(2026, 9, 1, tzinfo=UTC)
"""After everything else the bench sends, should it all go to one database."""
RING_WINDOWS: Final = 192
"""48 h: what the overload rule keeps."""
SETTLE_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. starts: of which the median counts."""

    meters: int
    streams: int
    intervals: int
    starts: int


MILLION: Final = Scale(meters=1_000_000, streams=2, intervals=4, starts=3)


@dataclass(frozen=True, slots=True)
class Start:
    """One start."""

    seconds: float
    service_s: float
    """CPU-seconds until it served, as is the next."""
    postgres_s: float
    rss_mb: float


def measure(scale: Scale, database_url: str | None, say: Callable[[str], None]) -> tuple[dict[str, float], Any]:
    """Figures by key, and all that was measured."""
    fleet = Fleet(scale.meters, scale.streams, int(START.timestamp()) * 1_000_000)
    service = LocalService(fleet.start_us, database_url)
    try:
        empty = _start(service, fleet.start_us)
        say(f"without meters: started in {empty.seconds:.2f} s, {empty.rss_mb:.0f} MB")
        register_s = service.register(fleet)
        say(f"{scale.meters:,} meters registered in {register_s:.1f} s, {rss_mb(service.pid):.0f} MB")
        grown = [_take(service, fleet, range(1, scale.intervals + 1))]
        say(f"{scale.intervals} intervals of all meters taken: {grown[0]:.0f} MB")
        cells = _two_days(service)
        last = scale.intervals
        starts = [_start(service, fleet.end_us(last)) for _ in range(scale.starts)]
        for one in starts:
            say(
                f"started in {one.seconds:.2f} s over {cells:,} loads: CPU-s service {one.service_s:.2f}, PostgreSQL "
                f"{one.postgres_s:.2f}; {one.rss_mb:.0f} MB"
            )
        grown.append(_take(service, fleet, range(last + 1, last + 2)))
        say(f"one more interval taken after the start: {grown[1]:.0f} MB")
    except RuntimeError:
        say(f"the service said last: {service.log_tail()}")
        raise
    finally:
        service.close()
    million = scale.meters / 1e6
    figures = {
        "restart_s_per_million_meters": median(one.seconds for one in starts) / million,
        "restart_cpu_s_per_million_meters": median(one.service_s + one.postgres_s for one in starts) / million,
        "restart_s_without_meters": empty.seconds,
        "rss_mb_per_million_meters": (max(grown) - empty.rss_mb) / million,
        "rss_mb_after_restart_per_million_meters": (grown[1] - empty.rss_mb) / million,
        "register_s_per_million_meters": register_s / million,
    }
    about = {"size": asdict(scale), "empty": asdict(empty), "starts": [asdict(one) for one in starts]}
    return figures, about | {"cells": cells, "rss_mb": {"taken": grown[0], "restarted": grown[1]}}


def _start(service: LocalService, clock_us: int) -> Start:
    service.stop()
    seconds = service.start(clock_us)
    service_s, mb = process_s(service.pid), rss_mb(service.pid)
    database = Database(service.dsn)
    postgres_s = tree_s(database.postmaster())
    database.close()
    return Start(seconds, service_s, postgres_s, mb)


def _take(service: LocalService, fleet: Fleet, intervals: range) -> float:
    """Send intervals of every meter; MB of the service once their loads are stored, head-ends still connected."""
    driver = Driver(service.address, fleet)
    try:
        for interval in intervals:
            driver.prepare(Load(interval, 1))
            counts = driver.run().counts
            if counts["accepted"] != fleet.meters:
                raise RuntimeError(
                    f"interval {interval} of {fleet.meters} meters was sent, the service counted {counts}"
                )
        database = Database(service.dsn)
        until_s = time.monotonic() + SETTLE_TIMEOUT_S
        while database.loads_owed() and time.monotonic() < until_s:
            time.sleep(0.2)
        database.close()
        return rss_mb(service.pid)
    finally:
        driver.close()


def _two_days(service: LocalService) -> int:
    """Have 48 h of loads; return the cells."""
    database = Database(service.dsn)
    try:
        return database.fill_loads(RING_WINDOWS)
    finally:
        database.close()


def main() -> None:
    """Command line."""
    meters = int(sys.argv[1]) if len(sys.argv) > 1 else MILLION.meters
    figures, _ = measure(replace(MILLION, meters=meters), None, lambda text: print(text, flush=True))
    for key, value in figures.items():
        print(f"{key:40} {value:8.2f}")


if __name__ == "__main__":
    main()
