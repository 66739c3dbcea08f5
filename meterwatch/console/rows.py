"""An alarm as a line of the console: what is shown of it and what it is ordered by.

The evidence stays behind: 100,000 alarms with it would be some hundred megabytes, and `Explain` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterwatch.v1 import alarms_pb2 as pb

STATE: Final[dict[int, str]] = {value: name.removeprefix("ALARM_STATE_") for name, value in pb.AlarmState.items()}
SEVERITY: Final[dict[int, str]] = {value: name.removeprefix("SEVERITY_") for name, value in pb.Severity.items()}
FINISHED: Final[frozenset[int]] = frozenset({pb.ALARM_STATE_NORMAL, pb.ALARM_STATE_RETRACTED})
ORDER: Final[dict[int, int]] = {
    pb.ALARM_STATE_UNACK_ACTIVE: 0,
    pb.ALARM_STATE_RTN_UNACK: 1,
    pb.ALARM_STATE_ACK_ACTIVE: 2,
}
"""Who nobody has taken note of comes first."""

CALLING: Final[frozenset[int]] = frozenset({pb.ALARM_STATE_UNACK_ACTIVE, pb.ALARM_STATE_ACK_ACTIVE})

Key = tuple[int, bool, int, int, bool, int, str, bool, str]
"""Overlaid (2) or for planning (1), aside in a storm, priority (most urgent first), state, no root, onset (newest
first), alarm_id, all of them of who leads its call; it stands under that one, alarm_id of its own: ascending, never
equal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One alarm; fields as in alarms.proto."""

    alarm_id: str
    type: str
    asset_kind: str
    asset: str
    feeder: str
    district: str
    state: int
    severity: int
    level: str
    onset_us: int
    cleared_us: int
    version: int
    parent_id: str
    summary: str
    acknowledged_by: str
    shelved_until_us: int
    out_of_service: bool
    assigned_to: str
    priority: int = 0
    """0: not said; then that of its severity."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of the user rule that made it."""
    for_planning: bool = False
    """It calls nobody who did not ask for it."""

    @classmethod
    def of(cls, alarm: pb.Alarm) -> Row:
        return cls(
            alarm.alarm_id, alarm.type, alarm.asset_kind, alarm.asset, alarm.feeder, alarm.district, alarm.state,
            alarm.severity, alarm.level, alarm.onset_us, alarm.cleared_us, alarm.version, alarm.parent_id,
            alarm.summary, alarm.acknowledged_by, alarm.shelved_until_us, bool(alarm.out_of_service_by),
            alarm.assigned_to, alarm.priority, tuple(alarm.label.items()), alarm.for_planning,
        )  # fmt: skip

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def overlaid(self) -> bool:
        """Shelved or out of service: it pages nobody."""
        return bool(self.shelved_until_us) or self.out_of_service

    @property
    def urgency(self) -> int:
        return self.priority or self.severity

    @property
    def calls(self) -> bool:
        """There is a fault, and it calls for somebody (meterwatch.one_call)."""
        return self.state in CALLING and not self.overlaid and not self.for_planning and not self.parent_id

    def key(self, *, root: bool, aside: bool = False) -> Key:
        """Its place among others; root: alarms are folded into it; aside: a storm shows it last."""
        mine = (
            2 * self.overlaid + self.for_planning,
            aside,
            -self.urgency,
            ORDER.get(self.state, 3),
            not root,
            -self.onset_us,
        )
        return *mine, self.alarm_id, False, self.alarm_id

    def key_under(self, leader: Key) -> Key:
        """Its place behind the alarm in whose call it is."""
        return *leader[:7], True, self.alarm_id
