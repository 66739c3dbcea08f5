"""The dictionaries of a head-end's streams share their bytes; a stream that ends gives its own back."""

from __future__ import annotations

import pytest
from databases import Databases
from served import HEAD_END, Served, fresh_database, fresh_epoch, serving
from service_process import until

from ingest import session
from meterwatch.v1 import ingest_pb2 as pb

MANY = [f"X-{number:06}" for number in range(100)]
BYTES = len(MANY) * (len(MANY[0]) + 24)


def announced(served: Served) -> bool:
    """A stream may announce as many meters as the limit allows."""
    with served.stream(pb.Hello(head_end=HEAD_END, epoch=fresh_epoch()), meters=()) as stream:
        return stream.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=MANY))).HasField("dictionary_ack")


def test_one_stream_leaves_the_others_what_is_left(cluster: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "DICTIONARIES_BYTES_MAX", BYTES + 500)
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        with served.stream(meters=MANY):
            assert not announced(served)
        until(lambda: announced(served), "what the first stream took is free")
