"""The bench at its tiny size: that it runs and counts right. Its figures mean nothing here."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest import bench
from loadtest.copy_arm import columns_of, rows_of
from loadtest.cpu import machine_s, process_s, rss_mb, tree_s
from loadtest.fleet import INTERVAL_S, ONE_PHASE, THREE_PHASE, Fleet
from loadtest.load import Load, batches
from meterwatch.batch import Reads
from meterwatch.v1.ingest_pb2 import IngestRequest
from storage import rows
from storage.rows import encode, sent_of

FLEET = Fleet(meters=1_000, streams=2, start_us=1_767_571_200_000_000)


def sent(load: Load) -> list[tuple[int, int, int, float]]:
    """(meter, end_us, import_wh, voltage) of every row of both streams, in order."""
    rows = []
    for stream in range(FLEET.streams):
        for one in batches(FLEET, load, stream, 1):
            batch = IngestRequest.FromString(one.request).batch
            assert len(batch.meter_index) == one.rows
            first = FLEET.meters_of(stream).start
            meters = [first + index for index in batch.meter_index]
            rows += list(zip(meters, batch.stamp_us, batch.import_wh, batch.voltage_a_v, strict=True))
    return rows


def test_the_bench_counts_every_read_and_reports_every_key(cluster, dsn):
    said = []
    result = bench.run(bench.TINY, dsn, said.append)
    assert set(bench.TARGETS) <= set(result["figures"])
    assert {"acked_reads_per_s", "copy_reads_per_s", "postgres_cpu_s_per_mread"} <= set(result["figures"])
    assert {"commit", "machine", "versions", "settings", "seed", "size"} <= set(result)
    plain = bench.TINY.meters * bench.TINY.intervals
    for run in result["runs"]:
        assert run["stored"] == plain, run["arm"]
        assert run["reads"] >= plain - bench.TINY.meters
        assert run["seconds"] > 0
    arms = {run["arm"] for run in result["runs"]}
    assert {"service", "copy x1", "copy x2", "order_tax", "late_tax plain"} <= arms
    late = next(run for run in result["runs"] if run["arm"] == "late_tax")
    assert late["counts"]["duplicates"] > 0


@pytest.mark.parametrize("channels", [ONE_PHASE, THREE_PHASE], ids=["3", "12"])
def test_the_copy_arm_writes_the_bytes_that_the_service_would_store(channels):
    values = FLEET.values(7, channels)
    slot = np.arange(1, FLEET.meters + 1, dtype=np.int32)
    end_us = FLEET.end_us(7)
    reads = Reads(slot, np.full(len(slot), end_us), INTERVAL_S, np.full(len(slot), 128, np.int32), values)
    assert rows_of(slot, end_us, end_us + 5, 128, values) == encode(reads, end_us + 5, sent_of(reads))
    assert columns_of(channels) == list(rows.columns_of(sent_of(reads)))


@pytest.mark.parametrize(
    "load",
    [Load(3, 2), Load(3, 2, shuffled=True), Load(3, 2, batch_rows=100), Load(3, 3, late_share=0.1)],
    ids=["plain", "shuffled", "small", "late"],
)
def test_every_load_carries_the_same_reads(load):
    plain = set(sent(Load(load.first, load.intervals)))
    assert len(plain) == FLEET.meters * load.intervals
    assert set(sent(load)) == plain


def test_the_late_load_holds_back_and_repeats_in_equal_parts():
    rows = sent(Load(3, 3, late_share=0.1))
    repeated = len(rows) - len(set(rows))
    assert repeated == FLEET.meters * 0.05 * 2
    on_time = int(FLEET.meters // 2 * 0.95)
    assert {row[1] for row in rows[:on_time]} == {FLEET.end_us(3)}
    first_stream = rows[: len(rows) // 2]
    assert {row[1] for row in first_stream[on_time : 2 * on_time]} == {FLEET.end_us(3), FLEET.end_us(4)}


def test_cpu_of_a_process_is_part_of_its_tree_and_of_the_machine():
    import os

    own = process_s(os.getpid())
    assert 0 < own <= tree_s(os.getpid()) + 0.02
    assert own < machine_s()
    assert rss_mb(os.getpid()) > 1
