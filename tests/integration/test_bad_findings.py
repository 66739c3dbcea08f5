"""What is odd and yet possible: stored, with a bit in its quality word. Rows 37, 48 and 51 of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from bad_inputs import told
from served import METERS, STEP_S, Served, goes_on, reads, serving
from test_judged_days import HOUR_US, Plant, plant, quarter_hours, us
from test_register_days import show

from meterwatch.quality import Quality

DAY = "2026-01-09T23:00"
"""A midnight in Berlin."""
START_US = us(DAY)
STEP_US = STEP_S * 1_000_000


@pytest.fixture
def bare(dsn: str) -> str:
    """The database without registers, of which `plant` knows nothing."""
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE register_reads, register_versions, register_days, meter_registers")
    return dsn


async def judged(world: Plant) -> dict[int, str]:
    """Findings of the day that has ended, by the number of the quarter-hour."""
    world.clock.resume(START_US + 26 * HOUR_US)
    await world.judge()
    return {(end_us - START_US) // STEP_US: Quality(word).name or "" for (_, end_us), word in world.words().items()}


async def test_a_register_that_goes_back_marks_the_read_in_which_it_does(bare: str) -> None:
    async with plant(bare, DAY) as world:
        await world.send(quarter_hours(2, DAY, 96))
        await show(world, [(2, START_US - 24 * HOUR_US, 5000), (2, START_US + HOUR_US, 4000)])
        found = await judged(world)
    assert found == {4: "REGISTER_BACK"}
    told(48, "a register shows 4000 Wh, a day after 5000", "FLAG", found[4])


async def test_a_register_that_rolls_over_by_its_digits_is_none(bare: str) -> None:
    async with plant(bare, DAY) as world:
        world.sql(
            "INSERT INTO meter_registers (slot, device, digits, lsb_wh, valid_from, valid_to) VALUES"
            " (1, '', 4, 10, '2020-01-01', 'infinity')"
        )
        await world.send(quarter_hours(1, DAY, 96))
        await show(world, [(1, START_US, 99_990), (1, START_US + HOUR_US, 400)])
        assert await judged(world) == {}
    told(48, "a register of four digits rolls over", "TAKEN", "as any other")


async def test_a_jump_marks_the_read_that_jumps(bare: str) -> None:
    async with plant(bare, DAY) as world:
        rows = quarter_hours(1, DAY, 96)
        rows[50] = (1, rows[50][1], 2000)
        await world.send(rows)
        found = await judged(world)
    assert found == {51: "SPIKE"}
    told(48, "a quarter-hour of 2000 Wh among some of 100", "FLAG", found[51])


@pytest.mark.parametrize(("wh", "words", "marked"), [(100, "96 quarter-hours of 100 Wh", 1), (0, "96 of 0 Wh", 81)])
async def test_a_value_that_does_not_change_marks_the_reads_from_which_on_it_is_stuck(
    bare: str, wh: int, words: str, marked: int
) -> None:
    async with plant(bare, DAY) as world:
        await world.send([(1, end_us, wh) for _, end_us, _ in quarter_hours(1, DAY, 96)])
        found = await judged(world)
    assert found == dict.fromkeys(range(97 - marked, 97), "STUCK")
    told(51, words, "FLAG", f"STUCK, from the {97 - marked}th on")


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


@pytest.mark.parametrize(
    ("wh", "words"),
    [(1, "energy in kWh, where Wh are to be"), (100, "a tenth of the energy that voltage and current say")],
)
def test_energy_of_another_unit_is_found_by_voltage_and_current(served: Served, wh: int, words: str) -> None:
    """4 kW by U, I and PF: 1000 Wh in a quarter of an hour."""
    load = {"voltage_a_v": [250.0], "current_a_a": [16.0], "power_factor": [1.0]}
    batch = reads(1, 1, import_wh=[wh], **load)
    with served.stream() as raw:
        assert raw.ask(batch).ack.accepted == 1
        goes_on(raw, 2)
    of_it = "SELECT quality FROM meter_reads WHERE end_at = to_timestamp(%s / 1e6) AND meter = %s"
    [(quality,)] = served.sql(of_it, batch.stamp_us[0], METERS[0])
    found = Quality(quality) & (Quality.UNIT_MISMATCH | Quality.POWER_MISMATCH)
    assert bool(found & Quality.UNIT_MISMATCH) == (wh == 1)
    told(37, words, "FLAG", " and ".join(bit.name or "" for bit in found))
