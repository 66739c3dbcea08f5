"""The real database fails in every way it can be made to: the right answer at once, nothing lost, recovered alone.

What the network between service and database does is done by the proxy of `breakable`; the rest by the database itself.
Kills of all of PostgreSQL: test_database_away.py. The n-th call: storage/test_nth_call.py.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import grpc
import psycopg
import pytest
from breakable import BreakableProxy, Weather, endpoint_of, through
from databases import VARIABLE, Databases
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from served import (
    ENOUGH_S,
    HEAD_END,
    METERS,
    STEP_S,
    Ended,
    Raw,
    Served,
    ended,
    fresh_database,
    fresh_end_us,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)

from meterwatch import pipeline
from meterwatch.client import HeadEnd
from meterwatch.client.retry import Backoff
from meterwatch.errors import ConfigError
from meterwatch.v1 import ingest_pb2 as pb
from storage import lease
from storage.patience import PatientAsyncConnection, PatientConnection

BACKOFF = Backoff(0.02, 0.1)
OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "RETRY_S", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of minutes until a silent database is given up."""
    monkeypatch.setattr(PatientConnection, "answer_s", 3.0)
    monkeypatch.setattr(PatientAsyncConnection, "answer_s", 3.0)
    monkeypatch.setattr(lease, "ANSWER_S", 1.0)
    monkeypatch.setattr(lease, "CHECK_S", 0.5)


@contextmanager
def behind_a_proxy(cluster: Databases, **server: Any) -> Iterator[tuple[Served, BreakableProxy, str]]:
    """A service whose every connection to its database goes through a proxy; and the way around it."""
    with (
        fresh_database(cluster) as dsn,
        BreakableProxy(endpoint_of(dsn)) as proxy,
        serving(through(dsn, proxy), **server) as served,
    ):
        yield served, proxy, dsn


def ask(dsn: str, query: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]


def until(done: Callable[[], Any]) -> None:
    limit = time.monotonic() + ENOUGH_S
    while not done():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def ack_or_end(raw: Raw) -> pb.Ack | Ended:
    """The next ack, or how the stream ends before it."""
    try:
        while True:
            answer = raw.answer()
            if answer.HasField("ack"):
                return answer.ack
    except StopIteration:
        return Ended("OK", "", "", "", None)
    except grpc.RpcError as error:
        return ended(error)


def answered(served: Served, epoch: int, batch: pb.ReadBatch) -> pb.Ack | Ended:
    """Send one batch on a stream of its own: its ack, or how the stream ended."""
    with served.stream(welcomed=False) as raw:
        raw.send(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=epoch)))
        raw.send(pb.IngestRequest(dictionary=pb.Dictionary(meter=METERS)))
        raw.send(batch)
        return ack_or_end(raw)


def recovers(served: Served, epoch: int, batch: pb.ReadBatch) -> pb.Ack:
    """Send it again until it is acknowledged; every refusal in between says to come again."""
    limit = time.monotonic() + ENOUGH_S
    while True:
        found = answered(served, epoch, batch)
        if isinstance(found, pb.Ack):
            return found
        assert found.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"), found
        assert found.retry_s is not None, found
        assert time.monotonic() < limit, found
        time.sleep(0.05)


def stored_once(dsn: str, *batches: pb.ReadBatch) -> None:
    for batch in batches:
        stamps = list(batch.stamp_us)
        kept = (
            "SELECT count(*) FROM reads WHERE end_at = ANY (SELECT to_timestamp(us / 1e6) FROM unnest(%s::bigint[]) us)"
        )
        assert ask(dsn, kept, stamps) == [(len(stamps),)]
    assert ask(dsn, "SELECT count(*) FROM batches WHERE NOT evaluated") == [(0,)]


def sound(served: Served) -> None:
    """The core lives and a good batch is taken."""
    assert not served.service.core.done()
    with served.stream() as raw:
        goes_on(raw)


# -- the way to the database ------------------------------------------------------------------------------------------


