"""Judging days alone: CPU-seconds a million reads of the process and of PostgreSQL, by part of a step.

`python -m meterwatch.devtools.days_bench 10000 --dir DIRECTORY` makes a cluster of its own in DIRECTORY, writes two
local days of reads by SQL (with registers at midnight; of each hundred meters one has a gap, two are without energy for
hours and one had a power failure), and then, as the service does, judges both days, judges them again, and estimates
what they lack. With --keep the cluster stays, and a second run, maybe of another checkout, judges the same reads.
Prints one JSON object a round. `digest` is that of all that was found: equal results, equal digests. CPU by part is
that of the whole process, in which nothing else runs; a machine in use shows in it too, by a tenth or two.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from loadtest.cpu import parent_of, tree_s
from meterwatch import judged_days
from meterwatch.batch import Batch, Stored
from meterwatch.check_profile import CheckProfile
from meterwatch.clock import ReplayClock
from meterwatch.day_marks import DayMarks
from meterwatch.devtools.replay_day import METERS_PER_TRANSFORMER, SPAN, say
from meterwatch.estimated_loads import EstimatedLoads
from meterwatch.estimation import Estimation
from meterwatch.judged_days import JudgedDays
from meterwatch.local_days import as_number, day_starts_us
from meterwatch.metrics import Metrics
from meterwatch.quality import DAY_BITS, METHOD_MASK
from storage.arrays import moment
from storage.embedded import EmbeddedCluster, find_or_provision
from storage.estimates import EstimateStore
from storage.meter_days import DayStep, DayStore
from storage.migrate import migrate
from storage.pool import new_pool
from storage.registry import RegistryStore
from storage.writer import Writer

FIRST_DAY: Final = as_number(date(2026, 1, 13))
DAYS: Final = 2
ZONE: Final = "Europe/Berlin"
ROUNDS: Final = 3
HOUR_US: Final = 3_600_000_000
STARTS_US: Final = day_starts_us(ZONE)[FIRST_DAY : FIRST_DAY + DAYS + 1].tolist()
_PARTS: Final = [
    *((DayStep, name) for name in ("reads", "events", "registers", "stored", "store", "store_registers")),
    *((DayStep, name) for name in ("mark_reads", "owe_estimates", "energy", "store_balances")),
    (EstimatedLoads, "count"), (JudgedDays, "_clocks"),
]  # fmt: skip
"""Coroutines of a step; `_judged` are the arrays alone, `rest` is what is left."""

_FILL: Final = f"""
INSERT INTO head_ends (head_end_id, head_end, time_zone) VALUES (1, 'H', '{ZONE}');
INSERT INTO feeders (feeder_id, feeder) VALUES (0, 'F');
INSERT INTO transformers (transformer_id, transformer, rated_kva)
  SELECT i, 'T' || i, 400 FROM generate_series(0, {{meters}} / {METERS_PER_TRANSFORMER}) i;
INSERT INTO transformer_feeders SELECT transformer_id, 0, {SPAN} FROM transformers;
INSERT INTO meters (slot, meter, installed_at)
  SELECT i, 'M' || i, '2020-01-01' FROM generate_series(0, {{meters}} - 1) i;
INSERT INTO meter_transformers SELECT slot, slot / {METERS_PER_TRANSFORMER}, {SPAN} FROM meters;
INSERT INTO meter_links SELECT slot, 1, NULL, CASE WHEN slot % 3 = 0 THEN '4G' ELSE 'PLC' END, {SPAN} FROM meters;
INSERT INTO reads (slot, end_at, received_at, interval_s, quality, version, import_wh, export_wh, current_a_a)
  SELECT slot, at, at + interval '1 s' * (20 + slot % 37 + u), 900, 128, 1, wh, CASE WHEN slot % 10 = 0 THEN wh / 7 END,
         CASE WHEN slot % 2 = 0 THEN greatest(wh, CASE WHEN slot % 400 = 0 THEN 30 ELSE 0 END) * 4 / 230.0 END
  FROM (SELECT slot, q, timestamptz '{{first}}' + interval '15 min' * (q + 1) AS at, u,
               CASE WHEN slot % 50 = 0 AND q % 96 BETWEEN 20 AND 43 THEN 0 ELSE (-110 * ln(u * v))::integer END AS wh
        FROM generate_series(0, {96 * DAYS - 1}) q, generate_series(0, {{meters}} - 1) slot,
          LATERAL (SELECT (1 + (hashint8(slot * 1009 + q) & 1048575)) / 1048577.0::float8 AS u,
                          (1 + (hashint8(slot * 2003 + q) & 1048575)) / 1048577.0::float8 AS v) AS dice) AS sent
  WHERE NOT (slot % 100 = 3 AND q % 96 BETWEEN 40 AND 47);
