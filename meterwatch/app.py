"""The life of a service: it starts in one order and stops in the reverse. What it consists of is put together in
`meterwatch.parts`, its doors are in `meterwatch.endpoints`; the three are the wiring, and know all the packages.

database -> settings checked -> migrations -> registry -> alarms -> rules rebuilt from stored reads, and with them what
was stored and not evaluated -> ready. Until ready, ingest answers UNAVAILABLE and alarms are served from the table.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
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
from alarm.routes.dispatch import Dispatch
from ingest.service import IngestService
from ingest.session import StreamLimits
from ingest.stream import Streams
from meterwatch.access.wiring import clock_steps, foreign_rows, noted_streams, open_gate
from meterwatch.alarm_figures import AlarmFigures
from meterwatch.calls import Watch
from meterwatch.clock import US, Clock, RealClock, ReplayClock, SimulatedClock
from meterwatch.config import Config
from meterwatch.core import run_core
from meterwatch.disk_watch import MIB, DiskWatch
from meterwatch.endpoints import add_services
from meterwatch.errors import ConfigError, Overloaded, StorageUnavailable
from meterwatch.estimation import Estimation
from meterwatch.forecasts import Forecasts
from meterwatch.gap_watch import GapWatch
from meterwatch.gauges import watch, watch_certificates, watch_disk
from meterwatch.interruptions import Interruptions
from meterwatch.jobs import kept_going
from meterwatch.judged_days import JudgedDays
from meterwatch.memory import give_back, keep_giving_back
from meterwatch.metrics import Metrics
from meterwatch.own_alarms import OwnAlarms
from meterwatch.own_conditions import conditions
from meterwatch.parts import Parts, put_together
from meterwatch.pipeline import Pipeline
from meterwatch.reliability_figures import ReliabilityFigures
from meterwatch.server import bind, make_server, rotation_of
from meterwatch.standing_aside import remark
from meterwatch.status_pages import EVERYWHERE, LOOPBACK, StatusPages
from meterwatch.transport.rotation import Rotation
from meterwatch.wired_rules import HEARD_US, judged_until_us, rebuild
from storage.audit_log import AuditStore
from storage.embedded import EmbeddedCluster, data_dir, find_or_provision
from storage.layout import Layout, open_table
from storage.lease import Lease
from storage.migrate import migrate
from storage.pool import BACKGROUND_SIZE_MAX, QUESTIONS_SIZE_MAX, new_pool
from storage.reads_table import ReadsTable
from storage.settings import check_settings
from storage.upkeep import Retention, Upkeep

DRAIN_S = 15.0
"""What is read must be answered within it; then the streams are cut."""
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
    rotation = rotation_of(config.server.tls)
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
            async with (
                new_pool(dsn) as pool,
                new_pool(dsn, BACKGROUND_SIZE_MAX) as background,
                new_pool(dsn, QUESTIONS_SIZE_MAX) as questions,
                _serving(
                    config, clock, dsn, pool, background, questions, lease, cluster, layout, table, rotation
                ) as service,
            ):
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
    background: AsyncConnectionPool[Any],
    questions: AsyncConnectionPool[Any],
    lease: Lease,
    cluster: EmbeddedCluster | None,
    layout: Layout,
    table: ReadsTable,
    rotation: Rotation | None,
) -> AsyncIterator[Service]:
    parts = await put_together(config, clock, dsn, pool, background, layout, table)
    pipeline, desk, metrics = parts.pipeline, parts.desk, parts.metrics
    audit = AuditStore(pool)
    if interrupted := await audit.settle():
        _log.warning("changes were under way when the service died; the audit log has them", changes=interrupted)
    gate, trail = await open_gate(config.access, config.server, audit.write, metrics)
    server, health = make_server(config.server, gate, Watch(metrics))
    limits, foreign = _limits(config), foreign_rows(trail)
    streams = Streams(
        pipeline, limits, version("meterwatch"), config.server.streams_max, config.server.head_end_streams_max,
        parts.checks, nacked=lambda reason: metrics.nacks.labels(reason).inc(), overdue=parts.gaps.overdue,
        foreign=foreign, noted=noted_streams(trail),
    )  # fmt: skip
    ingest = IngestService(streams, pipeline, limits, parts.checks, foreign)
    not_ready = partial(_not_ready, lease, streams, pipeline)
    pipeline.steady.stepped = clock_steps(trail)
    ready = asyncio.Event()
    watch(parts, streams, not_ready)
    add_services(server, parts, ingest, questions, clock, ready.is_set)
    health.starting()
    address = bind(server, config.server, rotation)
    watch_certificates(metrics, rotation)
    disk = _disk_of(cluster, config, pipeline)
    watch_disk(metrics, disk)
    await server.start()
    core: asyncio.Task[None] | None = None
    pages = StatusPages(metrics.registry, not_ready, partial(_remarks, parts))
    try:
        pages.start(config.metrics.port, EVERYWHERE if config.metrics.insecure_listen else LOOPBACK)
        owed = await _recall(parts)
        upkeep = Upkeep(pool, clock, Retention(**config.retention.model_dump()), packs=layout is Layout.COLUMNSTORE)
        jobs = [server.run(), gate.run(), *_jobs(config, clock, parts, upkeep)]
        jobs += [] if rotation is None else [rotation.run()]
        jobs += [] if disk is None else [disk.run()]
        own = conditions(parts, disk, rotation, gate, lambda: parts.in_force.suspended)
        jobs.append(OwnAlarms(desk, clock, own).run())
        core = asyncio.create_task(run_core(pipeline, desk, lease, cluster, *jobs))
        await asyncio.to_thread(give_back)
        pipeline.ready()
        ready.set()
        gc.freeze()  # what is here now stays: the collector need not walk through it again
        gc.set_threshold(*GC_THRESHOLDS)
        health.serving()
        _log.info("ready", address=address, meters=len(parts.topology.slot_of), owed_batches=len(owed))
        yield Service(
            address, dsn, clock, pipeline, desk, core, metrics, parts.days, parts.interruptions, parts.gaps,
            parts.estimation, parts.routes, parts.forecasts,
        )  # fmt: skip
    finally:
        streams.drain()
        health.draining()
        desk.hub.close()
        well = core is not None and not core.done()
        await server.stop(DRAIN_S if well else None)
        await trail.flush()
        if core is not None:
            core.cancel()
            await asyncio.gather(core, return_exceptions=True)
        if well:
            await _leave_nothing(parts)
        for writer in parts.writers:
            writer.close()
        await pages.stop()


async def _recall(parts: Parts) -> list[int]:
    """Have the parts know what they knew: rules rebuilt from stored reads, and what was owed done.

    Returns the ids of the batches that were stored and not evaluated; they are now.
    """
    rules = parts.in_force.rules
    await parts.days.start()
    await parts.storms.start()
    unwritten = await parts.interruptions.restore(rules.engine)
    history, desk = parts.recipe.history, parts.desk
    now_us = parts.pipeline.steady.begin(await judged_until_us(history, desk.book))
    verdicts, owed = await rebuild(rules, parts.topology, history, desk, now_us)
    await parts.record(verdicts, owed)
    await parts.interruptions.adopt(unwritten)
    return owed


def _jobs(config: Config, clock: Clock, parts: Parts, upkeep: Upkeep) -> list[Coroutine[Any, Any, None]]:
    """What runs beside the pipeline as long as the service does, and does not end it."""
    heard_since_us = clock.now_us() - HEARD_US
    jobs: dict[str, Callable[[], Awaitable[None]]] = {
        "who was heard": partial(parts.in_force.hear, heard_since_us),
        "judging days": parts.days.run,
        "interruptions": parts.interruptions.run,
        "counting gaps": parts.gaps.run,
        "learning delivery": parts.learning.run,
        "looking for storms": parts.storms.run,
        "watchdog": parts.watchdog.run,
        "giving memory back": keep_giving_back,
        "upkeep": upkeep.run,
    }
    if config.estimation.automatic:
        jobs["estimating"] = parts.estimation.run
    if config.forecast.automatic and clock.mode != "replay":
        jobs["forecasting"] = parts.forecasts.run
    if parts.routes is not None:
        jobs["routes"] = parts.routes.run
    if config.metrics.port:
        figures = ReliabilityFigures(parts.indices, clock)
        parts.metrics.registry.register(figures)
        alarm_figures = AlarmFigures(parts.alarms, parts.desk, clock, config.alarms.operators)
        alarm_figures.watch(parts.metrics)
        jobs |= {"indices": figures.run, "figures of alarms": alarm_figures.run}
    return [kept_going(name, run, parts.metrics.jobs) for name, run in jobs.items()]


def _disk_of(cluster: EmbeddedCluster | None, config: Config, pipeline: Pipeline) -> DiskWatch | None:
    """What watches the disk of the embedded database; None: the database has a URL."""
    if cluster is None:
        return None
    return DiskWatch(cluster.places, config.database.disk_free_min_mib * MIB, pipeline.refuse_reads)


async def _leave_nothing(parts: Parts) -> None:
    """Count and write what was put off. What the database does not take, the next start does."""
    with suppress(StorageUnavailable, Overloaded):
        if parts.in_force.rules.puts_off:
            await parts.in_force.rules.settle(parts.desk)
    with suppress(StorageUnavailable, Overloaded):
        await parts.interruptions.flush()


def _limits(config: Config) -> StreamLimits:
    return StreamLimits(
        credits=config.server.credits,
        batch_rows_max=config.server.batch_rows_max,
        message_bytes_max=config.server.message_bytes_max,
        dictionary_entries_max=config.server.dictionary_entries_max,
        idle_timeout_s=config.server.idle_timeout_s,
        batch_deadline_s=config.server.batch_deadline_s,
    )


def _not_ready(lease: Lease, streams: Streams, pipeline: Pipeline) -> str:
    """Why a head-end should send elsewhere or later; empty: it should not."""
    if not lease.held:
        return "the database is away"
    return "the service is stopping" if streams.draining else pipeline.not_ready


def _remarks(parts: Parts) -> str:
    """What is to be said of a service that is ready."""
    behind_us = parts.pipeline.steady.behind_us
    clock = f"the clock is {behind_us / US:.0f} s behind what is stored" if behind_us else ""
    return "; ".join(filter(None, (remark(parts.in_force.suspended), clock)))


def _described(settings: dict[str, str], layout: Layout, dsn: str) -> str:
    place = conninfo_to_dict(dsn)
    return (
        f"TimescaleDB {settings['timescaledb_version']} ({settings['timescaledb_license']} edition, {layout}) on "
        f"PostgreSQL {settings['server_version'].split()[0]} at {place.get('host', '')}:{place.get('port', 5432)}/"
        f"{place.get('dbname', '')}"
    )