def test_a_database_ten_times_slower_gives_no_error(cluster: Databases) -> None:
    with behind_a_proxy(cluster) as (served, proxy, dsn):
        proxy.change(Weather(delay_s=0.01, jitter_s=0.01))
        with HeadEnd(served.address, HEAD_END, backoff=BACKOFF) as head_end:
            for _ in range(12):
                ends = [fresh_end_us()] * len(METERS)
                head_end.send_columns(METERS, range(len(METERS)), ends, STEP_S, import_wh=[1] * len(METERS))
            assert head_end.flush().accepted == 12 * len(METERS)
            assert head_end.reconnects == 0
            proxy.change(Weather())
            head_end.send_columns(METERS[:1], [0], [fresh_end_us()], STEP_S, import_wh=[1])
            assert head_end.flush().accepted == 12 * len(METERS) + 1
        assert ask(dsn, "SELECT count(*) FROM reads") == [(12 * len(METERS) + 1,)]


def test_a_database_that_says_nothing_is_answered_for_at_the_deadline_and_given_up_for_another_connection(
    cluster: Databases, impatient: None
) -> None:
    with behind_a_proxy(cluster, batch_deadline_s=1.0) as (served, proxy, dsn):
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 3)
        with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw:
            proxy.change(Weather(hole_up=True, hole_down=True))
            raw.send(batch)
            end = raw.end()
        assert (end.code, end.reason, end.retry_s is not None) == ("DEADLINE_EXCEEDED", "DEADLINE", True), end
        proxy.change(Weather())  # new connections are sound; those there are stay silent for ever
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(dsn, batch)
        sound(served)


def test_an_answer_of_the_database_that_is_lost_is_settled_by_the_resend(cluster: Databases, impatient: None) -> None:
    with behind_a_proxy(cluster, batch_deadline_s=1.0) as (served, proxy, dsn):
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 3)
        with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw:
            proxy.change(Weather(hole_down=True))  # each statement arrives; the first answer already does not
            raw.send(batch)
            assert raw.end().code == "DEADLINE_EXCEEDED"
        proxy.change(Weather())
        proxy.reset()
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(dsn, batch)


@pytest.mark.parametrize("after", [1, 200, 600, 1200, 2500])
def test_a_reset_in_mid_transaction_is_a_retry_and_no_loss(cluster: Databases, after: int) -> None:
    with behind_a_proxy(cluster) as (served, proxy, dsn):
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 200)
        with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw:
            up = proxy.bytes_up
            proxy.change(Weather(bytes_per_s=100_000))
            raw.send(batch)
            until(lambda: proxy.bytes_up >= up + after)
            proxy.reset()
            proxy.change(Weather())
            end = ack_or_end(raw)
        if isinstance(end, Ended):
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        assert recovers(served, epoch, batch).accepted == 200
        stored_once(dsn, batch)


def test_a_database_away_for_a_while_is_unavailable_and_comes_back_alone(cluster: Databases) -> None:
    with behind_a_proxy(cluster) as (served, proxy, dsn):
        sound(served)
        proxy.change(Weather(refused=True))
        proxy.reset()
        epoch, batch = fresh_epoch(), reads(1, 3)
        for _ in range(3):
            end = answered(served, epoch, batch)
            assert isinstance(end, Ended)
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        proxy.change(Weather())
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(dsn, batch)


# -- the database itself ----------------------------------------------------------------------------------------------


def test_the_backend_of_a_copy_is_terminated(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 3)
        with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw, psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE reads IN ACCESS EXCLUSIVE MODE")
            raw.send(batch)
            until(lambda: ask(dsn, "SELECT FROM pg_locks WHERE NOT granted"))
            copying = (
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS} AND wait_event_type = 'Lock'"
            )
            assert ask(dsn, copying) == [(True,)]
            end = raw.end()
            other.rollback()
        assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        assert "57P01" in end.message
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(dsn, batch)


