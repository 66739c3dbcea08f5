"""The service gets no more memory, in mid-stream: whatever becomes of it, what it acknowledged is stored.

The limit is one of address space: allocations fail in Python and in C. What the kernel does on a machine without memory
is kill -9, which test_kill has. Part of `make faults`.
"""

from __future__ import annotations

import csv
import os
import resource
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import psycopg
import pytest
from databases import Databases
from served import Raw, fresh_database
from service_process import ServiceProcess, import_grid

from meterwatch import data
from meterwatch.clock import US
from meterwatch.v1 import ingest_pb2 as pb

pytestmark = pytest.mark.skipif(
    "METERWATCH_FAULT_SEEDS" not in os.environ, reason="some ten seconds; make faults runs it"
)
START = datetime(2024, 11, 12, tzinfo=UTC)
STEP_US = 900 * US
METERS, STEPS, BATCHES = 1000, 40, 8
PAGE_BYTES = resource.getpagesize()


def meters() -> list[str]:
    with (data.GRID / "meters.csv").open() as file:
        return [row["meter"] for row in csv.DictReader(file)][:METERS]


def batch(seq: int) -> pb.ReadBatch:
    first_us = int(START.timestamp()) * US + seq * STEPS * STEP_US
    return pb.ReadBatch(
        seq=seq,
        interval_s=900,
        meter_index=list(range(METERS)) * STEPS,
        stamp_us=[first_us + step * STEP_US for step in range(STEPS) for _ in range(METERS)],
        import_wh=[seq] * METERS * STEPS,
    )


def acked(service: ServiceProcess, seqs: range) -> set[int]:
    """Those of the batches that were acknowledged, until the stream ended."""
    found = set()
    with Raw(service.address) as stream, suppress(grpc.RpcError, StopIteration):
        stream.ask(pb.IngestRequest(hello=pb.Hello(head_end="HES-1", epoch=1)))
        stream.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=meters())))
        for seq in seqs:
            answer = stream.ask(batch(seq))
            assert answer.HasField("ack"), answer
            found.add(answer.ack.seq)
    return found


def test_without_memory_it_ends_or_goes_on_and_nothing_acknowledged_is_lost(cluster: Databases, tmp_path: Path) -> None:
    everything = set(range(1, BATCHES + 1))
    with fresh_database(cluster) as dsn, ServiceProcess(dsn, START, tmp_path / "output") as service:
        service.start()
        import_grid(service.address)
        told = acked(service, range(1, 2))
        used_bytes = int(Path(f"/proc/{service.pid}/statm").read_text().split()[0]) * PAGE_BYTES
        _, most = resource.prlimit(service.pid, resource.RLIMIT_AS)
        resource.prlimit(service.pid, resource.RLIMIT_AS, (used_bytes, most))
        while service.alive and told != everything:  # deaf and alive it would not end
            told |= acked(service, range(1, BATCHES + 1))
        service.kill()
        service.start()
        with psycopg.connect(dsn) as connection:
            ledger = connection.execute("SELECT seq, accepted, evaluated FROM batches").fetchall()
            stored = connection.execute("SELECT count(*), count(DISTINCT (slot, end_at)) FROM reads").fetchone()
        assert {(seq, METERS * STEPS, True) for seq in told} <= set(ledger)
        assert stored == (len(ledger) * METERS * STEPS,) * 2
        assert acked(service, range(1, BATCHES + 1)) == everything
