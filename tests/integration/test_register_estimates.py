"""Gaps are filled with what the register counted, whatever came when; real database."""

from __future__ import annotations

from itertools import permutations

import pytest
from test_estimation import MONDAYS, STEP_US, Works, without, works
from test_judged_days import HOUR_US, US, quarter_hours, us
from test_register_days import clean, show

from meterwatch.quality import Method

__all__ = ["clean"]
MIDNIGHT = us(MONDAYS[0])
DAY = quarter_hours(1, MONDAYS[0], 96, 50)
HOLE = range(40, 60)


def filled(one: Works) -> dict[int, tuple[Method, int | None]]:
    return {(end - MIDNIGHT) // STEP_US - 1: value for (_, end), value in one.estimates().items()}


def before(at: int) -> int:
    """Energy of the whole day up to an interval's start."""
    return sum(wh for _, _, wh in DAY[:at])


@pytest.mark.parametrize("order", list(permutations(["reads", "first", "last"])))
async def test_the_estimates_of_a_span_add_up_to_its_register(clean: str, order: tuple[str, ...]) -> None:
    """The reads and the registers at both ends come in any order, the day being judged in between."""
    async with works(clean, "2026-01-04T23:01") as one:
        one.world.clock.resume(us("2026-01-06T01:00"))
        for what in order:
            if what == "reads":
                await one.world.send(without(DAY, HOLE))
            else:
                at = 0 if what == "first" else 96
                await show(one.world, [(1, MIDNIGHT + at * STEP_US, 7_000_000 + before(at))])
            await one.settle()
        found = filled(one)
        assert set(found) == set(HOLE)
        assert {method for method, _ in found.values()} == {Method.REGISTER}
        assert sum(wh or 0 for _, wh in found.values()) == sum(DAY[n][2] for n in HOLE)


async def test_the_shape_is_that_of_the_like_days(clean: str) -> None:
    async with works(clean, "2026-01-04T23:01") as one:
        for monday in MONDAYS[:4]:
            await one.world.send(quarter_hours(1, monday, 96, 100))
        day = quarter_hours(1, MONDAYS[4], 96, 200)
        start = us(MONDAYS[4])
        await one.world.send(without(day, HOLE))
        left = 10 * sum(100 + n % 7 for n in HOLE)
        total = sum(wh for n, (_, _, wh) in enumerate(day) if n not in HOLE) + left
        await show(one.world, [(1, start, 5_000), (1, start + 24 * HOUR_US, 5_000 + total)])
        one.world.clock.resume(us("2026-02-03T01:00"))
        await one.settle()
        found = {end: value for (_, end), value in one.estimates().items() if end > start}
        wh = [found[day[n][1]] for n in HOLE]
        assert {method for method, _ in wh} == {Method.REGISTER}
        assert sum(value or 0 for _, value in wh) == left
        assert all(abs((value or 0) - 10 * (100 + n % 7)) <= 1 for n, (_, value) in zip(HOLE, wh, strict=True))


async def test_reads_of_a_register_within_the_day_narrow_the_span(clean: str) -> None:
    async with works(clean, "2026-01-04T23:01") as one:
        await one.world.send(without(DAY, HOLE))
        await show(one.world, [(1, MIDNIGHT + at * STEP_US + 3 * US, before(at)) for at in (36, 50, 64)])
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        found = filled(one)
        for part in (range(40, 50), range(50, 60)):
            assert sum(found[n][1] or 0 for n in part) == sum(DAY[n][2] for n in part)


@pytest.mark.parametrize(
    "setup",
    [
        "INSERT INTO meter_registers (slot, device, digits, lsb_wh, valid_from) VALUES (1, 'A', 6, 1000, '2020-01-01')",
        "INSERT INTO meter_registers (slot, device, digits, lsb_wh, valid_from, valid_to) VALUES"
        " (1, 'A', 6, 1, '2020-01-01', '2026-01-05 08:00Z'), (1, 'B', 6, 1, '2026-01-05 08:00Z', 'infinity')",
    ],
    ids=["a display in kWh", "two devices"],
)
async def test_a_coarse_display_and_an_exchanged_device_say_nothing(clean: str, setup: str) -> None:
    async with works(clean, "2026-01-04T23:01") as one:
        one.world.sql(setup)
        await one.world.send(without(DAY, HOLE))
        await show(one.world, [(1, MIDNIGHT + at * STEP_US, before(at)) for at in (0, 96)])
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        assert one.estimates() == {}


async def test_a_register_in_the_middle_of_an_interval_says_nothing(clean: str) -> None:
    async with works(clean, "2026-01-04T23:01") as one:
        await one.world.send(without(DAY, HOLE))
        await show(one.world, [(1, MIDNIGHT + at * STEP_US + 60 * US, before(at)) for at in (36, 64)])
        one.world.clock.resume(us("2026-01-06T01:00"))
        await one.settle()
        assert one.estimates() == {}
