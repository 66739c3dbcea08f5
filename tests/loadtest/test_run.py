"""A load test from end to end at its tiny size, and the honesty of its clockwork. Its figures mean nothing here."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from fake_ingest import FakeIngest, Serving
from hdrh.histogram import HdrHistogram
from rich.console import Console
from typer.testing import CliRunner

from loadtest.lane import ReadLane
from loadtest.limits import check, figures, limit
from loadtest.null_server import NullServer
from loadtest.openloop import Generator, Job
from loadtest.plan import Message
from loadtest.record import Record
from loadtest.run import Order, apart, problems_of, run
from loadtest.scenarios import SCENARIOS, Knobs, turned
from meterwatch.cli import app
from meterwatch.client.headend import STREAM
from meterwatch.client.retry import CHANNEL_OPTIONS
from meterwatch.v1.ingest_pb2 import Ack, DictionaryAck, IngestRequest, IngestResponse, Welcome

START_US = 1_770_076_800_000_000
STALL_S = 0.6


@pytest.fixture(scope="module")
def record(cluster, dsn) -> Record:
    """A tiny storm with everything against a service on a database of its own."""
    settings = ["intervals=4", "speed=450", "malformed_share=0.02", "resent_days=1", "clock_drift_s=2"]
    knobs = turned(SCENARIOS["storm"][2], [*settings, "stalled_subscribers=1", "behind_limit_s=60", "outage_min=15"])
    out = io.StringIO()
    order = Order("storm", 1_000, 7, knobs, database=dsn, limits=[limit("ack_p99_ms<60_000"), limit("recall>=0")])
    made = run(order, Console(file=out))
    assert "ceiling" in out.getvalue()
    return made


def test_a_run_accounts_for_every_read_and_event(record):
    assert record.problems == []
    total = record.totals
    assert total["sent"] == total["acked"] == total["accepted"] + total["duplicates"] + total["rejected"]
    assert total["stored"] == total["accepted"] > 3_000
    assert total["rejected"] == total["malformed_sent"] > 0
    assert total["duplicates"] == total["copies_sent"] > 0
    assert total["events_acked"] == total["events_sent"] > 0
    assert {"UNKNOWN_METER", "NEGATIVE", "FUTURE", "NOT_FINITE"} == set(record.rejected_reasons)


def test_a_record_says_what_was_run_and_how_it_went(record, tmp_path):
    assert record.faults
    assert record.rates["generator_ceiling_reads_per_s"] > record.rates["scheduled_reads_per_s"] > 0
    assert {"p50", "p90", "p99", "p999", "max"} == set(record.ack_ms) == set(record.event_ms)
    assert HdrHistogram.decode(record.histogram).get_total_count() == record.totals["batches"]
    assert {"driver", "service", "postgres"} == set(record.cpu_s)
    assert sum(second.reads_acked for second in record.series) == record.totals["acked"]
    assert [second.at_s for second in record.series] == list(range(len(record.series)))
    assert {"timescaledb", "python"} <= set(record.versions)
    assert [one["ok"] for one in record.required] == [True, True]
    assert "recall" in record.score
    record.write(tmp_path / "run.json")
    assert Record.read(tmp_path / "run.json") == record


class Stalling(grpc.GenericRpcHandler):
    """Gives one credit and keeps its first answer back."""

    def service(self, details):
        assert details.method == STREAM
        return grpc.stream_stream_rpc_method_handler(
            self.stream, IngestRequest.FromString, IngestResponse.SerializeToString
        )

    def stream(self, requests: Iterator[IngestRequest], _context) -> Iterator[IngestResponse]:
        for request in requests:
            if request.HasField("hello"):
                yield IngestResponse(welcome=Welcome(credits=1, now_us=START_US, clock_mode="replay"))
            elif request.HasField("dictionary"):
                yield IngestResponse(dictionary_ack=DictionaryAck(count=len(request.dictionary.meter)))
            else:
                if request.batch.seq == 1:
                    time.sleep(STALL_S)
                yield IngestResponse(ack=Ack(seq=request.batch.seq, accepted=1, credits=1))


@pytest.fixture
def stalling() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Stalling(),), options=CHANNEL_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def played(address: str, offsets_s: list[float], slow_s: float = 0.0, paced: bool = True) -> ReadLane:
    """A lane that has sent a message at each of these times; slow_s: to make each."""
    todo = []
    for seq, offset_s in enumerate(offsets_s, 1):
        request = IngestRequest()
        request.batch.seq, request.batch.interval_s = seq, 900
        todo.append(Message(offset_s, paced, "reads", seq, 1, 0, 0, request.SerializeToString()))

    def take(_kind: str) -> Message | None:
        time.sleep(slow_s)
        return todo.pop(0) if todo else None

    lane = ReadLane(0, take, address, "HE", 1, ["M"])
    lane.connected()
    lane.start(time.monotonic())
    while not lane.finished():
        time.sleep(0.01)
    lane.close()
    assert lane.problems == []
    return lane


def test_latency_counts_from_the_scheduled_time_also_while_the_service_stalls(stalling):
    lane = played(stalling, [0.0, 0.01, 0.02, 0.03])
    assert lane.counts["acked"] == 4
    least_us = (STALL_S - 0.03) * 1e6 * 0.99
    assert lane.histogram.get_total_count() == 4
    assert lane.histogram.get_min_value() >= least_us
    assert lane.behind_s_max < STALL_S  # what the service withholds is no fault of the generator


def test_a_generator_that_is_late_although_there_is_credit_says_so():
    server = NullServer()
    try:
        lane = played(server.address, [0.0, 0.0, 0.0], slow_s=0.2)
    finally:
        server.close()
    assert lane.behind_s_max >= 0.55
    assert lane.histogram.get_max_value() >= 550_000


def test_without_a_time_table_latency_counts_from_the_send(stalling):
    lane = played(stalling, [0.0] * 3, paced=False)
    assert lane.behind_s_max == 0
    assert lane.histogram.get_min_value() < STALL_S * 1e6


class Thrifty(FakeIngest):
    """Breaks the first stream with eight batches unanswered; the next ones are given two credits."""

    def Stream(self, requests, context):
        self.credits = 8 if self.streams == 0 else 2
        self.unanswered_max = 0
        yield from super().Stream(requests, context)


def test_a_stream_opened_again_sends_again_as_far_as_the_new_one_gives_credit():
    fake = Thrifty(break_rate=1.0, breaks_max=1, seed=2)
    with Serving(fake) as address:
        lane = played(address, [0.0] * 8)
    assert fake.streams == 2
    assert lane.counts["resent"] == 8
    assert len(fake.ledger) == 8
    assert fake.unanswered_max == 2


def test_a_driver_can_be_connected_twice_and_loses_nothing():
    server, job = NullServer(), Job(500, 1, Knobs(intervals=2, speed=9_000, streams=1), START_US, 1, (0,))
    generator = Generator(job)
    try:
        assert generator.prepared().whole
        for _ in range(2):
            generator.connect(server.address)
            assert generator.welcomed().clock_mode == "null"
            generator.disconnect()
        generator.connect(server.address)
        generator.welcomed()
        generator.go(time.monotonic())
        said = None
        while said is None or isinstance(said, list):
            said = generator.poll()
    finally:
        generator.close()
        server.close()
    plan = job.plan()
    lost = sum(len(plan.lost(0, interval)) for interval in range(2))
    assert said.counts["acked"] == said.counts["sent"] == 1_000 - lost


def test_no_thread_of_a_lane_outlives_it(stalling):
    before = {thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPool")}
    played(stalling, [0.0])
    left = {t for t in threading.enumerate() if t not in before and t.name.endswith(("(_run)", "(_repeat)"))}
    assert not left


def test_limits_compare_figures_by_name(record):
    have = figures(record)
    assert have["ack_p99_ms"] == record.ack_ms["p99"]
    assert have["sent"] == record.totals["sent"]
    assert have["missed"] == len(record.score["missed"])
    rows = check(record, [limit("sent > 1"), limit("ack_p99_ms<=0"), limit("nonsense<1")])
    assert [row["ok"] for row in rows] == [True, False, False]
    assert "ack_p99_ms" in rows[2]["note"]


@pytest.mark.parametrize("text", ["ack_p99_ms", "ack_p99_ms<fast", "<5", "ack_p99_ms=5", ""])
def test_a_limit_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="expected a figure"):
        limit(text)


@pytest.mark.parametrize(
    ("totals", "behind_s", "says"),
    [
        ({"acked": 9}, 0.0, "9 acknowledged"),
        ({"rejected": 1, "accepted": 9}, 0.0, "1 rejected"),
        ({"accepted": 9}, 0.0, "9 accepted"),
        ({"stored": 8}, 0.0, "database counts 8"),
        ({"events_acked": 1}, 0.0, "1 acknowledged"),
        ({}, 2.0, "behind its schedule"),
    ],
)
def test_what_the_figures_contradict_is_a_problem(totals, behind_s, says):
    good = {"sent": 10, "acked": 10, "accepted": 10, "stored": 10, "events_sent": 2, "events_acked": 2}
    made = Record("steady", {}, 1, {}, {}, "", "", totals=good)
    assert problems_of(made, 1.0) == []
    made.totals, made.behind_s_max = good | totals, behind_s
    assert any(says in problem for problem in problems_of(made, 1.0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scenario", "quake"], "there are day, steady"),
        (["--require", "p99"], "expected a figure"),
        (["--set", "late=1"], "expected knob=value"),
        (["--local", "--address", "x:1"], "give one"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(arguments, says):
    result = CliRunner().invoke(app, ["loadtest", *arguments])
    assert result.exit_code == 2
    assert says in result.output


def test_scenarios_and_knobs_are_listed():
    result = CliRunner().invoke(app, ["loadtest", "--list"])
    assert result.exit_code == 0
    assert all(f"{name}: " in result.stdout for name in SCENARIOS)
    assert "late_share=0.0" in result.stdout


def test_how_far_streams_drifted_apart_is_told():
    together, behind = [0.0, 1.0, 2.0, 3.0], [0.0, 2.5, 5.0, 7.5]
    assert apart([together, together]) == 0.0
    assert apart([together, behind, []]) == 0.5  # at 3 s all of the one is sent and half of the other
    assert apart([]) == 0.0
