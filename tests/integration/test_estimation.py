"""Estimates are a function of what was sent: in any order, any parts, over restarts; real database."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from test_judged_days import HOUR_US, US, Plant, Row, batch, plant, quarter_hours, us

from meterwatch.batch import Batch, EventBatch, Events, Rejects, Stored
from meterwatch.check_profile import CheckProfile
from meterwatch.day_marks import DayMarks
from meterwatch.estimation import Estimation
from meterwatch.judged_days import JudgedDays
from meterwatch.quality import METHOD_MASK, METHOD_SHIFT, ORIGIN_SHIFT, Method, Origin
from storage.estimates import EstimateStore
from storage.meter_days import DayStore
from storage.registry import RegistryStore

STEP_US = 900 * US
MONDAYS = [f"2026-0{month}-{day:02}T23:00" for month, day in ((1, 4), (1, 11), (1, 18), (1, 25), (2, 1))]
"""Starts of Mondays in Berlin."""


class Works:
    """A plant whose days are judged and estimated."""

    def __init__(self, world: Plant) -> None:
        self.world = world
        self.estimation: Estimation

    async def start(self) -> None:
        world = self.world
        topology = await RegistryStore(world.pool).load_topology(world.clock.now_us())
        store = DayStore(world.pool)
        world.marks = DayMarks(topology)
        world.days = JudgedDays(
            store, world.marks, lambda: topology, world.clock, CheckProfile(), world.metrics, estimates=True
        )
        await world.days.start()
        self.estimation = Estimation(
            EstimateStore(world.pool), store, world.marks, lambda: topology, world.clock, self.submit, world.metrics
        )

    async def submit(self, batch: Batch) -> Stored:
        [stored] = self.world.writer.write([batch], self.world.clock.now_us())
        return stored

    async def settle(self) -> None:
        await self.world.judge()
        while await self.estimation.once():
            pass

    async def event(self, code: int, at: int, slot: int = 1) -> None:
        events = Events(np.array([slot], np.int32), np.array([at]), np.array([code], np.int16))
        none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
        seq = next(self.world.seq)
        request = EventBatch(1, 1, seq, seq.to_bytes(16, "big"), events, none, 1)
        [(_, fresh)] = self.world.writer.write_events([request], self.world.clock.now_us())
        assert self.world.marks is not None
        self.world.marks.observe_events(fresh)
        await self.world.marks.save(DayStore(self.world.pool).owe)

    def estimates(self, table: str = "reads") -> dict[tuple[int, int], tuple[Method, int | None]]:
        found = self.world.sql(
            f"SELECT slot, (extract(epoch FROM end_at) * 1000000)::bigint, quality & %s, import_wh FROM {table}"
            " WHERE quality & %s <> 0",
            METHOD_MASK, METHOD_MASK,
        )  # fmt: skip
        return {(slot, end): (Method(method >> METHOD_SHIFT), wh) for slot, end, method, wh in found}


@asynccontextmanager
async def works(dsn: str, now: str) -> AsyncIterator[Works]:
    async with plant(dsn, now) as world:
        world.sql("TRUNCATE estimates_owed")
        one = Works(world)
        await one.start()
        yield one


def without(rows: list[Row], gone: Iterable[int]) -> list[Row]:
    hidden = set(gone)
    return [row for n, row in enumerate(rows) if n not in hidden]


async def test_a_short_gap_is_a_line_and_a_long_one_like_its_days(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        for monday in MONDAYS[:4]:
            await one.world.send(quarter_hours(1, monday, 96, 50))
        day = quarter_hours(1, MONDAYS[4], 96)
        await one.world.send(without(day, [*range(10, 18), *range(40, 49)]))
        one.world.clock.resume(us("2026-02-03T01:00"))
        await one.settle()
        found = {key: value for key, value in one.estimates().items() if key[1] > us(MONDAYS[4])}
        assert {end for _, end in found} == {day[n][1] for n in (*range(10, 18), *range(40, 49))}
        assert {found[1, day[n][1]][0] for n in range(10, 18)} == {Method.LINEAR}
        assert [found[1, day[n][1]] for n in range(40, 49)] == [(Method.LIKE_DAYS, 50 + n % 7) for n in range(40, 49)]
        sums = "SELECT import_wh, present, expected, complete FROM meter_days WHERE slot = 1 ORDER BY day DESC LIMIT 1"
        before = one.world.sql(sums)
        assert before[0][1:] == (79, 96, False)
        assert one.world.sql("SELECT count(*) FROM missing_intervals WHERE day = '2026-02-02' AND slot = 1") == [(17,)]
        await one.settle()
        assert one.world.sql(sums) == before, "a day is judged by what was sent"


async def test_a_later_read_replaces_the_estimate_which_stays_beside_it(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        day = quarter_hours(1, MONDAYS[0], 96)
        await one.world.send(without(day, [20, 21]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        assert {end for _, end in one.estimates()} == {day[20][1], day[21][1]}
        await one.world.send([day[20]])
        await one.settle()
        assert list(one.estimates()) == [(1, day[21][1])]
        assert (1, day[20][1]) in one.estimates("read_versions")
        assert one.world.sql("SELECT import_wh, version, quality & %s FROM reads WHERE end_at = to_timestamp(%s)"
                             " AND slot = 1", METHOD_MASK, day[20][1] // US) == [(day[20][2], 2, 0)]  # fmt: skip
        await one.world.send([day[21]])
        await one.settle()
        assert one.estimates() == {}


async def test_an_estimate_of_the_sender_goes_before_ours_whichever_came_first(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        day = quarter_hours(1, MONDAYS[0], 96)
        await one.world.send(without(day, [20]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        theirs = batch(next(one.world.seq), [(1, day[20][1], 77)], 0.0)
        theirs.reads.quality[:] = int(Origin.ESTIMATED) << ORIGIN_SHIFT
        [stored] = one.world.writer.write([theirs], one.world.clock.now_us())
        await one.world.evaluate(stored)
        await one.settle()
        assert one.estimates() == {}
        assert stored.versions == 1


async def test_an_outage_is_no_energy_until_supply_shows(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        day = quarter_hours(1, MONDAYS[0], 96)
        await one.world.send(without(day, range(40, 60)))
        await one.event(1, day[40][1] - 1)
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        zero = {(1, day[n][1]): (Method.OUTAGE, 0) for n in range(41, 60)}
        assert one.estimates() == zero
        await one.event(2, day[50][1] - 1)  # told late: it was back in the middle
        await one.settle()
        expected = {key: (Method.OUTAGE, 0) if key[1] < day[50][1] else (Method.WITHDRAWN, None) for key in zero}
        assert one.estimates() == expected
        for n in range(50, 60):
            await one.world.send([day[n]])
        await one.settle()
        assert one.estimates() == {key: value for key, value in expected.items() if key[1] < day[50][1]}


async def test_what_comes_back_to_an_earlier_value_is_that_value_again(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        day = quarter_hours(1, MONDAYS[0], 96, 100)
        await one.world.send(without(day, [20]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        values = []
        for wh in (100, 300, 100):
            await one.world.send([(1, day[19][1], wh)])
            if wh == 100 and values:  # a value that was current once is a duplicate, of a sender: by hand it is meant
                one.world.sql("UPDATE reads SET import_wh = 100 WHERE end_at = to_timestamp(%s)", day[19][1] // US)
                assert one.world.marks is not None
                one.world.marks.observe(np.array([1], np.int32), np.array([day[19][1]]))
                await one.world.marks.save(DayStore(one.world.pool).owe)
            await one.settle()
            values.append(one.estimates()[1, day[20][1]][1])
        assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("seed", range(2))
async def test_order_parts_and_restarts_make_the_same_estimates(dsn: str, seed: int) -> None:
    """Five Mondays and the days after the last, with holes and outages; at once, or in bits with the job between."""
    rnd = random.Random(seed)
    rows: list[Row] = []
    for slot in (1, 2, 4):
        for monday in MONDAYS[:4]:
            rows += [(slot, end, rnd.randrange(200)) for _, end, _ in quarter_hours(slot, monday, 96)]
        days = quarter_hours(slot, MONDAYS[4], 4 * 96)
        rows += [(slot, end, rnd.randrange(200)) for _, end, _ in days]
        for _ in range(6):
            at, length = rnd.randrange(len(rows)), rnd.choice([1, 2, 7, 8, 9, 40])
            del rows[at : at + length]
    events = [
        (rnd.choice([1, 2]), us(MONDAYS[4]) + rnd.randrange(86_400) * US, rnd.choice([1, 2, 4])) for _ in range(8)
    ]

    async def estimates(*, at_once: bool) -> dict[Any, Any]:
        async with works(dsn, "2026-01-04T23:01") as one:
            one.world.clock.resume(us("2026-02-06T01:00") if not at_once else us("2026-01-04T23:01"))
            if at_once:
                await one.world.send(rows)
                for code, at, slot in events:
                    await one.event(code, at, slot)
                one.world.clock.resume(us("2026-02-06T01:00"))
                await one.settle()
            else:
                await one.settle()
                todo: list[Any] = [rows[at : at + 150] for at in range(0, len(rows), 150)] + events
                if seed:
                    rnd.shuffle(todo)
                else:
                    todo.reverse()  # like days come last
                for part in todo:
                    await (one.world.send(part) if isinstance(part, list) else one.event(*part))
                    if rnd.random() < 0.5:
                        await one.settle()
                    if rnd.random() < 0.1:
                        await one.start()
                await one.settle()
            return {key: value for key, value in one.estimates().items() if value[0] is not Method.WITHDRAWN}

    expected = await estimates(at_once=True)
    assert {method for method, _ in expected.values()} >= {Method.LINEAR, Method.LIKE_DAYS}
    assert await estimates(at_once=False) == expected


async def test_on_demand_says_what_it_would_write_and_then_writes_it(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        day = quarter_hours(1, MONDAYS[0], 96)
        await one.world.send(without(day, [20, 30]))
        span = (day[10][1], day[25][1])

        async def asked(*, dry_run: bool) -> list[int]:
            found = one.estimation.on_demand(np.array([1, 2], np.int32), *span, dry_run=dry_run)
            return [end async for reads in found for end in reads.end_us.tolist()]

        assert await asked(dry_run=True) == [day[20][1]]
        assert one.estimates() == {}
        assert await asked(dry_run=False) == [day[20][1]]
        assert list(one.estimates()) == [(1, day[20][1])]
        assert await asked(dry_run=False) == []


async def test_a_gap_over_midnight_is_bridged_once_the_next_day_is_judged(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        days = quarter_hours(1, MONDAYS[0], 192)
        await one.world.send(without(days, range(93, 99)))
        one.world.clock.resume(us("2026-01-05T23:30"))
        await one.settle()
        one.world.clock.resume(us(MONDAYS[0]) + 50 * HOUR_US)
        await one.settle()
        assert one.estimates() == {
            (1, days[n][1]): (Method.LINEAR, round(days[92][2] + (days[99][2] - days[92][2]) * (n - 92) / 7))
            for n in range(93, 99)
        }


async def test_a_like_day_that_comes_late_is_heeded(dsn: str) -> None:
    async with works(dsn, "2026-02-01T23:01") as one:
        days = [quarter_hours(1, f"2026-02-0{n}T23:00", 96, 10 * n) for n in range(1, 5)]
        await one.world.send(without(days[3], range(40, 50)))
        one.world.clock.resume(us("2026-02-06T01:00"))
        for day in (2, 1, 0):
            await one.settle()
            assert one.estimates() == {}
            await one.world.send(days[day])
        await one.settle()
        assert one.estimates() == {(1, days[3][n][1]): (Method.LIKE_DAYS, 20 + n % 7) for n in range(40, 50)}


async def test_reads_that_are_polled_again_may_be_waited_for(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        await one.world.send(without(quarter_hours(1, MONDAYS[0], 96), [20]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.world.judge()
        later = Estimation(
            EstimateStore(one.world.pool), DayStore(one.world.pool), one.world.marks, one.world.days._topology,
            one.world.clock, one.submit, one.world.metrics, after_us=12 * HOUR_US,
        )  # fmt: skip
        for now, estimates in (("2026-01-06T11:50", 0), ("2026-01-06T12:10", 1)):
            one.world.clock.resume(us(now))
            while await later.once():
                pass
            assert len(one.estimates()) == estimates
