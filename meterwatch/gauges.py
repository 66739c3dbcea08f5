"""What `/metrics` shows of a running service that is read at the moment of asking."""

from __future__ import annotations

import math
from collections.abc import Callable

from ingest.stream import Streams
from meterwatch import logs
from meterwatch.disk_watch import DiskWatch
from meterwatch.metrics import Metrics
from meterwatch.parts import Parts
from meterwatch.transport.rotation import Rotation
from rules.engine import HOT_SPOT
from rules.hot_spot import HotSpot


def watch(parts: Parts, streams: Streams, not_ready: Callable[[], str]) -> None:
    """Have the metrics of `parts` read it and `streams`."""
    parts.metrics.watch(
        gauges={
            "ready": ("1: reads are taken; 0: /readyz says why not.", lambda: not not_ready()),
            "streams_open": ("Streams of head-ends open.", lambda: streams.open),
            "queue_rows": ("Rows validated and waiting for the database.", lambda: parts.pipeline.waiting_rows),
            "queue_events_requests": (
                "Requests of events waiting for the database.", lambda: parts.pipeline.waiting_requests[0],
            ),
            "queue_registers_requests": (
                "Requests of register reads waiting for the database.", lambda: parts.pipeline.waiting_requests[1],
            ),
            "queue_committed_batches": (
                "Batches and requests committed and waiting for the rules.",
                lambda: parts.pipeline.waiting_requests[2],
            ),
            "queue_subscribers_transitions": (
                "Transitions waiting for subscribers, of all of them.", lambda: parts.desk.hub.waiting,
            ),
            "past_owed_transformers": (
                "Transformers, and feeders, with changed loads of some time ago that wait to be judged.",
                lambda: parts.in_force.rules.past_owed,
            ),
            "rules_suspended": (
                "Rules that have raised and stand aside; /readyz names them.", lambda: len(parts.in_force.suspended),
            ),
            "jobs_failing": (
                "Jobs beside the rules that raised an error of ours within 2 h; the log names them.",
                lambda: len(parts.metrics.jobs.failing),
            ),
            "subscribers": ("Subscribers to alarms.", lambda: parts.desk.hub.subscribers),
            "watchdog_age_seconds": (
                "How long ago a batch of the service's own last came through all of it; one goes every 30 s.",
                lambda: parts.watchdog.age_s,
            ),
            "interruptions_behind_groups": (
                "Feeders (transformers, meters) whose interruptions are to be written.",
                lambda: parts.interruptions.waiting,
            ),
            "hot_transformers": (
                "Transformers with an alarm of their hot spot, of any level.",
                lambda: _of_hot_spot(parts, lambda rule: rule.hot),
            ),
            "hottest_transformer_celsius": (
                "Hot spot of the hottest transformer with a rating; NaN: no load is known.",
                lambda: _of_hot_spot(parts, lambda rule: rule.hottest_c),
            ),
            "judged_days_behind_seconds": (
                "How long ago the oldest local day ended that is not yet judged for all its meters; 0: none is owed.",
                lambda: parts.days.behind_s,
            ),
            "forecasts_behind_seconds": (
                "How long ago the hour began whose forecasts are under way; 0: all are made.",
                lambda: parts.forecasts.behind_s,
            ),
        },
        counters={
            "rules_raised": (
                "Times a rule raised an error of ours and was put aside.", lambda: parts.recipe.aside.raised,
            ),
            "job_errors": (
                "Times a job beside the rules raised an error of ours; it is tried again.",
                lambda: parts.metrics.jobs.errors,
            ),
            "receipts_forgotten": (
                "Messages to named subscribers that were not confirmed before there were too many.",
                lambda: parts.receipts.forgotten,
            ),
            "clock_set": (
                "Times the machine's clock was set by more than 30 s, or the machine slept.",
                lambda: parts.pipeline.steady.steps,
            ),
            "log_lines_dropped": (
                "Log lines that nobody will read: the pipe was blocked or closed, or the disk of the log was full.",
                logs.dropped,
            ),
            "careful_batches": (
                "Batches written a second time, with every read looked up, because the hint was wrong.",
                lambda: sum(writer.careful_batches for writer in parts.writers),
            ),
            "database_retries": (
                "Writes done again after a deadlock or a serialisation failure.",
                lambda: sum(writer.retried for writer in parts.writers),
            ),
        },
    )  # fmt: skip


def _of_hot_spot(parts: Parts, value: Callable[[HotSpot], float]) -> float:
    """NaN while the rule stands aside."""
    engine = parts.in_force.rules.engine
    return math.nan if HOT_SPOT in engine.apart.suspended else value(engine.hot_spot)


def watch_certificates(metrics: Metrics, rotation: Rotation | None) -> None:
    """Show the certificate files in the metrics; without TLS they say that there is nothing."""
    metrics.watch(
        gauges={
            "tls_certificate_expires_in_seconds": (
                "Until the certificate of the service ends; negative: since it did; NaN: plain text.",
                lambda: math.nan if rotation is None else rotation.expires_in_s,
            ),
            "tls_files_refused": (
                "1: the certificate files are not sound, older ones are in force.",
                lambda: rotation is not None and rotation.refused,
            ),
        },
        counters={
            "tls_handshakes_begun": (
                "TLS handshakes begun. Those that failed are among them: gRPC tells of none.",
                lambda: 0 if rotation is None else rotation.handshakes,
            ),
        },
    )


def watch_disk(metrics: Metrics, disk: DiskWatch | None) -> None:
    """Show the disk of the embedded database; without one there is nothing to tell of."""
    metrics.watch(
        gauges={
            "disk_free_bytes": (
                "Free for the embedded database, where its data and its WAL are; NaN: the database has a URL.",
                lambda: math.nan if disk is None else disk.free_bytes,
            ),
        },
        counters={},
    )
