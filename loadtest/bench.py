"""`make bench`: what the service costs beside raw COPY of the same rows, on this machine, in one run.

The arms take turns (A B C A B C ...) on fresh intervals, each after a warm-up; figures are medians over the rounds. All
runs on the same cores: service, PostgreSQL, sender. Durability and autovacuum are as in production; a checkpoint
before each run keeps one arm from paying for the one before it. The clock is replayed, so reads arrive on time.
This module is the list: what each group measures is in a module of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console

from loadtest import bench_columnstore, report
from loadtest.arms import Arms, Calendar, Figure
from loadtest.bench_alarms import fan_out
from loadtest.bench_backlog import catch_up
from loadtest.bench_copy import against_copy
from loadtest.bench_latency import alarm_latency
from loadtest.bench_queries import ask, fill
from loadtest.bench_stalled import stalled
from loadtest.bench_taxes import taxes
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.fleet import Fleet
from loadtest.load import Load
from loadtest.local import LocalService
from loadtest.replayed import replay_mreads_per_s
from loadtest.scale import MILLION, Scale
from loadtest.scale import measure as measure_scale

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
BUSY_SHARE: Final = 0.1
"""Above this share of the CPU used by others, rates say little and CPU-seconds are the figures to read."""
GROUPS: Final = (
    "copy",
    "taxes",
    "catchup",
    "alarms",
    "fanout",
    "stalled",
    "replay",
    "rules",
    "queries",
    "scale",
    "columnstore",
)
"""In this order; `scale` is start and memory at a million meters."""

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
    "user_rules_over_rules_1m": (3, 2, "the engine and 50 user rules over the engine alone, one meter in 1,000 beyond"),
    "thermal_ms_per_100k": (5, 1, "thermal step and time to 140 C alone, an interval of 100,000 transformers"),
    "thermal_hot_ms_per_100k": (10, 5, "the same with a tenth of them on the way to 140 C"),
    "bytes_per_read": (95, 60, "database size per read, indexes included"),
    "catchup_over_flatout": (0.8, 1.0, "reads/s of a 24 h backlog sent by meter over those of live reads"),
    "catchup_over_flatout_by_cpu": (0.8, 1.0, "the same by CPU-seconds of all processes"),
    "alarm_p99_loaded_over_idle": (5, 3, "read to subscriber, at 70 % of the flat-out rate over idle"),
    "fanout_deliveries_per_cpu_s": (25_000, 50_000, "alarms of a storm to 1,000 subscribers, by the service's CPU"),
    "storm_p99_stalled_over_none": (
        1.2,
        1.1,
        "event to the others of 1,000 subscribers, 50 of whom do not read, over none",
    ),
    "restart_s_per_million_meters": (5, 2, "start to serving with rules rebuilt of 48 h of loads, database included"),
    "rss_mb_per_million_meters": (400, 200, "service memory above that without meters, at work"),
    "query_meter_day_ms": (5, 2, "a meter's day through the Reads service, asked for the first time, in 100 million"),
    "query_meter_day_sql_ms": (5, 2, "the same by SQL"),
    "query_transformer_month_ms": (200, 50, "a transformer's month of load by SQL, in the same"),
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
    tax_intervals: int
    """A run of a tax: all of them fit into the day of the main runs."""
    backlog_part: float
    """Of the meters, in each backlog of `catchup`."""
    backlog_rounds: int
    alarm_intervals: int
    """A run of `alarms`, idle or loaded."""
    alarm_rounds: int
    idle_batches_per_s: float
    subscribers: int
    fanout_alarms: int
    fanout_rounds: int
    stalled: int
    """Of the subscribers, in `stalled`; alarms as in `fanout`."""
    stalled_rounds: int
    rules_meters: tuple[int, int]
    """Of the rule engine alone."""
    thermal_transformers: int
    scale: Scale
    """Of start and memory."""
    history_days: int
    history_meters: int
    questions: int


FULL: Final = Size(
    meters=200_000, streams=2, intervals=4, rounds=5, tax_rounds=3, tax_intervals=2, backlog_part=0.2, backlog_rounds=2,
    alarm_intervals=10, alarm_rounds=3, idle_batches_per_s=8, subscribers=1_000, fanout_alarms=200, fanout_rounds=2,
    stalled=50, stalled_rounds=2, thermal_transformers=100_000,
    rules_meters=(1_000_000, 10_000_000), history_days=33, history_meters=32_000, questions=200,
    scale=MILLION,
)  # fmt: skip
TINY: Final = Size(
    meters=2_000, streams=2, intervals=2, rounds=1, tax_rounds=1, tax_intervals=2, backlog_part=0.1, backlog_rounds=1,
    alarm_intervals=3, alarm_rounds=1, idle_batches_per_s=50, subscribers=20, fanout_alarms=5, fanout_rounds=1,
    stalled=4, stalled_rounds=1, thermal_transformers=1_000,
    rules_meters=(1_000, 2_000), history_days=2, history_meters=200, questions=3,
    scale=Scale(meters=2_000, streams=2, intervals=1, starts=1),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures and every run to this file")
    parser.add_argument("--tiny", action="store_true", help="a few seconds; shows that it works, measures nothing")
    parser.add_argument("--database", help="URL of a TimescaleDB on this machine; else one of the bench's own")
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar="NAME,...", help=f"of {', '.join(GROUPS)}")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    result = run(TINY if options.tiny else FULL, options.database, _printer(console), options.only)
    report.show(Console(width=140), result["figures"], TARGETS, bench_columnstore.MISSING)
    share = result["figures"].get("others_cpu_share", 0.0)
    if share > BUSY_SHARE:
        console.print(f"Others used {share:.0%} of the CPU meanwhile: trust the CPU-seconds, not the rates.")
    if options.json:
        options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        console.print(f"written to {options.json}")


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(GROUPS)}")
    return names


def _printer(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, highlight=False, soft_wrap=True)


def run(
    size: Size, database_url: str | None, say: Callable[[str], None], only: Collection[str] = GROUPS
) -> dict[str, Any]:
    """Measure these groups; return {figures, runs, machine, ...} as written to the file."""
    fleet = Fleet(size.meters, size.streams, int(START.timestamp()) * 1_000_000)
    calendar = Calendar()
    about: dict[str, Any] = {
        "commit": report.commit(), "machine": report.machine(), "versions": report.versions(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": asdict(size), "seed": fleet.seed,
    }  # fmt: skip
    service = LocalService(fleet.start_us, database_url, {"SERVER__SUBSCRIBERS_MAX": str(size.subscribers + 1)})
    try:
        database = Database(service.dsn)
        about["versions"] |= database.versions()
        about["settings"] = database.settings()
        about["register_s"] = service.register(fleet)
        say(f"{size.meters:,} meters registered in {about['register_s']:.1f} s")
        runs, figures = _sending(size, fleet, calendar, service, database, say, only)
        if "replay" in only and calendar.next_interval > 1:
            end_us = fleet.end_us(calendar.next_interval - 1)
            figures["replay_mreads_per_s"] = replay_mreads_per_s(service.dsn, fleet.start_us, end_us)
        database.close()
        if "rules" in only:
            figures |= _rules_alone(size, say)
        if "queries" in only:
            asked, found = _queries(size, fleet, service, say)
            runs += asked
            figures |= found
    except RuntimeError:
        say(f"the service said last: {service.log_tail()}")
        raise
    finally:
        service.close()
    if "scale" in only:
        at_scale, about["scale"] = measure_scale(size.scale, database_url, say)
        figures |= at_scale
    if "columnstore" in only and database_url is not None and bench_columnstore.can(database_url):
        compared, found = bench_columnstore.compare(fleet, size.rounds, size.intervals, database_url, say)
        runs += compared
        figures |= found
    return {**about, "figures": figures, "runs": [_described(one) for one in runs]}


def _sending(
    size: Size,
    fleet: Fleet,
    calendar: Calendar,
    service: LocalService,
    database: Database,
    say: Callable[[str], None],
    only: Collection[str],
) -> tuple[list[Any], dict[str, float]]:
    """The groups in which reads are sent, in one service and from one process."""
    runs: list[Any] = []
    figures: dict[str, float] = {}

    def tell(one: Figure) -> None:
        say(_line(one))

    database.make_chunk(fleet.start_us)
    driver = Driver(service.address, fleet)
    try:
        arms = Arms(service, database, driver, None)
        groups: dict[str, Callable[[], tuple[list[Any], dict[str, float]]]] = {
            "copy": lambda: against_copy(
                service, database, fleet, calendar, arms, size.intervals, size.rounds, tell
            ),
            "taxes": lambda: taxes(database, fleet, calendar, arms, size.tax_intervals, size.tax_rounds, tell),
            "catchup": lambda: catch_up(
                arms, database, fleet, calendar, size.backlog_part, 2 * size.tax_intervals, size.backlog_rounds, tell
            ),
            "alarms": lambda: alarm_latency(
                service.address, fleet, calendar, driver, size.alarm_intervals, size.idle_batches_per_s,
                size.alarm_rounds, say,
            ),
            "fanout": lambda: fan_out(
                service, fleet, calendar.next_interval - 1, size.subscribers, size.fanout_alarms, size.fanout_rounds,
                say,
            ),
            "stalled": lambda: stalled(
                service, fleet, calendar.next_interval - 1, size.subscribers, size.stalled, size.fanout_alarms,
                size.stalled_rounds, say,
            ),
        }  # fmt: skip
        arms.through_service("warm-up", calendar.take(Load(0, 1)))
        for name, measure in groups.items():
            if name in only:
                made, found = measure()
                runs += made
                figures |= found
    finally:
        driver.close()
    return runs, figures


def _queries(
    size: Size, fleet: Fleet, service: LocalService, say: Callable[[str], None]
) -> tuple[list[Any], dict[str, float]]:
    database = Database(service.dsn)
    try:
        past = fill(service.dsn, database, fleet, size.history_days, size.history_meters, say)
        return ask(service.address, database, past, size.history_days, size.questions, say)
    finally:
        database.close()


def _rules_alone(size: Size, say: Callable[[str], None]) -> dict[str, float]:
    """The engine in a process of its own; this package may not import it."""
    found = _alone("rules_bench", *size.rules_meters)
    few, many = (found[str(meters)] for meters in size.rules_meters)
    say(
        f"rules alone: {few:.0f} ns per read at {size.rules_meters[0]:,} meters, {many:.0f} at {size.rules_meters[1]:,}"
    )
    own = _alone("user_rules_bench", size.rules_meters[0])["ns_per_read"]
    say(f"50 user rules on meters alone: {own:.0f} ns per read at {size.rules_meters[0]:,} meters")
    heat = _alone("thermal_bench", size.thermal_transformers)
    say(f"thermal alone: {heat['calm']:.2f} ms per 100,000 transformers, {heat['hot']:.2f} ms with a tenth hot")
    return {
        "rules_ns_per_read_1m": few,
        "rules_ns_per_read_10m_over_1m": many / max(few, 1.0),
        "user_rules_over_rules_1m": (few + own) / max(few, 1.0),
        "thermal_ms_per_100k": heat["calm"],
        "thermal_hot_ms_per_100k": heat["hot"],
    }


def _alone(module: str, *counts: int) -> dict[str, float]:
    command = [sys.executable, "-m", f"meterwatch.devtools.{module}", *map(str, counts)]
    found: dict[str, float] = orjson.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def _line(one: Figure) -> str:
    per_mread = 1e6 / one.reads
    return (
        f"{one.arm:22} {one.rate:9,.0f} reads/s   CPU-s per million reads: service {one.service_s * per_mread:.3f}"
        f"  PostgreSQL {one.postgres_s * per_mread:.3f}  sender {one.driver_s * per_mread:.3f}"
        f"  others {one.others_s * per_mread:.2f}"
    )


def _described(one: Any) -> dict[str, Any]:
    return {**asdict(one), **({"rate": one.rate} if isinstance(one, Figure) else {})}


if __name__ == "__main__":
    main()
