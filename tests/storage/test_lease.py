"""The lease: one service per database, refused by name, free again when the holder dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import psycopg
import pytest

from meterwatch.errors import ConfigError, StorageBroken
from storage import lease as lease_module
from storage.lease import KEY, Lease


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "DYING_S", 0.3)
    monkeypatch.setattr(lease_module, "CHECK_S", 0.05)


def kill_holder(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted",
            (KEY,),
        )


def held(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted"
        return connection.execute(query, (KEY,)).fetchone() == (1,)


async def until(true: Callable[[], bool]) -> None:
    """Poll: the other side is PostgreSQL, which has no event for it."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not come true in 20 s")


async def test_the_second_service_is_refused_by_the_name_of_the_first(dsn: str) -> None:
    first = await Lease.acquire(dsn)
    with pytest.raises(ConfigError, match=rf"another meterwatch serves this database \(meterwatch .*:{os.getpid()}"):
        await Lease.acquire(dsn)
    await first.release()
    await (await Lease.acquire(dsn)).release()


async def test_a_dead_holder_frees_the_lease(dsn: str) -> None:
    first = await Lease.acquire(dsn)
    kill_holder(dsn)
    second = await Lease.acquire(dsn)
    await second.release()
    await first.release()


async def test_a_holder_whose_connection_was_lost_takes_the_lease_again(dsn: str) -> None:
    first = await Lease.acquire(dsn)
    holding = asyncio.create_task(first.hold())
    kill_holder(dsn)
    await until(lambda: not held(dsn))
    await until(lambda: held(dsn))
    with pytest.raises(ConfigError, match="another meterwatch"):
        await Lease.acquire(dsn)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    await first.release()


async def test_a_holder_that_was_replaced_ends(dsn: str) -> None:
    first = await Lease.acquire(dsn)
    kill_holder(dsn)
    second = await Lease.acquire(dsn)
    async with asyncio.timeout(20):
        with pytest.raises(StorageBroken, match="took over"):
            await first.hold()
    await second.release()
    await first.release()
