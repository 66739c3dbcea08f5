"""The table of transformer loads is the sum of the evaluated reads, whatever happened on the way; real database."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

import rules.heat_past
import rules.overload
import rules.past
from alarm.desk import AlarmDesk
from meterwatch import wired_rules
from meterwatch.batch import Batch, Reads, Rejects, Stored
from meterwatch.clock import ReplayClock
from meterwatch.errors import StorageUnavailable
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.topology import Topology
from meterwatch.wired_rules import WiredRules, hear, rebuild
from rules.engine import Engine
from rules.profile import RuleProfile
from storage.alarms import AlarmStore
from storage.columnstore import Columnstore
from storage.history import History
from storage.registry import RegistryStore
from storage.writer import Writer

pytestmark = both_layouts
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
        verdicts, owed = await rebuild(self.rules, topology, history, self.desk, self.clock)
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


@pytest.fixture
def put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    as_put_off(monkeypatch)


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
STEP = st.tuples(st.sampled_from(["send", "send", "send", "lose", "restart"]), st.sampled_from([300, 900, 3600]), ROWS)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=2, max_size=6), st.booleans(), st.booleans())
def test_the_table_is_the_sum_of_the_stored_reads_and_the_ring_is_the_table(
    dsn: str, steps: Any, put_off: bool, settled: bool
) -> None:
    async def live() -> None:
        async with plant(dsn) as made:
            await made.start()
            for what, interval_s, rows in steps:
                rows = [(meter, back, interval_s, wh, guess) for meter, back, _, wh, guess in rows]
                if what == "restart":
                    await made.start()
                    continue
                stored = await asyncio.to_thread(made.write, rows)
                if what == "lose":  # stored, and the service died before it was evaluated
                    made.lost.append(stored)
                    await made.start()
                else:
                    await made.evaluate([stored])
            assert made.rules is not None
            assert made.desk is not None
            if settled:
                await made.rules.settle(made.desk)
                assert made.table() == made.sums()
            alive = made.rules.engine.overload
            await made.start()
            assert made.rules is not None
            again = made.rules.engine.overload
            for window in range(alive.tail, alive._head + 1) if made.sums() else ():
                for mine, its in zip(alive.load(window), again.load(window), strict=True):
                    np.testing.assert_array_equal(mine, its)
            assert made.table() == made.sums()

    with pytest.MonkeyPatch.context() as patch:
        if put_off:
            as_put_off(patch)
        asyncio.run(live())


class _Unknown(AlarmStore):
    """Commits, and then says that it does not know."""

    fails = 0

    async def commit(self, *arguments: Any, **named: Any) -> list[int]:
        done = await super().commit(*arguments, **named)
        if self.fails:
            self.fails -= 1
            raise StorageUnavailable("the connection broke in COMMIT")
        return done


async def test_a_commit_of_unknown_outcome_that_is_repeated_adds_nothing(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        store = _Unknown(made.pool)
        made.desk = await AlarmDesk.open(store, await RegistryStore(made.pool).load_topology(START_US), made.clock)
        stored = made.write([(1, 0, 900, 500, False), (2, 400, 900, 70, False)])
        store.fails = 1
        with pytest.raises(StorageUnavailable):
            await made.evaluate([stored])
        assert made.table() == made.sums()
        await made.rules.record(made.desk, [], [stored.batch_id])
        assert made.table() == made.sums()
        await made.evaluate([made.write([(1, 1, 900, 20, False)])])
        assert made.table() == made.sums()


async def test_a_commit_that_failed_is_made_up_for_by_the_next(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        assert made.desk is not None
        stored = made.write([(1, 0, 900, 500, False)])
        made.rules.observe_reads([stored], START_US)
        assert made.table() == {}
        await made.rules.record(made.desk, [], [stored.batch_id])
        assert made.table() == made.sums() != {}


async def test_an_older_database_is_counted_once_from_its_reads(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(meter, back, 900, 100 * meter + back, False) for back in range(3)])
                             for meter in range(1, METERS + 1)])  # fmt: skip
        expected = made.sums()
        made.sql("TRUNCATE transformer_loads, transformer_members")
        await made.start()
        assert made.table() == expected
        made.sql("UPDATE reads SET import_wh = 0")  # so a second count would show
        await made.start()
        assert made.table() == expected


async def test_scattered_loads_come_within_seconds(dsn: str, put_off: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        assert made.desk is not None
        await made.evaluate([made.write([(1, 0, 900, 500, False)])])
        assert made.table() == {}
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(1,)]
        assert not made.rules.due
        monkeypatch.setattr(wired_rules, "PUT_OFF_S", 0.0)
        assert made.rules.due
        await made.rules.record(made.desk, [], [])
        assert made.table() == made.sums() != {}
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]
        await made.rules.settle(made.desk)
        assert made.table() == made.sums()


async def test_loads_put_off_are_counted_after_a_crash(dsn: str, put_off: None) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 500, False), (2, 300, 900, 7, False)])])
        await made.evaluate([made.write([(1, 0, 900, 400, False), (3, 1, 900, 7, False)])])
        assert made.table() == {}
        await made.start()
        assert made.table() == made.sums() != {}


@pytest.mark.parametrize("scattered", [False, True])
async def test_what_is_owed_of_the_past_survives_a_crash(
    dsn: str, scattered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours above the rating, five days late; no time to judge them before the crash."""
    overload = [(1, back, 900, 3000 if back >= 480 else 0, False) for back in range(470, 489)]
    overload += [(meter, back, 900, 0, False) for meter in (3, 5) for back in range(470, 489)]
    if scattered:
        as_put_off(monkeypatch)
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        monkeypatch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
        await made.evaluate([made.write(overload)])
        await made.evaluate([made.write([(2, 0, 900, 1, False)])])
        assert made.rules is not None
        assert made.desk is not None
        await made.rules.settle(made.desk)
        assert made.rules.past_owed == 1
        assert made.table() == made.sums()
        assert made.sql("SELECT count(*) FROM alarms WHERE rule = 'OVERLOAD'") == [(0,)]
        assert made.sql("SELECT bool_and(counted) FROM transformer_loads_owed") == [(True,)]
        await made.start()
        assert made.table() == made.sums()
        assert made.sql("SELECT state FROM alarms WHERE rule = 'OVERLOAD'") == [("NORMAL",)]
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]


