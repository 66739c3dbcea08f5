"""The doors of a service: every gRPC service it offers, and what each is given of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from psycopg_pool import AsyncConnectionPool

from alarm.receipts_service import ReceiptService
from alarm.routes.service import RouteService, add_routes
from alarm.service import AlarmService
from alarm.service import handlers as alarm_handlers
from alarm.wire import no_departments
from ingest.service import IngestService
from meterwatch.access.service_audit import AuditService
from meterwatch.clock import Clock
from meterwatch.parts import Parts
from meterwatch.service_gaps import GapsService
from meterwatch.service_rules import RulesService
from meterwatch.service_thermal import ThermalService
from meterwatch.service_transformers import TransformersService
from meterwatch.service_user_rules import UserRulesService
from meterwatch.v1 import registry_pb2_grpc
from meterwatch.v1.audit_pb2_grpc import add_AuditServicer_to_server
from meterwatch.v1.gaps_pb2_grpc import add_GapsServicer_to_server
from meterwatch.v1.reads_pb2_grpc import add_ReadsServicer_to_server
from meterwatch.v1.receipts_pb2_grpc import add_ReceiptsServicer_to_server
from meterwatch.v1.reliability_pb2_grpc import add_ReliabilityServicer_to_server
from meterwatch.v1.rules_pb2_grpc import add_RulesServicer_to_server
from meterwatch.v1.thermal_pb2_grpc import add_ThermalServicer_to_server
from meterwatch.v1.transformers_pb2_grpc import add_TransformersServicer_to_server
from meterwatch.v1.user_rules_pb2_grpc import add_UserRulesServicer_to_server
from meterwatch.witness import Witness, deliveries_of
from storage.alarms import AlarmStore
from storage.arrivals import Arrivals
from storage.audit_log import AuditStore
from storage.flexibility import FlexibilityStore
from storage.forecasts import ForecastStore
from storage.history import History
from storage.outbox import Outbox
from storage.registry import RegistryStore
from storage.service_reads import ReadsService
from storage.service_registry import RegistryService
from storage.service_reliability import Indices, ReliabilityService


def add_services(
    server: grpc.aio.Server,
    parts: Parts,
    ingest: IngestService,
    pool: AsyncConnectionPool[Any],
    clock: Clock,
    ready: Callable[[], bool],
) -> None:
    """Open every door of `parts` on a server that does not listen yet.

    pool: connections for what people ask. What the service writes has others, in `parts`.
    """
    recipe, in_force, pipeline, overload = parts.recipe, parts.in_force, parts.pipeline, parts.recipe.profile.overload
    stored = AlarmStore(pool)
    witness = Witness(
        History(pool, columnar=recipe.history.columnar), Arrivals(pool), pipeline.topology, recipe.profile, clock,
        recipe.version, deliveries=deliveries_of(Outbox(pool)),
    )  # fmt: skip
    concerns = no_departments if parts.routes is None else parts.routes.concerns
    alarms = AlarmService(
        parts.desk,
        stored,
        clock,
        ready,
        witness=witness.see,
        concerns=concerns,
        receipts=parts.receipts,
        storms=lambda: parts.storms.storms,
        watchdog_age_s=lambda: parts.watchdog.age_s,
    )
    server.add_generic_rpc_handlers((ingest.handler(), alarm_handlers(alarms)))
    add_ReceiptsServicer_to_server(ReceiptService(parts.receipts), server)
    add_routes(RouteService(parts.routes, Outbox(pool), parts.desk.hub.log_id), server)
    thermal_types = [one.name for one in recipe.profile.hot_spot.types]
    registry_pb2_grpc.add_RegistryServicer_to_server(
        RegistryService(
            RegistryStore(pool), clock, in_force.reregister, recipe.planned, in_force.replan, thermal_types
        ),
        server,
    )  # fmt: skip
    add_ReadsServicer_to_server(ReadsService(pool), server)
    add_ReliabilityServicer_to_server(
        ReliabilityService(
            Indices(pool, recipe.profile.outage.sustained_s), clock, lambda: parts.interruptions.waiting
        ),
        server,
    )
    flexibility = FlexibilityStore(pool)
    add_TransformersServicer_to_server(
        TransformersService(
            ForecastStore(pool, overload.window_s), flexibility, stored.within, pipeline.topology, clock, overload,
            recipe.ambient, recipe.profile.hot_spot,
        ),
        server,
    )  # fmt: skip
    add_ThermalServicer_to_server(
        ThermalService(recipe.ambient, pipeline, lambda: in_force.hot_spot, in_force.reweather), server
    )
    add_GapsServicer_to_server(GapsService(parts.gaps, parts.estimation, pipeline), server)
    add_UserRulesServicer_to_server(UserRulesService(recipe.user, in_force.reread_user_rules), server)
    add_RulesServicer_to_server(RulesService(in_force, parts.desk.book), server)
    add_AuditServicer_to_server(AuditService(AuditStore(pool)), server)
