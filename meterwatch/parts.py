"""The parts of a service, put together: what each of them is given. Nothing runs yet, nothing listens.

The order is that of who needs whom: stores -> alarm desk -> rules -> pipeline -> jobs in the background. How the parts
start and stop is the app's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from psycopg_pool import AsyncConnectionPool

from alarm.desk import AlarmDesk
from alarm.receipts import Receipts
from alarm.routes.dispatch import Dispatch
from meterwatch.alarms import Transition
from meterwatch.check_profile import CheckProfile, chosen
from meterwatch.clock import US, Clock
from meterwatch.config import Config
from meterwatch.day_marks import DayMarks
from meterwatch.episodes import Verdict
from meterwatch.errors import ConfigError
from meterwatch.estimated_loads import EstimatedLoads
from meterwatch.estimation import Estimation
from meterwatch.forecasts import Forecasts
from meterwatch.gap_watch import GapWatch
from meterwatch.in_force import InForce, Recipe
from meterwatch.interruptions import Interruptions
from meterwatch.judged_days import JudgedDays
from meterwatch.learning import Learning
from meterwatch.metrics import Metrics
from meterwatch.pipeline import Pipeline
from meterwatch.profile_file import known_profiles
from meterwatch.standing_aside import StandingAside
from meterwatch.storm_watch import StormWatch
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2
from meterwatch.watchdog import Watchdog
from meterwatch.wired_rules import known_until_us
from meterwatch.wired_user_rules import UserRules, user_rules_figures
from meterwatch.witness import rules_version
from storage.alarms import AlarmStore
from storage.ambient import AmbientStore
from storage.arrived import Arrived
from storage.delivery import DeliveryStore
from storage.doubts import Doubts
from storage.estimates import EstimateStore
from storage.evidence import EvidenceStore
from storage.forecasts import ForecastStore
from storage.history import History
from storage.interruptions import InterruptionStore
from storage.layout import Layout
from storage.meter_days import DayStore
from storage.outbox import Outbox
from storage.planned import PlannedStore
from storage.reads_table import ReadsTable
from storage.receipts import ReceiptStore
from storage.registry import RegistryStore
from storage.service_reliability import Indices
from storage.storms import StormStore
from storage.suspended import SuspendedStore
from storage.writer import Writer


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service consists of, beside its doors."""

    topology: Topology
    """As it is at the start."""
    alarms: AlarmStore
    indices: Indices
    metrics: Metrics
    writers: list[Writer]
    desk: AlarmDesk
    storms: StormWatch
    routes: Dispatch | None
    receipts: Receipts
    checks: CheckProfile
    recipe: Recipe
    pipeline: Pipeline
    in_force: InForce
    interruptions: Interruptions
    days: JudgedDays
    estimation: Estimation
    forecasts: Forecasts
    gaps: GapWatch
    learning: Learning
    watchdog: Watchdog
    record: Callable[[list[Verdict], list[int]], Awaitable[None]]
    """Stores what the rules found in these batches: alarms and `evaluated`, in one transaction."""


