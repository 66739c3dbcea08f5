"""A server that only answers: how fast the generator is when nobody does any work.

Promises: it reads a batch far enough to know its number and its rows. Refuses everything else. It shares the machine
with the generator, as the real service does, so the ceiling it gives is a low estimate.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc

from loadtest.child import Child
from meterwatch.client.events import SEND_EVENTS
from meterwatch.client.headend import STREAM
from meterwatch.client.retry import CHANNEL_OPTIONS
from meterwatch.v1.ingest_bytes_pb2 import IngestRequestBytes
from meterwatch.v1.ingest_pb2 import (
    Ack,
    DictionaryAck,
    IngestRequest,
    IngestResponse,
    SendEventsRequest,
    SendEventsResponse,
    Welcome,
)

CREDITS: Final = 8
START_TIMEOUT_S: Final = 60.0


class NullServer:
    """The server, in a process of its own. Close it."""

    def __init__(self) -> None:
        self._child = Child("null server", _main, answers_in_s=START_TIMEOUT_S)
        self.address = f"127.0.0.1:{self._child.answer(int)}"

    def close(self) -> None:
        self._child.close()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(_stream, None, IngestResponse.SerializeToString)
        if details.method == SEND_EVENTS:
            return grpc.unary_unary_rpc_method_handler(_events, None, SendEventsResponse.SerializeToString)
        return None


def _stream(requests: Iterator[bytes], _context: Any) -> Iterator[IngestResponse]:
    meters = 0
    for data in requests:
        batch = IngestRequestBytes.FromString(data).batch
        if batch.seq:
            yield IngestResponse(ack=Ack(seq=batch.seq, accepted=len(batch.meter_index) // 4, credits=CREDITS))
            continue
        request = IngestRequest.FromString(data)
        if request.HasField("hello"):
            welcome = Welcome(credits=CREDITS, now_us=time.time_ns() // 1000, clock_mode="null")
            yield IngestResponse(welcome=welcome)
        else:
            count = len(request.dictionary.meter)
            yield IngestResponse(dictionary_ack=DictionaryAck(first_index=meters, count=count))
            meters += count


def _events(data: bytes, _context: Any) -> SendEventsResponse:
    return SendEventsResponse(accepted=len(SendEventsRequest.FromString(data).meter_index))


def _main(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes the pipe
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=(_Handler(),), options=CHANNEL_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    try:
        pipe.recv()
    except EOFError:  # the run has closed its end
        server.stop(0)
