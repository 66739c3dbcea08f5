"""How the service ends: told to stop it answers what it has read; its own PostgreSQL killed, it starts anew."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from promises import CHANNELS, Journal, Recorder, acks_broken, reads_broken
from served import Raw, fresh_database
from service_process import ServiceProcess, import_grid, until

from meterwatch import data
from meterwatch.client import Backoff, HeadEnd
from meterwatch.clock import US
from meterwatch.v1 import ingest_pb2 as pb
from storage.embedded import EmbeddedCluster, find_or_provision

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
STEP_US = 900 * US
BATCHES = 300


def meters() -> list[str]:
    with (data.GRID / "meters.csv").open() as file:
        return [row["meter"] for row in csv.DictReader(file)][:20]


def batch(seq: int) -> pb.ReadBatch:
    return pb.ReadBatch(seq=seq, interval_s=900, meter_index=[0], stamp_us=[START_US + seq * STEP_US], import_wh=[seq])


@pytest.fixture
def served(cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[tuple[ServiceProcess, str]]:
    with fresh_database(cluster) as dsn, ServiceProcess(dsn, START, tmp_path / "output") as made:
        made.start()
        import_grid(made.address)
        yield made, dsn


@contextmanager
def told_to_stop_with_a_batch_read(service: ServiceProcess, dsn: str) -> Iterator[tuple[Raw, psycopg.Connection[Any]]]:
    """A stream whose first batch waits for what the connection has locked; its second one came after SIGTERM."""

    def waits() -> bool:
        return bool(other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())

    with (
        Raw(service.address) as stream,
        psycopg.connect(dsn, autocommit=True) as other,
        psycopg.connect(dsn) as connection,
    ):
        assert stream.ask(pb.IngestRequest(hello=pb.Hello(head_end="HES-1", epoch=1))).HasField("welcome")
        assert stream.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=meters()))).HasField("dictionary_ack")
        connection.execute("LOCK TABLE reads")
        stream.send(batch(1))
        until(waits, "the first batch waits for the table")
        service.signal(signal.SIGTERM)
        until(lambda: not service.takes_reads(), "the service takes no more reads")
        stream.send(batch(2))
        yield stream, connection


def test_what_was_read_before_a_stop_is_acknowledged_and_what_comes_later_is_not_taken(
    served: tuple[ServiceProcess, str],
) -> None:
    service, dsn = served
    with told_to_stop_with_a_batch_read(service, dsn) as (stream, connection):
        connection.rollback()
        assert stream.answer().ack.seq == 1
        end = stream.end()
    assert (end.code, end.reason) == ("UNAVAILABLE", "DRAINING")
    assert service.died() == 0
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT import_wh FROM reads").fetchall() == [(1,)]


def test_a_second_signal_ends_the_service_at_once(served: tuple[ServiceProcess, str]) -> None:
    service, dsn = served
    with told_to_stop_with_a_batch_read(service, dsn):
        service.signal(signal.SIGTERM)
        assert service.died() == -signal.SIGTERM


@pytest.mark.timeout(180)
def test_after_the_death_of_its_own_postgresql_the_service_is_back_and_nothing_is_lost(tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="meterwatch-gone-", dir="/tmp"))
    cluster = EmbeddedCluster(directory, find_or_provision(lambda _: None))
    names = meters()
    index = np.arange(len(names), dtype=np.uint32)
    journal = Journal(epoch=1)
    settings = {"METERWATCH_DATABASE__DATA_DIR": str(directory)}
    with ServiceProcess(None, START, tmp_path / "output", **settings) as service:
        service.start()
        import_grid(service.address)
        with HeadEnd(
            service.address, "HES-1", 1, backoff=Backoff(first_s=0.05, max_s=0.5), on_ack=journal.note_ack
        ) as head_end:
            recorder = Recorder(head_end, journal, len(names))
            for n in range(BATCHES):
                if n == BATCHES // 2:
                    until(lambda: len(journal.acks) > 10, "some batches are acknowledged")
                    os.kill(postmaster(directory), signal.SIGKILL)
                values: dict[str, Any] = {name: np.full(len(names), n + 1, np.float32) for name in CHANNELS}
                values["import_wh"] = values["import_wh"].astype(np.int32)
                ends = np.full(len(names), START_US + n * STEP_US, np.int64)
                recorder.send_columns(names, index, ends, 900, mask=np.ones(len(names), np.uint32), **values)
            head_end.flush()
            assert head_end.reconnects > 0
        assert journal.acks.keys() == journal.sent.keys()
        assert not journal.acked_twice
        dsn = cluster.running_dsn()
        assert dsn is not None
        with psycopg.connect(dsn) as connection:
            assert not acks_broken(connection, journal)
            assert not reads_broken(connection, journal)
        service.signal(signal.SIGTERM)
        assert service.died() == 0
    assert not cluster.is_running()
    shutil.rmtree(directory)


def postmaster(directory: Path) -> int:
    return int((directory / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