async def test_temperatures_that_wait_are_owed_and_found_after_a_crash(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third above the rating for a day, until two hours ago; no time to look back before the crash."""
    hot = [
        (meter, back, 900, 3000 if meter == 1 and back >= 8 else 0, False) for meter in (1, 3, 5) for back in range(100)
    ]
    query = "SELECT count(*) FROM alarms WHERE rule = 'HOT_SPOT'"
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        with monkeypatch.context() as patch:
            patch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
            await made.evaluate([made.write(hot)])
            assert made.rules is not None
            assert made.rules.past_owed == 1
            assert not made.rules.due
        assert made.sql("SELECT bool_and(counted) FROM transformer_loads_owed") == [(True,)]
        assert made.sql(query) == [(0,)]
        await made.start()
        assert made.sql(query) == [(1,)]
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]


async def test_who_owes_too_much_is_judged_before_the_next_ack(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wired_rules, "OWED_MAX", 2)
    monkeypatch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        owed = []
        for meter in (1, 2, 1, 2):
            await made.evaluate([made.write([(meter, 480, 900, 1 + len(owed), False)])])
            assert made.rules is not None
            owed.append(made.rules.past_owed)
        assert owed == [1, 2, 0, 1]


async def test_a_batch_owes_nothing_once_its_past_is_judged(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        monkeypatch.setattr(rules.past, "TRANSFORMERS_TOGETHER", 1)
        monkeypatch.setattr(rules.heat_past, "TRANSFORMERS_TOGETHER", 1)
        pieces: list[bool] = []
        assert made.rules is not None
        monkeypatch.setattr(made.rules._past, "goes_on", lambda: pieces.pop() if pieces else False)
        for meter in (1, 2):  # of two transformers
            await made.evaluate([made.write([(meter, 480, 900, 1, False)])])
        owed = "SELECT count(*) FROM transformer_loads_owed"
        for left in (1, 0):
            assert not made.rules.due
            pieces[:] = [False, True, True]  # of loads and of heat
            await made.rules.evaluate(START_US)
            assert made.rules.due
            await made.rules.record(made.desk, [], [])  # type: ignore[arg-type]
            assert (made.sql(owed), made.rules.past_owed) == ([(left,)], left)
        assert made.table() == made.sums()


async def test_loads_put_off_survive_a_change_of_the_registry(dsn: str, put_off: None) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 500, False), (2, 0, 900, 7, False)])])
        waiting = made.write([(1, 1, 900, 999, False), (1, 0, 900, 1, False)])
        made.sql("UPDATE meter_transformers SET transformer_id = 2 WHERE slot = 2")
        await made.start(own=False)
        assert made.rules is not None
        assert made.desk is not None
        await made.evaluate([waiting])
        await made.evaluate([made.write([(2, 3, 900, 8, False)])])
        await made.rules.settle(made.desk)
        assert made.table() == made.sums()


async def test_a_meter_that_moves_is_counted_where_it_is_now(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(meter, back, 900, 100 * meter, False) for back in range(3)])
                             for meter in range(1, METERS + 1)])  # fmt: skip
        waiting = made.write([(1, 1, 900, 999, False), (6, 300, 900, 5, False)])  # written, and not evaluated yet
        made.sql("UPDATE meter_transformers SET transformer_id = 2 WHERE slot = 2")
        made.sql("INSERT INTO meter_transformers VALUES (6, 1, '2020-01-01', 'infinity')")
        await made.start(own=False)
        await made.evaluate([waiting])
        assert made.table() == made.sums()
        await made.evaluate([made.write([(1, 2, 900, 1, False)])])
        assert made.table() == made.sums()
        await made.start()
        assert made.table() == made.sums()


async def test_the_curve_shows_power_share_and_coverage(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1000, False), (3, 0, 900, 500, False)])])
        [(name, kw, kva, share, coverage)] = made.sql(
            "SELECT transformer, kw, kva, share_of_rating, coverage FROM transformer_load_curve"
        )
    assert (name, float(kw)) == ("T2", 6.0)
    assert kva == pytest.approx(6 / 0.95, rel=1e-3)
    assert share == pytest.approx(kva / 9)
    assert coverage == pytest.approx(2 / 3)


async def test_a_meter_heard_before_the_start_is_known_to_have_been(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 3, 900, 1, False), (1, 5, 900, 1, False), (4, 0, 900, 1, False)])])
        await made.start()
        assert made.rules is not None
        in_place = made.rules
        await hear(lambda: in_place, History(made.pool), METERS + 1, 0)
        slot, at_us = in_place.engine.silence.last_heard()
    assert dict(zip(slot.tolist(), at_us.tolist(), strict=True)) == {1: START_US - 3 * W * US, 4: START_US}
