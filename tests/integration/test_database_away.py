"""The database goes away under a running service: nothing is acknowledged, nothing lost, all goes on after."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from databases import Databases
from served import (
    ENOUGH_S,
    HEAD_END,
    METERS,
    STEP_S,
    US,
    Served,
    ended,
    fresh_database,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)

from meterwatch.batch import EventCode
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.client.retry import Backoff
from meterwatch.v1 import ingest_pb2 as pb
from storage.embedded import EmbeddedCluster, find_or_provision
from storage.migrate import migrate

BATCHES = 400


@pytest.fixture
def own_cluster() -> Iterator[EmbeddedCluster]:
    """A cluster that may be killed."""
    path = Path(tempfile.mkdtemp(prefix="meterwatch-away-", dir="/tmp"))
    with EmbeddedCluster(path, find_or_provision(lambda _: None)) as made:
        yield made
    shutil.rmtree(path, ignore_errors=True)


def start_elsewhere(cluster: EmbeddedCluster) -> None:
    """Start it again from a process without gRPC: a fork beside gRPC's threads may abort in the child."""
    program = (
        "import sys; from pathlib import Path; from storage.embedded import EmbeddedCluster, find_or_provision;"
        "EmbeddedCluster(Path(sys.argv[1]), find_or_provision(lambda _: None), 'detached').start()"
    )
    subprocess.run([sys.executable, "-c", program, str(cluster.data_dir)], check=True, timeout=ENOUGH_S)


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + ENOUGH_S
    while not done():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def backoff() -> Backoff:
    return Backoff(first_s=0.05, max_s=0.5)


