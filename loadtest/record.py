"""What a load test leaves behind: plain data, written as JSON, read by score, page and people.

Times named `_us` are UTC microseconds of the service's (simulated) clock; times named `_s` are seconds of the machine's
clock since the first scheduled send. Refuses to judge: loadtest.score does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing the scenario did to the grid, as it truly was."""

    kind: str
    """OUTAGE, OVERLOAD, COMM_LOSS: the alarm type it must raise; MOMENTARY, PLANNED, NOISE: it must raise none."""
    asset_kind: str
    """meter, transformer, feeder, concentrator, head_end."""
    asset: str
    onset_us: int
    end_us: int | None
    meters: int
    """Meters affected."""
    hot_us: int | None = None
    """When the hot spot truly passes 140 C; None: it does not, or the scenario has no thermal truth."""
    two_hour_rule_us: int | None = None
    """When "two hours above the rating" would warn of it; None: never, or not computed."""
    expected: bool = True
    """False: shorter than what the rule waits for, or only just longer. An alarm of it is right, none is right too."""


@dataclass(frozen=True, slots=True)
class Told:
    """One alarm as the subscriber last saw it."""

    alarm_id: str
    type: str
    asset_kind: str
    asset: str
    severity: str
    onset_us: int
    raised_us: int
    cleared_us: int | None
    recorded_us: int
    """When the service first recorded it."""
    received_s: float
    """When the subscriber first got it."""
    paged: bool
    """Shown as active, not folded under a parent, not history and not for planning."""
    retracted: bool = False
    calls: int = 0
    """How often it began a call (meterwatch.one_call). Of types that call once for an asset."""
    escalations: int = 0
    """How often it outranked all that had called in the call it came to."""
    for_planning: bool = False
    """It was there to be planned with, and called nobody."""


@dataclass(slots=True)
class Second:
    """One second of the run."""

    at_s: float
    reads_sent: int = 0
    reads_acked: int = 0
    ack_ms_p50: float = 0.0
    ack_ms_p99: float = 0.0
    ack_ms_max: float = 0.0
    behind_s: float = 0.0
    """How late the sender itself was, worst stream."""
    alarms: int = 0
    """Paged since the start of the run."""
    cpu_share: dict[str, float] = field(default_factory=dict)
    """Cores used: service, postgres, driver."""
    service_rss_mb: float = 0.0
    """0: not seen in this second."""


@dataclass(slots=True)
class Record:
    """A whole run."""

    scenario: str
    inputs: dict[str, Any]
    """What the run was asked to do. Names the score reads, each optional: `transformers` (how many), `simulated_s`
    (span of simulated time), `end_us` (its last moment), `interval_s`, `two_hour_rule_alarms` (how many alarms "two
    hours above the rating" would have raised on the same truth)."""
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    commit: str
    started_at: str
    seconds: float = 0.0
    totals: dict[str, int] = field(default_factory=dict)
    """batches, sent, acked, accepted, versions, duplicates, rejected, events_sent, events_acked."""
    rejected_reasons: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    """scheduled_reads_per_s, acked_reads_per_s, generator_ceiling_reads_per_s (against a server that only acks)."""
    ack_ms: dict[str, float] = field(default_factory=dict)
    """p50, p90, p99, p999, max; from the scheduled send."""
    alarm_ms: dict[str, float] = field(default_factory=dict)
    """From the send that completed the evidence to the subscriber; p50, p99, max."""
    event_ms: dict[str, float] = field(default_factory=dict)
    """As ack_ms, for requests with events."""
    histogram: str = ""
    """ack latencies, microseconds, HdrHistogram, base64 as its own encode() gives."""
    behind_s_max: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)
    series: list[Second] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    tree: dict[str, str] = field(default_factory=dict)
    """Electrical tree, asset -> its parent, names unique over all kinds; the assets of faults and alarms and all above
    them suffice."""
    score: dict[str, Any] = field(default_factory=dict)
    required: list[dict[str, Any]] = field(default_factory=list)
    """limit, value, ok: what --require asked for."""
    problems: list[str] = field(default_factory=list)
    """Why the run failed; empty: it did not."""
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one. ValueError for another format."""
        data = orjson.loads(path.read_bytes())
        if data.get("format") != FORMAT:
            raise ValueError(f"{path} has format {data.get('format')}; expected {FORMAT}; make it again")
        data["series"] = [Second(**item) for item in data["series"]]
        data["faults"] = [Fault(**item) for item in data["faults"]]
        data["told"] = [Told(**item) for item in data["told"]]
        return cls(**data)
