"""What a target sees of an alarm, and what a message says has changed. Pure."""

from __future__ import annotations

from meterwatch.alarms import PAGED, Alarm, AlarmState
from meterwatch.episodes import Severity
from meterwatch.notices import Change, Notice, Told

Face = tuple[str, int]
"""Two alarms, or one at two times, with the same face are not worth a message."""


def active(state: AlarmState, pages: bool) -> bool:
    """True: there is a fault and it calls for somebody."""
    return pages and state in PAGED and state is not AlarmState.RTN_UNACK


def _face(state: AlarmState, severity: Severity, pages: bool) -> Face:
    if active(state, pages):
        return state.value, severity
    if state in (AlarmState.RTN_UNACK, AlarmState.NORMAL):
        return "CLEARED", 0
    return ("RETRACTED" if state is AlarmState.RETRACTED else "ASIDE"), 0


def face(alarm: Alarm) -> Face:
    """The face of an alarm as it is."""
    return _face(alarm.state, alarm.severity, alarm.stands)


def told_face(told: Told) -> Face:
    """The face of an alarm as it was told."""
    return _face(told.state, told.severity, told.pages)


def change_of(notice: Notice) -> Change:
    """Why the alarm is in the message that is made now."""
    alarm, told = notice.alarm, notice.told
    if not active(alarm.state, alarm.stands):
        return Change.OVER
    if notice.urged is Change.LEADS:
        return Change.LEADS
    if told is None:
        return Change.ESCALATED if notice.step else Change.NEW
    if not active(told.state, told.pages):
        return Change.NEW
    if face(alarm) != told_face(told):
        return Change.CHANGED
    return notice.urged or Change.CHANGED
