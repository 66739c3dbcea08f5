"""How alarms are presented, by name: severity, priority, delays, repeated announcements, chattering.

A rule says what it knows; a profile says what of it is told to people, and how loudly. The deadbands and holds of the
rules themselves stand in rules.profile and rules.ladder. A profile is immutable. Marks as there: (std) a published
practice, (ours) our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from meterwatch.alarms import Priority, type_of
from meterwatch.episodes import Severity
from meterwatch.one_call import FORETOLD, LOAD_AND_HEAT, OneCall


@dataclass(frozen=True, slots=True)
class AlarmClass:
    """Alarms of one rule and kind of asset; empty text: any. Seconds; 0: not at all."""

    rule: str = ""
    asset_kind: str = ""
    severity: Mapping[str, Severity] = field(default_factory=dict)
    """By the level of the rule; a level that is not here keeps the rule's severity."""
    priority: Mapping[Severity, Priority] = field(default_factory=dict)
    """By severity; one that is not here has the priority of the same name."""
    on_delay_s: int = 0
    """Told when it has lasted so much longer than the rule asks; what is over by then is not told."""
    off_delay_s: int = 0
    """Over when it has been over for so long; what begins again before then goes on."""
    re_alarm_s: int = 0
    """Announced again when it has stood so long since the last announcement or acknowledgement."""
    chatter_raises: int = 0
    """So many alarms of an asset within chatter_s chatter: what follows is counted in the last of them. 0: never."""
    chatter_s: int = 600
    """It is over when the asset has been quiet for so long. (ours: reads come every 15 minutes)"""

    def matches(self, rule: str, asset_kind: str) -> bool:
        return self.rule in ("", rule, type_of(rule)) and self.asset_kind in ("", asset_kind)


@dataclass(frozen=True, slots=True)
class StormLimits:
    """When a district is in a storm (alarm.storm)."""

    enter_share: float = 0.05
    """More than this share of its meters is off. (ours)"""
    leave_share: float = 0.025
    """It ends below this share... (ours)"""
    calm_s: int = 600
    """... for so long. (ours)"""
    meters_min: int = 100
    """Districts with fewer meters have none: there one transformer is a twentieth. (ours)"""


@dataclass(frozen=True, slots=True)
class AlarmProfile:
    """One named set of classes; the first that matches counts."""

    name: str = "default"
    classes: tuple[AlarmClass, ...] = (AlarmClass(rule="OUTAGE", chatter_raises=3),)
    storm: StormLimits = field(default_factory=StormLimits)
    one_call: tuple[str, ...] = LOAD_AND_HEAT
    """Rules whose alarms of one asset call once (meterwatch.one_call); of equal priority the first leads. None: each by
    itself."""
    for_planning: tuple[str, ...] = FORETOLD
    """Rules whose alarms are there to be planned with: in the book and for who asks for them by type; they call nobody
    else. None: all call."""

    def of(self, rule: str, asset_kind: str) -> AlarmClass:
        """The class of these alarms."""
        return next((one for one in self.classes if one.matches(rule, asset_kind)), _PLAIN)

    def priority(self, rule: str, asset_kind: str, severity: Severity) -> Priority:
        return self.of(rule, asset_kind).priority.get(severity, Priority(severity))

    def plans(self, rule: str) -> bool:
        """True: alarms of this rule call only whom asks for them."""
        return rule in self.for_planning or type_of(rule) in self.for_planning

    @property
    def calling(self) -> OneCall:
        return OneCall(self.one_call)

    @property
    def re_alarms(self) -> bool:
        """Some alarm is announced again."""
        return any(one.re_alarm_s for one in self.classes)


_PLAIN: Final = AlarmClass()

ATTENDED: Final = AlarmProfile(
    "attended",
    (
        AlarmClass("OUTAGE", "feeder", re_alarm_s=1800, chatter_raises=3),
        AlarmClass("OUTAGE", "transformer", re_alarm_s=3600, chatter_raises=3),
        AlarmClass(
            "OUTAGE", "meter", priority={Severity.MEDIUM: Priority.LOW}, off_delay_s=300, re_alarm_s=14_400,
            chatter_raises=3,
        ),
        AlarmClass("OVERLOAD", re_alarm_s=7200),
        AlarmClass("REVERSE", re_alarm_s=14_400),
        AlarmClass("COMM_LOSS", "meter", on_delay_s=3600),
        AlarmClass("HOT_SPOT", re_alarm_s=3600),
    ),
)  # fmt: skip
"""For a room with operators on shift: what stands is announced again, single meters wait. (ours)"""

ALARM_PROFILES: Final = {profile.name: profile for profile in (AlarmProfile(), ATTENDED)}
"""By name, as the configuration chooses them (alarms.profile)."""
