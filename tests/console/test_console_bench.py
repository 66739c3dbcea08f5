"""The console's bench runs, at a size of nothing."""

from __future__ import annotations

from meterwatch.devtools.console_bench import measure


async def test_the_bench_measures_every_step() -> None:
    took = await measure(alarms=200, changes=5, rounds=2)
    assert set(took) >= {"snapshot_ms", "refresh_ms", "refresh_ms_max", "key_ms", "filter_ms", "pause_ms"}
    assert all(value > 0 for value in took.values())