INSERT INTO read_stamps SELECT DISTINCT end_at FROM reads ON CONFLICT DO NOTHING;
INSERT INTO register_reads (at, received_at, slot, register, version, value_wh)
  SELECT start, start, slot, 1, 1, 1000000 + coalesce(sum(import_wh) FILTER (WHERE end_at <= start), 0)
  FROM reads, unnest('{{starts}}'::timestamptz[]) AS start GROUP BY start, slot;
INSERT INTO events (at, received_at, slot, code)
  SELECT timestamptz '{{first}}' + interval '7 h' * code, '{{first}}', slot, code
  FROM meters, generate_series(1, 2) code WHERE slot % 100 = 7;
ANALYZE"""
_FORGET: Final = f"""
TRUNCATE meter_days, meter_clocks, register_days, transformer_days, transformer_load_estimates, estimates_owed,
  meter_days_owed, local_day_passes, read_versions, batches;
DELETE FROM reads WHERE quality & {METHOD_MASK} <> 0;
UPDATE reads SET quality = quality & {~int(DAY_BITS)} WHERE quality & {int(DAY_BITS)} <> 0;
VACUUM reads; CHECKPOINT"""
_FOUND: Final = f"""
SELECT md5(concat(
  (SELECT string_agg(d::text, ',' ORDER BY slot, day) FROM meter_days d),
  (SELECT string_agg(d::text, ',' ORDER BY slot, day, register) FROM register_days d),
  (SELECT string_agg(d::text, ',' ORDER BY slot) FROM meter_clocks d),
  (SELECT string_agg(d::text, ',' ORDER BY transformer_id, window_end) FROM transformer_load_estimates d),
  (SELECT string_agg(format('%s %s %s %s %s %s', slot, end_at, quality, version, import_wh, export_wh), ','
                     ORDER BY slot, end_at)
   FROM reads WHERE quality & {int(DAY_BITS) | METHOD_MASK} <> 0)))"""


def fill(connection: psycopg.Connection[Any], meters: int) -> None:
    """Registry, reads, registers and events of DAYS local days."""
    starts = [moment(us).isoformat() for us in STARTS_US]
    several(connection, _FILL.format(meters=meters, first=starts[0], starts="{" + ",".join(starts) + "}"))


def several(connection: psycopg.Connection[Any], statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement.encode())


@contextmanager
def parts_timed(spent_s: defaultdict[str, float]) -> Iterator[None]:
    """Meanwhile the CPU of this process during each part of a step is added up."""

    def of_step(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        async def timed(*given: Any, **named: Any) -> Any:
            began_s = time.process_time()
            try:
                return await work(*given, **named)
            finally:
                spent_s[name] += time.process_time() - began_s

        return timed

    def checks(*given: Any) -> Any:
        began_s = time.process_time()
        try:
            return judge(*given)
        finally:
            spent_s["checks"] += time.process_time() - began_s

    judge = judged_days._judged
    parts = [(owner, name, getattr(owner, name)) for owner, name in _PARTS]
    instead = [(owner, name, of_step(name.strip("_"), work)) for owner, name, work in parts]
    try:
        for owner, name, work in [*instead, (judged_days, "_judged", checks)]:
            setattr(owner, name, work)
        yield
    finally:
        for owner, name, work in [*parts, (judged_days, "_judged", judge)]:
            setattr(owner, name, work)


class Bench:
    """One database, judged again and again. `round` gives the figures of one time."""

    def __init__(self, dsn: str, connection: psycopg.Connection[Any]) -> None:
        self._dsn, self._connection = dsn, connection
        self._postmaster = parent_of(connection.info.backend_pid)
        self._reads = int(self._row(f"SELECT count(*) FROM reads WHERE quality & {METHOD_MASK} = 0")[0])

    async def round(self) -> dict[str, Any]:
        """CPU-seconds a million reads: judging first, again and estimating; in it by part, of the first judgement."""
        several(self._connection, _FORGET)
        figures: dict[str, Any] = {}
        writer = Writer(self._dsn, {})
        async with new_pool(self._dsn) as pool:
            topology = await RegistryStore(pool).load_topology(STARTS_US[-1])
            clock, marks = ReplayClock(STARTS_US[0] + HOUR_US, DAYS * 2 * 24 * HOUR_US), DayMarks(topology)
            store, metrics = DayStore(pool), Metrics()

            async def submit(batch: Batch) -> Stored:
                [stored] = await asyncio.to_thread(writer.write, [batch], clock.now_us())
                return stored

            days = JudgedDays(store, marks, lambda: topology, clock, CheckProfile(), metrics, estimates=True)
            await days.start()
            clock.saw(STARTS_US[-1] + HOUR_US)
            estimation = Estimation(EstimateStore(pool), store, marks, lambda: topology, clock, submit, metrics)
            parts: defaultdict[str, float] = defaultdict(float)
            with parts_timed(parts):
                figures["first"] = await self._until_done(days.once)
            slots = np.arange(topology.slots, dtype=np.int32)
            await store.owe(np.full(len(slots), FIRST_DAY, np.int32), slots)
            figures["again"] = await self._until_done(days.once)
            figures["estimates"] = await self._until_done(estimation.once)
        writer.close()
        parts["rest"] = figures["first"]["service"] * self._reads / 1e6 - sum(parts.values())
        figures["parts"] = {name: round(s * 1e6 / self._reads, 4) for name, s in sorted(parts.items())}
        return {"reads": self._reads, **figures, "digest": self._row(_FOUND)[0], "load": os.getloadavg()[0]}

    async def _until_done(self, once: Callable[[], Any]) -> dict[str, float]:
        service_s, postgres_s = time.process_time(), tree_s(self._postmaster)
        while await once():
            pass
        service_s, postgres_s = time.process_time() - service_s, tree_s(self._postmaster) - postgres_s
        return {name: round(s * 1e6 / self._reads, 4) for name, s in (("service", service_s), ("postgres", postgres_s))}

    def _row(self, query: str) -> Any:
        return self._connection.execute(query.encode()).fetchone()


def like_a_service() -> None:
    """What glibc has seen once decides what it maps anew each time: a service has had arrays of tens of MB."""
    np.ones(30 << 17)


def measure(meters: int, directory: Path, rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """In a cluster in this directory; one that is there is judged as it is."""
    there = directory.is_dir() and any(directory.iterdir())
    directory.mkdir(parents=True, exist_ok=True)
    cluster = EmbeddedCluster(directory, find_or_provision(say))
    cluster.start(say)
    like_a_service()
    try:
        if not there:
            migrate(cluster.dsn)
        with psycopg.connect(cluster.dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
            if not there:
                fill(connection, meters)
            bench = Bench(cluster.dsn, connection)
            for _ in range(rounds):
                yield {"meters": meters, **asyncio.run(bench.round())}
    finally:
        cluster.stop(say)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("meters", type=int)
    parser.add_argument("--dir", type=Path, required=True, help="of the cluster; not there, or of a run with --keep")
    parser.add_argument("--keep", action="store_true", help="leave the cluster there")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    try:
        for figures in measure(given.meters, given.dir, given.rounds):
            print(json.dumps(figures), flush=True)
    finally:
        if not given.keep:
            shutil.rmtree(given.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
