"""Alarms as the service speaks of them: the alarm, a change of it, a filter over both.

The alarm book makes them, storage keeps them, the hub hands them out. This is the vocabulary they share; it knows
neither the wire nor the tables. All times are UTC microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum, StrEnum
from typing import Any, Final

from meterwatch.episodes import Severity


class AlarmType(StrEnum):
    """The rule that makes an alarm; `type` on the wire. Of user rules it is USER/NAME there, and USER means all."""

    OUTAGE = "OUTAGE"
    OVERLOAD = "OVERLOAD"
    REVERSE = "REVERSE"
    PHASE = "PHASE"
    UNBALANCE = "UNBALANCE"
    CONTRACT = "CONTRACT"
    COMM_LOSS = "COMM_LOSS"
    HOT_SPOT = "HOT_SPOT"
    FORECAST_OVERLOAD = "FORECAST_OVERLOAD"
    SYSTEM = "SYSTEM"
    """About the service itself (meterwatch.own_alarms)."""
    USER = "USER"


USER_PREFIX: Final = "USER/"
LABELS: Final = "labels"
"""Key of the labels of a user rule, in the evidence of its alarms."""
DEPARTMENT: Final = "department"
"""A label that names the department an alarm concerns."""


def type_of(rule: str) -> str:
    """The type of a rule: itself, or USER for USER/NAME."""
    return rule.partition("/")[0]


def names_a_type(name: str) -> bool:
    """True: alarms can be asked for by it, a type or one user rule."""
    return name in set(AlarmType) or (name.startswith(USER_PREFIX) and len(name) > len(USER_PREFIX))


class Priority(IntEnum):
    """How soon somebody must act. Values as in alarms.proto."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class AlarmState(StrEnum):
    """ISA-18.2 states, and RETRACTED for corrected history. The values are those of the alarms table."""

    UNACK_ACTIVE = "UNACK_ACTIVE"
    ACK_ACTIVE = "ACK_ACTIVE"
    RTN_UNACK = "RTN_UNACK"
    NORMAL = "NORMAL"
    SUPPRESSED = "SUPPRESSED"
    RETRACTED = "RETRACTED"


class Shelf(StrEnum):
    """Put aside by an operator for a time; lies over the state."""

    NOT_SHELVED = "NOT_SHELVED"
    SHELVED = "SHELVED"
    SHELVED_ONCE = "SHELVED_ONCE"


class Service(StrEnum):
    """Taken out by an operator until put back (work on the asset); lies over the state."""

    IN_SERVICE = "IN_SERVICE"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"


NEVER: Final = 2**63 - 1
FINISHED: Final = frozenset({AlarmState.NORMAL, AlarmState.RETRACTED})
"""Nothing is left to do for anybody; not part of a snapshot."""
PAGED: Final = frozenset({AlarmState.UNACK_ACTIVE, AlarmState.ACK_ACTIVE, AlarmState.RTN_UNACK})
"""States that call for somebody, unless shelved, out of service or for planning: Alarm.pages."""


