"""The wiring: the only module that knows all the packages. Starts in one order and stops in the reverse.

database -> settings checked -> migrations -> registry -> alarms -> rules rebuilt from stored reads, and with them what
was stored and not evaluated -> ready. Until ready, ingest answers UNAVAILABLE and alarms are served from the table.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
import structlog
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from alarm.desk import AlarmDesk
from alarm.service import AlarmService
from alarm.service import handlers as alarm_handlers
from ingest.service import IngestService
from ingest.session import StreamLimits
from meterwatch.alarms import AlarmState
from meterwatch.batch import Events, ReadChange
from meterwatch.calls import Watch
from meterwatch.clock import US, Clock, RealClock, ReplayClock, SimulatedClock
from meterwatch.config import Config
from meterwatch.episodes import Verdict
from meterwatch.errors import ConfigError, MeterwatchError
from meterwatch.metrics import Metrics
from meterwatch.pipeline import Pipeline
from meterwatch.topology import Topology
from meterwatch.v1 import alarms_pb2, ingest_pb2, reads_pb2, registry_pb2, registry_pb2_grpc
from meterwatch.v1.reads_pb2_grpc import add_ReadsServicer_to_server
from rules.engine import LOOKBACK_S, MARGIN_S, Engine
from storage.alarms import AlarmStore
from storage.doubts import Doubts
from storage.embedded import EmbeddedCluster, data_dir, find_or_provision
from storage.faults import storage_faults
from storage.history import History
from storage.lease import Lease
from storage.migrate import migrate
from storage.registry import RegistryStore
from storage.seen import Seen
from storage.service_reads import ReadsService
from storage.service_registry import RegistryService
from storage.settings import check_settings
from storage.upkeep import Retention, Upkeep
from storage.writer import Writer

INGEST = "meterwatch.v1.Ingest"
REBUILD_S = 48 * 3600
"""How far back from the newest read the rules read at start: the ring of the overload rule."""
DAY_US = 86_400 * US
DRAIN_S = 15.0
POOL_TIMEOUT_S = 5.0
"""Without a connection for so long a caller is told that the database is away."""
_log = structlog.get_logger(__name__)

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # two services on one port would share its callers
    ("grpc.http2.bdp_probe", 0),  # keeps a stream whose reader stopped at about 0.5 MB instead of 13
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a frozen peer is noticed after a minute
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
]


class WiredRules:
    """The engine with the history it may ask for."""

    def __init__(self, engine: Engine, history: History, clock: Clock) -> None:
        self.engine = engine
        self._history = history
        self._clock = clock

    def observe_reads(self, change: ReadChange, now_us: int) -> None:
        self.engine.observe_reads(change, now_us)

    def observe_events(self, events: Events, now_us: int) -> None:
        self.engine.observe_events(events, now_us)

    async def evaluate(self, now_us: int) -> list[Verdict]:
        """Load what the engine wants, then evaluate (in a thread when it is much)."""
        for wanted in self.engine.wanted():
            to_us = now_us + 300 * US
            reads = [c async for c in self._history.reads_between(wanted.from_us, to_us, wanted.slots)]
            events = await self._history.events_between(wanted.from_us, to_us, wanted.slots)
            self.engine.given(wanted, reads, events)
        return self.engine.evaluate(now_us)


@dataclass(slots=True)
class Service:
    """A running service."""

    address: str
    dsn: str
    clock: Clock
    pipeline: Pipeline
    desk: AlarmDesk
    core: asyncio.Task[None]
    metrics: Metrics
    database: str = ""
    """Versions, edition and place of the database, for people."""


def make_clock(config: Config) -> Clock:
    """The clock the configuration names."""
    match config.clock.mode:
        case "simulated":
            assert config.clock.start_us is not None
            return SimulatedClock(config.clock.start_us, config.clock.speed)
        case "replay":
            assert config.clock.start_us is not None
            return ReplayClock(config.clock.start_us)
        case _:
            return RealClock()


@asynccontextmanager
async def running(config: Config, progress: Callable[[str], None] = lambda _: None) -> AsyncIterator[Service]:
    """Bring the service up, hand it out, take it down."""
    if api_implementation.Type() != "upb":
        raise ConfigError([f"protobuf runs on its '{api_implementation.Type()}' backend; install the upb wheel"])
    clock = make_clock(config)
    if clock.mode != "real":
        _log.warning("THE CLOCK IS NOT REAL", mode=clock.mode, now_us=clock.now_us())
    cluster: EmbeddedCluster | None = None
    if config.database.url is None:
        cluster = EmbeddedCluster(
            config.database.data_dir or data_dir(), await asyncio.to_thread(find_or_provision, progress)
        )
        await asyncio.to_thread(cluster.start, progress)
        dsn = cluster.dsn
    else:
        dsn = config.database.url.get_secret_value()
    try:
        settings = await asyncio.to_thread(check_settings, dsn)
        await asyncio.to_thread(migrate, dsn)
        lease = await Lease.acquire(dsn)
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=8,
            open=False,
            timeout=POOL_TIMEOUT_S,
            check=AsyncConnectionPool.check_connection,
            kwargs={"autocommit": True, "options": "-c TimeZone=UTC -c lock_timeout=20s -c statement_timeout=120s"},
        )
        try:
            async with pool, _serving(config, clock, dsn, pool, lease) as service:
                service.database = _described(settings, dsn)
                yield service
        finally:
            await lease.release()
    finally:
        if cluster is not None:
            await asyncio.to_thread(cluster.stop, progress)


@asynccontextmanager
async def _serving(
    config: Config, clock: Clock, dsn: str, pool: AsyncConnectionPool[Any], lease: Lease
) -> AsyncIterator[Service]:
    registry, history, store = RegistryStore(pool), History(pool), AlarmStore(pool)
    clock.resume(await history.newest_stored_us())
    topology = await registry.load_topology(clock.now_us())
    desk = await AlarmDesk.open(store, topology, clock)
    rules = WiredRules(Engine(topology), history, clock)
    reasons = {int(number): name.removeprefix("ROW_REASON_") for name, number in ingest_pb2.RowReason.items()}
    doubts = Doubts()
    seen = Seen()
    writers = [Writer(dsn, reasons, doubts, seen) for _ in range(config.database.copy_connections + 1)]

    async def record(verdicts: list[Verdict], batch_ids: list[int]) -> None:
        await desk.record(verdicts, batch_ids)

    async def last_acked(head_end_id: int, epoch: int) -> int:
        with storage_faults():
            async with pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT coalesce(max(seq), 0) FROM batches WHERE head_end_id = %s AND kind = 1"
                    " AND epoch = %s AND evaluated",
                    (head_end_id, epoch),
                )
                row = await cursor.fetchone()
        return int(row[0]) if row else 0

    def connection_change(head_end_id: int, connected: bool) -> None:
        silence = pipeline.rules.engine.silence  # type: ignore[attr-defined]
        (silence.head_end_connected if connected else silence.head_end_gone)(head_end_id, clock.now_us())

    metrics = Metrics()
    desk.published = metrics.published
    pipeline = Pipeline(clock, list(writers), rules, record, last_acked, topology, connection_change, metrics)
    ready = [False]
    server = grpc.aio.server(
        options=[*SERVER_OPTIONS, ("grpc.max_receive_message_length", config.server.message_bytes_max)],
        interceptors=[Watch(metrics)],
    )
    limits = StreamLimits(
        credits=config.server.credits,
        batch_rows_max=config.server.batch_rows_max,
        message_bytes_max=config.server.message_bytes_max,
        dictionary_entries_max=config.server.dictionary_entries_max,
        idle_timeout_s=config.server.idle_timeout_s,
        batch_deadline_s=config.server.batch_deadline_s,
    )
    ingest = IngestService(
        pipeline, limits, version("meterwatch"), config.server.streams_max,
        nacked=lambda reason: metrics.nacks.labels(reason).inc(),
    )  # fmt: skip
    metrics.watch(
        gauges={
            "streams_open": ("Streams of head-ends open.", lambda: ingest.streams),
            "queue_rows": ("Rows validated and waiting for the database.", lambda: pipeline.waiting_rows),
            "subscribers": ("Subscribers to alarms.", lambda: desk.hub.subscribers),
        },
        counters={
            "careful_batches": (
                "Batches that went through staging, because something of them was stored before.",
                lambda: sum(writer.careful_batches for writer in writers),
            ),
        },
    )

    async def registry_changed() -> None:
        fresh = await registry.load_topology(clock.now_us())
        rebuilt = WiredRules(Engine(fresh), history, clock)
        async with pipeline.paused():
            verdicts = await rebuild(rebuilt, fresh, history, desk, clock)
            pipeline.replace(fresh, rebuilt)
            desk.book.names = fresh
            await desk.record(verdicts, [])

    server.add_generic_rpc_handlers(
        (ingest.handler(), alarm_handlers(AlarmService(desk, store, clock, lambda: ready[0])))
    )
    registry_pb2_grpc.add_RegistryServicer_to_server(RegistryService(registry, clock, registry_changed), server)
    add_ReadsServicer_to_server(ReadsService(pool), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set(INGEST, health_pb2.HealthCheckResponse.NOT_SERVING)
    names = [
        service.full_name
        for module in (ingest_pb2, alarms_pb2, registry_pb2, reads_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(f"{config.server.host}:{config.server.port}")
    except RuntimeError:
        raise ConfigError(
            [
                f"port {config.server.port} on {config.server.host} cannot be bound: is another service there? "
                "Stop it or set server.port"
            ]
        ) from None
    await server.start()
    core: asyncio.Task[None] | None = None
    try:
        verdicts = await rebuild(rules, topology, history, desk, clock)
        owed = [batch_id for batch_id, _, _ in await history.batches_not_evaluated()]
        await desk.record(verdicts, owed)
        upkeep = Upkeep(pool, clock, Retention(**config.retention.model_dump()))
        core = asyncio.create_task(_core(pipeline, lease, upkeep))
        pipeline.ready()
        ready[0] = True
        await checks.set(INGEST, health_pb2.HealthCheckResponse.SERVING)
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("ready", address=f"{config.server.host}:{port}", meters=len(topology.slot_of), owed_batches=len(owed))
        async with metrics.serving(config.metrics.port):
            yield Service(f"{config.server.host}:{port}", dsn, clock, pipeline, desk, core, metrics)
    finally:
        pipeline.ready("the service is draining; send to another or wait")
        await checks.enter_graceful_shutdown()
        desk.hub.close()
        await server.stop(DRAIN_S if core is not None and not core.done() else None)
        if core is not None:
            core.cancel()
            await asyncio.gather(core, return_exceptions=True)
        for writer in writers:
            writer.close()


async def _core(pipeline: Pipeline, lease: Lease, upkeep: Upkeep) -> None:
    """What the service must not be without: if one of them ends, all end."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run())
        tasks.create_task(lease.hold())
        tasks.create_task(upkeep.run())


