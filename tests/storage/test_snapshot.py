"""Several connections, one snapshot: what is read by more than one of them fits together."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import psycopg_pool
import pytest
from stored_world import T0_US, end_us, fill

import storage.topology
from storage.arrays import moment
from storage.history import _SUPPLY_OFF
from storage.loads import load_view
from storage.registry import RegistryStore
from storage.snapshot import snapshot


async def test_every_connection_sees_what_the_first_one_saw(dsn: str) -> None:
    fill(dsn, [(1, 0, 0, 10, None, 230.0)])
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=3, open=False) as pool:
        async with snapshot(pool, 3) as connections:
            with psycopg.connect(dsn) as other:
                other.execute("DELETE FROM reads")
            for connection in connections:
                row = await (await connection.execute("SELECT count(*) FROM reads")).fetchone()
                assert row == (1,)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    async with connection.transaction():
                        await connection.execute("DELETE FROM reads")
        async with pool.connection() as connection:
            assert await (await connection.execute("SELECT count(*) FROM reads")).fetchone() == (0,)


@pytest.mark.parametrize("together", [1, 2, 3, 50_000])
async def test_the_topology_is_the_same_by_pages_of_any_size(
    dsn: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(dsn, [])
    monkeypatch.setattr(storage.topology, "METERS_TOGETHER", together)
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        topology = await RegistryStore(pool).load_topology(T0_US)
    assert list(topology.meter) == ["", "M-c", "M-b", "", "M-a"]
    assert topology.slots_of(["M-a", "M-b", "M-c", "M-d"]).tolist() == [4, 2, 1, -1]
    assert topology.transformer_of.tolist() == [-1, 1, 1, -1, -1]


async def test_loads_come_once_each_in_rising_time_and_a_reader_may_stop(dsn: str) -> None:
    windows = 40
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE transformer_loads")
        connection.execute(
            "INSERT INTO transformer_loads SELECT %s::timestamptz + n * interval '15 minutes', t, n, 0, 900, 900"
            " FROM generate_series(1, %s) AS n, generate_series(0, 2) AS t ORDER BY random()",
            (moment(T0_US), windows),
        )
    async with (
        psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool,
        load_view(pool, 900) as view,
    ):
        pages = [cells async for cells in view.loads(T0_US, end_us(windows))]
        some = [cells async for cells in view.loads(T0_US, end_us(windows), [1])]
        async for _ in view.loads(T0_US, end_us(windows)):
            break
        assert await view.newest_end_us(end_us(windows)) == end_us(windows)
    window = np.concatenate([cells.window for cells in pages])
    assert (np.diff(window) >= 0).all()
    first = T0_US // 900_000_000
    cells = {(t, w) for one in pages for t, w in zip(one.transformer.tolist(), one.window.tolist(), strict=True)}
    assert cells == {(t, first + n) for t in range(3) for n in range(windows)}
    assert len(window) == len(cells)
    assert sum(len(one) for one in some) == windows
    assert {t for one in some for t in one.transformer.tolist()} == {1}


async def test_who_is_off_is_looked_up_in_the_index_of_those_reads(dsn: str) -> None:
    """PostgreSQL takes nearly every read for one without supply, and would read the whole day by meter."""
    fill(dsn, [(slot, step, 0, 1, None, 230.0) for slot in range(1000) for step in range(4)])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE reads")
        plan: list[Any] = connection.execute("EXPLAIN " + _SUPPLY_OFF, {"first": moment(T0_US)}).fetchall()
    lines = [row[0] for row in plan if "_hyper_" in row[0] and " on " in row[0]]
    assert any("reads_supply_off" in line for line in lines)
    assert not any("reads_end_slot" in line or "Seq Scan" in line for line in lines)
