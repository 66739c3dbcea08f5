"""What a routes file says, once it is known to be sound: targets, departments, hours and routes.

Immutable and comparable: a target that is the same after a reload goes on as it was. Knows neither YAML nor HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from alarm.routes.hours import Hours
from meterwatch.alarms import DEPARTMENT, Alarm, AlarmFilter
from meterwatch.episodes import Severity
from meterwatch.notices import Claim

TargetKind = Literal["alertmanager", "webhook", "apprise"]
GROUP_FIELDS: Final = ("type", "district", "feeder", "severity", "asset_kind", "asset", "level")
LABEL_FIELD: Final = "labels."
"""And a label by its name after this."""
COVERED_MAX: Final = 1000
"""Alarms one message stands for."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address that messages go to."""

    name: str
    kind: TargetKind
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    """webhook: what signs."""
    bearer: str = field(default="", repr=False)
    """alertmanager, webhook: token of the Authorization header."""
    timeout_s: float = 10.0
    messages: int = 60
    per_s: int = 60
    """At most so many messages in so many seconds of the service's clock."""
    alarms_max: int = 50
    """Alarms shown in one message; the rest is counted."""
    give_up_s: int = 86_400
    """A message not delivered for so long, by the machine's clock, is dead."""
    resend_s: int = 60
    """alertmanager: active alarms are sent again after this, and end there after four times this."""

    @property
    def batches(self) -> bool:
        """True: a machine that groups by itself; whatever is due goes in one message, shown in full."""
        return self.kind == "alertmanager"

    @property
    def shown_max(self) -> int:
        return COVERED_MAX if self.batches else self.alarms_max


@dataclass(frozen=True, slots=True)
class Department:
    """Who is told, by which targets."""

    name: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Escalation:
    """Not acknowledged for so long: this department is told, too."""

    after_us: int
    department: str


@dataclass(frozen=True, slots=True)
class Route:
    """Which alarms go to which department, and when."""

    name: str
    match: AlarmFilter
    department: str
    hours: Hours | None = None
    """When it tells; None: always."""
    outside: Literal["hold", "skip"] = "hold"
    """Outside the hours: tell when they begin, or leave it to other routes."""
    group_by: tuple[str, ...] = ()
    group_wait_us: int = 10_000_000
    group_interval_us: int = 60_000_000
    repeat_us: int | None = None
    """Not acknowledged for so long after it was told: told again."""
    escalations: tuple[Escalation, ...] = ()

    def group_of(self, alarm: Alarm) -> str:
        """The group of an alarm, readable: 'district=North, feeder=F1'; empty: all together."""
        return ", ".join(f"{name}={group_value(alarm, name)}" for name in self.group_by)

    def department_of_step(self, step: int) -> str:
        """0: the route's own."""
        return self.department if step == 0 else self.escalations[step - 1].department

    def leaves(self, at_us: int) -> bool:
        """True: it leaves to others what comes now."""
        return self.hours is not None and self.outside == "skip" and not self.hours.open_at(at_us)

    def escalates_us(self, claim: Claim) -> int | None:
        """When the next escalation is due; counted from when the hours begin. None: there is none."""
        if claim.since_us is None or claim.step >= len(self.escalations):
            return None
        begin_us = claim.since_us if self.hours is None else self.hours.next_open_us(claim.since_us)
        return begin_us + self.escalations[claim.step].after_us

    @property
    def departments(self) -> frozenset[str]:
        return frozenset({self.department, *(e.department for e in self.escalations)})


@dataclass(frozen=True, slots=True)
class Routes:
    """One routes file. Names refer to what is there."""

    targets: dict[str, Target] = field(default_factory=dict)
    departments: dict[str, Department] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    link: str = ""
    """Where people see the rest."""

    def concerns(self, department: str) -> AlarmFilter:
        """The alarms of a department: what a route to it matches, in whatever state, or whose label names it.

        KeyError if there is no such department.
        """
        name = self.departments[department].name
        matches = (replace(r.match, states=frozenset()) for r in self.routes if name in r.departments)
        return AlarmFilter(any_of=(*matches, AlarmFilter(labels=((DEPARTMENT, frozenset({name})),))))


def group_value(alarm: Alarm, name: str) -> str:
    """Field of an alarm by its name in group_by."""
    if name.startswith(LABEL_FIELD):
        return alarm.labels.get(name.removeprefix(LABEL_FIELD), "")
    match name:
        case "type":
            return alarm.rule
        case "severity":
            return Severity(alarm.severity).name
        case _:
            return str(getattr(alarm, name))
