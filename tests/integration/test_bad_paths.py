"""A call whose path is no text: one of them ended the server of grpc.aio, and the process around it lived on, deaf."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bad_inputs import told
from raw_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Http2, frame, headers, message
from served import METERS, Served, goes_on, serving
from test_bad_input_wire import call_of, good_reads

from meterwatch.v1 import ingest_pb2 as pb

READS = "/meterwatch.v1.Ingest/SendReads"
PATHS = {
    "one byte of SendReads changed to 0xe3": READS.encode().replace(b"t", b"\xe3", 1),
    "0xff alone": b"\xff" * len(READS),
    "half a letter of UTF-8 at the end": READS.encode()[:-1] + b"\xc3",
    "a surrogate": b"/\xed\xa0\x80" + bytes(len(READS) - 4).replace(b"\0", b"x"),
}


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


@pytest.mark.parametrize("words", PATHS)
def test_a_path_that_is_no_text_is_of_no_method_and_everything_else_goes_on(served: Served, words: str) -> None:
    block = headers(READS).replace(READS.encode(), PATHS[words])
    with served.stream() as raw:
        for _ in range(2):
            with Http2(served.address) as connection:
                connection.send(frame(HEADERS, END_HEADERS, 1, block))
                connection.send(frame(DATA, END_STREAM, 1, message(good_reads())))
                assert connection.end() == "UNIMPLEMENTED"
        goes_on(raw)
    told(29, f"a path that is no text: {words}", "RPC", "UNIMPLEMENTED, of gRPC itself")
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"
    with served.stream(meters=[*METERS, "M-more"]) as another:
        goes_on(another)


def test_a_path_of_no_method_has_its_answer_while_its_message_is_still_coming(served: Served) -> None:
    with Http2(served.address) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, headers("/meterwatch.v1.Ingest/Nothing")))
        assert connection.end() == "UNIMPLEMENTED"
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"


def test_every_method_of_the_contract_is_registered(served: Served) -> None:
    for name in pb.DESCRIPTOR.services_by_name["Ingest"].methods_by_name:
        if name != "Stream":
            assert call_of(served, f"Ingest/{name}", b"\xff").code == "INVALID_ARGUMENT"
