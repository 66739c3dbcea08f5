"""What estimates add to the load of transformers is the sum of the current ones, whatever came when; real database."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from test_estimation import MONDAYS, STEP_US, Works, batch, without, works
from test_judged_days import quarter_hours, us

from meterwatch import estimated_loads
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin

W = 900
GRID = """
TRUNCATE meter_transformers, transformer_feeders, transformers, transformer_load_estimates, transformer_loads,
  check_meters;
INSERT INTO transformers (transformer_id, transformer, rated_kva) VALUES (1, 'T1', 100), (2, 'T2', 100);
UPDATE meters SET contract_kw = 7.5 WHERE slot % 2 = 0;
INSERT INTO meter_transformers SELECT i, 1 + i % 2, '2020-01-01', 'infinity' FROM generate_series(1, 5) AS i;
"""
Cells = dict[tuple[int, int], tuple[int, int]]


def told(one: Works) -> Cells:
    found = one.world.sql(
        "SELECT transformer_id, extract(epoch FROM window_end)::bigint / 900 - 1, wh, estimated_weight_s"
        " FROM transformer_load_estimates"
    )
    return {(t, w): (wh, weight) for t, w, wh, weight in found}


def sums(one: Works) -> Cells:
    """The oracle: every estimated or substituted read with a value, one by one, where it hung when it ended."""
    stays = one.world.sql(
        "SELECT slot, transformer_id, extract(epoch FROM valid_from)::bigint,"
        " CASE WHEN valid_to = 'infinity' THEN 9e15 ELSE extract(epoch FROM valid_to) END::bigint"
        " FROM meter_transformers"
    )
    total: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for slot, end_s, length, quality, wh in one.world.sql(
        "SELECT slot, extract(epoch FROM end_at)::bigint, interval_s, quality, import_wh FROM reads"
    ):
        of = [t for s, t, since, until in stays if s == slot and since < end_s <= until]
        origin = (quality & ORIGIN_MASK) >> ORIGIN_SHIFT
        if origin not in (Origin.ESTIMATED, Origin.SUBSTITUTED) or wh is None or not of:
            continue
        start_s = end_s - length
        for window in range(start_s // W, (end_s - 1) // W + 1):
            since, until = max(window * W - start_s, 0), min((window + 1) * W - start_s, length)
            cell = total[of[0], window]
            cell[0] += wh * until // length - wh * since // length
            cell[1] += (7500 if slot % 2 == 0 else 1000) * (until - since)
    return {key: (wh, weight) for key, (wh, weight) in total.items()}


async def theirs(one: Works, rows: list[tuple[int, int, int]], origin: Origin) -> None:
    """Estimates that a sender sends."""
    sent = batch(next(one.world.seq), rows, 0.0)
    sent.reads.quality[:] = int(origin) << ORIGIN_SHIFT
    [stored] = one.world.writer.write([sent], one.world.clock.now_us())
    await one.world.evaluate(stored)


async def test_a_gap_shows_as_estimated_share_until_its_reads_come(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        one.world.sql(GRID)
        await one.start()
        day = quarter_hours(2, MONDAYS[0], 96)
        await one.world.send(without(day, [20, 21]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        curve = (
            "SELECT extract(epoch FROM window_end)::bigint * 1000000, estimated_kw::float8, estimated_share, coverage,"
            " kw::float8 FROM transformer_load_curve WHERE transformer = 'T1' ORDER BY 1"
        )
        wh = [one.estimates()[2, day[n][1]][1] or 0 for n in (20, 21)]
        share = pytest.approx(7500 / (7500 + 7500))  # meters 2 and 4
        assert one.world.sql(curve) == [
            (day[n][1], pytest.approx(value / 250), share, 0.0, 0.0) for n, value in zip((20, 21), wh, strict=True)
        ]
        await one.world.send([day[20]])
        await one.settle()
        assert [row[0] for row in one.world.sql(curve)] == [day[21][1]]
        await one.world.send([day[21]])
        await one.settle()
        assert one.world.sql(curve) == []


async def test_a_crash_between_the_estimates_and_the_sums_is_made_good(dsn: str) -> None:
    async with works(dsn, "2026-01-04T23:01") as one:
        one.world.sql(GRID)
        await one.start()
        await one.world.send(without(quarter_hours(1, MONDAYS[0], 96), [20]))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.world.judge()

        async def lost(*_: Any) -> None:
            if one.estimates():
                raise RuntimeError("killed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one.estimation, "_count", lost)
            with pytest.raises(RuntimeError, match="killed"):
                await one.settle()
        assert told(one) == {}
        await one.start()
        await one.settle()
        assert told(one) == sums(one) != {}


@pytest.mark.parametrize("seed", range(2))
async def test_order_and_parts_make_the_same_sums_and_they_are_those_of_the_reads(dsn: str, seed: int) -> None:
    rnd = random.Random(seed)
    rows = []
    for slot in (1, 2, 3, 4):
        mine = [(slot, end, rnd.randrange(200)) for _, end, _ in quarter_hours(slot, MONDAYS[0], 3 * 96)]
        for _ in range(3):
            at = rnd.randrange(250)
            del mine[at : at + rnd.choice([1, 5, 8])]
        rows += mine
    guesses = [(rnd.choice([1, 2, 5]), us(MONDAYS[0]) + rnd.randrange(1, 290) * STEP_US, 7) for _ in range(12)]
    async with works(dsn, "2026-01-04T23:01") as one:
        one.world.sql(GRID)
        await one.start()
        one.world.clock.resume(us("2026-01-09T01:00"))
        rnd.shuffle(rows)
        todo: list[Any] = [rows[at : at + 200] for at in range(0, len(rows), 200)]
        for number, part in enumerate(todo):
            await one.world.send(part)
            if number % 2:
                await theirs(one, guesses[number : number + 2], rnd.choice([Origin.ESTIMATED, Origin.SUBSTITUTED]))
            if rnd.random() < 0.6:
                await one.settle()
                assert told(one) == sums(one)
        await one.settle()
        assert told(one) == sums(one)
        assert len(told(one)) > 3


async def test_transformers_without_estimates_cost_one_look_and_no_write(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError("written")

    async with works(dsn, "2026-01-04T23:01") as one:
        one.world.sql(GRID)
        await one.start()
        monkeypatch.setattr(estimated_loads, "store_estimates", never)
        await one.world.send(quarter_hours(1, MONDAYS[0], 96))
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        assert told(one) == {}