async def rebuild(
    rules: WiredRules, topology: Topology, history: History, desk: AlarmDesk, clock: Clock
) -> list[Verdict]:
    """Bring an engine to what the stored reads and events say; return its verdicts.

    The overload ring ends with the newest read, however long we were away; a transformer whose alarm is older than the
    ring is followed from its onset. Batches not yet evaluated may be older than all of this: who reports OFF in them is
    judged from then on, as if they came now.
    """
    now_us = clock.now_us()
    to_us = now_us + 300 * US
    engine = rules.engine
    open_alarms = [a for a in desk.book if a.state not in (AlarmState.NORMAL, AlarmState.RETRACTED)]
    ring_us = min(await history.newest_end_us(to_us), now_us) - REBUILD_S * US
    since_us = {a.asset_id: a.onset_us for a in open_alarms if a.rule == "OVERLOAD" and a.cleared_us is None}
    long = [transformer for transformer, onset_us in since_us.items() if onset_us < ring_us]
    members = np.flatnonzero(np.isin(topology.transformer_of, long)).astype(np.int32)
    for day_us in range(min((since_us[i] for i in long), default=ring_us), ring_us, DAY_US):  # the ring goes with time
        async for change in history.reads_between(day_us, min(day_us + DAY_US, ring_us), members):
            engine.overload.observe(change, now_us)
    async for change in history.reads_between(ring_us, to_us, None):
        engine.overload.observe(change, now_us)
    heard = await history.last_heard(now_us - REBUILD_S * US)
    slot = np.flatnonzero(heard[: topology.slots]).astype(np.int32)
    engine.silence.heard(slot, heard[slot])
    first_us = now_us - LOOKBACK_S * US
    for alarm in open_alarms:
        if alarm.rule == "COMM_LOSS" and alarm.cleared_us is None:
            engine.silence.restore_open(alarm.asset_kind, alarm.asset_id, alarm.onset_us, alarm.raised_us)
        if alarm.rule == "OUTAGE" and alarm.cleared_us is None:
            first_us = min(first_us, alarm.onset_us)
            engine.restore_open(alarm.asset_kind, alarm.asset_id, alarm.onset_us - MARGIN_S * US)
    owed, owed_us = await history.owed_off()
    for day in np.unique(owed_us // DAY_US):
        mine = owed_us // DAY_US == day
        engine.activate(owed[mine], int(owed_us[mine].min()) - MARGIN_S * US)
    slots = await history.supply_off_slots(first_us - MARGIN_S * US)
    engine.activate(slots[slots < topology.slots], first_us - MARGIN_S * US)
    return await rules.evaluate(now_us)


def _described(settings: dict[str, str], dsn: str) -> str:
    place = conninfo_to_dict(dsn)
    return (
        f"TimescaleDB {settings['timescaledb_version']} ({settings['timescaledb_license']} edition) on PostgreSQL "
        f"{settings['server_version'].split()[0]} at {place.get('host', '')}:{place.get('port', 5432)}/"
        f"{place.get('dbname', '')}"
    )


async def _until_signal(service: Service) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({waiter, service.core}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if service.core.done():
        raise _named(service.core.exception())  # better dead than deaf: the error ends the process


def _named(error: BaseException | None) -> BaseException:
    """The error of the service in a group of errors, if there is one: it has a sentence and an exit code."""
    named = error
    while isinstance(named, BaseExceptionGroup):
        named = (named.subgroup(MeterwatchError) or named).exceptions[0]
    if isinstance(named, MeterwatchError):
        return named
    return error or RuntimeError("the core ended by itself")


def serve(config: Config) -> None:
    """Run the service until SIGINT or SIGTERM. Raises ConfigError before anything listens."""

    async def main() -> None:
        async with running(config, _log.info) as service:
            meters = len(service.pipeline.topology().slot_of)
            print(f"meterwatch serves on {service.address}: {meters} meters, {service.database}", flush=True)
            await _until_signal(service)
        _log.info("stopped")

    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())


__all__ = ["Service", "make_clock", "running", "serve"]