async def put_together(
    config: Config,
    clock: Clock,
    dsn: str,
    pool: AsyncConnectionPool[Any],
    background: AsyncConnectionPool[Any],
    layout: Layout,
    table: ReadsTable,
) -> Parts:
    """The parts over an open database. ConfigError when the files of user rules are not sound.

    background: connections for the jobs that read much at once.
    """
    columnar = layout is Layout.COLUMNSTORE
    registry, history, alarms = RegistryStore(pool), History(pool, columnar=columnar), AlarmStore(pool)
    clock.resume(await history.newest_stored_us())
    known_us = max(clock.now_us(), await known_until_us(history))
    topology, profiles = await registry.load_topology(known_us), known_profiles(config.rules.profiles_file)
    alarm_profile = profiles.alarms[config.alarms.profile]
    desk = await AlarmDesk.open(alarms, topology, clock, config.server.subscribers_max, alarm_profile)
    profile, checks = profiles.rules[config.rules.profile], chosen(config.checks.profile, config.checks.changes)
    metrics, marks, arrived = Metrics(), DayMarks(topology), Arrived(background)
    day_store = DayStore(background)

    def registry_in_place() -> Topology:
        return pipeline.topology()

    storms = StormWatch(
        StormStore(pool), alarms, desk, registry_in_place, clock, config.alarms.operators, alarm_profile.storm
    )
    storms.watch(metrics)
    desk.book.aside = storms.stands_aside
    outbox = Outbox(pool)
    routes = _routes(config, outbox, desk, clock, metrics, storms)

    def published(transitions: Sequence[Transition]) -> None:
        metrics.published(transitions)
        if routes is not None and transitions:
            routes.wake()

    desk.published = published
    desk.raised = metrics.jobs.raised
    user = UserRules(config.rules.files, EvidenceStore(pool, columnar=columnar), clock.now_us)
    if problems := user.read():
        raise ConfigError(problems)
    user_rules_figures(user, metrics)
    interruptions = Interruptions(
        InterruptionStore(pool), profile.outage, lambda error: metrics.jobs.raised("interruptions", error)
    )
    recipe = Recipe(
        profile, rules_version(profile, version("meterwatch")), clock, marks, interruptions, history,
        PlannedStore(pool), DeliveryStore(pool), AmbientStore(pool), arrived, user,
        StandingAside(SuspendedStore(pool), clock.now_us),
    )  # fmt: skip

    async def record(verdicts: list[Verdict], batch_ids: list[int]) -> None:
        await asyncio.gather(marks.save(DayStore(pool).owe), interruptions.owe(), in_force.rules.owe_missed())
        await in_force.rules.record(desk, verdicts, batch_ids)
        await in_force.rules.pay_missed()

    reasons = {int(number): name.removeprefix("ROW_REASON_") for name, number in ingest_pb2.RowReason.items()}
    doubts = Doubts()
    writers = [Writer(dsn, reasons, doubts, table) for _ in range(config.database.copy_connections + 2)]
    *for_reads, for_registers = writers
    pipeline = Pipeline(
        clock,
        list(for_reads),
        await recipe.rules(topology),
        record,
        history.last_acked,
        topology,
        metrics,
        for_registers,
    )

    desk.time_us = pipeline.steady.now_us

    def waiting_rows() -> int:
        return pipeline.waiting_rows

    estimated_loads = EstimatedLoads(profile.overload)
    days = JudgedDays(
        day_store, marks, pipeline.topology, clock, checks, metrics, waiting_rows,
        estimates=config.estimation.automatic, estimated_loads=estimated_loads,
    )  # fmt: skip
    estimation = Estimation(
        EstimateStore(background), day_store, marks, pipeline.topology, clock, pipeline.submit, metrics,
        round(config.estimation.after_hours * 3600 * US), waiting_rows, estimated_loads=estimated_loads,
    )  # fmt: skip
    forecasts = Forecasts(
        ForecastStore(background, profile.overload.window_s), desk, pipeline.topology, clock, metrics,
        profile.overload, waiting_rows, hot_spot=profile.hot_spot, ambient=recipe.ambient,
    )  # fmt: skip
    in_force = InForce(recipe, registry, pipeline, desk, days)
    return Parts(
        topology=topology,
        alarms=alarms,
        indices=Indices(pool, profile.outage.sustained_s),
        metrics=metrics,
        writers=writers,
        desk=desk,
        storms=storms,
        routes=routes,
        receipts=await Receipts.open(ReceiptStore(pool), clock, metrics.told),
        checks=checks,
        recipe=recipe,
        pipeline=pipeline,
        in_force=in_force,
        interruptions=interruptions,
        days=days,
        estimation=estimation,
        forecasts=forecasts,
        gaps=GapWatch(arrived, pipeline.topology, clock, profile.silence, metrics),
        learning=Learning(recipe.delivery, clock, profile.outage.p_gasp_of, in_force.learn),
        watchdog=Watchdog(pipeline.submit, pipeline.submit_events),
        record=record,
    )


def _routes(
    config: Config, outbox: Outbox, desk: AlarmDesk, clock: Clock, metrics: Metrics, storms: StormWatch
) -> Dispatch | None:
    """The routes, where a file of them is configured."""
    if config.alarms.routes_file is None:
        return None
    routes = Dispatch(
        config.alarms.routes_file, outbox, desk.hub.log_id, desk, clock,
        counted=lambda target, what: metrics.route_messages.labels(target, what).inc(), known=metrics.targets,
        aside=storms.stands_aside, one_call=desk.book.profile.calling,
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
