"""No connection is written on whose COMMIT may be lost: what a session of ours is, and what becomes of another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from databases import Databases
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolTimeout
from served import ENOUGH_S, HEAD_END, fresh_database, fresh_epoch, goes_on, reads, serving

from meterwatch.errors import ConfigError, StorageUnavailable
from meterwatch.v1 import ingest_pb2 as pb
from storage import lease as lease_module
from storage import pool as pool_module
from storage import settings
from storage.lease import Lease
from storage.pool import new_pool
from storage.settings import DURABLE, check_session, check_settings, not_durable
from storage.writer import Writer

SOUND = {name: wanted[0] for name, wanted in DURABLE.items()}
UNSOUND = ["fsync is off"]


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("fsync", "off", False),
        ("full_page_writes", "off", False),
        ("synchronous_commit", "off", False),
        ("synchronous_commit", "local", False),
        ("synchronous_commit", "remote_write", False),
        ("synchronous_commit", "remote_apply", True),
    ],
)
def test_each_setting_that_loses_commits_is_named(name: str, value: str, sound: bool) -> None:
    assert not_durable(SOUND) == []
    problems = not_durable(SOUND | {name: value})
    assert len(problems) == (not sound)
    assert all(problem.startswith(f"{name} is {value}; expected ") for problem in problems)


@pytest.fixture
def careless(dsn: str) -> Iterator[str]:
    """A database whose sessions commit without waiting for the disk, unless they say otherwise."""
    name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
        yield dsn
        connection.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(name))


async def test_every_session_of_ours_waits_for_the_disk_whatever_the_database_says(careless: str) -> None:
    with psycopg.connect(careless) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
        with pytest.raises(StorageUnavailable):
            check_session(connection)
    async with new_pool(careless) as pool, pool.connection() as pooled:
        assert await (await pooled.execute("SHOW synchronous_commit")).fetchone() == ("on",)
    writer = Writer(careless, {})
    assert writer._open().execute("SHOW synchronous_commit").fetchone() == ("on",)
    writer.close()
    lease = await Lease.acquire(careless)
    assert lease._connection is not None
    assert await (await lease._connection.execute("SHOW synchronous_commit")).fetchone() == ("on",)
    await lease.release()


async def test_neither_a_writer_nor_the_pool_gives_out_another_connection(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "not_durable", lambda found: UNSOUND)
    monkeypatch.setattr(pool_module, "TIMEOUT_S", 0.5)
    with pytest.raises(StorageUnavailable, match="a commit may be lost"):
        Writer(dsn, {})._open()
    async with new_pool(dsn) as pool:
        with pytest.raises(PoolTimeout):
            async with pool.connection():
                pass


def test_a_start_says_what_would_lose_commits(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(dsn)
    monkeypatch.setattr(settings, "not_durable", lambda found: UNSOUND)
    with pytest.raises(ConfigError, match="fsync is off"):
        check_settings(dsn)


def test_what_is_set_wrong_while_the_service_runs_is_written_on_by_no_new_connection(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "CHECK_S", ENOUGH_S)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    keep = (
        " AND pid <> pg_backend_pid() AND application_name NOT LIKE 'meterwatch %%' AND backend_type = 'client backend'"
    )
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        with served.stream() as raw:
            goes_on(raw)
        with monkeypatch.context() as careless:
            careless.setattr(settings, "not_durable", lambda found: UNSOUND)
            served.sql(ended + keep)
            epoch, batch = fresh_epoch(), reads(1, 3)
            with served.stream(welcomed=False) as raw:
                raw.send(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=epoch)))
                raw.send(pb.IngestRequest(dictionary=pb.Dictionary(meter=["M-1", "M-2", "M-3", "M-4"])))
                raw.send(batch)
                end = raw.end()
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        assert served.sql("SELECT count(*) FROM batches WHERE epoch = %s", epoch) == [(0,)]


async def test_a_service_whose_database_begins_to_lose_commits_ends(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CHECK_S", 0.01)
    lease = await Lease.acquire(dsn)
    holding = asyncio.create_task(lease.hold())
    await asyncio.sleep(0.1)  # some looks that find nothing
    assert not holding.done()
    monkeypatch.setattr(settings, "not_durable", lambda found: UNSOUND)
    with pytest.raises(StorageUnavailable, match="a commit may be lost"):
        await asyncio.wait_for(holding, 20)
    await lease.release()
