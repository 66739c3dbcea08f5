"""`make bench-peers`: the service beside what one would use instead, same reads, same machine, same run.

VictoriaMetrics and InfluxDB from Debian's packages, and plain INSERT through executemany. Each arm first finds its
fastest way (connections, batch size, text), then all take turns, each quiet again before the next begins. Stores are
fresh, series and meters known before the clock starts, settings the programs' defaults. After every run the reads
are counted by query. At the end each is killed with -9 right after an acknowledgement, and what is left is counted.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from rich.console import Console

from loadtest import report
from loadtest.cpu import machine_s
from loadtest.fleet import Fleet
from loadtest.local import LocalService
from loadtest.peer_arms import Arm, Executemany, Meterwatch, PeerArm
from loadtest.peer_influx import Influx
from loadtest.peer_server import PeerServer
from loadtest.peer_victoria import Victoria
from loadtest.text import MeterLike, Poster, Posting, Way

STREAMS_MAX: Final = 4
DAY_S: Final = 86_400
DAYS_BACK: Final = 5
"""The fleet's first day: what follows ends before today, and is within what every peer keeps by default."""
CRASH_INTERVALS: Final = 4
PEERS: Final[dict[str, type[PeerServer]]] = {"victoria-metrics": Victoria, "influxdb": Influx}
"""Debian package -> how it is used."""
TARGETS: Final[dict[str, tuple[float | None, float | None, str]]] = {
    "over_victoriametrics": (1.5, 3, "acknowledged reads/s, ours durable, over VictoriaMetrics'"),
    "over_victoriametrics_until_durable": (None, None, "the same until a crash would lose none of it: equal promises"),
    "over_victoriametrics_by_cpu": (None, None, "the same by CPU of all until quiet: what is put off is in it"),
    "over_influxdb": (5, 10, "acknowledged reads/s over InfluxDB's"),
    "over_influxdb_by_cpu": (None, None, "the same by CPU"),
    "over_executemany": (None, None, "acknowledged reads/s over executemany's into the same table"),
    "over_executemany_by_cpu": (None, None, "the same by CPU"),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. meters: InfluxDB's defaults end at 100,000 values of a tag."""

    meters: int
    intervals: dict[str, int]
    """A run of each arm: long enough that work an arm puts off comes due within it."""
    rounds: int
    tries: int
    """Of each way, before the rounds."""
    try_intervals: int


FULL: Final = Size(
    meters=100_000,
    intervals={"meterwatch": 12, "victoriametrics": 60, "influxdb": 16, "executemany": 1},
    rounds=4,
    tries=2,
    try_intervals=2,
)
TINY: Final = Size(
    meters=2_000,
    intervals={"meterwatch": 2, "victoriametrics": 3, "influxdb": 2, "executemany": 1},
    rounds=1,
    tries=1,
    try_intervals=1,
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one arm."""

    arm: str
    way: Way
    reads: int
    seconds: float
    durable_s: float
    """Seconds until a crash would have lost none of it: those, and what has to be asked for after them."""
    server_s: float
    """CPU-seconds of its servers up to the last acknowledgement."""
    after_s: float
    """The same from there until quiet."""
    driver_s: float
    others_s: float
    wire_bytes: int

    @property
    def rate(self) -> float:
        """Acknowledged reads a second."""
        return self.reads / self.seconds

    @property
    def durable_rate(self) -> float:
        """Reads a second until durable."""
        return self.reads / self.durable_s

    @property
    def all_s_per_mread(self) -> float:
        """CPU-seconds of all processes until quiet, per million reads."""
        return (self.server_s + self.after_s + self.driver_s) / self.reads * 1e6


@dataclass(slots=True)
class Course:
    """An arm on its way through its intervals. None is sent twice."""

    arm: Arm
    fleet: Fleet
    next_interval: int = 1
    reads: int = 0

    def attempt(self, intervals: int, way: Way) -> float:
        """Send the next intervals one way and count what is stored; return the reads a second."""
        posting = self._next(intervals, way)
        self.arm.prepare(posting)
        posted = self.arm.run()
        self._check(self._stored(posting), posted.rows)
        return posted.rows / posted.seconds

    def run(self, intervals: int, way: Way) -> Run:
        """The same, with CPU by process, which is counted until all is quiet again."""
        posting = self._next(intervals, way)
        self.arm.prepare(posting)
        before_s, machine_before_s = self.arm.cpu_s(), machine_s()
        posted = self.arm.run()
        server_s, machine_used_s = self.arm.cpu_s() - before_s, machine_s() - machine_before_s
        acked_s = time.monotonic()
        self.arm.make_durable()
        durable_s = posted.seconds + time.monotonic() - acked_s
        self.arm.until_quiet()
        after_s = self.arm.cpu_s() - before_s - server_s
        self._check(self._stored(posting), posted.rows)
        others_s = max(0.0, machine_used_s - server_s - posted.cpu_s)
        return Run(
            self.arm.name, way, posted.rows, posted.seconds, durable_s, server_s, after_s, posted.cpu_s, others_s,
            posted.wire_bytes,
        )  # fmt: skip

    def lost_in_a_crash(self, intervals: int, way: Way) -> tuple[float, float] | None:
        """(share of the reads just acknowledged that a kill -9 loses, seconds to be back); None: nothing to kill."""
        posting = self._next(intervals, way)
        self.arm.prepare(posting)
        rows = self.arm.run().rows
        back_s = self.arm.crash(self.fleet.end_us(self.next_interval - 1))
        return None if back_s is None else (1 - self._stored(posting) / rows, back_s)

    def _next(self, intervals: int, way: Way) -> Posting:
        posting = Posting(self.next_interval, intervals, way)
        self.next_interval += intervals
        self.reads += intervals * self.fleet.meters
        return posting

    def _stored(self, posting: Posting) -> int:
        last = posting.first + posting.intervals - 1
        return self.arm.count(self.fleet.end_us(posting.first - 1), self.fleet.end_us(last))

    def _check(self, stored: int, sent: int) -> None:
        if stored != sent:
            raise RuntimeError(f"{self.arm.name}: {sent} reads were acknowledged, {stored} are found by query")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures and every run to this file")
    parser.add_argument("--tiny", action="store_true", help="a minute; shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    console = Console(stderr=True)
    result = run(TINY if options.tiny else FULL, _provisioned(console), None, _printer(console))
    report.show(Console(width=140), result["figures"], TARGETS)  # type: ignore[arg-type]
    for name, why in result["skipped"].items():
        console.print(f"[bold red]NOT MEASURED: {name}[/]: {why}")
    if options.json:
        options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        console.print(f"written to {options.json}")


def _printer(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, highlight=False, soft_wrap=True)


def _provisioned(console: Console) -> dict[str, dict[str, Any]]:
    """The peers' programs, by package; a process of its own fetches them: this package may not know how."""
    command = [sys.executable, "-m", "meterwatch.devtools.peers_provision"]
    console.print("Looking for VictoriaMetrics and InfluxDB")
    found: dict[str, dict[str, Any]] = orjson.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def run(
    size: Size, programs: dict[str, dict[str, Any]], database_url: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure; return {figures, runs, ways, durable, skipped, machine, ...} as written to the file.

    programs: package -> {command, version, suite}, or {missing}. database_url: None for one of the bench's own.
    """
    first_day_s = int(time.time()) // DAY_S * DAY_S - DAYS_BACK * DAY_S
    fleet = MeterLike(size.meters, STREAMS_MAX, first_day_s * 1_000_000)
    about: dict[str, Any] = {
        "commit": report.commit(), "machine": report.machine(), "versions": report.versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": asdict(size), "seed": fleet.seed,
        "skipped": {package: one["missing"] for package, one in programs.items() if "missing" in one},
    }  # fmt: skip
    about["versions"] |= {
        package: f"{one['version']} ({one['suite']})" for package, one in programs.items() if "version" in one
    }
    arms: list[Arm] = []
    service = LocalService(fleet.start_us, database_url)
    try:
        say(f"{size.meters:,} meters registered in {service.register(fleet):.1f} s")
        ours = Meterwatch(service, fleet)
        arms.append(ours)
        for package, peer in PEERS.items():
            if "command" in programs.get(package, {}):
                arms.append(PeerArm(peer(programs[package]["command"], lambda port, paths: Poster(port, paths, fleet))))
        courses = [Course(arm, fleet) for arm in arms]
        ways = {course.arm.name: _fastest_way(course, size, say) for course in courses}
        naive = Executemany(service, fleet)  # after the service: it takes the usual quality word from what is stored
        arms.append(naive)
        courses.append(Course(naive, fleet))
        ways[naive.name] = _fastest_way(courses[-1], size, say)
        runs = _rounds(size, courses, ways, say)
        figures = _figures(runs, courses)
        naive.close()
        arms.remove(naive)
        if database_url is None:
            figures |= _crashes([one for one in courses if one.arm is not naive], ways, say)
    finally:
        for arm in arms:
            arm.close()
        service.close()
    return {
        **about, "figures": figures, "ways": {name: asdict(way) for name, way in ways.items()},
        "durable": {course.arm.name: course.arm.durable for course in courses},
        "runs": [{**asdict(one), "rate": one.rate} for one in runs],
    }  # fmt: skip


def _fastest_way(course: Course, size: Size, say: Callable[[str], None]) -> Way:
    """Try every way; the first run of all is not counted: it makes series known and pages warm."""
    course.attempt(1, course.arm.ways[-1])
    best: dict[Way, float] = {}
    for _ in range(size.tries):
        for way in course.arm.ways:
            best[way] = max(best.get(way, 0.0), course.attempt(size.try_intervals, way))
    course.arm.until_quiet()
    chosen = max(best, key=lambda way: best[way])
    tried = "   ".join(f"{way.connections} x {way.batch_rows:,} {way.text} {best[way]:,.0f}" for way in best)
    say(f"{course.arm.name}: {tried}")
    return chosen


def _rounds(size: Size, courses: list[Course], ways: dict[str, Way], say: Callable[[str], None]) -> list[Run]:
    runs: list[Run] = []
    for _ in range(size.rounds):
        for course in courses:
            one = course.run(size.intervals[course.arm.name], ways[course.arm.name])
            runs.append(one)
            mreads = one.reads / 1e6
            say(
                f"{one.arm:16} {one.rate:9,.0f} reads/s ({one.durable_rate:,.0f} until durable)   CPU-s per million"
                f" reads: servers {one.server_s / mreads:.2f}  after the last ack {one.after_s / mreads:.2f}"
                f"  sender {one.driver_s / mreads:.3f}  others {one.others_s / mreads:.2f}"
            )
    return runs


def _figures(runs: list[Run], courses: list[Course]) -> dict[str, float]:
    by_arm = {course.arm.name: [one for one in runs if one.arm == course.arm.name] for course in courses}
    rate = {name: median(one.rate for one in own) for name, own in by_arm.items()}
    durable_rate = {name: median(one.durable_rate for one in own) for name, own in by_arm.items()}
    cpu_s = {name: median(one.all_s_per_mread for one in own) for name, own in by_arm.items()}
    figures: dict[str, float] = {}
    for name in by_arm:
        if name != Meterwatch.name:
            figures[f"over_{name}"] = rate[Meterwatch.name] / rate[name]
            figures[f"over_{name}_until_durable"] = durable_rate[Meterwatch.name] / durable_rate[name]
            figures[f"over_{name}_by_cpu"] = cpu_s[name] / cpu_s[Meterwatch.name]
    for course in courses:
        name, own = course.arm.name, by_arm[course.arm.name]
        figures[f"{name}_reads_per_s"] = rate[name]
        figures[f"{name}_reads_per_s_until_durable"] = durable_rate[name]
        figures[f"{name}_server_cpu_s_per_mread"] = median(one.server_s / one.reads for one in own) * 1e6
        figures[f"{name}_cpu_s_per_mread_until_quiet"] = cpu_s[name]
        figures[f"{name}_bytes_per_read"] = course.arm.stored_bytes() / course.reads
        figures[f"{name}_wire_bytes_per_read"] = median(one.wire_bytes / one.reads for one in own)
    used_s = sum(one.server_s + one.driver_s for one in runs)
    figures["others_cpu_share"] = sum(one.others_s for one in runs) / (used_s + sum(one.others_s for one in runs))
    return figures


def _crashes(courses: list[Course], ways: dict[str, Way], say: Callable[[str], None]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for course in courses:
        found = course.lost_in_a_crash(CRASH_INTERVALS, ways[course.arm.name])
        if found is not None:
            lost, back_s = found
            figures[f"{course.arm.name}_lost_by_kill_share"] = lost
            say(f"{course.arm.name}: kill -9 after the last ack lost {lost:.1%} of that run; back in {back_s:.1f} s")
    return figures


if __name__ == "__main__":
    main()
