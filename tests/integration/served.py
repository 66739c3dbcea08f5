"""The service in this process, on a thread of its own, over a database with a small registry; and a raw stream to it.

Raw: what is sent are bytes, and what comes back is shown as it came, so that a test can send what no client would.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import psycopg
from databases import Databases
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pydantic import SecretStr

from meterwatch import registry_csv
from meterwatch.app import Service, running
from meterwatch.config import Config, Database, Server
from meterwatch.v1 import ingest_pb2 as pb
from meterwatch.v1 import registry_pb2, registry_pb2_grpc

ENOUGH_S = 60.0  # a limit for a hung test, not an expectation
US = 1_000_000
STEP_S = 900
METERS = ("M-1", "M-2", "M-3", "M-4")
FOREIGN = "M-other"
HEAD_END, OTHER_HEAD_END = "HES-1", "HES-2"


def _csv(columns: Sequence[str], *rows: dict[str, str]) -> str:
    return "".join(",".join(line) + "\n" for line in (columns, *([row.get(c, "") for c in columns] for row in rows)))


_METER = {"transformer": "T-1", "interval_s": "900", "installed_on": "2020-01-01"}
REGISTRY = {
    "head_ends": _csv(
        registry_csv.HeadEnd._fields,
        *({"head_end": name, "time_zone": "UTC", "late_window_days": "400"} for name in (HEAD_END, OTHER_HEAD_END)),
    ),
    "transformers": _csv(registry_csv.Transformer._fields, {"transformer": "T-1", "rated_kva": "400"}),
    "meters": _csv(
        registry_csv.Meter._fields,
        *({"meter": meter, "head_end": HEAD_END, **_METER} for meter in METERS),
        {"meter": FOREIGN, "head_end": OTHER_HEAD_END, **_METER},
    ),
}

_number = itertools.count(1)
_epoch = itertools.count(int(time.time()))
_FRESH_S = int(time.time()) // STEP_S * STEP_S - 200 * 86_400
"""Far from the moments that tests name themselves, and fixed: a quarter of an hour may begin during the tests."""


def fresh_epoch() -> int:
    return next(_epoch)


def fresh_end_us() -> int:
    """An interval end no read of this process has yet, 200 days ago, the later the call the longer."""
    return (_FRESH_S - STEP_S * next(_number)) * US


@contextmanager
def fresh_database(cluster: Databases) -> Iterator[str]:
    """URL of a migrated database that is dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield cluster.migrated(name)
    cluster.drop_database(name)


@dataclass
class Served:
    """A running service and how to ask it and its database."""

    address: str
    dsn: str
    service: Service
    loop: asyncio.AbstractEventLoop

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, options="-c TimeZone=UTC") as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def call(self, method: str, data: bytes, timeout_s: float = ENOUGH_S) -> bytes:
        """A unary call of bytes; raises grpc.RpcError."""
        with grpc.insecure_channel(self.address) as channel:
            answer: bytes = channel.unary_unary(f"/meterwatch.v1.{method}")(data, timeout=timeout_s)
            return answer

    def stream(self, hello: pb.Hello | None = None, *, meters: Sequence[str] = METERS, welcomed: bool = True) -> Raw:
        """A stream of its own epoch; with `welcomed`, past Welcome and with the meters announced."""
        raw = Raw(self.address)
        if welcomed:
            raw.send(pb.IngestRequest(hello=hello or pb.Hello(head_end=HEAD_END, epoch=fresh_epoch())))
            assert raw.answer().HasField("welcome")
            raw.send(pb.IngestRequest(dictionary=pb.Dictionary(meter=meters)))
            assert raw.answer().HasField("dictionary_ack")
        return raw


@contextmanager
def serving(dsn: str, *, registered: bool = False, **server: Any) -> Iterator[Served]:
    """A service over `dsn` with the small registry, on a real clock. registered: it is there already."""
    config = Config(server=Server(**({"port": 0} | server)), database=Database(url=SecretStr(dsn)))
    started: queue.Queue[Served | BaseException] = queue.Queue()
    stop: list[Callable[[], None]] = []

    async def live() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with running(config) as service:
            started.put(Served(service.address, dsn, service, loop))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # the thread's boundary
            started.put(error)

    thread = threading.Thread(target=run, name="service")
    thread.start()
    served = started.get(timeout=ENOUGH_S)
    if isinstance(served, BaseException):
        raise served
    try:
        if not registered:
            import_registry(served.address)
        yield served
    finally:
        stop[0]()
        thread.join(ENOUGH_S)
    if not started.empty():
        raise AssertionError("the service did not end well") from started.get()  # type: ignore[misc]


def import_registry(address: str) -> None:
    request = registry_pb2.ImportRequest()
    for kind, text in REGISTRY.items():
        request.file.add(kind=kind, name=f"{kind}.csv", content=text.encode())
    with grpc.insecure_channel(address) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).Import(request, timeout=ENOUGH_S)
    assert not answer.error, answer.error


class Ended(NamedTuple):
    """How a call ended."""

    code: str
    reason: str
    domain: str
    message: str
    retry_s: float | None


def ended(error: Any) -> Ended:
    """Status, ErrorInfo and RetryInfo of a failed call; reason and domain are empty if grpc itself said it."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay = None
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        packed.Unpack(info)
        if packed.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return Ended(error.code().name, info.reason, info.domain, error.details() or "", delay)


class Raw:
    """One Ingest.Stream of bytes."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(
            address,
            options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._call: Any = self._channel.stream_stream("/meterwatch.v1.Ingest/Stream")(
            iter(self._out.get, None), timeout=ENOUGH_S
        )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def send(self, message: pb.IngestRequest | pb.ReadBatch | bytes) -> None:
        if isinstance(message, pb.ReadBatch):
            message = pb.IngestRequest(batch=message)
        self._out.put(message if isinstance(message, bytes) else message.SerializeToString())

    def answer(self) -> pb.IngestResponse:
        return pb.IngestResponse.FromString(next(self._call))

    def ask(self, message: pb.IngestRequest | pb.ReadBatch | bytes) -> pb.IngestResponse:
        self.send(message)
        return self.answer()

    def half_close(self) -> None:
        self._out.put(None)

    def end(self) -> Ended:
        """Skip what still comes and show how the stream ends."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            return ended(error)
        return Ended("OK", "", "", "", None)

    def leave(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()


def reads(seq: int, rows: int = 1, **columns: Any) -> pb.ReadBatch:
    """A good batch of fresh reads, one interval each; `columns` replace its fields."""
    batch = pb.ReadBatch(seq=seq, interval_s=STEP_S)
    fields: dict[str, Any] = {
        "meter_index": [i % len(METERS) for i in range(rows)],
        "stamp_us": [fresh_end_us() for _ in range(rows)],
        "import_wh": [100] * rows,
        **columns,
    }
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(batch, name).extend(value)
        else:
            setattr(batch, name, value)
    return batch


def goes_on(raw: Raw, seq: int = 1_000_000) -> None:
    """A good batch on this stream is acknowledged."""
    answer = raw.ask(reads(seq))
    ack = answer.ack
    assert (ack.seq, ack.accepted, ack.replayed) == (seq, 1, False), answer
