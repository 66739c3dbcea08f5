"""A head-end that sends and never reads: its stream is given up in time and all it held is free, for others at once.

The connection is alive and answers nothing but flow control: by HTTP/2 its window lets no message past a number of
bytes, so the service's message stays under way for as long as the test likes.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from bad_inputs import told
from databases import Databases
from raw_http2 import DATA, END_HEADERS, HEADERS, Http2, frame, headers, message
from served import HEAD_END, Served, fresh_database, fresh_epoch, goes_on, serving
from service_process import until
from test_bad_input_wire import call_of, good_reads

from ingest.session import Session
from meterwatch import app, server
from meterwatch.v1 import ingest_pb2 as pb

STREAM = "/meterwatch.v1.Ingest/Stream"
NOTHING, WELCOME = 0, 200
"""Windows: not even Welcome fits; Welcome fits, and the answer to a dictionary of strangers does not."""
STRANGERS = 1000
IDLE_S = 0.5


def greeting(epoch: int) -> bytes:
    """Hello, and meters that are all unknown: their numbers make a long answer."""
    hello = pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=epoch))
    meters = pb.IngestRequest(dictionary=pb.Dictionary(meter=[f"X-{i}" for i in range(STRANGERS)]))
    return message(hello.SerializeToString()) + message(meters.SerializeToString())


def begin(connection: Http2, epoch: int) -> None:
    connection.send(frame(HEADERS, END_HEADERS, 1, headers(STREAM)))
    connection.send(frame(DATA, 0, 1, greeting(epoch)))


def open_streams(served: Served) -> float | None:
    return served.service.metrics.registry.get_sample_value("meterwatch_streams_open")


def refusals(served: Served, code: str, reason: str) -> float:
    labels = {"method": "Stream", "code": code, "reason": reason}
    return served.service.metrics.registry.get_sample_value("meterwatch_calls_refused_total", labels) or 0.0


def handlers(served: Served) -> list[str]:
    """Handlers of streams that have not ended."""
    return [task.get_name() for task in asyncio.all_tasks(served.loop) if f"[{STREAM}]" in task.get_name()]


def sessions(epoch: int) -> int:
    """How many of an epoch are still held by anything."""
    gc.collect()
    return sum(isinstance(one, Session) and one.epoch == epoch for one in gc.get_objects())


@pytest.fixture(scope="module", autouse=True)
def _no_pings() -> Iterator[None]:
    """Our connections answer no pings, and are not to be ended for it."""
    slow = [(name, 600_000 if name == "grpc.keepalive_time_ms" else value) for name, value in server.OPTIONS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "OPTIONS", slow)
        yield


@pytest.fixture(scope="module")
def patient(dsn: str, _no_pings: None) -> Iterator[Served]:
    with serving(dsn) as served:
        yield served


@pytest.mark.parametrize("window", [NOTHING, WELCOME])
def test_who_reads_no_answer_is_given_up_and_gets_the_status_when_he_reads_on(cluster: Databases, window: int) -> None:
    epoch = fresh_epoch()
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, idle_timeout_s=IDLE_S, streams_max=1) as served,
        Http2(served.address, window=window) as stalled,
    ):
        begin(stalled, epoch)
        assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"
        until(lambda: refusals(served, "DEADLINE_EXCEEDED", "DEADLINE") == 1, "it is given up")
        until(lambda: open_streams(served) == 0, "its place is free")
        until(lambda: not sessions(epoch), "nothing holds its dictionary any more")
        with served.stream() as other:
            goes_on(other)
        until(lambda: not handlers(served), "no handler waits for it")
        stalled.widen(1, 1_000_000)
        end = stalled.end()
        assert end == "DEADLINE_EXCEEDED"
    told(80, "a stream that reads no answer for server.idle_timeout_s", "RPC", f"{end} DEADLINE, when it reads on")


def test_a_newer_stream_takes_the_place_of_one_that_does_not_read(patient: Served) -> None:
    epoch = fresh_epoch()
    with Http2(patient.address, window=WELCOME) as stalled:
        begin(stalled, epoch)
        until(lambda: sessions(epoch) == 1, "the stream is under way")
        with patient.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as newer:
            until(lambda: open_streams(patient) == 1 and sessions(epoch) == 1, "the older one is gone")
            goes_on(newer)
        stalled.widen(1, 1_000_000)
        assert stalled.end() == "ABORTED"


def test_who_leaves_before_he_has_read_the_status_is_no_error(patient: Served) -> None:
    epoch = fresh_epoch()
    before = refusals(patient, "ABORTED", "SUPERSEDED")
    with Http2(patient.address, window=WELCOME) as stalled:
        begin(stalled, epoch)
        until(lambda: sessions(epoch) == 1, "the stream is under way")
        with patient.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)):
            until(lambda: refusals(patient, "ABORTED", "SUPERSEDED") == before + 1, "its status is on its way")
    until(lambda: not handlers(patient), "no handler is left")
    assert refusals(patient, "INTERNAL", "INTERNAL") == 0


def test_a_service_stops_beside_a_stream_that_does_not_read(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "DRAIN_S", 0.2)
    with fresh_database(cluster) as dsn:
        with serving(dsn) as served:
            stalled = Http2(served.address, window=WELCOME)
            begin(stalled, fresh_epoch())
            until(lambda: open_streams(served) == 1, "the stream is open")
        with stalled:
            assert stalled.end() != "OK"
