"""The bench's main arm: the service beside raw COPY of the same rows into the same table, in turn."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Final

from loadtest.arms import Arms, Calendar, Figure, middle
from loadtest.copy_arm import CopyArm, CopyLoad
from loadtest.cpu import TICK_S
from loadtest.database import Database
from loadtest.fleet import US, Fleet
from loadtest.load import Load
from loadtest.local import LocalService

DAY_US: Final = 86_400 * US
COPY_CONNECTIONS: Final = (1, 2)
COPY_SHIFT_DAYS: Final = 30
"""Each COPY arm writes into a day of its own, so far ahead that nobody else looks at it."""


def against_copy(
    service: LocalService,
    database: Database,
    fleet: Fleet,
    calendar: Calendar,
    arms: Arms,
    intervals: int,
    rounds: int,
    say: Callable[[Figure], None],
) -> tuple[list[Figure], dict[str, float]]:
    """Service, COPY over one connection, COPY over two, in turn. intervals: of a run."""
    for n in COPY_CONNECTIONS:
        database.make_chunk(fleet.start_us + n * COPY_SHIFT_DAYS * DAY_US)
    runs: list[Figure] = []
    warm = calendar.take(Load(0, 1))
    arms.through_service("warm-up", warm)
    arms.copy = CopyArm(service.dsn, fleet, database.slots(fleet), database.usual_quality())
    try:
        for n in COPY_CONNECTIONS:
            arms.by_copy("warm-up", CopyLoad(warm, n * COPY_SHIFT_DAYS, n))
        for _ in range(rounds):
            load = calendar.take(Load(0, intervals))
            runs.append(arms.through_service("service", load))
            say(runs[-1])
            for n in COPY_CONNECTIONS:
                runs.append(arms.by_copy(f"copy x{n}", CopyLoad(load, n * COPY_SHIFT_DAYS, n)))
                say(runs[-1])
    finally:
        arms.copy.close()
    figures = _figures(runs)
    stored = database.rows_of_day(fleet.start_us)
    expected = (calendar.next_interval - 1) * fleet.meters
    if stored != expected:
        raise RuntimeError(f"{stored} reads are stored, {expected} were acknowledged")
    figures["bytes_per_read"] = database.chunk_bytes(fleet.start_us)[0] / stored
    return runs, figures


def _figures(runs: list[Figure]) -> dict[str, float]:
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
