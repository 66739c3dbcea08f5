"""A whole service behind TLS, with two districts, two head-ends, and callers with certificates and tokens."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from access_authority import AUDIENCE, ISSUER, Authority, Issuer, Pair, jwks
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pydantic import SecretStr

from meterwatch import registry_csv
from meterwatch.app import Service, running
from meterwatch.config import Access, Config, Database, Server
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.v1 import (
    alarms_pb2_grpc,
    audit_pb2_grpc,
    gaps_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    reads_pb2_grpc,
    receipts_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    reliability_pb2_grpc,
    thermal_pb2_grpc,
    transformers_pb2_grpc,
)

ENOUGH_S = 60.0  # a limit for a hung test, not an expectation
US = 1_000_000
STEP_S = 900
NORTH, SOUTH = "North", "South"
CA, OTHER_CA = Authority(), Authority()
ISSUES = Issuer()
NOW_US = int(time.time()) // STEP_S * STEP_S * US


def csv_of(columns: Sequence[str], *rows: dict[str, str]) -> str:
    return "".join(",".join(line) + "\n" for line in (columns, *([row.get(c, "") for c in columns] for row in rows)))


def meter_row(name: str, transformer: str, head_end: str) -> dict[str, str]:
    of = {"transformer": transformer, "head_end": head_end, "interval_s": str(STEP_S), "installed_on": "2020-01-01"}
    return {"meter": name} | of


REGISTRY = {
    "head_ends": csv_of(
        registry_csv.HeadEnd._fields,
        *({"head_end": name, "time_zone": "UTC", "late_window_days": "400"} for name in ("HES-1", "HES-2")),
    ),
    "feeders": csv_of(
        registry_csv.Feeder._fields, {"feeder": "F-N", "district": NORTH}, {"feeder": "F-S", "district": SOUTH}
    ),
    "transformers": csv_of(
        registry_csv.Transformer._fields,
        {"transformer": "T-N", "feeder": "F-N", "rated_kva": "400", "district": NORTH},
        {"transformer": "T-S", "feeder": "F-S", "rated_kva": "400", "district": SOUTH},
    ),
    "meters": csv_of(
        registry_csv.Meter._fields,
        *(meter_row(name, "T-N", "HES-1") for name in ("M-N1", "M-N2")),
        *(meter_row(name, "T-S", "HES-2") for name in ("M-S1", "M-S2")),
    ),
}

_STUBS = (
    alarms_pb2_grpc.AlarmsStub, audit_pb2_grpc.AuditStub, gaps_pb2_grpc.GapsStub, ingest_pb2_grpc.IngestStub,
    reads_pb2_grpc.ReadsStub, receipts_pb2_grpc.ReceiptsStub, registry_pb2_grpc.RegistryStub,
    reliability_pb2_grpc.ReliabilityStub, thermal_pb2_grpc.ThermalStub, transformers_pb2_grpc.TransformersStub,
)  # fmt: skip


class Caller:
    """Somebody with a channel: every service as an attribute, e.g. caller.Alarms.ListAlarms(request)."""

    def __init__(self, channel: grpc.Channel, token: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        self.channel = channel
        self.metadata = [*headers, *([("authorization", f"Bearer {token}")] if token else [])]
        for stub in _STUBS:
            setattr(self, stub.__name__.removesuffix("Stub"), _Stub(stub(channel), self.metadata))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Stub:
    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]]) -> None:
        self._stub, self._metadata = stub, metadata

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda request, **options: method(request, timeout=ENOUGH_S, metadata=self._metadata, **options)


@dataclass
class World:
    """The running service. `port` asks for a certificate, `token_port` does not."""

    service: Service
    loop: asyncio.AbstractEventLoop
    dsn: str
    port: int
    token_port: int
    denied: Path
    gate: Any
    channels: list[grpc.Channel] = field(default_factory=list)

    def holder(self, pair: Pair | None, trusts: Authority = CA) -> Caller:
        """A caller with a certificate, or with none at the port that demands one."""
        return Caller(self._channel(self.port, pair, trusts))

    def person(self, *roles: str, districts: Sequence[str] = (), name: str = "anna") -> Caller:
        """A caller with a new certificate."""
        return self.holder(CA.issue(name, roles=roles, districts=districts))

    def bearer(self, token: str, headers: Sequence[tuple[str, str]] = ()) -> Caller:
        """A caller with a token and no certificate."""
        return Caller(self._channel(self.token_port, None, CA), token, headers)

    def local(self) -> Caller:
        """A caller in plain text."""
        channel = grpc.insecure_channel(self.service.address)
        self.channels.append(channel)
        return Caller(channel)

    def run(self, job: Coroutine[Any, Any, Any]) -> Any:
        """Await something on the service's loop."""
        return asyncio.run_coroutine_threadsafe(job, self.loop).result(ENOUGH_S)

    def sql(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.dsn, options="-c TimeZone=UTC") as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def raise_alarms(self, minute: int) -> dict[str, str]:
        """An outage on each transformer, at that minute of the past; alarm ids by transformer."""
        onset_us = NOW_US - minute * 60 * US
        episode = Episode(onset_us, onset_us, None, Severity.HIGH, "SUSTAINED", "no supply")
        numbers = {name: self.service.pipeline.topology().transformer.index(name) for name in ("T-N", "T-S")}
        verdicts = [Verdict("OUTAGE", "transformer", number, onset_us, (episode,)) for number in numbers.values()]
        made = self.run(self.service.desk.record(verdicts, []))
        return {transition.alarm.asset: transition.alarm.alarm_id for transition in made}

    def audited(self, **wanted: str) -> list[tuple[str, str, str, str, int]]:
        """(who, method, object, outcome, calls) of rows whose columns are as wanted, oldest first; no row BEGUN."""
        where = " AND ".join(["outcome <> 'BEGUN'", *(f"{name} = %s" for name in wanted)])
        query = f"SELECT who, method, object, outcome, calls FROM audit_log WHERE {where} ORDER BY audit_no"
        return self.sql(query, *wanted.values())

    def _channel(self, port: int, pair: Pair | None, trusts: Authority) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            trusts.pem, pair.key if pair else None, pair.certificate if pair else None
        )
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
        self.channels.append(channel)
        return channel


