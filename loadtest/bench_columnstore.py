"""The columnstore beside rows: the same reads through two services that differ in that one setting.

Needs TimescaleDB's community edition and a user that may create databases: each arm has one of its own on the server of
the URL, dropped afterwards. The arms take turns on the same intervals; both services are up all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from loadtest.arms import Arms, Calendar, Figure, middle
from loadtest.database import Database
from loadtest.driver import Driver
from loadtest.fleet import Fleet
from loadtest.load import Load
from loadtest.local import LocalService

LATE: Final = 0.1
ARMS: Final = {"rowstore": "off", "columnstore": "on"}
MISSING: Final = dict.fromkeys(
    ("columnstore_over_rowstore", "columnstore_bytes_per_read"), "needs the community edition: --database URL"
)


def can(url: str) -> bool:
    """The server has a columnstore that a COPY can be compressed into."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT current_setting('timescaledb.license', true) = 'timescale' AND EXISTS (SELECT FROM pg_settings"
            " WHERE name = 'timescaledb.enable_direct_compress_copy')"
        ).fetchone()
        return bool(row and row[0])


def compare(
    fleet: Fleet, rounds: int, intervals: int, url: str, say: Callable[[str], None]
) -> tuple[list[Figure], dict[str, float]]:
    """Measure; the runs and the figures. RuntimeError if not every read is stored once."""
    runs: list[Figure] = []
    size: dict[str, float] = {}
    with ExitStack() as stack:
        calendar, late = Calendar(), Load(0, intervals, late_share=LATE)
        arms: dict[str, tuple[Arms, Database]] = {}
        for arm, setting in ARMS.items():
            own = stack.enter_context(_database(url, f"meterwatch_bench_{arm}"))
            service = LocalService(fleet.start_us, own, {"DATABASE__COLUMNSTORE": setting})
            stack.callback(service.close)
            service.register(fleet)
            database = Database(own)
            stack.callback(database.close)
            driver = Driver(service.address, fleet)
            stack.callback(driver.close)
            arms[arm] = Arms(service, database, driver, None), database
        for kind, load, times in (("warm-up", Load(0, 1), 1), ("", Load(0, intervals), rounds), ("late", late, rounds)):
            for _ in range(times):
                taken = calendar.take(load)
                for arm, (through, _) in arms.items():
                    run = through.through_service(f"{arm} {kind}".strip(), taken)
                    say(_line(run))
                    if kind != "warm-up":
                        runs.append(run)
        for arm, (_, database) in arms.items():
            stored, expected = database.rows_of_day(fleet.start_us), (calendar.next_interval - 1) * fleet.meters
            if stored != expected:
                raise RuntimeError(f"{arm}: {stored} reads are stored, {expected} were acknowledged")
            size[arm] = database.chunk_bytes(fleet.start_us)[0] / stored
    return runs, _figures(runs, size)


def _figures(runs: list[Figure], size: dict[str, float]) -> dict[str, float]:
    of = {arm: [one for one in runs if one.arm == arm] for one in runs for arm in (one.arm,)}
    rows, columns = of["rowstore"], of["columnstore"]
    return {
        "columnstore_over_rowstore": middle(columns, "rate") / middle(rows, "rate"),
        "columnstore_over_rowstore_by_cpu": middle(rows, "all_s_per_mread") / middle(columns, "all_s_per_mread"),
        "columnstore_reads_per_s": middle(columns, "rate"),
        "rowstore_reads_per_s": middle(rows, "rate"),
        "columnstore_bytes_per_read": size["columnstore"],
        "rowstore_bytes_per_read": size["rowstore"],
        **{
            f"{arm}_{process}_cpu_s_per_mread": median(getattr(one, f"{process}_s") / one.reads for one in of[arm])
            * 1e6
            for arm in ARMS
            for process in ("service", "postgres")
        },
        **{
            f"{arm}_late_tax": middle(of[f"{arm} late"], "all_s_per_mread") / middle(of[arm], "all_s_per_mread")
            for arm in ARMS
        },
    }


@contextmanager
def _database(url: str, name: str) -> Iterator[str]:
    """URL of a fresh database beside the one of the URL."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            connection.execute(drop)


def _line(one: Figure) -> str:
    service_s, postgres_s = (1e6 * seconds / one.reads for seconds in (one.service_s, one.postgres_s))
    return (
        f"{one.arm:22} {one.rate:9,.0f} reads/s   CPU-s per million reads: service {service_s:.3f}"
        f"  PostgreSQL {postgres_s:.3f}"
    )