class Sender(threading.Thread):
    """A head-end that sends BATCHES batches of one read per meter and keeps what was acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__(name="sender", daemon=True)
        self.address = address
        self.acked: list[int] = []
        self.totals: Any = None
        self.reconnects = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        grid = int(time.time()) // STEP_S * STEP_S - 40 * 86_400
        try:
            with HeadEnd(
                self.address, HEAD_END, backoff=backoff(), on_ack=lambda seq, *_: self.acked.append(seq)
            ) as head_end:
                for n in range(BATCHES):
                    end_us = [(grid + n * STEP_S) * US] * len(METERS)
                    head_end.send_columns(METERS, range(len(METERS)), end_us, STEP_S, import_wh=[n % 100 + 1] * 4)
                    time.sleep(0.005)  # long enough for the database to go and come while it sends
                self.totals = head_end.flush()
                self.reconnects = head_end.reconnects
        except BaseException as error:  # the thread's boundary
            self.error = error


class Listener(threading.Thread):
    """A subscriber to alarms, over breaks."""

    def __init__(self, address: str) -> None:
        super().__init__(name="listener", daemon=True)
        self.feed = AlarmFeed(address, backoff=backoff())
        self.raised: list[Any] = []
        self.ready = threading.Event()

    def run(self) -> None:
        for message in self.feed:
            self.ready.set()
            if message.HasField("transition"):
                self.raised.append(message.transition.alarm)


def report_failure(served: Served, at_us: int) -> pb.SendEventsResponse:
    with HeadEnd(served.address, HEAD_END, backoff=backoff()) as head_end:
        answer = head_end.send_events(METERS, [at_us + i for i in range(4)], [int(EventCode.POWER_FAIL)] * 4)
        assert (answer.accepted, answer.rejected) == (4, 0)
    return pb.SendEventsResponse()


@pytest.mark.timeout(180)
def test_nothing_is_acknowledged_and_nothing_lost_while_the_database_is_away(own_cluster: EmbeddedCluster) -> None:
    migrate(own_cluster.dsn)
    with serving(own_cluster.dsn, batch_deadline_s=20) as served:
        listener, sender = Listener(served.address), Sender(served.address)
        listener.start()
        assert listener.ready.wait(ENOUGH_S)
        with served.stream() as raw:
            sender.start()
            until(lambda: len(sender.acked) > 20)
            own_cluster.crash()
            raw.send(reads(1))
            end = raw.end()
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
            assert "meterwatch@" not in end.message
            assert str(own_cluster.data_dir) not in end.message
        acked = len(sender.acked)
        with served.stream(welcomed=False) as second:
            second.send(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=3)))
            end = second.end()
            assert (end.code, end.reason, end.retry_s is not None) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE", True), end
        event = pb.SendEventsRequest(
            head_end=HEAD_END, epoch=1, seq=1, meter=["M-1"], meter_index=[0], at_us=[int(time.time()) * US], code=[5]
        )
        with pytest.raises(grpc.RpcError) as refused:
            served.call("Ingest/SendEvents", event.SerializeToString())
        assert ended(refused.value).code == "UNAVAILABLE"
        assert len(sender.acked) == acked, "an ack without a database"
        assert sender.is_alive()
        assert not served.service.core.done()

        start_elsewhere(own_cluster)
        sender.join(ENOUGH_S)
        assert sender.error is None
        assert sender.reconnects > 0
        assert sorted(sender.acked) == list(range(1, BATCHES + 1))
        totals = sender.totals
        assert (totals.sent, totals.accepted + totals.duplicates, totals.rejected) == (BATCHES * 4, BATCHES * 4, 0)
        expected = (BATCHES * 4, 4 * sum(n % 100 + 1 for n in range(BATCHES)))
        assert served.sql("SELECT count(*), sum(import_wh) FROM reads") == [expected]
        assert served.sql("SELECT count(*) FROM read_versions") == [(0,)]
        assert served.sql("SELECT count(*) FROM batches WHERE NOT evaluated") == [(0,)]
        with served.stream() as raw:
            goes_on(raw)

        report_failure(served, (int(time.time()) - 1800) * US)
        until(lambda: any(alarm.type == "OUTAGE" for alarm in listener.raised))
        assert served.sql("SELECT count(*) FROM alarms WHERE rule = 'OUTAGE'") == [(1,)]
        listener.feed.close()
        listener.join(ENOUGH_S)


def test_a_killed_connection_is_no_outage_for_long(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        with served.stream() as raw:
            goes_on(raw, 1)
        for _ in range(3):
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            with HeadEnd(served.address, HEAD_END, backoff=backoff()) as head_end:
                end_us = [(int(time.time()) // STEP_S * STEP_S - 3600) * US]
                head_end.send_columns(["M-1"], [0], end_us, STEP_S, import_wh=[1])
                totals = head_end.flush()
            assert totals.accepted + totals.duplicates == 1
        assert not served.service.core.done()


def test_a_write_that_hangs_is_answered_at_its_deadline_and_settled_by_the_resend(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn, batch_deadline_s=0.5) as served:
        batch, epoch = reads(1), 77
        greeting = pb.Hello(head_end=HEAD_END, epoch=epoch)
        with served.stream(greeting) as raw, psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE reads, events IN ACCESS EXCLUSIVE MODE")
            raw.send(batch)
            end = raw.end()
            assert (end.code, end.reason, end.retry_s is not None) == ("DEADLINE_EXCEEDED", "DEADLINE", True), end
            event = pb.SendEventsRequest(
                head_end=HEAD_END, epoch=1, seq=1, meter=["M-1"], meter_index=[0], at_us=[batch.stamp_us[0]], code=[5]
            )
            with pytest.raises(grpc.RpcError) as refused:
                served.call("Ingest/SendEvents", event.SerializeToString())
            assert ended(refused.value)[:2] == ("DEADLINE_EXCEEDED", "DEADLINE")
            other.rollback()
        until(lambda: served.sql("SELECT count(*) FROM batches WHERE evaluated") == [(2,)])
        with served.stream(greeting) as raw:
            ack = raw.ask(batch).ack
            assert (ack.accepted, ack.replayed) == (1, True)
        answer = pb.SendEventsResponse.FromString(served.call("Ingest/SendEvents", event.SerializeToString()))
        assert (answer.accepted, answer.replayed) == (1, True)


def test_a_poison_batch_gets_an_incident_and_its_neighbours_their_acks(cluster: Databases) -> None:
    """A row PostgreSQL refuses, whatever we think of it: here by a constraint nobody told us about."""
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("ALTER TABLE reads ADD CONSTRAINT poison CHECK (import_wh <> 666)")
        with served.stream() as good, served.stream() as bad:
            for seq in range(1, 5):
                good.send(reads(seq))
            bad.send(reads(1, import_wh=[666]))
            assert [good.answer().ack.accepted for _ in range(4)] == [1] * 4
            end = bad.end()
            assert (end.code, end.reason, end.domain) == ("INTERNAL", "INTERNAL", "meterwatch")
            assert "poison" not in end.message
            assert "incident" in end.message
            goes_on(good)
        assert served.sql("SELECT count(*) FROM reads WHERE import_wh = 666") == [(0,)]
        assert not served.service.core.done()


def soon_stored(served: Served, epoch: int, batch: pb.ReadBatch) -> pb.Ack:
    """Send a batch again and again until it is acknowledged; every refusal before says to come again."""
    limit = time.monotonic() + ENOUGH_S
    while True:
        with served.stream(welcomed=False) as raw:
            for message in (
                pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=epoch)),
                pb.IngestRequest(dictionary=pb.Dictionary(meter=METERS)),
                pb.IngestRequest(batch=batch),
            ):
                raw.send(message)
            try:
                while not (answer := raw.answer()).HasField("ack"):
                    pass
                return answer.ack
            except grpc.RpcError as error:
                end = ended(error)
        assert (end.code, end.retry_s is not None) == ("UNAVAILABLE", True), end
        assert time.monotonic() < limit, end
        time.sleep(0.05)  # between two tries


@pytest.mark.parametrize("how", ["kill -9 of one backend", "fast stop and start"])
def test_postgresql_ends_all_sessions_and_is_back(own_cluster: EmbeddedCluster, how: str) -> None:
    migrate(own_cluster.dsn)
    with serving(own_cluster.dsn) as served:
        with served.stream() as raw:
            goes_on(raw)
        epoch, batch = fresh_epoch(), reads(1, 3)
        if how == "fast stop and start":
            own_cluster.stop()
            start_elsewhere(own_cluster)
        else:
            others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ((pid,),) = served.sql(f"SELECT pid FROM pg_stat_activity WHERE {others} LIMIT 1")
            os.kill(pid, signal.SIGKILL)
        ack = soon_stored(served, epoch, batch)
        assert ack.accepted == 3
        assert served.sql("SELECT count(*) FROM reads") == [(4,)]
        assert not served.service.core.done()
