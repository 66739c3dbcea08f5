"""The measured arms: one call, one run of one arm, with CPU by process. loadtest.bench decides what is compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from loadtest.copy_arm import CopyArm, CopyLoad
from loadtest.cpu import machine_s, process_s, tree_s
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.load import Backlog, Load
from loadtest.local import LocalService


@dataclass(frozen=True, slots=True)
class Figure:
    """One run of one arm."""

    arm: str
    reads: int
    """Reads sent; repeats count."""
    stored: int
    seconds: float
    service_s: float
    """CPU-seconds, as are the three after it."""
    postgres_s: float
    driver_s: float
    others_s: float
    """Of everything else on the machine: noise."""
    counts: dict[str, int]
    ack_ms_p50: float = 0.0
    ack_ms_p99: float = 0.0
    wire_bytes: int = 0

    @property
    def rate(self) -> float:
        """Reads a second."""
        return self.reads / self.seconds

    @property
    def all_s(self) -> float:
        """CPU-seconds of service, PostgreSQL and driver."""
        return self.service_s + self.postgres_s + self.driver_s

    @property
    def all_s_per_mread(self) -> float:
        """The same per million reads."""
        return self.all_s / self.reads * 1e6


class Arms:
    """Runs arms against one service and its database."""

    def __init__(self, service: LocalService, database: Database, driver: Driver, copy: CopyArm | None) -> None:
        self._service, self._database, self._driver, self.copy = service, database, driver, copy
        self._postmaster = database.postmaster()

    def through_service(self, arm: str, load: Load | Backlog) -> Figure:
        """Send a load; every read must be answered, none refused."""
        self._driver.prepare(load)
        self._database.checkpoint()
        before = self._cpu()
        run = self._driver.run()
        service_s, postgres_s, machine = (now - then for now, then in zip(self._cpu(), before, strict=True))
        counts = run.counts
        if counts["accepted"] + counts["duplicates"] != counts["sent"]:
            raise RuntimeError(f"{arm}: sent {counts['sent']} reads, the service counted {counts}; look at its log")
        acks = sorted(run.ack_ms)
        return Figure(
            arm, counts["sent"], counts["accepted"], run.seconds, service_s, postgres_s, run.cpu_s,
            machine - service_s - postgres_s - run.cpu_s, counts,
            median(acks), acks[math.ceil(0.99 * len(acks)) - 1], run.wire_bytes,
        )  # fmt: skip

    def by_copy(self, arm: str, load: CopyLoad) -> Figure:
        """Copy a load."""
        assert self.copy is not None
        self.copy.prepare(load)
        self._database.checkpoint()
        before = self._cpu()
        run = self.copy.run()
        service_s, postgres_s, machine = (now - then for now, then in zip(self._cpu(), before, strict=True))
        others_s = machine - service_s - postgres_s - run.cpu_s
        return Figure(arm, run.rows, run.rows, run.seconds, service_s, postgres_s, run.cpu_s, others_s, {})

    def _cpu(self) -> tuple[float, float, float]:
        return process_s(self._service.pid), tree_s(self._postmaster), machine_s()


DAY_INTERVALS: Final = 96


@dataclass(slots=True)
class Calendar:
    """Hands out intervals, so that none is sent twice and the service's clock jumps by less than a day."""

    next_interval: int = 1

    def take(self, load: Load) -> Load:
        """The load, on the next free intervals."""
        found = replace(load, first=self.next_interval)
        self.next_interval += load.intervals
        return found

    def next_day(self) -> int:
        """Go on with the first interval of a day nothing was sent of; the number of the interval before it."""
        self.next_interval = -(-(self.next_interval - 1) // DAY_INTERVALS) * DAY_INTERVALS + 1
        return self.next_interval - 1


def middle(figures: list[Figure], value: str) -> float:
    """Median over the runs of one arm of an attribute, by name."""
    return float(median(getattr(figure, value) for figure in figures))
