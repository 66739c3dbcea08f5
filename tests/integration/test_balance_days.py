"""The balance of a transformer over a local day, out of judged days, whatever came when; real database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from test_judged_days import HOUR_US, US, Plant, plant, quarter_hours, us

from meterwatch import judged_days
from meterwatch.quality import Quality
from storage.registry import RegistryStore

DAY = "2026-01-09T23:00"
"""A midnight in Berlin; meters 0 to 3 live there."""
IMBALANCE = int(Quality.IMBALANCE)
REGISTRY = """
TRUNCATE check_meters, transformer_days;
INSERT INTO transformers (transformer_id, transformer, rated_kva) VALUES (1, 'T1', 400);
INSERT INTO meter_transformers VALUES
  (0, 1, '2020-01-01', 'infinity'), (1, 1, '2020-01-01', 'infinity'), (2, 1, '2020-01-01', 'infinity');
INSERT INTO check_meters VALUES (1, 1, '2020-01-01', 'infinity');
"""


@pytest.fixture
def clean(dsn: str) -> Iterator[str]:
    def empty() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("TRUNCATE check_meters, transformer_days")

    empty()
    yield dsn
    empty()


async def fill(world: Plant, supply_wh: int) -> None:
    """Members 0 and 2 draw 100 Wh in each quarter-hour, check meter 1 measures some."""
    world.sql(REGISTRY)
    for slot, wh in ((0, 100), (1, supply_wh), (2, 100)):
        await world.send([(slot, end_us, wh) for _, end_us, _ in quarter_hours(slot, DAY, 96)])


def balance(world: Plant) -> Any:
    rows = world.sql(
        "SELECT supply_wh, sales_wh, members, round(loss_share::numeric, 3)::float8, imbalance FROM transformer_days"
        " WHERE day = '2026-01-10' AND transformer_id = 1"
    )
    return rows[0] if rows else None


def marked(world: Plant) -> list[int]:
    return [slot for (slot,) in world.sql("SELECT slot FROM meter_days WHERE findings & %s <> 0", IMBALANCE)]


def counted(world: Plant) -> float | None:
    return world.metrics.registry.get_sample_value("meterwatch_check_findings_total", {"check": "V18"})


@pytest.mark.parametrize("slots_per_step", [1, 2, 1_000])
async def test_a_transformer_is_balanced_once_all_its_meters_are_judged(
    clean: str, slots_per_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged_days, "SLOTS_PER_STEP", slots_per_step)
    async with plant(clean, DAY) as world:
        await fill(world, 250)
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        assert balance(world) == (96 * 250, 96 * 200, 2, 0.2, True)
        assert marked(world) == [1]
        assert counted(world) == 1


async def test_a_corrected_read_of_anybody_balances_the_day_again(clean: str) -> None:
    async with plant(clean, DAY) as world:
        await fill(world, 230)
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        assert balance(world) == (96 * 230, 96 * 200, 2, 0.13, False)
        assert (marked(world), counted(world)) == ([], 0)
        end_us = us(DAY) + 3600 * US
        await world.send([(2, end_us, 5000)])  # more is drawn than was delivered
        await world.judge()
        assert balance(world) == (96 * 230, 96 * 200 + 4900, 2, -0.091, True)
        assert (marked(world), counted(world)) == ([1], 1)
        await world.send([(1, us(DAY) + 1800 * US, 231)])  # the check meter's own day is stored anew
        await world.judge()
        assert (marked(world), counted(world)) == ([1], 1)
        await world.send([(2, end_us, 101)])
        await world.judge()
        assert (marked(world), counted(world)) == ([], 1)


async def test_without_coverage_or_with_a_move_within_the_day_it_says_nothing(clean: str) -> None:
    async with plant(clean, DAY) as world:
        await fill(world, 900)
        world.sql("DELETE FROM reads WHERE slot = 2 AND end_at <= %s::timestamptz", "2026-01-10T00:15Z")
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        assert balance(world)[3:] == (None, False)
    async with plant(clean, DAY) as world:
        await fill(world, 900)
        world.sql("UPDATE meter_transformers SET valid_to = '2026-01-10T12:00Z' WHERE slot = 2")
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        assert balance(world)[3:] == (None, False)
        assert marked(world) == []


async def test_who_belongs_to_it_is_asked_as_of_that_day(clean: str) -> None:
    async with plant(clean, DAY) as world:
        await fill(world, 220)
        world.sql(
            "UPDATE meter_transformers SET valid_to = '2026-01-09T23:00Z' WHERE slot = 2"
        )  # left at that midnight
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        assert balance(world) == (96 * 220, 96 * 100, 1, 0.545, True)


async def test_a_check_meter_is_no_member_of_the_load(clean: str) -> None:
    async with plant(clean, DAY) as world:
        world.sql(REGISTRY)
        topology = await RegistryStore(world.pool).load_topology(us(DAY))
        assert topology.measures.tolist()[:3] == [-1, 1, -1]
        assert topology.transformer_of.tolist()[:3] == [1, 1, 1]
        assert topology.member_of.tolist()[:3] == [1, -1, 1]
