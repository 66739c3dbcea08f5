"""Clocks that are off, out of when a day's reads came; real database."""

from __future__ import annotations

from bad_inputs import told
from test_judged_days import HOUR_US, US, Plant, Row, batch, plant, us

from meterwatch.quality import Quality

DAY = "2026-01-09T23:00"
METERS = 24
LAGS_S = {20: 30 + 300, 21: 30 + 61, 22: 30 + 59}
"""Of some meters; the others come 30 s after the end of an interval."""
DRIFTING = int(Quality.DRIFTING)
MORE = """
INSERT INTO meters (slot, meter, installed_at) SELECT i, 'M-' || i, '2020-01-01' FROM generate_series(6, 23) AS i;
INSERT INTO meter_links SELECT i, 1, NULL, '4G', '2020-01-01', 'infinity' FROM generate_series(6, 23) AS i;
UPDATE meter_links SET head_end_id = 1; TRUNCATE meter_clocks;
"""


async def come(world: Plant, rows: list[Row], now_us: int) -> None:
    [stored] = world.writer.write([batch(next(world.seq), rows, 0.0)], now_us)
    await world.evaluate(stored)


async def live(world: Plant, quarters: range, outage: range = range(0)) -> None:
    """Quarter-hours of all meters, as they come; those of the outage of meter 0 come after it, one a second."""
    for quarter in quarters:
        end_us = us(DAY) + (quarter + 1) * 900 * US
        by_lag: dict[int, list[int]] = {}
        for slot in range(METERS):
            if slot != 0 or quarter not in outage:
                by_lag.setdefault(LAGS_S.get(slot, 30), []).append(slot)
        for lag_s, slots in sorted(by_lag.items()):
            rows = [(slot, end_us, 100 + quarter % 7) for slot in slots]
            world.clock.resume(end_us + lag_s * US)
            await come(world, rows, end_us + lag_s * US)
        if quarter == outage.stop:
            for n, late in enumerate(outage):
                row = (0, us(DAY) + (late + 1) * 900 * US, 100)
                await world.evaluate(
                    world.writer.write([batch(next(world.seq), [row], 0.0)], end_us + (60 + n) * US)[0]
                )


async def test_a_clock_that_is_off_is_found_and_catching_up_is_none(dsn: str) -> None:
    async with plant(dsn, DAY) as world:
        world.sql(MORE)
        await world.start()
        await live(world, range(96), outage=range(10, 70))
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        clocks = world.sql("SELECT slot, lag_s, usual_lag_s, drift_s FROM meter_clocks ORDER BY slot")
        assert len(clocks) == METERS
        assert {row[0]: row[1:] for row in clocks if row[3]} == {
            20: (330.0, 30.0, 300.0), 21: (91.0, 30.0, 61.0), 22: (89.0, 30.0, 59.0)
        }  # fmt: skip
        last_us = us(DAY) + 24 * HOUR_US
        assert {at: word & DRIFTING for at, word in world.words().items() if word & DRIFTING} == {
            (20, last_us): DRIFTING, (21, last_us): DRIFTING
        }  # fmt: skip
        told(62, "reads of a day come 61 s later than those of the peers", "FLAG", "DRIFTING, at the last of them")
        assert world.metrics.registry.get_sample_value("meterwatch_check_findings_total", {"check": "V10"}) == 2


async def test_the_peers_are_known_again_after_a_restart(dsn: str) -> None:
    """A day that changes after a restart is judged by the same peers: what was found stays, with its figures."""
    async with plant(dsn, DAY) as world:
        world.sql(MORE)
        await world.start()
        await live(world, range(96))
        world.clock.resume(us(DAY) + 26 * HOUR_US)
        await world.judge()
        clocks = "SELECT slot, lag_s, usual_lag_s, drift_s FROM meter_clocks ORDER BY slot"
        before, words = world.sql(clocks), world.words()
        await world.start()
        await world.send([(slot, us(DAY) + 900 * US, 77) for slot in range(METERS)])
        await world.judge()
        assert world.sql(clocks) == before
        assert {row[2] for row in before} == {30.0}
        assert {at for at, word in world.words().items() if word & DRIFTING} == {
            at for at, word in words.items() if word & DRIFTING
        }
