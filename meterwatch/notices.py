"""What the routes keep of whom they told what: the vocabulary of alarm.routes and of the tables they live in.

A claim is a route's on an alarm; a notice is what one target knows, or is to know, of one alarm; a delivery is one
message to one target and stays as it was made, with every try. All times are UTC microseconds; those of claims, notices
and `made_us` are by the service's clock, those of tries by the machine's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from meterwatch.alarms import Alarm, AlarmState, Priority
from meterwatch.episodes import Severity


class Change(StrEnum):
    """Why an alarm is in a message."""

    NEW = "NEW"
    """It calls for somebody and did not when the target was last told of it."""
    CHANGED = "CHANGED"
    OVER = "OVER"
    """It is active no more, or calls for nobody: cleared, retracted, folded into another, shelved, out of service."""
    REPEATED = "REPEATED"
    """Nobody has acknowledged it since it was told."""
    ESCALATED = "ESCALATED"
    """Nobody has acknowledged it, so this department is told, too."""
    LEADS = "LEADS"
    """It stood under another alarm of its asset, in whose call it was; that one is over or graver no more."""


class NoticeState(StrEnum):
    """What became of a notice."""

    OPEN = "OPEN"
    TOLD = "TOLD"
    """The alarm is finished and the target has been told so."""
    WITHDRAWN = "WITHDRAWN"
    """It called for nobody any more before the target was told of it."""
    DROPPED = "DROPPED"
    """Its target or route is no longer in the file."""


class DeliveryState(StrEnum):
    """What became of a message."""

    WAITING = "WAITING"
    SENT = "SENT"
    """The target has said that it has it."""
    DEAD = "DEAD"
    """Given up: refused for good, or failed for too long. `routes retry` sends it again."""


NoticeKey = tuple[str, str]
"""target, alarm_id: a target is told of an alarm once, however many routes lead there."""
ClaimKey = tuple[str, str]
"""route, alarm_id."""


@dataclass(frozen=True, slots=True)
class Told:
    """The alarm as the target was last told."""

    seq: int
    state: AlarmState
    severity: Severity
    pages: bool
    at_us: int
    number: int
    """Of the delivery."""
    priority: Priority
    lost: bool = False
    """That message was given up: nobody had it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One alarm to one target."""

    target: str
    alarm: Alarm
    """As of the last transition the routes have seen."""
    route: str
    department: str
    step: int
    """0: by its route; n: by the n-th escalation of it."""
    group: str
    due_us: int | None = None
    """When it is to be told; None: nothing is."""
    urged: Change | None = None
    """REPEATED, ESCALATED or LEADS: it is to be told although nothing changed, or not by what changed."""
    told: Told | None = None
    state: NoticeState = NoticeState.OPEN

    @property
    def key(self) -> NoticeKey:
        return self.target, self.alarm.alarm_id


@dataclass(frozen=True, slots=True)
class Claim:
    """A route concerns itself with an alarm, until the alarm is finished."""

    route: str
    alarm_id: str
    since_us: int | None
    """Active and not acknowledged since; None: it is not."""
    step: int = 0
    """Escalations done."""

    @property
    def key(self) -> ClaimKey:
        return self.route, self.alarm_id


@dataclass(frozen=True, slots=True)
class Item:
    """One alarm in a message, as it was after a transition."""

    alarm_id: str
    seq: int
    change: Change
    was_severity: Severity | None
    """As told before; None: it was not."""
    shown: bool
    """False: only counted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one target."""

    number: int
    """Rises by 1; with the log's identity it is the stable id of the message."""
    target: str
    route: str
    """Empty: a digest over several groups."""
    department: str
    step: int
    group: str
    items: tuple[Item, ...]
    waiting: int
    """Alarms due for this target that did not fit: the next message has them."""
    made_us: int


@dataclass(slots=True)
class Changes:
    """What one step of the routes changes; one transaction."""

    cursor: int | None = None
    next_number: int | None = None
    notices: dict[NoticeKey, Notice] = field(default_factory=dict)
    claims: dict[ClaimKey, Claim | None] = field(default_factory=dict)
    """None: it is over."""
    deliveries: list[Delivery] = field(default_factory=list)
    targets: frozenset[str] | None = None
    """All there are; what waits for another is given up. None: as before."""

    def __bool__(self) -> bool:
        return bool(
            self.cursor is not None or self.notices or self.claims or self.deliveries or self.targets is not None
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What the tables have at a start."""

    cursor: int | None
    """Last transition of the alarm log seen; None: routes never ran here."""
    next_number: int = 1
    notices: tuple[Notice, ...] = ()
    """Those OPEN."""
    claims: tuple[Claim, ...] = ()
    made_us: dict[str, list[int]] = field(default_factory=dict)
    """target -> when its last messages were made, oldest first."""
    waiting: dict[str, int] = field(default_factory=dict)
    """target -> messages not sent."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery with the alarms it tells of, ready to be sent."""

    delivery: Delivery
    alarms: tuple[tuple[Item, Alarm], ...]
    """Those shown."""
    attempts: int
    next_try_us: int
    queued_us: int
    """Machine clock when it was made."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One alarm in one message to one target, and what became of it."""

    alarm_id: str
    seq: int
    change: Change
    shown: bool
    number: int
    target: str
    route: str
    department: str
    step: int
    state: DeliveryState
    attempts: int
    made_us: int
    queued_us: int
    first_try_us: int | None
    last_try_us: int | None
    next_try_us: int | None
    ended_us: int | None
    """When the target said it has it, or when it was given up."""
    last_error: str


@dataclass(frozen=True, slots=True)
class TargetCount:
    """The deliveries of one target."""

    target: str
    waiting: int
    sent: int
    dead: int
    oldest_us: int | None
    """Since when the oldest of those that wait does, machine clock."""
    last_error: str
    """Of the oldest that waits."""
