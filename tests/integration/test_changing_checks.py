"""Thresholds that change at a date, over judged days; real database."""

from __future__ import annotations

from datetime import UTC, datetime

from test_judged_days import HOUR_US, plant, quarter_hours, us

from meterwatch.check_profile import chosen
from meterwatch.judged_days import JudgedDays
from meterwatch.quality import Quality
from storage.meter_days import DayStore
from storage.registry import RegistryStore

DAY, NEXT = "2026-01-09T23:00", "2026-01-10T23:00"
"""Two midnights in Berlin; at the second one the thresholds change."""


async def test_a_local_day_is_judged_by_the_thresholds_of_its_date_whenever_that_is(dsn: str) -> None:
    async with plant(dsn, DAY) as world:
        topology = await RegistryStore(world.pool).load_topology(us(DAY))
        profile = chosen("default", {datetime(2026, 1, 10, 23, tzinfo=UTC): "lenient"})
        assert world.marks is not None
        world.days = JudgedDays(
            DayStore(world.pool), world.marks, lambda: topology, world.clock, profile, world.metrics
        )
        await world.days.start()
        rows = quarter_hours(1, DAY, 192, 500)
        spikes = [rows[40][1], rows[96 + 40][1]]  # 4 times the others: above 2.8 and below 5 times
        await world.send([(1, end_us, 2000 if end_us in spikes else 500) for _, end_us, _ in rows])
        world.clock.resume(us(NEXT) + 40 * HOUR_US)
        await world.judge()
        marked = [at for (_, at), word in world.words().items() if word & Quality.SPIKE]
        assert marked == spikes[:1]
        await world.send([(1, rows[50][1], 501), (1, rows[96 + 50][1], 501)])  # both are judged again, today
        await world.judge()
        assert [at for (_, at), word in world.words().items() if word & Quality.SPIKE] == spikes[:1]