def test_a_lock_on_the_reads_dries_up_credits_and_is_waited_out(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn, batch_deadline_s=60) as served:
        with served.stream() as raw, psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE reads IN ACCESS EXCLUSIVE MODE")
            batches = [reads(seq, 3) for seq in range(1, 9)]
            for batch in batches:
                raw.send(batch)
            until(lambda: ask(dsn, "SELECT FROM pg_locks WHERE NOT granted"))
            assert served.service.pipeline.waiting_rows <= 8 * 3
            other.rollback()
            assert [raw.answer().ack.accepted for _ in batches] == [3] * 8
        stored_once(dsn, *batches)


def test_a_deadlock_is_tried_again_and_nobody_sees_it(cluster: Databases) -> None:
    """The writer has the reads and wants the ledger; somebody else the other way round. The writer loses."""
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        epoch, batch = fresh_epoch(), reads(1, 2)
        with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw, psycopg.connect(dsn) as other:
            other.execute("SET deadlock_timeout = '60s'")
            other.execute("LOCK TABLE batches IN SHARE MODE")
            raw.send(batch)
            until(lambda: ask(dsn, "SELECT FROM pg_locks WHERE NOT granted"))
            other.execute("LOCK TABLE reads IN SHARE MODE")  # returns once the writer's transaction is undone
            other.rollback()
            assert raw.answer().ack.accepted == 2
        stored_once(dsn, batch)
        assert ask(dsn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(1,)]


@pytest.fixture
def ordinary(cluster: Databases) -> Iterator[tuple[str, str]]:
    """A database of a role that is no superuser: URL of its owner, URL of the administrator."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    role = sql.Identifier(name)
    cluster.create_database(name)
    admin = cluster.dsn_of(name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of-the-test'").format(role))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(role, role))
    parts = conninfo_to_dict(admin)
    host, port = quote(str(parts.get("host") or "localhost"), safe=""), parts.get("port") or 5432
    yield f"postgresql://{name}:of-the-test@/{name}?host={host}&port={port}", admin
    cluster.drop_database(name)
    with psycopg.connect(cluster.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_no_connection_left_is_unavailable_and_comes_back_alone(ordinary: tuple[str, str]) -> None:
    owner, admin = ordinary
    role = sql.Identifier(str(conninfo_to_dict(owner)["user"]))
    with serving(owner) as served:
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 3)
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 1").format(role))
            keep = "application_name NOT LIKE 'meterwatch %'"  # the lease keeps the one connection there may be
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS} AND {keep}")
            end = answered(served, epoch, batch)
            assert isinstance(end, Ended)
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
            connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(role))
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(admin, batch)


def test_a_read_only_database_is_unavailable_and_comes_back_alone(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        sound(served)
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        epoch, batch = fresh_epoch(), reads(1, 3)
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
            other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
            until(lambda: isinstance(answered(served, epoch, batch), Ended))
            end = answered(served, epoch, batch)
            assert isinstance(end, Ended)
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
            other.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        assert recovers(served, epoch, batch).accepted == 3
        stored_once(dsn, batch)
        sound(served)


@pytest.mark.skipif(VARIABLE in os.environ, reason=f"{VARIABLE}: its processes are not ours to stop")
def test_a_frozen_backend_costs_its_deadline_and_others_go_on(cluster: Databases, impatient: None) -> None:
    with fresh_database(cluster) as dsn, serving(dsn, batch_deadline_s=1.0) as served:
        sound(served)
        epoch, batch = fresh_epoch(), reads(1, 3)
        found = f"SELECT pid FROM pg_stat_activity WHERE {OTHERS} AND application_name NOT LIKE 'meterwatch %%'"
        frozen = [pid for (pid,) in ask(dsn, found)]
        assert frozen
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert recovers(served, epoch, batch).accepted == 3
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        stored_once(dsn, batch)
        sound(served)


def test_a_read_only_database_is_refused_at_start_and_said_to_be_one(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn:
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
            with pytest.raises(ConfigError, match="transaction_read_only is on"), serving(dsn):
                pass
            other.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))


def test_a_schema_newer_than_the_code_is_refused_at_start(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn:
        ask(dsn, "INSERT INTO schema_version (version, file, sha256) VALUES (9999, '9999_future.sql', 'x') RETURNING 1")
        with pytest.raises(ConfigError, match="schema version 9999"), serving(dsn):
            pass
