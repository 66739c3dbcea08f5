"""The bench at its tiny size: that it runs and counts right. Its figures mean nothing here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from databases import compresses
from rich.console import Console

from loadtest import bench, bench_columnstore, replayed, report
from loadtest.copy_arm import columns_of, rows_of
from loadtest.cpu import machine_s, process_s, rss_mb, tree_s
from loadtest.fleet import INTERVAL_S, METERS_PER_TRANSFORMER, ONE_PHASE, THREE_PHASE, Fleet
from loadtest.load import OVERLOAD_WH, Backlog, Load, batches, overloads
from meterwatch.batch import Reads
from meterwatch.v1.ingest_pb2 import IngestRequest
from storage import rows
from storage.rows import encode, sent_of

FLEET = Fleet(meters=1_000, streams=2, start_us=1_767_571_200_000_000)


def sent(load: Load | Backlog) -> list[tuple[int, int, int, float]]:
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
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        runs.setdefault(run["arm"], []).append(run)
    assert {"service", "copy x1", "copy x2", "order_tax", "late_tax plain"} <= runs.keys()
    for arm, those in runs.items():
        if arm in ("service", "copy x1", "copy x2") or "_tax" in arm:
            for run in those:
                assert run["stored"] == plain, arm
                assert run["reads"] >= plain - bench.TINY.meters
                assert run["seconds"] > 0
    assert runs["late_tax"][0]["counts"]["duplicates"] > 0
    backlog = int(bench.TINY.backlog_part * bench.TINY.meters) * 94
    assert [run["stored"] for arm in ("backlog by interval", "backlog by meter") for run in runs[arm]] == [backlog] * 2
    alarms = bench.TINY.streams * bench.TINY.alarm_intervals
    assert [len(runs[arm][0]["alarm_ms"]) for arm in ("alarms idle", "alarms loaded")] == [alarms, alarms]
    told = bench.TINY.subscribers * bench.TINY.fanout_alarms
    assert [runs[arm][0]["deliveries"] for arm in ("fan-out", "fan-out one by one")] == [told, told]
    assert runs["fan-out"][0]["messages"] < told == runs["fan-out one by one"][0]["messages"]
    assert {run["rows"] for run in runs["day by service"] + runs["day by SQL"]} == {96}
    assert {run["rows"] for run in runs["month by SQL"]} == {96 * bench.TINY.history_days}


def test_only_the_groups_asked_for_are_measured(cluster):
    cluster.create_database("bench_rules")  # of its own: what another bench left there would be its past
    try:
        result = bench.run(bench.TINY, cluster.dsn_of("bench_rules"), lambda _: None, ("rules",))
    finally:
        cluster.drop_database("bench_rules")
    assert {key.partition("_")[0] for key in result["figures"]} == {"rules", "thermal", "user"}
    assert result["runs"] == []


def test_a_group_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "copy,speed"])
    assert "'speed' is none of copy, taxes" in capsys.readouterr().err


def test_rows_and_columnstore_are_compared_where_there_is_one_and_else_the_table_says_what_is_missing(dsn):
    if compresses(dsn):
        said: list[str] = []
        runs, figures = bench_columnstore.compare(FLEET, 1, 1, dsn, said.append)
        assert set(bench_columnstore.MISSING) <= set(figures)
        assert {run.arm for run in runs} >= {"rowstore", "columnstore", "rowstore late", "columnstore late"}
        assert figures["columnstore_bytes_per_read"] > 0
    assert bench_columnstore.can(dsn) == compresses(dsn)
    console = Console(record=True, width=140)
    report.show(console, {}, {}, bench_columnstore.MISSING)
    assert "needs the community edition" in console.export_text()


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


@pytest.mark.parametrize("part", [(0.0, 0.1), (0.1, 0.2), (0.0, 1.0)])
def test_a_backlog_carries_the_reads_of_its_meters_in_either_order(part):
    plain = sent(Load(3, 5))
    chosen = {
        meter
        for stream in range(FLEET.streams)
        for meter in FLEET.meters_of(stream)[int(500 * part[0]) : int(500 * part[1])]
    }
    expected = [row for row in plain if row[0] in chosen]
    by_interval, by_meter = (sent(Backlog(3, 5, part, by_meter, batch_rows=70)) for by_meter in (False, True))
    assert sorted(by_interval) == sorted(by_meter) == sorted(expected)
    for stream in range(FLEET.streams):
        own = FLEET.meters_of(stream)
        assert [row[:2] for row in by_meter if row[0] in own] == sorted(row[:2] for row in expected if row[0] in own)
        stamps = [row[1] for row in by_interval if row[0] in own]
        assert stamps == sorted(stamps)


def test_in_an_overloaded_load_each_batch_has_one_transformer_over_its_rating_and_the_rest_is_as_it_was():
    load = Load(3, 4, batch_rows=200, overloaded=True)
    plain = {row[:2]: row[2] for row in sent(Load(3, 4))}
    for interval in range(3, 7):
        rows = [row for row in sent(load) if row[1] == FLEET.end_us(interval)]
        over = {meter // METERS_PER_TRANSFORMER for meter, end_us, wh, _ in rows if wh != plain[meter, end_us]}
        expected = {one for stream in range(FLEET.streams) for one in overloads(FLEET, load, stream, interval)}
        assert over == expected
        assert len(expected) == 2 * 3
        assert {wh for meter, _, wh, _ in rows if meter // METERS_PER_TRANSFORMER in over} == {OVERLOAD_WH}
    whole = Load(3, 4, overloaded=True)
    assert [overloads(FLEET, whole, 1, interval) for interval in range(3, 7)] == [[8], [9], [5], [6]]


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


def test_the_bench_says_how_fast_a_replay_is(monkeypatch):
    """The figure is read from what the command says to people."""
    said = "profile default: 0 new, 0 gone, 0 changed, 0 the same; 400 reads in 0.5 s, 800,123 reads/s\n"
    ran = []

    def run(command, **options):
        ran.append((command, options["env"]["METERWATCH_DATABASE__URL"]))
        return SimpleNamespace(stderr=said)

    monkeypatch.setattr(replayed.subprocess, "run", run)
    assert replayed.replay_mreads_per_s("postgresql://x", 1_767_571_200_000_000, 1_767_574_800_000_000) == 0.800123
    [(command, url)] = ran
    assert url == "postgresql://x"
    assert "2026-01-05T00:00:00+00:00" in command
