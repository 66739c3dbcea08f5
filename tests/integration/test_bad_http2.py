"""HTTP/2 that no gRPC library speaks, against the real service: whatever it does with it, the next call is answered."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from bad_inputs import told
from raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Http2,
    frame,
    headers,
    message,
)
from served import HEAD_END, METERS, Served, fresh_epoch, reads, serving
from test_bad_input_wire import call_of, good_reads

from meterwatch import server
from meterwatch.v1 import ingest_pb2 as pb

READS, STREAM = "/meterwatch.v1.Ingest/SendReads", "/meterwatch.v1.Ingest/Stream"


QUICK = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}
UNSENT = "INVALID_ARGUMENT"
"""What the service says to a call without a whole message, and of the bytes that gRPC makes of a message with flag 7."""


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "OPTIONS", [(name, QUICK.get(name, value)) for name, value in server.OPTIONS])
        with serving(dsn) as running:
            yield running


def hello() -> bytes:
    return message(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=fresh_epoch())).SerializeToString())


Act = Callable[[Http2], None]
CASES: list[tuple[int, str, set[str], Act]] = [
    (20, "a message that says 2^32 - 1 bytes, 5 sent", {"RESOURCE_EXHAUSTED"}, lambda c: c.call(READS, message(b"12345", says=2**32 - 1))),
    (21, "SendReads: 100 bytes said, 5 sent, end", {UNSENT}, lambda c: c.call(READS, message(b"12345", says=100))),
    (21, "Stream: hello, then 100 bytes said, 5 sent, end", {"OK"}, lambda c: c.call(STREAM, hello() + message(b"12345", says=100))),
    (22, "the flag of compression without an encoding", {"INTERNAL", "UNIMPLEMENTED"}, lambda c: c.call(READS, message(good_reads(), flag=1))),
    (22, "gzip that is none", {"INTERNAL", "UNIMPLEMENTED"}, lambda c: c.call(READS, message(b"no gzip", flag=1), {"grpc-encoding": "gzip"})),
    (22, "an encoding there is not", {"UNIMPLEMENTED", "INTERNAL"}, lambda c: c.call(READS, message(good_reads(), flag=1), {"grpc-encoding": "zip"})),
    (23, "a message with the flag 7", {UNSENT}, lambda c: c.call(READS, message(good_reads(), flag=7))),
    (24, "two messages to SendReads", {"OK", "UNIMPLEMENTED", "INTERNAL"}, lambda c: c.call(READS, message(good_reads()) * 2)),
    (24, "no message to SendReads", {UNSENT}, lambda c: c.call(READS, b"")),
    (25, "content-type text/html", {"OK", "UNKNOWN", "UNIMPLEMENTED", "RST_STREAM 2"}, lambda c: c.call(READS, message(good_reads()), {"content-type": "text/html"})),
    (26, "GET instead of POST", {"trailers", "RST_STREAM 2", "UNIMPLEMENTED", "OK"}, lambda c: c.call(READS, message(good_reads()), {":method": "GET"})),
    (26, "no te: trailers", {"RST_STREAM 2"}, lambda c: c.call(READS, message(good_reads()), {"te": ""})),
    (27, "a binary field that is no base64", {"OK", "INTERNAL", "RST_STREAM 2"}, lambda c: c.call(READS, message(good_reads()), {"x-bin": "%%%"})),
    (28, "grpc-timeout: junk", {"INTERNAL"}, lambda c: c.call(READS, message(good_reads()), {"grpc-timeout": "soon"})),
]  # fmt: skip
"""Number, words, how the stream may end, what is sent. UNKNOWN is never ours: here gRPC itself says it."""


@pytest.mark.parametrize(("number", "words", "ends", "act"), CASES, ids=[case[1] for case in CASES])
def test_a_strange_stream_ends_and_the_next_call_is_answered(
    served: Served, number: int, words: str, ends: set[str], act: Act
) -> None:
    with Http2(served.address) as connection:
        act(connection)
        end = connection.end()
    assert end in ends, end
    said = end if end in ("OK", UNSENT) else f"{end}, of gRPC itself"
    told(number, words, "TAKEN" if end == "OK" else "RPC", said)
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"


def test_of_a_stream_whose_last_message_was_cut_short_nothing_is_stored(served: Served) -> None:
    epoch = fresh_epoch()
    greeting = pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=epoch)).SerializeToString()
    with Http2(served.address) as connection:
        connection.call(STREAM, message(greeting) + message(b"\x1a\x03", says=90))
        assert connection.end() == "OK"
    assert served.sql("SELECT count(*) FROM batches WHERE epoch = %s", epoch) == [(0,)]


OTHERS = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c6010000c20303") + bytes(190),
    "text": b"hello?\r\n\r\n",
}


@pytest.mark.parametrize("words", OTHERS)
def test_another_protocol_is_closed(served: Served, words: str) -> None:
    host, _, port = served.address.rpartition(":")
    with socket.create_connection((host, int(port)), 20.0) as connection:
        connection.sendall(OTHERS[words])
        try:
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass
    told(26, f"{words} on the port of gRPC", "RPC", "the connection is closed, by gRPC itself")
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"


def rapid_reset(connection: Http2) -> None:
    block = headers(STREAM)
    for stream in range(1, 4001, 2):
        reset = frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
        connection.send(frame(HEADERS, END_HEADERS, stream, block) + reset)


def pings(connection: Http2) -> None:
    for n in range(200):
        connection.send(frame(PING, 0, 0, n.to_bytes(8, "big")))


def settings(connection: Http2) -> None:
    connection.send(frame(SETTINGS, 0, 0) * 5000)


def empty_frames(connection: Http2) -> None:
    connection.send(frame(HEADERS, END_HEADERS, 1, headers(STREAM)) + frame(DATA, 0, 1) * 5000)
    connection.send(frame(DATA, END_STREAM, 1))


FLOODS = {
    rapid_reset: "2,000 streams opened and reset",
    settings: "5,000 frames of settings",
    empty_frames: "5,000 empty frames of data",
}


@pytest.mark.parametrize("flood", [*FLOODS, pings])
def test_a_flood_costs_its_own_connection_at_most(served: Served, flood: Callable[[Http2], None]) -> None:
    with Http2(served.address) as connection:
        flood(connection)
        assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"
    if flood in FLOODS:
        told(83, FLOODS[flood], "TAKEN", "calls of others are answered meanwhile")


def test_who_opens_and_resets_streams_ends_no_call_of_others(served: Served) -> None:
    for _ in range(15):  # gRPC picks whom to end by chance
        with Http2(served.address) as connection:
            rapid_reset(connection)
            assert [call_of(served, "Ingest/SendReads", good_reads()).code for _ in range(2)] == ["OK", "OK"]


def test_a_flood_of_pings_is_answered_with_goaway(served: Served) -> None:
    with Http2(served.address) as connection:
        pings(connection)
        end = connection.end()
    assert end == "GOAWAY 11 too_many_pings"
    told(83, "200 pings at once", "RPC", f"{end}, of gRPC itself")


def requests(*parts: pb.Hello | pb.Dictionary | pb.ReadBatch) -> bytes:
    """Messages of a stream."""
    of = {pb.Hello: "hello", pb.Dictionary: "dictionary", pb.ReadBatch: "batch"}
    return b"".join(message(pb.IngestRequest(**{of[type(one)]: one}).SerializeToString()) for one in parts)


def test_a_stream_in_frames_of_one_byte_is_as_any_other(served: Served) -> None:
    epoch = fresh_epoch()
    body = requests(pb.Hello(head_end=HEAD_END, epoch=epoch), pb.Dictionary(meter=METERS), reads(1, 4))
    with Http2(served.address) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, headers(STREAM)))
        for byte in body:
            connection.send(frame(DATA, 0, 1, bytes([byte])))
        connection.send(frame(DATA, END_STREAM, 1))
        end = connection.end()
    assert end == "OK"
    assert served.sql("SELECT accepted FROM batches WHERE epoch = %s", epoch) == [(4,)]
    told(81, "a batch in frames of one byte", "TAKEN", "as any other")


def test_a_thousand_batches_of_one_row_are_stored_together(served: Served) -> None:
    epoch, n = fresh_epoch(), 1000
    with served.stream(pb.Hello(head_end=HEAD_END, epoch=epoch)) as raw:
        sent = answered = 0
        credits_now = 8
        while answered < n:
            while sent < n and sent - answered < credits_now:
                sent += 1
                raw.send(reads(sent))
            ack = raw.answer().ack
            answered += 1
            assert (ack.seq, ack.accepted) == (answered, 1)
            credits_now = ack.credits
    assert served.sql("SELECT count(*), sum(accepted) FROM batches WHERE epoch = %s", epoch) == [(n, n)]
    told(81, f"{n} batches of one row each, as fast as answers come", "TAKEN", f"{n} rows")
