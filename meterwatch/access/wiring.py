"""The gate and the trail of a service, as its configuration wants them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from meterwatch.access.doors import Doors
from meterwatch.access.gate import Gate
from meterwatch.access.identity import caller
from meterwatch.access.room import Room
from meterwatch.access.serials import DeniedSerials
from meterwatch.access.signing_keys import SigningKeys
from meterwatch.access.tokens import Tokens
from meterwatch.access.trail import AuditRow, Trail, row_of
from meterwatch.clock import US
from meterwatch.config import Access, Server
from meterwatch.metrics import Metrics


async def open_gate(
    config: Access, limits: Server, write: Callable[[Sequence[AuditRow]], Awaitable[None]], metrics: Metrics
) -> tuple[Gate, Trail]:
    """Gate and trail. ConfigError for a file that cannot be read."""
    tokens = None
    if (source := config.jwks_file or config.jwks_url) is not None:
        keys = SigningKeys(source)
        await keys.open()
        tokens = Tokens(keys, config.issuer, config.audience)
    trail = Trail(write)
    room, doors = Room(limits), Doors.of(limits)
    metrics.watch(
        gauges={
            "calls_under_way": ("Calls of people under way.", lambda: room.calls),
            "requests_waiting": ("Requests of calls that wait to be received.", lambda: doors.waiting),
        },
        counters={
            "audit_dropped": (
                "Rows of the audit log that nobody waited for and that found no room.",
                lambda: trail.dropped,
            )
        },
    )

    def refused(method: str, code: str, reason: str) -> None:
        metrics.calls_refused.labels(method.rpartition("/")[2], code, reason).inc()

    denied = DeniedSerials(config.denied_serials_file)
    return Gate(trail, tokens, denied, refused, room=room, doors=doors), trail


def noted_streams(trail: Trail) -> Callable[[Any, str, str], None]:
    """Notes what a head-end did on a stream that it should not have: an outcome, and of which epoch and seq."""

    def note(context: Any, outcome: str, what: str) -> None:
        trail.counted(row_of(caller(context), "meterwatch.v1.Ingest/Stream", what, outcome, context.peer()))

    return note


def clock_steps(trail: Trail) -> Callable[[int], None]:
    """Notes how far the machine's clock was set, us: rows before it and after it have times that do not agree."""

    def note(step_us: int) -> None:
        trail.counted(AuditRow("meterwatch", "service", "Clock", f"{step_us / US:+.0f} s", "CLOCK_SET", ""))

    return note


def foreign_rows(trail: Trail) -> Callable[[Any, int], None]:
    """Notes rows that a head-end sent for meters of another one."""

    def note(context: Any, rows: int) -> None:
        row = row_of(caller(context), "meterwatch.v1.Ingest/Stream", "", "NOT_YOURS", context.peer())
        trail.counted(replace(row, calls=rows))

    return note
