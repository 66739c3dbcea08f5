"""Writer, rules and desk over one database, for the tests of the loads of transformers; and what they sum up to."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import table_of
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

import rules.heat_past
import rules.overload
import rules.past
from alarm.desk import AlarmDesk
from meterwatch import wired_rules
from meterwatch.batch import Batch, Reads, Rejects, Stored
from meterwatch.clock import ReplayClock
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.topology import Topology
from meterwatch.wired_rules import WiredRules, rebuild
from rules.engine import Engine
from rules.profile import RuleProfile
from storage.alarms import AlarmStore
from storage.columnstore import Columnstore
from storage.history import History
from storage.registry import RegistryStore
from storage.writer import Writer

US = 1_000_000
W = 900
START_US = 1_790_000_100 * US // (3600 * US) * (3600 * US)
METERS = 6
VARH_PER_WH = (1 - 0.95**2) ** 0.5 / 0.95
Row = tuple[int, int, int, int, bool]
"""meter, windows before the start (of the end), interval_s, Wh, estimated"""
Cells = dict[tuple[int, int], tuple[int, int, int]]

SETUP = """
TRUNCATE reads, read_versions, batches, events, quarantine, alarms, alarm_log, transformer_loads, transformer_members,
  transformer_loads_owed,
  meter_links, meter_transformers, transformer_feeders, meters, concentrators, transformers, feeders, head_ends;
INSERT INTO head_ends (head_end_id, head_end, late_window_days) VALUES (1, 'H', 400);
INSERT INTO transformers (transformer_id, transformer, rated_kva) VALUES (1, 'T1', 9), (2, 'T2', 9);
INSERT INTO meters (slot, meter, contract_kw, installed_at)
  SELECT i, 'M-' || i, CASE WHEN i % 2 = 0 THEN 7.5 END, '2020-01-01' FROM generate_series(1, 6) AS i;
INSERT INTO meter_transformers SELECT i, 1 + i % 2, '2020-01-01', 'infinity' FROM generate_series(1, 5) AS i;
"""


@dataclass
class Plant:
    """Writer, rules and desk over one database, put together as the service does it."""

    dsn: str
    pool: AsyncConnectionPool[Any]
    writer: Writer
    clock: ReplayClock = field(default_factory=lambda: ReplayClock(START_US))
    seq: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    profile: RuleProfile | None = None
    rules: WiredRules | None = None
    desk: AlarmDesk | None = None
    lost: list[Stored] = field(default_factory=list)

    async def start(self, *, own: bool = True) -> None:
        """A start of the service (own), or a change of the registry under a running one."""
        history = History(self.pool, columnar=isinstance(self.writer.table, Columnstore))
        topology: Topology = await RegistryStore(self.pool).load_topology(self.clock.now_us())
        if self.desk is None or own:
            self.desk = await AlarmDesk.open(AlarmStore(self.pool), topology, self.clock)
        self.rules = WiredRules(Engine(topology, self.profile), history, self.clock)
        verdicts, owed = await rebuild(self.rules, topology, history, self.desk, self.clock.now_us())
        await self.rules.record(self.desk, verdicts, owed if own else [])
        if own:
            self.lost = []

    def write(self, rows: list[Row]) -> Stored:
        return self.writer.write([batch(next(self.seq), rows)], self.clock.now_us())[0]

    async def evaluate(self, stored: list[Stored]) -> None:
        assert self.rules is not None
        assert self.desk is not None
        now_us = self.clock.now_us()
        for one in stored:
            if one.change is not None:
                self.rules.observe_reads([one], now_us)
        await self.rules.record(self.desk, await self.rules.evaluate(now_us), [one.batch_id for one in stored])

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
            cursor = connection.execute(query, parameters or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def table(self) -> Cells:
        found = self.sql(
            "SELECT transformer_id, extract(epoch FROM window_end)::bigint / 900 - 1, wh, varh, covered_weight_s"
            " FROM transformer_loads"
        )
        return {(t, w): tuple(sums) for t, w, *sums in found if any(sums)}  # type: ignore[misc]

    def sums(self) -> Cells:
        """The oracle: every stored read of an evaluated batch, one by one."""
        of = dict(self.sql("SELECT slot, transformer_id FROM meter_transformers WHERE valid_to = 'infinity'"))
        total: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        for slot, end_s, length, quality, wh in self.sql(
            "SELECT slot, extract(epoch FROM end_at)::bigint, interval_s, quality, import_wh FROM reads"
        ):
            origin = (quality & ORIGIN_MASK) >> ORIGIN_SHIFT
            if slot not in of or wh is None or origin in (Origin.ESTIMATED, Origin.SUBSTITUTED):
                continue
            varh, start_s = round(max(wh, 0) * VARH_PER_WH), end_s - length
            for window in range(start_s // W, (end_s - 1) // W + 1):
                since, until = max(window * W - start_s, 0), min((window + 1) * W - start_s, length)
                cell = total[of[slot], window]
                cell[0] += wh * until // length - wh * since // length
                cell[1] += varh * until // length - varh * since // length
                cell[2] += (7500 if slot % 2 == 0 else 1000) * (until - since)
        return {key: tuple(cell) for key, cell in total.items() if any(cell)}  # type: ignore[misc]


def batch(seq: int, rows: list[Row]) -> Batch:
    """One batch; all its reads have the interval of the first."""
    interval_s = rows[0][2]
    unique = {}
    for meter, back, _, wh, estimated in rows:
        unique[meter, START_US - back * interval_s * US] = (wh, estimated)
    key = sorted(unique)
    quality = [(int(Origin.ESTIMATED) << ORIGIN_SHIFT) if unique[at][1] else 0 for at in key]
    reads = Reads(
        np.array([slot for slot, _ in key], np.int32),
        np.array([end_us for _, end_us in key], np.int64),
        interval_s,
        np.array(quality, np.int32),
        {"import_wh": np.array([unique[at][0] for at in key], np.int32)},
    )
    none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
    return Batch(1, 1, seq, f"{seq}".encode(), reads, none, 0, len(key))


@asynccontextmanager
async def plant(dsn: str) -> AsyncIterator[Plant]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SETUP)  # type: ignore[arg-type]
        connection.execute("UPDATE alarm_cursor SET seq = 0")
    writer = Writer(dsn, {}, table=table_of(dsn))
    options = {"autocommit": True, "options": "-c TimeZone=UTC"}
    try:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False, kwargs=options) as pool:
            yield Plant(dsn, pool, writer)
    finally:
        writer.close()


def as_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if reads came in great numbers and in no order."""
    monkeypatch.setattr(rules.overload, "SCATTERED_CELLS_MIN", 0)
    monkeypatch.setattr(rules.overload, "SCATTERED_READS_PER_CELL", 10_000)
    monkeypatch.setattr(wired_rules, "PUT_OFF_S", 3600.0)


ROWS = st.lists(
    st.tuples(
        st.integers(1, METERS),
        st.one_of(st.integers(0, 12), st.integers(180, 900)),  # the ring has 192 windows
        st.just(0),
        st.integers(0, 40_000),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
