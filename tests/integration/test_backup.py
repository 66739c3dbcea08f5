"""A backup taken while reads come in, brought into an empty database, is the database of one moment, and goes on.

Of the same moment, but not the same log of alarms: what came after the backup is not in it, and what comes after the
restore has cursors that were given out before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
import numpy as np
import psycopg
from databases import Databases
from served import ENOUGH_S, HEAD_END, METERS, STEP_S, US, Ended, Served, ended, fresh_database, serving

from meterwatch.client import HeadEnd
from meterwatch.v1.alarms_pb2 import SubscribeRequest

START_S = int(time.time()) // STEP_S * STEP_S - 40 * STEP_S
READS = "(SELECT end_at, slot, interval_s, version, import_wh FROM reads)"
"""Without the quality word: a day that is over is judged meanwhile."""
TABLES = ("meters", READS, "read_stamps", "batches", "alarms", "alarm_log", "transformer_loads")


def meterwatch(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("meterwatch")), *arguments],
        env=os.environ | {"METERWATCH_DATABASE__URL": url},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def contents(url: str) -> dict[str, tuple[int, str]]:
    """Rows of each table and a hash of them, in no order."""
    with psycopg.connect(url, autocommit=True) as connection:
        return {
            table: connection.execute(
                f"SELECT count(*), coalesce(sum(hashtext(t::text)), 0)::text FROM {table} AS t".encode()
            ).fetchone()
            for table in TABLES
        }  # type: ignore[return-value]


def log_of(service: Served) -> tuple[str, int]:
    """Identity of the log of alarms, and its newest cursor."""
    [(log_id, seq)] = service.sql("SELECT log_id::text, seq FROM service_identity, alarm_cursor")
    return log_id, seq


def resumed(service: Served, log_id: str, seq: int) -> Ended:
    """How a subscription that goes on from a cursor ends, if it does at once."""
    with grpc.insecure_channel(service.address) as channel:
        call = channel.unary_stream("/meterwatch.v1.Alarms/Subscribe")(
            SubscribeRequest(from_seq=seq, log_id=log_id).SerializeToString(), timeout=ENOUGH_S
        )
        try:
            next(call)
        except grpc.RpcError as error:
            return ended(error)
        call.cancel()
        return Ended("OK", "", "", "", None)


def send(service: Served, first: int, stop: int) -> None:
    """Reads of all meters: intervals of this morning, first..stop-1 of them."""
    with HeadEnd(service.address, HEAD_END, give_up_after_s=60) as head_end:
        for nth in range(first, stop):
            end_us = (START_S + nth * STEP_S) * US
            at = np.arange(len(METERS))
            head_end.send_columns(list(METERS), at, np.full(len(METERS), end_us), STEP_S, import_wh=100 + nth + at)
        head_end.flush()


def test_a_backup_of_a_running_service_is_restored_whole(cluster: Databases, tmp_path: Path) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    new = cluster.dsn_of(name)
    with fresh_database(cluster) as old:
        path = tmp_path / "meterwatch.dump"
        with serving(old) as service:
            send(service, 0, 20)
            still = contents(old)
            done = meterwatch(old, "db", "backup", str(path))
            assert done.returncode == 0, done.stderr
            assert path.stat().st_mode & 0o077 == 0, "what people consume is read by its owner alone"
            assert meterwatch(old, "db", "backup", str(path)).returncode != 0
            assert contents(old) == still
            log_id, seq = log_of(service)
            assert resumed(service, log_id, seq).code == "OK"
        assert meterwatch(old, "db", "restore", str(path)).returncode != 0  # there are reads in it
        done = meterwatch(new, "db", "restore", str(path))
        assert done.returncode == 0, done.stderr
        assert contents(new) == still
        with serving(new) as service:
            send(service, 20, 25)
            end = resumed(service, log_id, seq)
            assert (end.code, end.reason) == ("FAILED_PRECONDITION", "OTHER_LOG")
            assert log_of(service)[0] in end.message
        with psycopg.connect(new, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM reads").fetchone() == (25 * len(METERS),)
    cluster.drop_database(name)
