"""Storms in the table: written again as they grow, found again while they last."""

from __future__ import annotations

from dataclasses import replace

from meterwatch.storms import Census, Storm, StormReason
from storage.pool import new_pool
from storage.storms import StormStore

NOW_US = 1_767_225_600_000_000


async def test_a_storm_is_one_row_and_is_found_while_it_lasts(dsn: str) -> None:
    north = Storm(StormReason.OFF, "North", NOW_US, Census(1000, 60, 2), 60, 2)
    flood = Storm(StormReason.FLOOD, "", NOW_US, Census(9000, 60, 2), 60, 2)
    async with new_pool(dsn) as pool:
        async with pool.connection() as connection:
            await connection.execute("TRUNCATE storms")
        store = StormStore(pool)
        await store.keep([])
        await store.keep([north, flood])
        await store.keep([replace(north, off_max=90, roots_max=3)])
        found = sorted(await store.lasting(), key=lambda storm: storm.reason)
        assert [(one.key, one.since_us, one.off_max, one.roots_max, one.now.meters) for one in found] == [
            (flood.key, NOW_US, 60, 2, 9000), (north.key, NOW_US, 90, 3, 1000),
        ]  # fmt: skip
        await store.keep([replace(north, until_us=NOW_US + 1)])
        assert [one.key for one in await store.lasting()] == [flood.key]
        async with pool.connection() as connection:
            rows = await (await connection.execute("SELECT count(*), count(ended_at) FROM storms")).fetchall()
    assert rows == [(2, 1)]