class TransitionKind(StrEnum):
    """What happened to an alarm."""

    RAISED = "RAISED"
    SEVERITY = "SEVERITY"
    AMENDED = "AMENDED"
    CLEARED = "CLEARED"
    REOPENED = "REOPENED"
    SUPPRESSED = "SUPPRESSED"
    UNSUPPRESSED = "UNSUPPRESSED"
    RETRACTED = "RETRACTED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    SHELVED = "SHELVED"
    UNSHELVED = "UNSHELVED"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"
    RETURNED_TO_SERVICE = "RETURNED_TO_SERVICE"
    COMMENTED = "COMMENTED"
    ASSIGNED = "ASSIGNED"
    REANNOUNCED = "REANNOUNCED"
    LAPSED = "LAPSED"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One fault episode of one asset. Fields as the columns of the alarms table."""

    alarm_id: str
    rule: str
    asset_kind: str
    asset_id: int
    asset: str
    feeder: str
    district: str
    state: AlarmState
    severity: Severity
    level: str
    onset_us: int
    raised_us: int
    cleared_us: int | None
    recorded_us: int
    """Service clock when it was first committed."""
    version: int
    """Rises by 1 with each transition."""
    seq: int
    """Cursor of its last transition; 0 until committed."""
    parent_id: str | None
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)
    acknowledged_by: str | None = None
    acknowledged_us: int | None = None
    note: str | None = None
    shelved_until_us: int | None = None
    """Service clock; None: not shelved."""
    shelved_once: bool = False
    """The shelf also ends when the alarm returns to normal."""
    shelved_by: str | None = None
    shelved_reason: str | None = None
    out_of_service_by: str | None = None
    """None: in service."""
    out_of_service_reason: str | None = None
    assigned_to: str | None = None
    priority: Priority = Priority.LOW
    announced_us: int | None = None
    """Service clock when it last called for somebody by itself; None: when it was first committed."""
    for_planning: bool = False
    """It says what is to be planned for: it stands, and calls only whom asks for it by its type."""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def shelf(self) -> Shelf:
        if self.shelved_until_us is None:
            return Shelf.NOT_SHELVED
        return Shelf.SHELVED_ONCE if self.shelved_once else Shelf.SHELVED

    @property
    def service(self) -> Service:
        return Service.IN_SERVICE if self.out_of_service_by is None else Service.OUT_OF_SERVICE

    @property
    def stands(self) -> bool:
        """True: somebody has something to do about it, now or when there is time."""
        return self.state in PAGED and self.shelved_until_us is None and self.out_of_service_by is None

    @property
    def pages(self) -> bool:
        """True: it calls for somebody."""
        return self.stands and not self.for_planning

    @property
    def labels(self) -> Mapping[str, str]:
        """Those of the user rule that made it; of other rules none."""
        found: Mapping[str, str] = self.evidence.get(LABELS, {})
        return found

    @property
    def lasts(self) -> bool:
        """True: nothing that was measured ended it. One told first as history lasts too, and is finished (NORMAL)."""
        return self.cleared_us is None and self.state is not AlarmState.RETRACTED

    @property
    def end_us(self) -> int:
        """When it ended; NEVER while it lasts. A retracted one may have no end, then its onset."""
        if self.lasts:
            return NEVER
        return self.onset_us if self.cleared_us is None else self.cleared_us

    def to_json(self) -> dict[str, Any]:
        """Every field; enums as their stored values."""
        row = {name: getattr(self, name) for name in ALARM_FIELDS}
        return row | {"state": self.state.value, "severity": int(self.severity), "priority": int(self.priority)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Alarm:
        """Inverse of to_json. Fields a later version added are ignored; a missing old one is a TypeError."""
        known = {name: row[name] for name in ALARM_FIELDS if name in row}
        severity = Severity(row["severity"])
        priority = Priority(row.get("priority", severity))
        return cls(**(known | {"state": AlarmState(row["state"]), "severity": severity, "priority": priority}))


ALARM_FIELDS: Final = tuple(f.name for f in fields(Alarm))


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator did to one alarm, under an id of the caller's choice."""

    action_id: str
    alarm_id: str
    kind: TransitionKind
    operator: str
    note: str
    shelve_s: int = 0
    """SHELVED: for how long; 0 with once: the longest allowed."""
    once: bool = False
    """SHELVED: also ends with the return to normal."""
    assignee: str = ""
    """ASSIGNED: to whom; empty: to nobody."""


