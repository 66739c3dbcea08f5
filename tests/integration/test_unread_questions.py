"""Questions whose answers nobody reads take nothing from what the service has to write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from databases import Databases
from raw_http2 import Http2, message
from served import HEAD_END, METERS, STEP_S, Served, fresh_database, fresh_end_us, fresh_epoch, serving
from service_process import until
from test_bad_input_wire import call_of

from meterwatch import server
from meterwatch.v1 import ingest_pb2, reads_pb2
from storage.pool import QUESTIONS_SIZE_MAX, SIZE_MAX

QUERY = "/meterwatch.v1.Reads/Query"


def a_read() -> bytes:
    return ingest_pb2.SendReadsRequest(
        head_end=HEAD_END, epoch=fresh_epoch(), seq=1, interval_s=STEP_S,
        read=[ingest_pb2.Read(meter=METERS[0], end_us=fresh_end_us(), import_wh=1)],
    ).SerializeToString()  # fmt: skip


@pytest.fixture
def served(cluster: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    slow = [(name, 600_000 if name == "grpc.keepalive_time_ms" else value) for name, value in server.OPTIONS]
    monkeypatch.setattr(server, "OPTIONS", slow)  # our connections answer no pings, and are not to be ended for it
    with fresh_database(cluster) as dsn, serving(dsn) as running:
        yield running


def connections_of_questions(served: Served) -> int:
    """Of this database: in a transaction of a query that waits for its reader."""
    [(count,)] = served.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    return int(count)


def test_while_all_questions_are_left_unread_what_is_sent_is_judged_and_acknowledged(served: Served) -> None:
    """Two viewers, or anybody on the machine without authentication, could else stop all acks."""
    assert call_of(served, "Ingest/SendReads", a_read()).code == "OK"
    request = reads_pb2.QueryRequest(meter=METERS, from_us=1, to_us=2_000_000_000_000_000).SerializeToString()
    with ExitStack() as stalled:
        for _ in range(SIZE_MAX + QUESTIONS_SIZE_MAX):
            connection = stalled.enter_context(Http2(served.address, window=0))
            connection.call(QUERY, message(request))
        until(lambda: connections_of_questions(served) >= QUESTIONS_SIZE_MAX, "they hold what there is for questions")
        for _ in range(3):
            end = call_of(served, "Ingest/SendReads", a_read())
            assert end.code == "OK", end