@contextmanager
def served(dsn: str, directory: Path, tls: bool = True) -> Iterator[World]:
    """The service of the package, its plain-text port replaced by two with TLS; without tls as it is by default."""
    (directory / "jwks.json").write_bytes(jwks(ISSUES))
    denied = directory / "denied"
    denied.write_text("")
    access = Access(denied_serials_file=denied)
    if tls:
        access = Access(jwks_file=directory / "jwks.json", issuer=ISSUER, audience=AUDIENCE, denied_serials_file=denied)
    config = Config(server=Server(port=0), database=Database(url=SecretStr(dsn)), access=access)
    mine = CA.issue("localhost")
    pairs = [(mine.key, mine.certificate)]
    ports: list[int] = []
    gates: list[Any] = []

    def secure(server: Any, address: str) -> int:
        demanded = grpc.ssl_server_credentials(pairs, CA.pem, require_client_auth=True)
        ports.append(server.add_secure_port("127.0.0.1:0", demanded))
        ports.append(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs)))
        return ports[0]

    started: queue.Queue[tuple[Service, asyncio.AbstractEventLoop] | BaseException] = queue.Queue()
    stop: list[Callable[[], None]] = []

    async def live() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with running(config) as service:
            started.put((service, loop))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # the thread's boundary
            started.put(error)

    from meterwatch.access.gate import Gate

    opened = Gate.__init__

    def remembered(self: Any, *arguments: Any, **options: Any) -> None:
        opened(self, *arguments, **options)
        gates.append(self)

    with pytest.MonkeyPatch.context() as patch:
        if tls:
            patch.setattr(grpc.aio._server.Server, "add_insecure_port", secure)
        patch.setattr(Gate, "__init__", remembered)
        thread = threading.Thread(target=run, name="service")
        thread.start()
        found = started.get(timeout=ENOUGH_S)
    if isinstance(found, BaseException):
        raise found
    service, loop = found
    plain = int(service.address.rpartition(":")[2])
    port, token_port = ports if tls else (plain, plain)
    world = World(service, loop, dsn, port, token_port, denied, gates[0])
    try:
        request = registry_pb2.ImportRequest()
        for kind, text in REGISTRY.items():
            request.file.add(kind=kind, name=f"{kind}.csv", content=text.encode())
        setup = world.person("engineer", name="setup") if tls else world.local()
        answer = setup.Registry.Import(request)
        assert not answer.error, answer.error
        yield world
    finally:
        for channel in world.channels:
            channel.close()
        stop[0]()
        thread.join(ENOUGH_S)
    if not started.empty():
        raise AssertionError("the service did not end well") from started.get()  # type: ignore[misc]


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """Code and reason of a call, or of a stream, that must be refused; UNKNOWN never is ours."""
    try:
        answer = call(*arguments, **options)
        if hasattr(answer, "__next__"):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        status: Any = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        for packed in status.details if status is not None else ():
            packed.Unpack(info)
        return error.code().name, info.reason
    raise AssertionError("the call was answered")


def stream(
    caller: Caller, hello: ingest_pb2.Hello, *meters: str, end_us: int = NOW_US
) -> list[ingest_pb2.IngestResponse]:
    """The answers to a read of each meter."""
    batch = ingest_pb2.ReadBatch(seq=1, interval_s=STEP_S)
    batch.meter_index.extend(range(len(meters)))
    batch.stamp_us.extend([end_us] * len(meters))
    batch.import_wh.extend([100] * len(meters))
    messages = [
        ingest_pb2.IngestRequest(hello=hello),
        ingest_pb2.IngestRequest(dictionary=ingest_pb2.Dictionary(meter=meters)),
        ingest_pb2.IngestRequest(batch=batch),
    ]
    call = caller.channel.stream_stream(
        "/meterwatch.v1.Ingest/Stream",
        request_serializer=ingest_pb2.IngestRequest.SerializeToString,
        response_deserializer=ingest_pb2.IngestResponse.FromString,
    )
    return list(call(iter(messages), timeout=ENOUGH_S, metadata=caller.metadata))
