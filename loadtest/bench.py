"""`make bench`: what the service costs beside raw COPY of the same rows, on this machine, in one run.

The arms take turns (A B C A B C ...) on fresh intervals, each after a warm-up; figures are medians over the rounds. All
runs on the same cores: service, PostgreSQL, sender. Durability and autovacuum are as in production; a checkpoint
before each run keeps one arm from paying for the one before it. The clock is replayed, so reads arrive on time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from rich.console import Console

from loadtest import report
from loadtest.arms import Arms, Calendar, Figure, middle
from loadtest.copy_arm import CopyArm, CopyLoad
from loadtest.cpu import TICK_S, rss_mb
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.fleet import THREE_PHASE, Fleet
from loadtest.load import Load
from loadtest.local import LocalService

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
DAY_US: Final = 86_400_000_000
COPY_CONNECTIONS: Final = (1, 2)
BUSY_SHARE: Final = 0.1
"""Above this share of the CPU used by others, rates say little and CPU-seconds are the figures to read."""
COPY_SHIFT_DAYS: Final = 30
"""Each COPY arm writes into a day of its own, so far ahead that nobody else looks at it."""

TARGETS: Final[dict[str, tuple[float, float, str]]] = {
    "e2e_over_copy": (0.80, 0.87, "acknowledged reads/s over raw COPY of the same rows"),
    "e2e_over_copy_by_cpu": (0.80, 0.87, "the same by CPU-seconds of all processes: holds on a busy machine too"),
    "service_cpu_s_per_mread": (0.25, 0.15, "CPU-seconds of the service per million reads"),
    "service_cpu_over_postgres": (0.20, 0.12, "the same over PostgreSQL's"),
    "order_tax": (1.6, 1.3, "CPU per read, meters in random order over ordered"),
    "small_batch_tax": (1.5, 1.2, "CPU per read, 1,000 reads a message over 10,000"),
    "three_phase_tax": (1.3, 1.1, "CPU per byte stored, 12 channels over 3"),
    "late_tax": (1.5, 1.2, "CPU per read, 10 % late and repeated over none"),
    "rules_ns_per_read_1m": (100, 50, "rule engine alone, 1 million meters"),
    "rules_ns_per_read_10m_over_1m": (1.6, 1.3, "its growth from 1 to 10 million meters"),
    "bytes_per_read": (95, 60, "database size per read, indexes included"),
    "restart_s_per_million_meters": (5, 2, "start to serving with rule state rebuilt, database included"),
    "rss_mb_per_million_meters": (400, 200, "service memory above that without meters"),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    meters: int
    streams: int
    intervals: int
    """A run of an arm."""
    rounds: int
    tax_rounds: int
    rules_meters: tuple[int, int]
    """Of the rule engine alone."""


FULL: Final = Size(meters=200_000, streams=2, intervals=2, rounds=5, tax_rounds=3, rules_meters=(1_000_000, 10_000_000))
TINY: Final = Size(meters=2_000, streams=2, intervals=2, rounds=1, tax_rounds=1, rules_meters=(1_000, 2_000))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures and every run to this file")
    parser.add_argument("--tiny", action="store_true", help="a few seconds; shows that it works, measures nothing")
    parser.add_argument("--database", help="URL of a TimescaleDB on this machine; else one of the bench's own")
    parser.add_argument("--only-copy", action="store_true", help="the comparison with COPY alone, without the taxes")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    result = run(TINY if options.tiny else FULL, options.database, _printer(console), taxes=not options.only_copy)
    report.show(Console(width=140), result["figures"], TARGETS)
    if result["figures"]["others_cpu_share"] > BUSY_SHARE:
        share = result["figures"]["others_cpu_share"]
        console.print(f"Others used {share:.0%} of the CPU meanwhile: trust the CPU-seconds, not the rates.")
    if options.json:
        options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        console.print(f"written to {options.json}")


def _printer(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, highlight=False, soft_wrap=True)


def run(size: Size, database_url: str | None, say: Callable[[str], None], *, taxes: bool = True) -> dict[str, Any]:
    """Measure; return {figures, runs, machine, ...} as written to the file."""
    fleet = Fleet(size.meters, size.streams, int(START.timestamp()) * 1_000_000)
    calendar = Calendar()
    about: dict[str, Any] = {
        "commit": report.commit(), "machine": report.machine(), "versions": report.versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": asdict(size), "seed": fleet.seed,
    }  # fmt: skip
    service = LocalService(fleet.start_us, database_url)
    try:
        database = Database(service.dsn)
        about["versions"] |= database.versions()
        about["settings"] = database.settings()
        empty_mb = rss_mb(service.pid)
        register_s = service.register(fleet)
        say(f"{size.meters:,} meters registered in {register_s:.1f} s")
        runs, figures = _measure(size, fleet, calendar, service, database, say, taxes)
        figures["rss_mb_per_million_meters"] = (rss_mb(service.pid) - empty_mb) / size.meters * 1e6
        about["rss_mb"] = {"empty": empty_mb, "loaded": rss_mb(service.pid)}
        about["register_s"] = register_s
        database.close()
        service.stop()
        figures |= _rules_alone(size, say)
        restart_s = service.start(fleet.end_us(calendar.next_interval - 1))
        figures["restart_s_per_million_meters"] = restart_s / size.meters * 1e6
        say(f"restarted in {restart_s:.1f} s over {calendar.next_interval - 1} intervals of rule state")
    except RuntimeError:
        say(f"the service said last: {service.log_tail()}")
        raise
    finally:
        service.close()
    return {**about, "figures": figures, "runs": [{**asdict(one), "rate": one.rate} for one in runs]}


def _measure(
    size: Size,
    fleet: Fleet,
    calendar: Calendar,
    service: LocalService,
    database: Database,
    say: Callable[[str], None],
    taxes: bool,
) -> tuple[list[Figure], dict[str, float]]:
    days = [fleet.start_us, *(fleet.start_us + n * COPY_SHIFT_DAYS * DAY_US for n in COPY_CONNECTIONS)]
    for day_us in days:
        database.make_chunk(day_us)
    driver = Driver(service.address, fleet)
    try:
        arms = Arms(service, database, driver, None)
        warm = calendar.take(Load(0, 1))
        arms.through_service("warm-up", warm)
        arms.copy = CopyArm(service.dsn, fleet, database.slots(fleet), database.usual_quality())
        for n in COPY_CONNECTIONS:
            arms.by_copy("warm-up", CopyLoad(warm, n * COPY_SHIFT_DAYS, n))
        try:
            main_runs = _against_copy(size, calendar, arms, say)
        finally:
            arms.copy.close()
        figures = _main_figures(main_runs)
        stored = database.rows_of_day(fleet.start_us)
        expected = (calendar.next_interval - 1) * fleet.meters
        if stored != expected:
            raise RuntimeError(f"{stored} reads are stored, {expected} were acknowledged")
        figures["bytes_per_read"] = database.chunk_bytes(fleet.start_us)[0] / stored
        tax_runs = _taxes(size, fleet, calendar, arms, database, figures, say) if taxes else []
    finally:
        driver.close()
    return main_runs + tax_runs, figures


def _against_copy(size: Size, calendar: Calendar, arms: Arms, say: Callable[[str], None]) -> list[Figure]:
    runs: list[Figure] = []
    for _ in range(size.rounds):
        load = calendar.take(Load(0, size.intervals))
        runs.append(arms.through_service("service", load))
        _tell(say, runs[-1])
        for n in COPY_CONNECTIONS:
            runs.append(arms.by_copy(f"copy x{n}", CopyLoad(load, n * COPY_SHIFT_DAYS, n)))
            _tell(say, runs[-1])
    return runs


def _main_figures(runs: list[Figure]) -> dict[str, float]:
    service = [one for one in runs if one.arm == "service"]
    copies = [[one for one in runs if one.arm == f"copy x{n}"] for n in COPY_CONNECTIONS]
    best = max(copies, key=lambda arm: middle(arm, "rate"))
    acked, copied = middle(service, "rate"), middle(best, "rate")
    return {
        "e2e_over_copy": acked / copied,
        "e2e_over_copy_by_cpu": min(middle(arm, "all_s_per_mread") for arm in copies)
        / max(middle(service, "all_s_per_mread"), TICK_S),
        "acked_reads_per_s": acked,
        "copy_reads_per_s": copied,
        "service_cpu_s_per_mread": median(one.service_s / one.reads for one in service) * 1e6,
        "service_cpu_over_postgres": median(one.service_s / max(one.postgres_s, TICK_S) for one in service),
        "postgres_cpu_s_per_mread": median(one.postgres_s / one.reads for one in service) * 1e6,
        "driver_cpu_s_per_mread": median(one.driver_s / one.reads for one in service) * 1e6,
        "copy_postgres_cpu_s_per_mread": median(one.postgres_s / one.reads for one in best) * 1e6,
        "copy_driver_cpu_s_per_mread": median(one.driver_s / one.reads for one in best) * 1e6,
        "ack_ms_p50": middle(service, "ack_ms_p50"),
        "ack_ms_p99": middle(service, "ack_ms_p99"),
        "others_cpu_share": sum(one.others_s for one in runs) / sum(one.all_s + one.others_s for one in runs),
        "wire_bytes_per_read": median(one.wire_bytes / one.reads for one in service),
    }


def _taxes(
    size: Size,
    fleet: Fleet,
    calendar: Calendar,
    arms: Arms,
    database: Database,
    figures: dict[str, float],
    say: Callable[[str], None],
) -> list[Figure]:
    """Each variant in turn with the plain load, so that both meet the same table; CPU of all processes per read."""
    plain = Load(0, size.intervals)
    variants = {
        "order_tax": Load(0, size.intervals, shuffled=True),
        "small_batch_tax": Load(0, size.intervals, batch_rows=1_000),
        "three_phase_tax": Load(0, size.intervals, channels=THREE_PHASE),
        "late_tax": Load(0, size.intervals, late_share=0.1),
    }
    runs: list[Figure] = []
    for key, load in variants.items():
        ratios: list[float] = []
        for _ in range(size.tax_rounds):
            pair, grown = [], []
            for arm, one in ((f"{key} plain", plain), (key, load)):
                table_before = database.chunk_bytes(fleet.start_us)[1]
                pair.append(arms.through_service(arm, calendar.take(one)))
                grown.append((database.chunk_bytes(fleet.start_us)[1] - table_before) / pair[-1].stored)
                _tell(say, pair[-1])
            ratio = pair[1].all_s_per_mread / max(pair[0].all_s_per_mread, TICK_S)
            if key == "three_phase_tax" and all(grown):
                ratio *= grown[0] / grown[1]  # per byte stored
            ratios.append(ratio)
            runs += pair
        figures[key] = median(ratios)
    return runs


def _rules_alone(size: Size, say: Callable[[str], None]) -> dict[str, float]:
    """The engine in a process of its own; this package may not import it."""
    command = [sys.executable, "-m", "meterwatch.devtools.rules_bench", *map(str, size.rules_meters)]
    found = orjson.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    few, many = (float(found[str(meters)]) for meters in size.rules_meters)
    say(
        f"rules alone: {few:.0f} ns per read at {size.rules_meters[0]:,} meters, {many:.0f} at {size.rules_meters[1]:,}"
    )
    return {"rules_ns_per_read_1m": few, "rules_ns_per_read_10m_over_1m": many / max(few, 1.0)}


def _tell(say: Callable[[str], None], one: Figure) -> None:
    per_mread = 1e6 / one.reads
    say(
        f"{one.arm:22} {one.rate:9,.0f} reads/s   CPU-s per million reads: service {one.service_s * per_mread:.3f}"
        f"  PostgreSQL {one.postgres_s * per_mread:.3f}  sender {one.driver_s * per_mread:.3f}"
        f"  others {one.others_s * per_mread:.2f}"
    )


if __name__ == "__main__":
    main()
