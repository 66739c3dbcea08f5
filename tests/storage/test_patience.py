"""A database that neither answers nor goes away is given up in time, by threads and by the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from breakable import BreakableProxy, Weather, endpoint_of, through
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from meterwatch.errors import ConfigError, StorageUnavailable
from storage import lease as lease_module
from storage.faults import storage_faults
from storage.lease import Lease
from storage.patience import TCP, PatientAsyncConnection, PatientConnection, patient
from storage.pool import new_pool

HOLE = Weather(hole_up=True, hole_down=True)


async def until(true: Callable[[], bool]) -> None:
    """Poll: the other side is a thread and PostgreSQL."""
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come true")


@pytest.fixture
def proxy(dsn: str) -> Iterator[BreakableProxy]:
    with BreakableProxy(endpoint_of(dsn)) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (PatientConnection, PatientAsyncConnection):
        monkeypatch.setattr(kind, "answer_s", 0.3)


def test_a_thread_gets_an_error_instead_of_an_answer(dsn: str, proxy: BreakableProxy) -> None:
    connection = PatientConnection.connect(through(dsn, proxy), autocommit=True)
    assert connection.execute("SELECT 1").fetchone() == (1,)
    proxy.change(HOLE)
    with pytest.raises(StorageUnavailable), storage_faults():
        connection.execute("SELECT 1")
    assert connection.closed


def test_a_copy_into_nowhere_ends(dsn: str, proxy: BreakableProxy) -> None:
    connection = PatientConnection.connect(through(dsn, proxy), autocommit=True)
    connection.execute("CREATE TEMP TABLE sink (line text)")
    proxy.change(Weather(stalled=True))

    def fill() -> None:
        with connection.cursor().copy("COPY sink FROM STDIN") as copy:
            while True:  # until the sockets on the way are full
                copy.write(b"x" * 60_000 + b"\n")

    with pytest.raises(psycopg.OperationalError):
        fill()
    assert connection.closed


def test_a_long_statement_is_waited_for(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientConnection, "answer_s", 20.0)
    with PatientConnection.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT 1 FROM pg_sleep(0.4)").fetchone() == (1,)


async def test_the_pool_gives_a_silent_connection_up_and_goes_on_with_another(dsn: str, proxy: BreakableProxy) -> None:
    pool = new_pool(through(dsn, proxy))
    async with pool:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
        proxy.change(HOLE)
        with pytest.raises(StorageUnavailable), storage_faults():
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")
        proxy.change(Weather())
        async with asyncio.timeout(20):
            while True:  # a connection made meanwhile may be one into the hole
                try:
                    with storage_faults():
                        async with pool.connection() as connection:
                            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
                            break
                except StorageUnavailable:
                    continue


async def test_a_lease_cut_off_is_taken_from_its_own_session_that_the_server_still_keeps(
    dsn: str, proxy: BreakableProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "CHECK_S", 0.05)
    monkeypatch.setattr(lease_module, "ANSWER_S", 0.3)
    lease = await Lease.acquire(through(dsn, proxy))
    holding = asyncio.create_task(lease.hold())
    proxy.change(HOLE)
    async with asyncio.timeout(20):
        await until(lambda: not lease.held)
        proxy.change(Weather())
        await until(lambda: lease.held)
    assert not holding.done()
    monkeypatch.setattr(lease_module, "DYING_S", 0.0)
    with pytest.raises(ConfigError, match="another meterwatch"):
        await Lease.acquire(dsn)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    await lease.release()


def test_what_a_url_says_of_tcp_stands() -> None:
    parts = conninfo_to_dict(patient("postgresql://me:secret@db.example/x?keepalives_idle=77"))
    assert parts["keepalives_idle"] == "77"
    assert {name: str(parts[name]) for name in TCP if name != "keepalives_idle"} == {
        name: str(value) for name, value in TCP.items() if name != "keepalives_idle"
    }
    assert (parts["host"], parts["user"], parts["password"], parts["dbname"]) == ("db.example", "me", "secret", "x")


async def test_a_session_that_began_read_only_is_not_kept(dsn: str) -> None:
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    async with new_pool(dsn) as pool:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            told: list[str] = []
            while "on" not in told:  # what the pool had before is found to be gone one by one
                with suppress(StorageUnavailable), storage_faults():
                    async with pool.connection() as connection:
                        told.append((await (await connection.execute("SHOW transaction_read_only")).fetchall())[0][0])
            other.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        found = []
        for _ in range(5):  # one made before the end of it may be first
            async with pool.connection() as connection:
                found += await (await connection.execute("SHOW transaction_read_only")).fetchall()
        assert found[-1] == ("off",), found
