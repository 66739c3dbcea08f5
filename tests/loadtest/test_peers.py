"""What `make bench-peers` does without a download: its text, the naive way, a run in which no peer is there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from loadtest import peers
from loadtest.fleet import ONE_PHASE
from loadtest.naive import rows_of
from loadtest.peer_influx import Influx
from loadtest.peer_victoria import Victoria
from loadtest.text import TEXTS, MeterLike, Posting, Way, bodies

FLEET = MeterLike(meters=1_000, streams=4, start_us=1_767_571_200_000_000)
LINE = re.compile(r"reads,meter=(\d+) import_wh=(\d+)i,voltage_a_v=([\d.]+),current_a_a=([\d.]+) (\d+)")
CSV = re.compile(r"(\d+),(\d+),(\d+),([\d.]+),([\d.]+)")


def told(posting: Posting) -> list[tuple[str, int, int, float, float]]:
    """(meter, end_s, import_wh, voltage, current) of every line of every body."""
    out = []
    for own in bodies(FLEET, posting):
        for body in own:
            assert body.endswith(b"\n")
            text = body.decode().splitlines()
            assert len(text) <= posting.way.batch_rows
            for line in text:
                if posting.way.text == "line":
                    match = LINE.fullmatch(line)
                    assert match, line
                    meter, wh, volt, ampere, end = match.groups()
                else:
                    match = CSV.fullmatch(line)
                    assert match, line
                    meter, end, wh, volt, ampere = match.groups()
                out.append((meter, int(end), int(wh), float(volt), float(ampere)))
    return out


@pytest.mark.parametrize("text", sorted(TEXTS))
@pytest.mark.parametrize(("connections", "batch_rows"), [(1, 1_000), (2, 300), (3, 10_000), (4, 7)])
def test_every_way_carries_the_same_reads(text, connections, batch_rows):
    reads = told(Posting(3, 2, Way(connections, batch_rows, text)))
    expected = []
    for interval in (3, 4):
        values = FLEET.values(interval, ONE_PHASE)
        for meter in range(FLEET.meters):
            wh, volt, ampere = (values[name][meter] for name in ONE_PHASE)
            end_s = FLEET.end_us(interval) // 1_000_000
            expected.append((FLEET.name(meter), end_s, int(wh), round(float(volt), 1), round(float(ampere), 2)))
    assert sorted(reads) == sorted(expected)
    assert len(reads) == 2_000


def test_values_survive_the_text():
    values = FLEET.values(3, ONE_PHASE)
    reads = sorted(told(Posting(3, 1, Way(1, 1_000))))
    for column, name in enumerate(ONE_PHASE, 2):
        sent = np.array([read[column] for read in reads], values[name].dtype)
        np.testing.assert_array_equal(sent, values[name])


def test_the_naive_rows_are_the_same_reads():
    posting = Posting(3, 2, Way(2, 300, ""))
    slot = np.arange(1, FLEET.meters + 1, dtype=np.int32)
    batches = [batch for number in range(2) for batch in rows_of(FLEET, posting, number, slot, 128, 30)]
    assert max(map(len, batches)) == 300
    rows = {(row[2], row[0]): row[-3:] for batch in batches for row in batch}
    assert len(rows) == 2 * FLEET.meters
    values = FLEET.values(4, ONE_PHASE)
    shifted_us = FLEET.end_us(4) + 30 * 86_400_000_000
    for (one, end), channels in rows.items():
        if int(end.timestamp() * 1e6) == shifted_us:
            assert channels == tuple(values[name][one - 1].item() for name in ONE_PHASE)


def test_any_head_end_may_send_any_meter():
    files = dict(FLEET.registry())
    header, first, *rest = files["meters"].decode().splitlines()
    assert header.split(",")[-1] == "head_end"
    assert first.split(",")[0] == FLEET.name(0)
    assert len(rest) == FLEET.meters - 1
    assert all(row.endswith(",") and row.count(",") == header.count(",") for row in (first, *rest))


def test_a_peer_has_a_path_for_every_text_it_may_be_sent():
    for peer in (Victoria, Influx):
        assert {way.text for way in peer.ways} == set(peer.paths) <= set(TEXTS)


def test_a_run_without_peers_measures_the_rest_and_says_what_is_missing(cluster, dsn):
    missing = {name: {"missing": "no Debian release has it"} for name in peers.PEERS}
    result = peers.run(peers.TINY, missing, dsn, lambda sentence: None)
    assert result["skipped"] == dict.fromkeys(peers.PEERS, "no Debian release has it")
    assert {"over_executemany", "meterwatch_reads_per_s", "executemany_bytes_per_read"} <= set(result["figures"])
    assert not {"over_victoriametrics", "over_influxdb"} & set(result["figures"])
    assert {run["arm"] for run in result["runs"]} == {"meterwatch", "executemany"}
    for run in result["runs"]:
        assert run["reads"] == peers.TINY.meters * peers.TINY.intervals[run["arm"]]
