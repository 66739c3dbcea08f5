"""The wiring: the only module that knows all the packages. Starts in one order and stops in the reverse.

database -> settings checked -> migrations -> registry -> alarms -> rules rebuilt from stored reads, and with them what
was stored and not evaluated -> ready. Until ready, ingest answers UNAVAILABLE and alarms are served from the table.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import structlog
from google.protobuf.internal import api_implementation
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from alarm.desk import AlarmDesk
from alarm.profile import ALARM_PROFILES
from alarm.receipts import Receipts
from alarm.receipts_service import ReceiptService
from alarm.routes.dispatch import Dispatch
from alarm.routes.service import RouteService, add_routes
from alarm.service import AlarmService
from alarm.service import handlers as alarm_handlers
from alarm.wire import no_departments
from ingest.service import IngestService
from ingest.session import StreamLimits
from meterwatch.alarm_figures import AlarmFigures
from meterwatch.alarms import Transition
from meterwatch.calls import Watch
from meterwatch.check_profile import chosen
from meterwatch.clock import US, Clock, RealClock, ReplayClock, SimulatedClock
from meterwatch.config import Config
from meterwatch.day_marks import DayMarks
from meterwatch.delivery import Learnt
from meterwatch.episodes import Verdict
from meterwatch.errors import ConfigError, MeterwatchError, Overloaded, StorageUnavailable
from meterwatch.estimated_loads import EstimatedLoads
from meterwatch.estimation import Estimation
from meterwatch.forecasts import Forecasts
from meterwatch.gap_watch import GapWatch
from meterwatch.interruptions import Interruptions
from meterwatch.judged_days import JudgedDays
from meterwatch.learning import Learning
from meterwatch.memory import give_back
from meterwatch.metrics import Metrics
from meterwatch.pipeline import Pipeline
from meterwatch.reliability_figures import ReliabilityFigures
from meterwatch.server import bind, make_server
from meterwatch.service_gaps import GapsService
from meterwatch.service_thermal import ThermalService
from meterwatch.service_transformers import TransformersService
from meterwatch.service_user_rules import UserRulesService
from meterwatch.status_pages import StatusPages
from meterwatch.tasks import ending
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2, registry_pb2_grpc
from meterwatch.v1.gaps_pb2_grpc import add_GapsServicer_to_server
from meterwatch.v1.reads_pb2_grpc import add_ReadsServicer_to_server
from meterwatch.v1.receipts_pb2_grpc import add_ReceiptsServicer_to_server
from meterwatch.v1.reliability_pb2_grpc import add_ReliabilityServicer_to_server
from meterwatch.v1.thermal_pb2_grpc import add_ThermalServicer_to_server
from meterwatch.v1.transformers_pb2_grpc import add_TransformersServicer_to_server
from meterwatch.v1.user_rules_pb2_grpc import add_UserRulesServicer_to_server
from meterwatch.weather import Weather
from meterwatch.wired_rules import HEARD_US, WiredRules, hear, rebuild
from meterwatch.wired_user_rules import UserRules, user_rules_figures
from meterwatch.witness import Witness, deliveries_of, rules_version
from rules.engine import Engine
from rules.profile import PROFILES
from storage.alarms import AlarmStore
from storage.ambient import AmbientStore
from storage.arrivals import Arrivals
from storage.arrived import Arrived
from storage.delivery import DeliveryStore
from storage.doubts import Doubts
from storage.embedded import EmbeddedCluster, data_dir, find_or_provision
from storage.estimates import EstimateStore
from storage.evidence import EvidenceStore
from storage.flexibility import FlexibilityStore
from storage.forecasts import ForecastStore
from storage.history import History
from storage.interruptions import InterruptionStore
from storage.layout import Layout, open_table
from storage.lease import Lease
from storage.meter_days import DayStore
from storage.migrate import migrate
from storage.outbox import Outbox
from storage.planned import PlannedStore
from storage.pool import new_pool
from storage.reads_table import ReadsTable
from storage.receipts import ReceiptStore
from storage.registry import RegistryStore
from storage.service_reads import ReadsService
from storage.service_registry import RegistryService
from storage.service_reliability import Indices, ReliabilityService
from storage.settings import check_settings
from storage.upkeep import Retention, Upkeep
from storage.writer import Writer

DRAIN_S = 15.0
"""What is read must be answered within it; then the streams are cut."""
CLUSTER_CHECK_S = 1.0
PLANNED_US = 45 * 86_400 * 1_000_000
"""Planned work that ended longer ago explains nothing that is still judged: the late window."""
WEATHER_US = 40 * 86_400 * 1_000_000
"""Air of so long ago is known to the rules: the days a Lookback goes back, and its warm-up."""
GC_THRESHOLDS = (50_000, 20, 10)
"""With Python's own (700, 10, 10) a seventh of the CPU of telling alarms to 1,000 subscribers was the collector's."""
_log = structlog.get_logger(__name__)


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
    days: JudgedDays
    interruptions: Interruptions
    gaps: GapWatch
    estimation: Estimation
    routes: Dispatch | None = None
    forecasts: Forecasts | None = None
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
        try:
            layout, table = await asyncio.to_thread(open_table, dsn, config.database.columnstore)
            pool = new_pool(dsn)
            async with pool, _serving(config, clock, dsn, pool, lease, cluster, layout, table) as service:
                service.database = _described(settings, layout, dsn)
                yield service
        finally:
            await lease.release()
    finally:
        if cluster is not None:
            await asyncio.to_thread(cluster.stop, progress)


@asynccontextmanager
async def _serving(
    config: Config,
    clock: Clock,
    dsn: str,
    pool: AsyncConnectionPool[Any],
    lease: Lease,
    cluster: EmbeddedCluster | None,
    layout: Layout,
    table: ReadsTable,
) -> AsyncIterator[Service]:
    columnar = layout is Layout.COLUMNSTORE
    registry, history, store = RegistryStore(pool), History(pool, columnar=columnar), AlarmStore(pool)
    clock.resume(await history.newest_stored_us())
    topology = await registry.load_topology(clock.now_us())
    alarm_profile = ALARM_PROFILES[config.alarms.profile]
    desk = await AlarmDesk.open(store, topology, clock, config.server.subscribers_max, alarm_profile)
    profile = PROFILES[config.rules.profile]
    checks = chosen(config.checks.profile, config.checks.changes)
    marks, day_store = DayMarks(topology), DayStore(pool)
    planned, delivery, ambient = PlannedStore(pool), DeliveryStore(pool), AmbientStore(pool)

    interruptions = Interruptions(InterruptionStore(pool), profile.outage)

    async def engine_of(topology: Topology) -> Engine:
        engine = Engine(topology, profile)
        engine.replan(await planned.works(clock.now_us() - PLANNED_US))
        engine.learn(await delivery.learnt())
        engine.hot_spot.reweather(Weather(await ambient.readings(clock.now_us() - WEATHER_US)))
        engine.judged = interruptions.judged
        return engine

    rules_of = rules_version(profile, version("meterwatch"))
    arrived = Arrived(pool)
    user = UserRules(config.rules.files, EvidenceStore(pool, columnar=columnar), clock.now_us)
    if problems := user.read():
        raise ConfigError(problems)
    rules = WiredRules(await engine_of(topology), history, clock, marks, rules_of, arrived, user)
    metrics = Metrics()
    user_rules_figures(user, metrics)
    reasons = {int(number): name.removeprefix("ROW_REASON_") for name, number in ingest_pb2.RowReason.items()}
    doubts = Doubts()
    writers = [Writer(dsn, reasons, doubts, table) for _ in range(config.database.copy_connections + 1)]

    registers = Writer(dsn, reasons, doubts, table)
    outbox = Outbox(pool)
    routes = _routes(config, outbox, desk, clock, metrics)

    def published(transitions: Sequence[Transition]) -> None:
        metrics.published(transitions)
        if routes is not None and transitions:
            routes.wake()

    desk.published = published

    def rules_in_place() -> WiredRules:
        assert isinstance(pipeline.rules, WiredRules)
        return pipeline.rules

    async def record(verdicts: list[Verdict], batch_ids: list[int]) -> None:
        await asyncio.gather(marks.save(day_store.owe), interruptions.owe())
        await rules_in_place().record(desk, verdicts, batch_ids)

    pipeline = Pipeline(clock, list(writers), rules, record, history.last_acked, topology, metrics, registers)
    automatic = config.estimation.automatic
    estimated_loads = EstimatedLoads(profile.overload)
    days = JudgedDays(
        day_store, marks, pipeline.topology, clock, checks, metrics, lambda: pipeline.waiting_rows,
        estimates=automatic, estimated_loads=estimated_loads,
    )  # fmt: skip
    estimation = Estimation(
        EstimateStore(pool), day_store, marks, pipeline.topology, clock, pipeline.submit, metrics,
        round(config.estimation.after_hours * 3600 * US), lambda: pipeline.waiting_rows,
        estimated_loads=estimated_loads,
    )  # fmt: skip
    forecast_store = ForecastStore(pool, profile.overload.window_s)
    forecasts = Forecasts(
        forecast_store, desk, pipeline.topology, clock, metrics, profile.overload, lambda: pipeline.waiting_rows
    )
    gaps = GapWatch(arrived, pipeline.topology, clock, profile.silence, metrics)
    ready = [False]
    server, health = make_server(config.server, Watch(metrics))
    limits = StreamLimits(
        credits=config.server.credits,
        batch_rows_max=config.server.batch_rows_max,
        message_bytes_max=config.server.message_bytes_max,
        dictionary_entries_max=config.server.dictionary_entries_max,
        idle_timeout_s=config.server.idle_timeout_s,
        batch_deadline_s=config.server.batch_deadline_s,
    )
    ingest = IngestService(
        pipeline, limits, version("meterwatch"), config.server.streams_max, checks,
        nacked=lambda reason: metrics.nacks.labels(reason).inc(), overdue=gaps.overdue,
    )  # fmt: skip
    not_ready = partial(_not_ready, lease, ingest, pipeline)
    receipts = await Receipts.open(ReceiptStore(pool), clock, metrics.told)
    metrics.watch(
        gauges={
            "ready": ("1: reads are taken; 0: /readyz says why not.", lambda: not not_ready()),
            "streams_open": ("Streams of head-ends open.", lambda: ingest.streams),
            "queue_rows": ("Rows validated and waiting for the database.", lambda: pipeline.waiting_rows),
            "past_owed_transformers": (
                "Transformers with changed loads of some time ago that wait to be judged.",
                lambda: rules_in_place().past_owed,
            ),
            "subscribers": ("Subscribers to alarms.", lambda: desk.hub.subscribers),
            "interruptions_behind_groups": (
                "Feeders (transformers, meters) whose interruptions are to be written.",
                lambda: interruptions.waiting,
            ),
            "hot_transformers": (
                "Transformers with an alarm of their hot spot, of any level.",
                lambda: rules_in_place().engine.hot_spot.hot,
            ),
            "hottest_transformer_celsius": (
                "Hot spot of the hottest transformer with a rating; NaN: no load is known.",
                lambda: rules_in_place().engine.hot_spot.hottest_c,
            ),
            "judged_days_behind_seconds": (
                "How long ago the oldest local day ended that is not yet judged for all its meters; 0: none is owed.",
                lambda: days.behind_s,
            ),
            "forecasts_behind_seconds": (
                "How long ago the hour began whose forecasts are under way; 0: all are made.",
                lambda: forecasts.behind_s,
            ),
        },
        counters={
            "receipts_forgotten": (
                "Messages to named subscribers that were not confirmed before there were too many.",
                lambda: receipts.forgotten,
            ),
            "careful_batches": (
                "Batches written a second time, with every read looked up, because the hint was wrong.",
                lambda: sum(writer.careful_batches for writer in writers),
            ),
        },
    )

    async def taught(learnt: list[Learnt]) -> None:
        async with pipeline.paused():
            rules_in_place().engine.learn(learnt)

    async def work_planned() -> None:
        async with pipeline.paused():
            rules_in_place().engine.replan(await planned.works(clock.now_us() - PLANNED_US))

    async def weather_changed() -> None:
        weather = Weather(await ambient.readings(clock.now_us() - WEATHER_US))
        async with pipeline.paused():
            rules_in_place().engine.hot_spot.reweather(weather)

    async def registry_changed() -> None:
        fresh = await registry.load_topology(clock.now_us())
        rebuilt = WiredRules(await engine_of(fresh), history, clock, marks, rules_of, arrived, user)
        async with pipeline.paused():
            rebuilt.engine.replan(await planned.works(clock.now_us() - PLANNED_US))
            rebuilt.engine.hot_spot.reweather(Weather(await ambient.readings(clock.now_us() - WEATHER_US)))
            verdicts, _ = await rebuild(rebuilt, fresh, history, desk, clock)
            rebuilt.engine.silence.heard(*rules_in_place().engine.silence.last_heard())
            await days.replace(fresh)
            pipeline.replace(fresh, rebuilt, verdicts)
            desk.book.names = fresh
            await pipeline.settle()
        await asyncio.to_thread(give_back)

    async def user_rules_changed() -> list[str]:
        async with pipeline.paused():
            problems = await asyncio.to_thread(user.read)
            if not problems:
                await user.begin(pipeline.topology(), rules_in_place().engine.overload, list(desk.book))
        return problems

    concerns = no_departments if routes is None else routes.concerns
    told = deliveries_of(outbox)
    witness = Witness(history, Arrivals(pool), pipeline.topology, profile, clock, rules_of, deliveries=told)
    alarms = AlarmService(
        desk, store, clock, lambda: ready[0], witness=witness.see, concerns=concerns, receipts=receipts
    )
    server.add_generic_rpc_handlers((ingest.handler(), alarm_handlers(alarms)))
    add_ReceiptsServicer_to_server(ReceiptService(receipts), server)
    add_routes(RouteService(routes, outbox, desk.hub.log_id), server)
    registry_pb2_grpc.add_RegistryServicer_to_server(
        RegistryService(registry, clock, registry_changed, planned, work_planned), server
    )
    add_ReadsServicer_to_server(ReadsService(pool), server)
    indices = Indices(pool, profile.outage.sustained_s)
    reliability = ReliabilityService(indices, clock, lambda: interruptions.waiting)
    add_ReliabilityServicer_to_server(reliability, server)
    transformers = TransformersService(
        forecast_store, FlexibilityStore(pool), store.within, pipeline.topology, clock, profile.overload
    )
    add_TransformersServicer_to_server(transformers, server)
    thermal = ThermalService(ambient, pipeline, lambda: rules_in_place().engine.hot_spot, weather_changed)
    add_ThermalServicer_to_server(thermal, server)
    add_GapsServicer_to_server(GapsService(gaps, estimation, pipeline), server)
    add_UserRulesServicer_to_server(UserRulesService(user, user_rules_changed), server)
    await health.starting()
    address = bind(server, config.server)
    await server.start()
    core: asyncio.Task[None] | None = None
    pages = StatusPages(metrics.registry, not_ready)
    try:
        pages.start(config.metrics.port)
        await days.start()
        unwritten = await interruptions.restore(rules.engine)
        verdicts, owed = await rebuild(rules, topology, history, desk, clock)
        await record(verdicts, owed)
        await interruptions.adopt(unwritten)
        upkeep = Upkeep(pool, clock, Retention(**config.retention.model_dump()), packs=columnar)
        hearing = hear(rules_in_place, history, topology.slots, clock.now_us() - HEARD_US)
        learning = Learning(delivery, clock, profile.outage.p_gasp_of, taught)
        others = [hearing, days.run(), interruptions.run(), gaps.run(), learning.run()]
        others += [estimation.run()] if automatic else []
        others += [forecasts.run()] if config.forecast.automatic and clock.mode != "replay" else []
        if routes is not None:
            others.append(routes.run())
        if config.metrics.port:
            figures = ReliabilityFigures(indices, clock)
            metrics.registry.register(figures)
            others.append(figures.run())
            alarm_figures = AlarmFigures(store, desk, clock, config.alarms.operators)
            alarm_figures.watch(metrics)
            others.append(alarm_figures.run())
        core = asyncio.create_task(_core(pipeline, desk, lease, upkeep, cluster, *others))
        await asyncio.to_thread(give_back)
        pipeline.ready()
        ready[0] = True
        gc.freeze()  # what is here now stays: the collector need not walk through it again
        gc.set_threshold(*GC_THRESHOLDS)
        await health.serving()
        _log.info("ready", address=address, meters=len(topology.slot_of), owed_batches=len(owed))
        yield Service(
            address, dsn, clock, pipeline, desk, core, metrics, days, interruptions, gaps, estimation, routes, forecasts
        )
    finally:
        ingest.drain()
        await health.draining()
        desk.hub.close()
        well = core is not None and not core.done()
        await server.stop(DRAIN_S if well else None)
        if core is not None:
            core.cancel()
            await asyncio.gather(core, return_exceptions=True)
        if well and rules_in_place().puts_off:
            with suppress(StorageUnavailable, Overloaded):  # then the next start counts them
                await rules_in_place().settle(desk)
        if well:
            with suppress(StorageUnavailable, Overloaded):  # then the next start writes them
                await interruptions.flush()
        for writer in (*writers, registers):
            writer.close()
        await pages.stop()


def _not_ready(lease: Lease, ingest: IngestService, pipeline: Pipeline) -> str:
    """Why a head-end should send elsewhere or later; empty: it should not."""
    if not lease.held:
        return "the database is away"
    return "the service is stopping" if ingest.draining else pipeline.not_ready


def _routes(config: Config, outbox: Outbox, desk: AlarmDesk, clock: Clock, metrics: Metrics) -> Dispatch | None:
    """The routes, where a file of them is configured."""
    if config.alarms.routes_file is None:
        return None
    routes = Dispatch(
        config.alarms.routes_file, outbox, desk.hub.log_id, desk, clock,
        counted=lambda target, what: metrics.route_messages.labels(target, what).inc(),
    )  # fmt: skip
    metrics.watch_targets(
        {
            "route_waiting_messages": ("Messages made and not delivered.", routes.waiting),
            "route_oldest_seconds": ("For how long the oldest of them waits; 0: none does.", routes.oldest_s),
        }
    )
    metrics.watch(
        {"routes_file_refused": ("1: the routes file is not sound, older routes are in force.", routes.refused)}, {}
    )
    return routes


async def _core(
    pipeline: Pipeline,
    desk: AlarmDesk,
    lease: Lease,
    upkeep: Upkeep,
    cluster: EmbeddedCluster | None,
    *others: Coroutine[Any, Any, None],
) -> None:
    """What the service must not be without: if one of them ends, all end."""
    async with asyncio.TaskGroup() as tasks:
        for job in (pipeline.run(), desk.keep_time(), lease.hold(), upkeep.run(), *others):
            tasks.create_task(ending(job))
        if cluster is not None:
            tasks.create_task(_stays(cluster))


class DatabaseGone(StorageUnavailable):
    """The embedded PostgreSQL has died. Who runs the service starts it anew, and with it the database."""


async def _stays(cluster: EmbeddedCluster) -> None:
    """Watch the embedded PostgreSQL. DatabaseGone when it has died: nobody but us would start it again.

    A crash of one of its processes is not its death: it recovers by itself, and we wait.
    """
    while True:
        if not cluster.is_running():
            raise DatabaseGone(f"the embedded PostgreSQL in {cluster.data_dir} has died")
        await asyncio.sleep(CLUSTER_CHECK_S)


def _described(settings: dict[str, str], layout: Layout, dsn: str) -> str:
    place = conninfo_to_dict(dsn)
    return (
        f"TimescaleDB {settings['timescaledb_version']} ({settings['timescaledb_license']} edition, {layout}) on "
        f"PostgreSQL {settings['server_version'].split()[0]} at {place.get('host', '')}:{place.get('port', 5432)}/"
        f"{place.get('dbname', '')}"
    )


async def _until_signal(service: Service) -> None:
    """Return at the first SIGINT or SIGTERM; a second one ends the process at once, which loses nothing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[Any]] = set()
    if (routes := service.routes) is not None:

        def reload() -> None:
            task = asyncio.create_task(routes.reload())
            reloads.add(task)  # the loop itself keeps no task alive
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({waiter, service.core}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
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
    """Run the service until SIGINT or SIGTERM. Raises ConfigError before anything listens.

    When its embedded PostgreSQL dies, the process becomes a new service: a start recovers all, and PostgreSQL cannot
    be started beside the threads of gRPC, where a fork may abort.
    """

    async def main() -> None:
        async with running(config, _log.info) as service:
            meters = len(service.pipeline.topology().slot_of)
            print(f"meterwatch serves on {service.address}: {meters} meters, {service.database}", flush=True)
            await _until_signal(service)
        _log.info("stopped")

    try:
        _run(main())
    except DatabaseGone as gone:
        _log.error(f"{gone}; starting anew")
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


__all__ = ["Service", "make_clock", "running", "serve"]
