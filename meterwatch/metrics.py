"""What an operator can measure: every metric of the service, declared here and nowhere else, with its unit in its name.

Four questions: what came in and what was refused; how long until it was committed and judged; which alarms went out;
what waits now. Each service has a registry of its own, because several may live in one process; counters begin at 0
with it. Refuses to know who counts, and who reads (meterwatch/status_pages.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from meterwatch.alarms import AlarmType, Transition, TransitionKind
from meterwatch.batch import ReadChange, Stored
from meterwatch.jobs import Jobs
from meterwatch.quality import CHECK_OF, DAY_BITS, Method
from meterwatch.v1 import ingest_pb2

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the latency histograms, seconds: around the promised 0.25 and 1 s, up to the deadline of a batch."""
TOLD_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The same for telling people, who may be behind a slow line."""
DELAY_SECONDS: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 900.0, 3600.0)
"""The same for events on their way: around the holds of outages, 60, 180 and 300 s."""
_REASON: Final = {
    number: name.removeprefix("ROW_REASON_").lower()
    for name, number in ingest_pb2.RowReason.items()
    if number != ingest_pb2.ROW_REASON_UNSPECIFIED
}


_CHECK_OF_REASON: Final = {
    ingest_pb2.ROW_REASON_UNKNOWN_METER: "V01",
    ingest_pb2.ROW_REASON_NOT_YOURS: "V01",
    ingest_pb2.ROW_REASON_NOT_INSTALLED: "V04",
    ingest_pb2.ROW_REASON_FUTURE: "V04",
    ingest_pb2.ROW_REASON_TOO_OLD: "V04",
    ingest_pb2.ROW_REASON_UNALIGNED: "V03",
    ingest_pb2.ROW_REASON_NOT_FINITE: "V06",
    ingest_pb2.ROW_REASON_NEGATIVE: "V06",
    ingest_pb2.ROW_REASON_OUT_OF_RANGE: "V06",
    ingest_pb2.ROW_REASON_ABOVE_CAPACITY: "V06",
}


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.jobs = Jobs()
        self.reads = self._counter("reads", "Reads answered, by outcome; rejected ones by reason below.", "outcome")
        self.reads_rejected = self._counter("reads_rejected", "Reads put into quarantine, by reason.", "reason")
        self.check_findings = self._counter(
            "check_findings", "Rows in which a check of validation found something, by check (V01 to V18).", "check"
        )
        self.meter_days_judged = self._counter(
            "meter_days_judged", "Meter-days judged, for the first time or again after a change.", "occasion"
        )
        self.day_steps_failed = self._counter("day_steps_failed", "Steps of judging days ended by an error of ours.")
        self.estimates = self._counter(
            "estimates", "Estimates written for reads that are missing, by method.", "method"
        )
        self.estimation_steps_failed = self._counter(
            "estimation_steps_failed", "Steps of estimating ended by an error of ours."
        )
        self.forecasts = self._counter("forecasts", "Forecasts of transformers made and stored.")
        self.forecast_steps_failed = self._counter(
            "forecast_steps_failed", "Steps of forecasting ended by an error of ours."
        )
        for method in Method:
            if method is not Method.SENT:
                self.estimates.labels(method.name.lower())
        for occasion in ("first", "again"):
            self.meter_days_judged.labels(occasion)
        self.events = self._counter("events", "Events answered, by outcome.", "outcome")
        self.events_rejected = self._counter("events_rejected", "Events put into quarantine, by reason.", "reason")
        self.registers = self._counter("registers", "Register reads answered, by outcome.", "outcome")
        self.registers_rejected = self._counter(
            "registers_rejected", "Register reads put into quarantine, by reason.", "reason"
        )
        self.batches = self._counter(
            "batches", "Batches of reads, events and registers answered with an ack, by kind.", "kind"
        )
        self.batches_replayed = self._counter("batches_replayed", "Of these, answered from the ledger.", "kind")
        self.nacks = self._counter("nacks", "Messages on a stream answered with a nack, by reason.", "reason")
        self.calls_refused = self._counter(
            "calls_refused", "Calls ended with a status other than OK, by method, code and reason.",
            "method", "code", "reason",
        )  # fmt: skip
        self.copy_groups = self._counter("copy_groups", "Groups of batches committed together.")
        self.copy_rows = self._counter("copy_rows", "Rows of these groups, as sent.")
        self.groups_failed = self._counter("groups_failed", "Groups the database did not take; senders send again.")
        self.evaluation_retries = self._counter(
            "evaluation_retries", "Times alarms of stored reads had to wait for the database."
        )
        self.transitions = self._counter(
            "alarm_transitions", "Alarm transitions committed, by what happened and type of alarm.", "kind", "type"
        )
        self.route_messages = self._counter(
            "route_messages",
            "Messages to departments by target: made, sent, dead (given up), failed (tries); error: a defect.",
            "target", "outcome",
        )  # fmt: skip
        self.alarm_told_seconds = Histogram(
            "meterwatch_alarm_told_seconds",
            "Messages to named subscribers by stage: sent after commit, received after sent, shown after received.",
            ["stage"], registry=self.registry, buckets=TOLD_SECONDS,
        )  # fmt: skip
        for stage in ("sent", "received", "shown"):
            self.alarm_told_seconds.labels(stage)
        self.commit_seconds = self._histogram("commit_seconds", "From a batch in the queue to its reads committed.")
        self.evaluation_seconds = self._histogram(
            "evaluation_seconds", "From a batch in the queue to its alarm transitions committed, that is to its ack."
        )
        self.restored_delay_seconds = Histogram(
            "meterwatch_restored_delay_seconds",
            "From the oldest event of a request that stops the timer of an outage to its arrival, service's clock.",
            registry=self.registry, buckets=DELAY_SECONDS,
        )  # fmt: skip
        self._counted = _Counted()
        self.registry.register(self._counted)
        for label in _REASON.values():
            self.reads_rejected.labels(label)
            self.events_rejected.labels(label)
            self.registers_rejected.labels(label)
        for check in sorted({*CHECK_OF.values(), *_CHECK_OF_REASON.values(), "V02"}):
            self.check_findings.labels(check)
        for outcome in ("accepted", "duplicate", "version", "rejected"):
            self.reads.labels(outcome)
        for kind in (TransitionKind.RAISED, TransitionKind.CLEARED):
            for rule in (one for one in AlarmType if one is not AlarmType.USER):
                self.transitions.labels(kind.value, rule.value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"meterwatch_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"meterwatch_{name}", text, buckets=SECONDS, registry=self.registry)

    def stored(self, kind: str, stored: Stored) -> None:
        """Count a batch that is answered with an ack; kind: reads, events or registers."""
        if stored.reused:
            return  # becomes a nack
        self.batches.labels(kind).inc()
        if stored.replayed:
            self.batches_replayed.labels(kind).inc()
            return
        rows, rejected = {
            "reads": (self.reads, self.reads_rejected),
            "events": (self.events, self.events_rejected),
            "registers": (self.registers, self.registers_rejected),
        }[kind]
        rows.labels("accepted").inc(stored.accepted)
        rows.labels("duplicate").inc(stored.duplicates)
        rows.labels("version").inc(stored.versions)
        rows.labels("rejected").inc(len(stored.rejected_reason))
        for reason in set(stored.rejected_reason.tolist()):
            count = int((stored.rejected_reason == reason).sum())
            rejected.labels(_REASON[reason]).inc(count)
            if kind == "reads" and reason in _CHECK_OF_REASON:
                self.check_findings.labels(_CHECK_OF_REASON[reason]).inc(count)
        if kind == "reads":
            self.check_findings.labels("V02").inc(stored.duplicates)
            if stored.change is not None:
                self._count_bits(stored.change)

    def _count_bits(self, change: ReadChange) -> None:
        """Findings of ingest in the reads that are now stored; one look at all words where there is none."""
        found = int(np.bitwise_or.reduce(change.quality))
        for bit, check in CHECK_OF.items():
            if found & bit & ~DAY_BITS:
                self.check_findings.labels(check).inc(int(((change.quality & bit) != 0)[change.sign > 0].sum()))

    def published(self, transitions: Sequence[Transition]) -> None:
        """Count committed transitions."""
        for transition in transitions:
            self.transitions.labels(transition.kind.value, transition.alarm.rule).inc()

    def targets(self, names: Iterable[str]) -> None:
        """Show these targets of messages from now on; Prometheus sees no increase of what it has not seen at 0."""
        for name in names:
            for outcome in ("made", "sent", "failed", "dead", "error"):
                self.route_messages.labels(name, outcome)

    def told(self, stage: str, seconds: float) -> None:
        """Count how long a stage of telling somebody took."""
        self.alarm_told_seconds.labels(stage).observe(seconds)

    def overdue(self, rows: list[tuple[str, int]]) -> None:
        """Show these counts of overdue reads, by head-end, and no others."""
        self._counted.overdue = rows

    def completeness(self, kind: str, rows: list[tuple[tuple[str, ...], int, int]]) -> None:
        """Show these counts of reads owed and there, by labels; kind: link or district."""
        self._counted.hour = {**self._counted.hour, kind: rows}

    def watch(
        self, gauges: dict[str, tuple[str, Callable[[], float]]], counters: dict[str, tuple[str, Callable[[], float]]]
    ) -> None:
        """Take values that somebody else keeps: name -> (text, function), asked at each scrape in another thread."""
        self.registry.register(_Kept(gauges, counters))

    def watch_targets(self, gauges: dict[str, tuple[str, Callable[[], dict[str, float]]]]) -> None:
        """The same of values by target."""
        self.registry.register(_KeptByTarget(gauges))


_COUNTED_BY: Final = (("link", "", ["comm_mode", "terminal_type"]), ("district", "district_", ["district"]))


class _Counted:
    """Collector of what was counted last, whole: a scrape in another thread sees the counts before or after."""

    def __init__(self) -> None:
        self.overdue: list[tuple[str, int]] = []
        self.hour: dict[str, list[tuple[tuple[str, ...], int, int]]] = {}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily(
            "meterwatch_reads_overdue", "Reads of the last 6 h that are overdue, by head-end.", labels=["head_end"]
        )
        for name, reads in self.overdue:
            gauge.add_metric([name], reads)
        yield gauge
        for kind, prefix, labels in _COUNTED_BY:
            for what in ("expected", "present"):
                gauge = GaugeMetricFamily(
                    f"meterwatch_{prefix}hour_reads_{what}",
                    f"Reads {what} of the newest hour whose reads have all had their time.",
                    labels=labels,
                )
                for values, expected, present in self.hour.get(kind, []):
                    gauge.add_metric(values, expected if what == "expected" else present)
                yield gauge


class _Kept:
    """Collector of values that live elsewhere."""

    def __init__(self, gauges: dict[str, Any], counters: dict[str, Any]) -> None:
        self._gauges, self._counters = gauges, counters

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"meterwatch_{name}", text, value=value())
        for name, (text, value) in self._counters.items():
            yield CounterMetricFamily(f"meterwatch_{name}", text, value=value())


class _KeptByTarget:
    """Collector of values by target that live elsewhere."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], dict[str, float]]]]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, (text, values) in self._gauges.items():
            family = GaugeMetricFamily(f"meterwatch_{name}", text, labels=["target"])
            for target, value in values().items():
                family.add_metric([target], value)
            yield family
