"""Judged days are a function of the stored reads and events, whatever came when; real database."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

from meterwatch import judged_days
from meterwatch.batch import Batch, EventBatch, Events, Reads, Rejects, Stored
from meterwatch.check_profile import CheckProfile
from meterwatch.clock import ReplayClock
from meterwatch.day_marks import DayMarks
from meterwatch.errors import StorageUnavailable
from meterwatch.judged_days import JudgedDays
from meterwatch.metrics import Metrics
from meterwatch.quality import CHECK_OF, DAY_BITS, Quality
from storage import meter_days
from storage.arrays import integers, moment
from storage.meter_days import DayStep, DayStore
from storage.registry import RegistryStore
from storage.writer import Writer

US = 1_000_000
HOUR_US = 3600 * US
BERLIN = "Europe/Berlin"
SETUP = """
TRUNCATE reads, read_versions, batches, events, quarantine, meter_days, meter_days_owed, local_day_passes,
  meter_links, meter_transformers, transformer_feeders, meters, concentrators, transformers, feeders, head_ends;
INSERT INTO head_ends (head_end_id, head_end, time_zone) VALUES (1, 'H', 'Europe/Berlin'), (2, 'U', 'UTC');
INSERT INTO meters (slot, meter, installed_at) SELECT i, 'M-' || i, '2020-01-01' FROM generate_series(0, 5) AS i;
INSERT INTO meter_links SELECT i, 1 + i / 4, NULL, '4G', '2020-01-01', 'infinity' FROM generate_series(0, 5) AS i;
"""
Row = tuple[int, int, int]
"""slot, end in UTC microseconds, Wh"""


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * US


@dataclass
class Plant:
    """Writer, marks and job over one database, put together as the service does it."""

    dsn: str
    pool: AsyncConnectionPool[Any]
    writer: Writer
    clock: ReplayClock
    seq: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    marks: DayMarks | None = None
    days: JudgedDays | None = None
    metrics: Metrics = field(default_factory=Metrics)

    async def start(self) -> None:
        topology = await RegistryStore(self.pool).load_topology(self.clock.now_us())
        store = DayStore(self.pool)
        self.marks = DayMarks(topology)
        self.days = JudgedDays(store, self.marks, lambda: topology, self.clock, CheckProfile(), self.metrics)
        await self.days.start()

    async def write(self, rows: list[Row], current_a: float = 0.0) -> Stored:
        [stored] = self.writer.write([batch(next(self.seq), rows, current_a)], self.clock.now_us())
        return stored

    async def evaluate(self, stored: Stored) -> None:
        """What the pipeline does after the reads are committed."""
        assert self.marks is not None
        if stored.change is not None:
            self.marks.observe_reads(stored.change)
        await self.marks.save(DayStore(self.pool).owe)
        self.sql("UPDATE batches SET evaluated = true WHERE batch_id = %s", stored.batch_id)

    async def send(self, rows: list[Row], **how: Any) -> None:
        await self.evaluate(await self.write(rows, **how))

    async def judge(self) -> None:
        assert self.days is not None
        while await self.days.once():
            pass

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
            cursor = connection.execute(query, parameters or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def words(self) -> dict[tuple[int, int], int]:
        found = self.sql(
            "SELECT slot, (extract(epoch FROM end_at) * 1000000)::bigint, quality & %s FROM reads", int(DAY_BITS)
        )
        return {(slot, end_us): word for slot, end_us, word in found if word}

    def table(self) -> list[Any]:
        return self.sql("SELECT * FROM meter_days ORDER BY slot, day")


def batch(seq: int, rows: list[Row], current_a: float) -> Batch:
    unique = {(slot, end_us): wh for slot, end_us, wh in rows}
    key = sorted(unique)
    reads = Reads(
        np.array([slot for slot, _ in key], np.int32),
        np.array([end_us for _, end_us in key], np.int64),
        900,
        np.zeros(len(key), np.int32),
        {
            "import_wh": np.array([unique[at] for at in key], np.int32),
            "current_b_a": np.full(len(key), current_a, np.float32),
        },
    )
    none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
    return Batch(1, 1, seq, seq.to_bytes(16, "big"), reads, none, 0, len(key))


@asynccontextmanager
async def plant(dsn: str, now: str) -> AsyncIterator[Plant]:
    with psycopg.connect(dsn) as connection:
        connection.execute(SETUP)
    writer = Writer(dsn, {})
    async with AsyncConnectionPool(
        dsn, min_size=1, max_size=3, open=False, kwargs={"autocommit": True, "options": "-c TimeZone=UTC"}
    ) as pool:
        one = Plant(dsn, pool, writer, ReplayClock(us(now)))
        await one.start()
        yield one
    writer.close()


def quarter_hours(slot: int, first: str, count: int, wh: int = 100) -> list[Row]:
    """`count` reads from the moment `first` on."""
    return [(slot, us(first) + (i + 1) * 900 * US, wh + i % 7) for i in range(count)]


@pytest.mark.parametrize(
    ("start", "intervals"),
    [("2026-03-28T23:00", 92), ("2026-03-27T23:00", 96), ("2026-10-24T22:00", 100)],
    ids=["spring", "ordinary", "autumn"],
)
async def test_a_local_day_has_92_96_or_100_quarter_hours(dsn: str, start: str, intervals: int) -> None:
    async with plant(dsn, start) as world:
        rows = quarter_hours(1, start, intervals + 1)
        await world.send(rows)
        world.clock.resume(us(start) + 26 * HOUR_US)
        await world.judge()
        (day, wh, peak_kw, present, expected, complete) = world.sql(
            "SELECT day, import_wh, peak_kw, present, expected, complete FROM meter_days WHERE slot = 1"
            " ORDER BY day DESC LIMIT 1"
        )[0]
        assert (present, expected, complete) == (intervals, intervals, True)
        assert wh == sum(row[2] for row in rows[:intervals])
        assert peak_kw == pytest.approx(106 * 4 / 1000)
        assert world.sql("SELECT count(*) FROM missing_intervals WHERE slot = 1 AND day = %s", day) == [(0,)]


async def test_the_gap_list_names_what_is_missing_and_a_late_read_fills_it(dsn: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        await world.send(rows[:40] + rows[42:95])
        world.clock.resume(us("2026-01-12T00:00"))
        await world.judge()
        missing = [at for (at,) in world.sql("SELECT end_at FROM missing_intervals WHERE slot = 1 ORDER BY 1")]
        assert [round(at.timestamp()) * US for at in missing] == [rows[i][1] for i in (40, 41, 95)]
        assert world.words() == {(1, rows[42][1]): Quality.AFTER_GAP}
        await world.send([rows[41], rows[95]])
        await world.judge()
        assert world.words() == {(1, rows[41][1]): Quality.AFTER_GAP}
        await world.send([rows[40]])
        await world.judge()
        assert world.words() == {}
        assert world.sql("SELECT present, expected, complete, findings FROM meter_days WHERE slot = 1") == [
            (96, 96, True, 0)
        ]


async def test_a_meter_that_sends_nothing_has_a_day_of_nothing(dsn: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        world.clock.resume(us("2026-01-12T00:00"))
        await world.judge()
        assert world.sql("SELECT slot, present, expected FROM meter_days WHERE day = '2026-01-11' ORDER BY 1") == [
            (slot, 0, 96) for slot in range(4)
        ]


async def test_a_changed_finding_is_no_new_version(dsn: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        rows[50] = (1, rows[50][1], 2000)
        await world.send(rows)
        world.clock.resume(us("2026-01-12T00:00"))
        await world.judge()
        assert world.words() == {(1, rows[50][1]): Quality.SPIKE}
        await world.send(rows)
        assert world.sql("SELECT max(version), (SELECT count(*) FROM read_versions) FROM reads") == [(1, 0)]
        await world.send([(1, rows[50][1], 100)])
        await world.judge()
        assert world.words() == {}


async def test_zero_in_an_outage_is_not_stuck_and_an_event_may_come_later(dsn: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        rows[20:60] = [(1, end_us, 0) for _, end_us, _ in rows[20:60]]
        await world.send(rows)
        world.clock.resume(us("2026-01-12T00:00"))
        await world.judge()
        stuck = {(1, rows[i][1]): Quality.STUCK for i in range(35, 60)}
        assert world.words() == stuck
        at_us = np.array([rows[20][1] - 1, rows[59][1]])
        events = Events(np.array([1, 1], np.int32), at_us, np.array([1, 2], np.int16))
        none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
        request = EventBatch(1, 1, 1, b"e" * 16, events, none, 2)
        [(_, fresh)] = world.writer.write_events([request], world.clock.now_us())
        assert world.marks is not None
        world.marks.observe_events(fresh)
        await world.marks.save(DayStore(world.pool).owe)
        await world.judge()
        assert world.words() == {}


async def test_use_is_compared_with_four_weeks_and_again_when_one_of_them_changes(dsn: str) -> None:
    async with plant(dsn, "2026-01-04T23:01") as world:
        mondays = ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25", "2026-02-01"]
        for n, monday in enumerate(mondays):
            await world.send(quarter_hours(1, f"{monday}T23:00", 96, 50 if n < 4 else 400))
        world.clock.resume(us("2026-02-03T00:00"))
        await world.judge()
        last = us("2026-02-02T23:00")
        assert world.words() == {(1, last): Quality.UNUSUAL_USE}
        for monday in mondays[:3]:
            await world.send(quarter_hours(1, f"{monday}T23:00", 96, 300))
        await world.judge()
        assert world.words() == {}
        assert world.sql("SELECT count(*) FROM meter_days_owed") == [(0,)]


async def test_what_a_crash_leaves_unevaluated_is_judged_after_the_start(dsn: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        await world.send(rows[:40] + rows[41:])
        world.clock.resume(us("2026-01-12T00:00"))
        await world.judge()
        assert world.words()
        await world.write([rows[40]])  # and killed before it was evaluated
        await world.start()
        await world.judge()
        assert world.words() == {}


async def test_a_pass_goes_on_where_a_stop_left_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged_days, "SLOTS_PER_STEP", 2)
    async with plant(dsn, "2026-01-10T23:01") as world:
        for slot in range(6):
            await world.send(quarter_hours(slot, "2026-01-10T23:00", 80))
        world.clock.resume(us("2026-01-12T00:00"))
        assert world.days is not None
        await world.days.once()
        assert world.sql("SELECT slot FROM meter_days WHERE day = '2026-01-11' ORDER BY 1") == [(0,), (1,)]
        await world.send(quarter_hours(1, "2026-01-11T19:00", 16))
        await world.start()
        await world.judge()
        assert world.sql("SELECT slot, present FROM meter_days WHERE day = '2026-01-11' ORDER BY 1") == [
            (0, 80), (1, 96), (2, 80), (3, 80),
        ]  # fmt: skip
        assert world.days.behind_s > 0 or world.sql("SELECT min(day) FROM local_day_passes")[0][0] > date(2026, 1, 10)
        assert world.metrics.registry.get_sample_value("meterwatch_meter_days_judged_total", {"occasion": "again"}) == 1


async def test_every_check_of_a_day_moves_its_counter_once(dsn: str) -> None:
    """Five Mondays: on the last one a gap, a spike, zero under load, 4 h of zero, and unusual energy."""
    async with plant(dsn, "2026-01-04T23:01") as world:
        for monday in ("2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"):
            await world.send(quarter_hours(1, f"{monday}T23:00", 96, 10))
        last = quarter_hours(1, "2026-02-01T23:00", 96)
        last[30] = (1, last[30][1], 2000)
        last[60:76] = [(1, end_us, 0) for _, end_us, _ in last[60:76]]
        await world.send(last[:10] + last[11:20] + last[24:])
        await world.send([(1, end_us, 0) for _, end_us, _ in last[20:24]], current_a=5.0)
        world.clock.resume(us("2026-02-03T00:00"))
        await world.judge()
        words = world.words().items()
        ends = {bit: [at for (_, at), word in words if word & bit] for bit in CHECK_OF if bit & DAY_BITS}
        found = {bit: at for bit, at in ends.items() if at}
        assert found == {
            Quality.AFTER_GAP: [last[11][1]],
            Quality.SPIKE: [last[30][1]],
            Quality.UNUSUAL_USE: [last[95][1]],
            Quality.STUCK: [last[75][1]],
            Quality.ZERO_UNDER_LOAD: [last[23][1]],
        }

        def counted() -> dict[str, float | None]:
            return {
                CHECK_OF[bit]: world.metrics.registry.get_sample_value(
                    "meterwatch_check_findings_total", {"check": CHECK_OF[bit]}
                )
                for bit in found
            }

        assert counted() == dict.fromkeys(("V12", "V13", "V15", "V16", "V17"), 1)
        await world.send([(1, last[40][1], 101)])
        await world.judge()
        assert counted() == dict.fromkeys(("V12", "V13", "V15", "V16", "V17"), 1), "a finding that stays is no new one"


async def test_a_step_gives_way_to_a_writer_and_comes_again(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.meter_days.LOCK_TIMEOUT", "50ms")
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        await world.send(rows[1:])
        world.clock.resume(us("2026-01-12T00:00"))
        with psycopg.connect(dsn) as connection:
            connection.execute("SELECT FROM reads FOR UPDATE")
            with pytest.raises(StorageUnavailable):
                await world.judge()
        assert world.table() == []
        await world.judge()
        assert world.words() == {(1, rows[1][1]): Quality.AFTER_GAP}


async def test_a_read_replaced_while_it_was_judged_keeps_no_old_finding(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        rows = quarter_hours(1, "2026-01-10T23:00", 96)
        rows[50] = (1, rows[50][1], 2000)
        await world.send(rows)
        world.clock.resume(us("2026-01-12T00:00"))
        mark_reads = DayStep.mark_reads

        async def corrected_first(step: DayStep, *arguments: Any) -> None:
            monkeypatch.setattr(DayStep, "mark_reads", mark_reads)
            await world.send([(1, rows[50][1], 100)])
            await step.mark_reads(*arguments)

        monkeypatch.setattr(DayStep, "mark_reads", corrected_first)
        assert world.days is not None
        assert await world.days._pass_step(BERLIN)  # without what it owes again
        assert world.words() == {}
        await world.judge()
        assert world.words() == {}
        assert world.sql("SELECT import_wh FROM meter_days WHERE slot = 1 AND day = '2026-01-11'") == [
            (sum(row[2] for row in rows) - 1900,)
        ]


@pytest.mark.parametrize("statement", [meter_days._OF_SLOTS, meter_days._OF_SPAN])
async def test_meter_days_are_looked_up_by_index_before_any_statistics(dsn: str, statement: str) -> None:
    async with plant(dsn, "2026-01-10T23:01") as world:
        world.sql(
            "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version)"
            " SELECT timestamptz '2026-01-10 23:00Z' + make_interval(mins => 15 * k), now(), i, 900, 0, 1"
            " FROM generate_series(1, 96) AS k, generate_series(0, 199) AS i"
        )
        start_us = us("2026-01-10T23:00")
        slots = np.arange(100, dtype=np.int32)
        until_us = start_us + 24 * HOUR_US + 1
        asked = {
            "slots": integers(slots),
            "low": 0,
            "high": 99,
            "after": moment(start_us + 1),
            "until": moment(until_us),
        }
        async with DayStore(world.pool).step() as step:
            cursor = await step._connection.execute(f"EXPLAIN {statement}", asked)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
        assert "Index Scan" in plan
        assert "Seq Scan" not in plan


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("send"), st.lists(st.integers(0, 287), min_size=1, max_size=60), st.sampled_from([0, 50, 3000])
        ),
        st.tuples(st.just("judge")),
        st.tuples(st.just("start")),
        st.tuples(st.just("later"), st.integers(1, 30)),
    ),
    max_size=8,
)


@settings(
    max_examples=12, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip
@given(steps)
async def test_the_same_reads_give_the_same_days_however_they_came(dsn: str, way: list[tuple[Any, ...]]) -> None:
    """Three days of one meter, sent in any order and with other values first, are in the end judged as if at once."""
    final = {n: (0 if n % 5 < 3 else 70 + n % 4) for n in range(288) if n % 97}
    first_us = us("2026-01-10T23:00")
    async with plant(dsn, "2026-01-10T23:01") as world:
        for what, *how in way:
            if what == "send":
                await world.send([(1, first_us + (n + 1) * 900 * US, how[1]) for n in how[0] if n in final])
            elif what == "judge":
                await world.judge()
            elif what == "start":
                await world.start()
            else:
                world.clock.resume(world.clock.now_us() + how[0] * HOUR_US)
        await world.send([(1, first_us + (n + 1) * 900 * US, wh) for n, wh in final.items()])
        world.clock.resume(us("2026-01-15T00:00"))
        await world.judge()
        words, table = world.words(), world.table()
        assert words
        world.sql("TRUNCATE meter_days, meter_days_owed")
        world.sql("UPDATE reads SET quality = quality & %s", ~int(DAY_BITS))
        world.sql("UPDATE local_day_passes SET day = '2026-01-10', next_slot = 0")
        await world.start()
        await world.judge()
        assert world.words() == words
        assert [row for row in world.table() if row in table] == table
