"""The lifecycle of an alarm as data: what can happen to it, and what it is afterwards.

Three regions, independent of each other: the state (ISA-18.2), the shelf, the service. Shelf and service lie over the
state: an alarm in them is judged, logged and returned to normal like any other, it only pages nobody. A pair that is in
no table cannot happen. docs/alarms.md draws the tables (python -m meterwatch.devtools.lifecycle). Knows neither clock
nor episodes.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from meterwatch.alarms import AlarmState, Service, Shelf, TransitionKind


class Input(Enum):
    """What can happen to an alarm."""

    REOPEN = auto()
    AGE = auto()
    SUPPRESS = auto()
    RELEASE = auto()
    CLOSE = auto()
    ESCALATE = auto()
    RETRACT = auto()
    ACKNOWLEDGE = auto()
    SHELVE = auto()
    SHELVE_ONCE = auto()
    UNSHELVE = auto()
    EXPIRE = auto()
    TAKE_OUT = auto()
    PUT_BACK = auto()
    COMMENT = auto()
    ASSIGN = auto()
    RE_ALARM = auto()
    LAPSE = auto()


_S, _I = AlarmState, Input
NEXT: Final[dict[tuple[AlarmState, Input], AlarmState]] = {
    (_S.UNACK_ACTIVE, _I.CLOSE): _S.RTN_UNACK,
    (_S.UNACK_ACTIVE, _I.AGE): _S.NORMAL,  # it lasts, but only an old file tells of it
    (_S.UNACK_ACTIVE, _I.ACKNOWLEDGE): _S.ACK_ACTIVE,
    (_S.UNACK_ACTIVE, _I.ESCALATE): _S.UNACK_ACTIVE,
    (_S.UNACK_ACTIVE, _I.RE_ALARM): _S.UNACK_ACTIVE,
    (_S.UNACK_ACTIVE, _I.SUPPRESS): _S.SUPPRESSED,
    (_S.UNACK_ACTIVE, _I.RETRACT): _S.RETRACTED,
    (_S.ACK_ACTIVE, _I.CLOSE): _S.NORMAL,
    (_S.ACK_ACTIVE, _I.ESCALATE): _S.UNACK_ACTIVE,  # worse than what was acknowledged
    (_S.ACK_ACTIVE, _I.RE_ALARM): _S.UNACK_ACTIVE,  # it has stood for too long
    (_S.ACK_ACTIVE, _I.SUPPRESS): _S.SUPPRESSED,
    (_S.ACK_ACTIVE, _I.RETRACT): _S.RETRACTED,
    (_S.RTN_UNACK, _I.REOPEN): _S.UNACK_ACTIVE,
    (_S.RTN_UNACK, _I.ACKNOWLEDGE): _S.NORMAL,
    (_S.RTN_UNACK, _I.LAPSE): _S.NORMAL,  # too many wait for it that are newer
    (_S.RTN_UNACK, _I.ESCALATE): _S.RTN_UNACK,
    (_S.RTN_UNACK, _I.SUPPRESS): _S.NORMAL,  # the parent is what needs acknowledging
    (_S.RTN_UNACK, _I.RETRACT): _S.RETRACTED,
    (_S.NORMAL, _I.REOPEN): _S.UNACK_ACTIVE,
    (_S.NORMAL, _I.CLOSE): _S.NORMAL,  # told first as history, and over
    (_S.NORMAL, _I.ESCALATE): _S.NORMAL,
    (_S.NORMAL, _I.SUPPRESS): _S.NORMAL,
    (_S.NORMAL, _I.RELEASE): _S.NORMAL,
    (_S.NORMAL, _I.RETRACT): _S.RETRACTED,
    (_S.SUPPRESSED, _I.RELEASE): _S.UNACK_ACTIVE,
    (_S.SUPPRESSED, _I.CLOSE): _S.NORMAL,
    (_S.SUPPRESSED, _I.ESCALATE): _S.SUPPRESSED,
    (_S.SUPPRESSED, _I.RETRACT): _S.RETRACTED,
    (_S.RETRACTED, _I.REOPEN): _S.UNACK_ACTIVE,  # corrected back
}

SHELF_NEXT: Final[dict[tuple[Shelf, Input], Shelf]] = {
    (Shelf.NOT_SHELVED, _I.SHELVE): Shelf.SHELVED,
    (Shelf.NOT_SHELVED, _I.SHELVE_ONCE): Shelf.SHELVED_ONCE,
    (Shelf.SHELVED, _I.SHELVE): Shelf.SHELVED,  # a new end
    (Shelf.SHELVED, _I.SHELVE_ONCE): Shelf.SHELVED_ONCE,
    (Shelf.SHELVED, _I.UNSHELVE): Shelf.NOT_SHELVED,
    (Shelf.SHELVED, _I.EXPIRE): Shelf.NOT_SHELVED,
    (Shelf.SHELVED_ONCE, _I.SHELVE): Shelf.SHELVED,
    (Shelf.SHELVED_ONCE, _I.SHELVE_ONCE): Shelf.SHELVED_ONCE,
    (Shelf.SHELVED_ONCE, _I.UNSHELVE): Shelf.NOT_SHELVED,
    (Shelf.SHELVED_ONCE, _I.EXPIRE): Shelf.NOT_SHELVED,
    (Shelf.SHELVED_ONCE, _I.CLOSE): Shelf.NOT_SHELVED,
    (Shelf.SHELVED_ONCE, _I.RETRACT): Shelf.NOT_SHELVED,
}

SERVICE_NEXT: Final[dict[tuple[Service, Input], Service]] = {
    (Service.IN_SERVICE, _I.TAKE_OUT): Service.OUT_OF_SERVICE,
    (Service.OUT_OF_SERVICE, _I.PUT_BACK): Service.IN_SERVICE,
}

NOT_WHEN_FINISHED: Final = frozenset({_I.SHELVE, _I.SHELVE_ONCE, _I.TAKE_OUT, _I.ASSIGN})
"""There is nobody left to spare, and nothing left to do."""
NOT_WHEN_CLEARED: Final = frozenset({_I.SHELVE_ONCE})
"""It ends with the return to normal, which has been."""

KIND: Final = {
    _I.REOPEN: TransitionKind.REOPENED,
    _I.AGE: TransitionKind.AMENDED,
    _I.SUPPRESS: TransitionKind.SUPPRESSED,
    _I.RELEASE: TransitionKind.UNSUPPRESSED,
    _I.CLOSE: TransitionKind.CLEARED,
    _I.ESCALATE: TransitionKind.SEVERITY,
    _I.RETRACT: TransitionKind.RETRACTED,
    _I.ACKNOWLEDGE: TransitionKind.ACKNOWLEDGED,
    _I.SHELVE: TransitionKind.SHELVED,
    _I.SHELVE_ONCE: TransitionKind.SHELVED,
    _I.UNSHELVE: TransitionKind.UNSHELVED,
    _I.EXPIRE: TransitionKind.UNSHELVED,
    _I.TAKE_OUT: TransitionKind.OUT_OF_SERVICE,
    _I.PUT_BACK: TransitionKind.RETURNED_TO_SERVICE,
    _I.COMMENT: TransitionKind.COMMENTED,
    _I.ASSIGN: TransitionKind.ASSIGNED,
    _I.RE_ALARM: TransitionKind.REANNOUNCED,
    _I.LAPSE: TransitionKind.LAPSED,
}
"""What a transition is called by the input that made it."""