@dataclass(frozen=True, slots=True)
class AssetShelf:
    """All alarms of an asset, of a rule or of both are put aside, those to come too. Empty text: any."""

    action_id: str
    rule: str
    asset_kind: str
    asset: str
    shelve_s: int
    """For how long; 0: no longer."""
    operator: str
    reason: str
    until_us: int = 0
    """Service clock."""

    @property
    def over(self) -> tuple[str, str, str]:
        """What it lies over; the last shelf over the same counts."""
        return self.rule, self.asset_kind, self.asset

    def covers(self, alarm: Alarm) -> bool:
        return (
            self.rule in ("", alarm.rule, type_of(alarm.rule))
            and self.asset_kind in ("", alarm.asset_kind)
            and self.asset in ("", alarm.asset)
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """A transition that is not committed: it has no cursor yet."""

    kind: TransitionKind
    alarm: Alarm
    """As it shall be."""
    was: Alarm | None = None
    """As it is; None for a new alarm."""
    action: Action | None = None
    """What made it, if an operator did."""
    under: str | None = None
    """The alarm in whose call it begins to page (meterwatch.one_call); None: it calls by itself, or begins nothing."""

    def numbered(self, seq: int, recorded_us: int) -> Transition:
        """The committed transition."""
        return Transition(seq, self.kind, replace(self.alarm, seq=seq), recorded_us, self.was, self.action)


@dataclass(frozen=True, slots=True)
class Transition:
    """One committed change of one alarm."""

    seq: int
    kind: TransitionKind
    alarm: Alarm
    recorded_us: int
    was: Alarm | None = None
    """The alarm before it; None for a new alarm, or where the log no longer tells."""
    action: Action | None = None
    """What made it, if an operator did."""


Source = tuple[str, str, str]
"""Type, asset kind, asset: what makes alarms again and again."""


@dataclass(frozen=True, slots=True)
class Pages:
    """What began to page in a span of the service's clock, counted. Windows count calls (meterwatch.one_call)."""

    windows: Mapping[int, int]
    """By window of 10 minutes, 0 the last one."""
    top: Sequence[tuple[Source, int]]
    """The most frequent sources and how often each began to page."""
    chattering: Sequence[tuple[Source, int]]
    """Sources that began to page again and again within a window, by name."""
    under: int = 0
    """Began to page in the call of another alarm; not in `windows`."""


@dataclass(frozen=True, slots=True)
class AlarmFilter:
    """Which alarms somebody wants; an empty set means all."""

    rules: frozenset[str] = frozenset()
    districts: frozenset[str] = frozenset()
    feeders: frozenset[str] = frozenset()
    severity_min: Severity = Severity.LOW
    states: frozenset[AlarmState] = frozenset()
    paging_only: bool = False
    """Only what calls for somebody: see calls_for."""
    priority_min: Priority = Priority.LOW
    any_of: tuple[AlarmFilter, ...] = ()
    """And at least one of these; none: no matter. What concerns a department is a filter of this kind."""
    labels: tuple[tuple[str, frozenset[str]], ...] = ()
    """Names of labels, and of each the values wanted."""

    def matches(self, alarm: Alarm) -> bool:
        """True: the alarm, as it is, is wanted."""
        return (
            self._place(alarm)
            and alarm.severity >= self.severity_min
            and alarm.priority >= self.priority_min
            and (not self.any_of or any(one.matches(alarm) for one in self.any_of))
            and (not self.states or alarm.state in self.states)
            and (not self.paging_only or self.calls_for(alarm))
        )

    def calls_for(self, alarm: Alarm) -> bool:
        """True: an alarm of a wanted type calls who wants this: it pages, or is for planning and named by its type."""
        return alarm.pages or (alarm.stands and bool(self.rules))

    def wants(self, transition: Transition) -> bool:
        """True: the alarm is wanted after the change or was before it. Else nobody would hear that it left."""
        alarm, was = transition.alarm, transition.was
        if self.matches(alarm):
            return True
        return alarm.version > 1 and (self._place(alarm) if was is None else self.matches(was))

    def _place(self, alarm: Alarm) -> bool:
        return (
            (not self.rules or alarm.rule in self.rules or type_of(alarm.rule) in self.rules)
            and (not self.districts or alarm.district in self.districts)
            and (not self.feeders or alarm.feeder in self.feeders)
            and all(alarm.labels.get(name) in values for name, values in self.labels)
            and (not self.any_of or any(one._place(alarm) for one in self.any_of))
        )
