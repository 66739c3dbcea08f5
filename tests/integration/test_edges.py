"""Edges of limits that take a service and nothing else: silence before the first word, and the size of single calls."""

from __future__ import annotations

import socket
from typing import Any

import grpc
import pytest
from databases import Databases
from served import HEAD_END, fresh_database, fresh_epoch, serving

from ingest.service import EVENTS_BYTES_MAX
from meterwatch import server
from meterwatch.v1 import ingest_pb2 as pb
from meterwatch.v1 import ingest_pb2_grpc

ENOUGH_S = 60
QUICK_MS = 300


def test_a_stream_without_a_hello_ends_after_the_idle_timeout(cluster: Databases) -> None:
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, idle_timeout_s=0.3) as served,
        served.stream(welcomed=False) as raw,
    ):
        end = raw.end()
    assert (end.code, end.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")
    assert "nothing arrived for" in end.message


def test_a_connection_that_says_nothing_is_closed(cluster: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "grpc.server_handshake_timeout_ms"
    assert name in dict(server.OPTIONS)
    quick = [(key, QUICK_MS if key == name else value) for key, value in server.OPTIONS]
    monkeypatch.setattr(server, "OPTIONS", quick)
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        host, _, port = served.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=ENOUGH_S) as silent:
            while silent.recv(4096):  # settings, perhaps; then the end
                pass


@pytest.mark.parametrize("kind", ["events", "registers"])
def test_a_request_of_events_or_registers_has_a_size(cluster: Databases, kind: str) -> None:
    """One byte more than allowed is refused by name; gRPC's own limit is set beyond it."""
    meter = ["M" * (EVENTS_BYTES_MAX // 64)] * 64
    message: Any
    if kind == "events":
        message = pb.SendEventsRequest(head_end=HEAD_END, epoch=fresh_epoch(), seq=1, meter=meter)
    else:
        message = pb.SendRegistersRequest(head_end=HEAD_END, epoch=fresh_epoch(), seq=1, meter=meter)
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, message_bytes_max=2 * EVENTS_BYTES_MAX) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        stub: Any = ingest_pb2_grpc.IngestStub(channel)  # type: ignore[no-untyped-call]  # generated
        send = stub.SendEvents if kind == "events" else stub.SendRegisters
        with pytest.raises(grpc.RpcError) as refused:
            send(message)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"expected at most {EVENTS_BYTES_MAX}" in refused.value.details()
