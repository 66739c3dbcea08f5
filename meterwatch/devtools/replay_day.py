"""A replay of a simulated day of a whole fleet: reads/s, CPU by process and memory of `meterwatch rules replay`.

`python -m meterwatch.devtools.replay_day 1000000 --dir DIRECTORY` makes a cluster of its own in DIRECTORY (about 14 GB
for a million meters), writes registry and reads of a day by SQL, replays it in a child, and prints one JSON object;
progress goes to standard error. With --keep the cluster stays, and a second run replays it again. Every fiftieth
transformer is overloaded for five hours. CPU-seconds say what it costs; reads/s hold on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psycopg

from loadtest.cpu import parent_of, tree_s
from storage.embedded import EmbeddedCluster, find_or_provision
from storage.migrate import migrate

METERS_PER_TRANSFORMER: Final = 100
TRANSFORMERS_PER_FEEDER: Final = 50
INTERVALS: Final = 96
TOGETHER: Final = 8
"""Intervals written by one statement."""
DAY: Final = "2026-01-10T00:00Z"
AFTER: Final = "2026-01-11T00:00Z"
SPAN: Final = "'2020-01-01', 'infinity'"
PROGRAM: Final = "from meterwatch.cli import app; app()"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fill(dsn: str, meters: int, intervals: int) -> None:
    """Registry and the first intervals of the day, of every meter."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def run(query: str) -> None:
            connection.execute(query.encode())

        run("SET synchronous_commit = off")
        transformers = -(-meters // METERS_PER_TRANSFORMER)
        feeders = -(-transformers // TRANSFORMERS_PER_FEEDER)
        for table, columns, values, count in (
            ("feeders", "feeder_id, feeder", "i, 'F' || i", feeders),
            ("transformers", "transformer_id, transformer, rated_kva", "i, 'T' || i, 250", transformers),
            ("transformer_feeders", "", f"i, i / {TRANSFORMERS_PER_FEEDER}, {SPAN}", transformers),
            ("meters", "slot, meter, installed_at", "i, 'M' || i, '2020-01-01'", meters),
            ("meter_transformers", "", f"i, i / {METERS_PER_TRANSFORMER}, {SPAN}", meters),
        ):
            named = f"({columns})" if columns else ""
            run(f"INSERT INTO {table} {named} SELECT {values} FROM generate_series(0, {count - 1}) i")
        hot = f"s / {METERS_PER_TRANSFORMER} % {TRANSFORMERS_PER_FEEDER} = 0 AND q BETWEEN 60 AND 80"
        for first in range(0, intervals, TOGETHER):
            last = min(first + TOGETHER, intervals) - 1
            run(
                "INSERT INTO reads (slot, end_at, received_at, interval_s, quality, version, import_wh)"
                f" SELECT s, timestamptz '{DAY}' + interval '15 min' * (q + 1), now(), 900, 0, 1,"
                f" 300 + (s * 7 + q * 13) % 400 + CASE WHEN {hot} THEN 500 ELSE 0 END"
                f" FROM generate_series({first}, {last}) q, generate_series(0, {meters - 1}) s"
            )
            say(f"{last + 1} of {intervals} intervals written")
        run("INSERT INTO read_stamps SELECT DISTINCT end_at FROM reads ON CONFLICT DO NOTHING")
        run("ANALYZE reads")


def replayed(dsn: str) -> dict[str, Any]:
    """Replay the day in a child; what it took."""
    with psycopg.connect(dsn) as connection:
        [backend] = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        postmaster = parent_of(int(backend))
        stored = connection.execute("SELECT count(*) FROM reads").fetchone() or (0,)
        connection.rollback()
        postgres_s, began_s = tree_s(postmaster), time.monotonic()
        command = [sys.executable, "-c", PROGRAM, "rules", "replay", "--from", DAY, "--to", AFTER, "-o", "json"]
        environment = os.environ | {"METERWATCH_DATABASE__URL": dsn}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
        seconds, postgres_s = time.monotonic() - began_s, tree_s(postmaster) - postgres_s
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    mreads = stored[0] / 1e6
    return {
        "reads": stored[0],
        "seconds": round(seconds, 1),
        "mreads_per_s": round(mreads / seconds, 3),
        "python_cpu_s_per_mread": round((child.ru_utime + child.ru_stime) / mreads, 3),
        "postgres_cpu_s_per_mread": round(postgres_s / mreads, 3),
        "rss_mb_max": round(child.ru_maxrss / 1024),
        "load_average": os.getloadavg(),
    }


def measure(meters: int, directory: Path, intervals: int = INTERVALS) -> dict[str, Any]:
    """In a cluster in this directory; one that is there is replayed as it is."""
    there = directory.is_dir() and any(directory.iterdir())
    directory.mkdir(parents=True, exist_ok=True)
    cluster = EmbeddedCluster(directory, find_or_provision(say))
    cluster.start(say)
    try:
        if not there:
            migrate(cluster.dsn)
            fill(cluster.dsn, meters, intervals)
        return {"meters": meters, **replayed(cluster.dsn)}
    finally:
        cluster.stop(say)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("meters", type=int)
    parser.add_argument(
        "--dir", type=Path, required=True, help="of the cluster; empty or not there, or of a run with --keep"
    )
    parser.add_argument("--keep", action="store_true", help="leave the cluster there")
    given = parser.parse_args()
    try:
        print(json.dumps(measure(given.meters, given.dir)))
    finally:
        if not given.keep:
            shutil.rmtree(given.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
