"""One cause, one call: which alarms of an asset tell of one fault, which of them leads, and when people are called.

Argument. An overload heats, and what is hot is mostly overloaded: OVERLOAD, HOT_SPOT, PHASE and FORECAST_OVERLOAD of a
transformer are one fault seen four ways. They stay alarms of their own, each with its limits and its end, because each
is a function of what was measured; which came first is not. But whoever was called for one of them need not be called
for another that is no graver. So, as in a storm, no alarm changes by it: it belongs to delivery and to what people see.

A *family* is what such rules say of one asset. Of its alarms that call one *leads*, the gravest; the others stand under
it. Who leads follows from the alarms as they are, so any order of the same changes ends with the same leaders, and a
start needs nothing but the alarms. A *call* begins when one of a family begins to call and none did; it is over when
none does. In it what outranks all that has called is an *escalation*. Pure; no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from meterwatch.alarms import Alarm, AlarmState, AlarmType

Family = tuple[str, str]
"""Kind and name of the asset."""
Rank = tuple[int, bool]
"""Priority, and whether it was measured. What is there outranks what was foretold."""
Place = tuple[int, int, int, str]
"""Ascending: the first leads."""
LOAD_AND_HEAT: Final[tuple[str, ...]] = ("OVERLOAD", "HOT_SPOT", "PHASE", "FORECAST_OVERLOAD")
"""Rules of one cause; of equal priority the first leads. Not UNBALANCE and REVERSE: who is called does other things."""
FORETOLD: Final[tuple[str, ...]] = (AlarmType.FORECAST_OVERLOAD.value,)
"""Rules that say what is not there yet."""
CALLING: Final = frozenset({AlarmState.UNACK_ACTIVE, AlarmState.ACK_ACTIVE})


def calls(alarm: Alarm) -> bool:
    """True: there is a fault, and it calls for somebody: active, not shelved, in service, not for planning."""
    return alarm.state in CALLING and alarm.pages


def rank(rule: str, priority: int) -> Rank:
    """What an alarm must be above to call again. priority: as Priority."""
    return int(priority), rule not in FORETOLD


@dataclass(frozen=True, slots=True)
class OneCall:
    """Rules that call once for an asset; none: each alarm calls by itself."""

    rules: tuple[str, ...] = ()

    def family(self, rule: str, asset_kind: str, asset: str) -> Family | None:
        """The family of an alarm; None: it has none."""
        return (asset_kind, asset) if rule in self.rules else None

    def family_of(self, alarm: Alarm) -> Family | None:
        return self.family(alarm.rule, alarm.asset_kind, alarm.asset)

    def place(self, rule: str, priority: int, onset_us: int, alarm_id: str) -> Place:
        """Where an alarm of a family stands in it, if it calls."""
        return -int(priority), self.rules.index(rule), onset_us, alarm_id

    def place_of(self, alarm: Alarm) -> Place:
        return self.place(alarm.rule, alarm.priority, alarm.onset_us, alarm.alarm_id)

    def leader(self, family: Iterable[Alarm]) -> Alarm | None:
        """Who leads of one family; None: nobody calls."""
        return min((alarm for alarm in family if calls(alarm)), key=self.place_of, default=None)


ONE_CALL: Final = OneCall(LOAD_AND_HEAT)
"""As the shipped profiles have it."""


class Ring(Enum):
    """What a change is for people who are called."""

    NOTHING = "NOTHING"
    """It ends, falls, or stands under what has called already."""
    CALL = "CALL"
    ESCALATION = "ESCALATION"


@dataclass(slots=True)
class Calls:
    """Follows alarms that have families in the order of their changes, and says which of these call."""

    _calling: dict[Family, dict[str, Rank]] = field(default_factory=dict)
    _told: dict[Family, Rank] = field(default_factory=dict)

    def take(self, family: Family, alarm_id: str, now: Rank | None) -> Ring:
        """See an alarm as it is now; None: it calls for nobody."""
        calling = self._calling.setdefault(family, {})
        if now is None:
            calling.pop(alarm_id, None)
            self._settle(family, calling)
            return Ring.NOTHING
        calling[alarm_id] = now
        told = self._told.get(family)
        self._settle(family, calling)
        if told is None:
            return Ring.CALL
        return Ring.ESCALATION if now > told else Ring.NOTHING

    def _settle(self, family: Family, calling: dict[str, Rank]) -> None:
        if calling:
            self._told[family] = max(calling.values())
        else:
            del self._calling[family]
            self._told.pop(family, None)
