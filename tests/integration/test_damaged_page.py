"""A page of stored reads is damaged: what stood in it is told as damaged and never as reads, and the rest goes on.

The embedded cluster is made with checksums of data, which find it; the damage is a byte changed while it is stopped.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from served import ENOUGH_S, HEAD_END, METERS, STEP_S, US, Ended, Served, ended, fresh_epoch, reads, serving
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.v1 import ingest_pb2 as pb
from meterwatch.v1 import reads_pb2, reads_pb2_grpc
from storage.embedded import EmbeddedCluster, find_or_provision

DAY_S = 86_400
PAGE_BYTES = 8192
_TODAY_S = int(time.time()) // DAY_S * DAY_S
DAMAGED_US = (_TODAY_S - 100 * DAY_S + 4 * STEP_S) * US
SOUND_US = (_TODAY_S - 90 * DAY_S + 4 * STEP_S) * US


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    directory = Path(tempfile.mkdtemp(prefix="meterwatch-damaged-", dir="/tmp"))
    with EmbeddedCluster(directory, find_or_provision(lambda _: None)) as made:
        yield made
    shutil.rmtree(directory)


def sent(served: Served, end_us: int) -> int | Ended:
    """Reads accepted of one batch, a read a meter at this end; or how its stream ended."""
    with served.stream(pb.Hello(head_end=HEAD_END, epoch=fresh_epoch())) as raw:
        rows = len(METERS)
        try:
            answer = raw.ask(reads(1, rows, meter_index=list(range(rows)), stamp_us=[end_us] * rows))
        except grpc.RpcError as error:
            return ended(error)
        return int(answer.ack.accepted)


def read(served: Served, end_us: int) -> int | Ended:
    """Reads told of this end, or how the call ended."""
    request = reads_pb2.QueryRequest(meter=METERS, from_us=end_us, to_us=end_us + 1)
    with grpc.insecure_channel(served.address) as channel:
        try:
            chunks = list(reads_pb2_grpc.ReadsStub(channel).Query(request, timeout=ENOUGH_S))
        except grpc.RpcError as error:
            return ended(error)
        return sum(len(chunk.end_us) for chunk in chunks)


def damage(cluster: EmbeddedCluster, relation: str) -> None:
    """Change a byte of the last row of its first page, where rows begin."""
    cluster.stop()
    with (cluster.data_dir / "pgdata" / relation).open("r+b") as file:
        file.seek(PAGE_BYTES - 8)
        (byte,) = file.read(1)
        file.seek(PAGE_BYTES - 8)
        file.write(bytes([byte ^ 0xFF]))
    cluster.start()


def test_a_damaged_page_is_told_as_damage_and_all_else_is_served(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(cluster.dsn) as served:
        assert (sent(served, DAMAGED_US), sent(served, SOUND_US)) == (len(METERS), len(METERS))
        assert (read(served, DAMAGED_US), read(served, SOUND_US)) == (len(METERS), len(METERS))
        [(relation,)] = served.sql(
            "SELECT DISTINCT pg_relation_filepath(tableoid) FROM reads WHERE end_at = to_timestamp(%s)",
            DAMAGED_US // US,
        )
    damage(cluster, relation)
    with serving(cluster.dsn, registered=True) as served:
        told = read(served, DAMAGED_US)
        assert isinstance(told, Ended), f"{told} reads of a damaged page"
        assert (told.code, told.reason) == ("DATA_LOSS", "STORAGE_BROKEN")
        assert "incident" in told.message
        assert read(served, SOUND_US) == len(METERS)

        refused = sent(served, DAMAGED_US)  # whether these reads are new cannot be looked up
        assert isinstance(refused, Ended), f"{refused} reads acknowledged beside a damaged page"
        assert (refused.code, refused.reason) == ("DATA_LOSS", "STORAGE_BROKEN")
        assert sent(served, SOUND_US + STEP_S * US) == len(METERS)
        assert not served.service.core.done()

    monkeypatch.setenv("METERWATCH_DATABASE__URL", cluster.dsn)
    deep = CliRunner().invoke(app, ["doctor", "--deep"])
    assert deep.exit_code == 1, deep.output
    assert f"invalid page in block 0 of relation {relation}" in deep.output
    assert "restore a backup" in deep.output
    with psycopg.connect(cluster.dsn) as connection:
        assert connection.execute("SELECT sum(rows_sent) FROM batches").fetchone() == (3 * len(METERS),)
