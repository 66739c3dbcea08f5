"""What can be said about an alarm beyond its own record: the vocabulary of an explanation.

The rules' kernels make it from stored reads, the alarm service shows it. Knows neither the wire nor the tables. All
times are UTC microseconds; 0 means that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

METERS_SHOWN: Final = 200
WINDOWS_SHOWN: Final = 200
CHILDREN_SHOWN: Final = 50
"""All three as alarms.proto says."""


@dataclass(frozen=True, slots=True)
class MeterSeen:
    """One meter around one alarm; fields as in alarms.proto."""

    meter: str
    transformer: str
    said: str
    said_us: int = 0
    said_by: str = ""
    said_arrived_us: int = 0
    back_us: int = 0
    back_by: str = ""
    back_arrived_us: int = 0
    heard_us: int = 0
    due_us: int = 0


@dataclass(frozen=True, slots=True)
class MetersSeen:
    """The meters of an asset: counted, and some of them shown."""

    members: int
    looked_at: int
    off: int
    on: int
    silent: int
    shown: tuple[MeterSeen, ...]


@dataclass(frozen=True, slots=True)
class LoadSeen:
    """One window of a transformer; fields as in alarms.proto."""

    end_us: int
    b: float
    coverage: float
    valid: bool
    level: str
    hold_s: int
    clear_s: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """The alarm in one message to one target; fields as in alarms.proto."""

    seq: int
    change: str
    department: str
    route: str
    target: str
    step: int
    outcome: str
    made_us: int
    ended_us: int
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the stored reads and the rules say about an alarm now."""

    rules_version: str
    limits: dict[str, Any] = field(default_factory=dict)
    """Of the profile in force, by name."""
    meters: MetersSeen | None = None
    load: tuple[LoadSeen, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
