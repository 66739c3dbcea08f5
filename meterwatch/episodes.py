"""What rules say and the alarm book hears: verdicts made of episodes.

A rule never says "raise" or "clear". It states, for one asset, which fault episodes it now knows in a span of event
time. The alarm book compares that with the alarms it keeps and derives the transitions. So late data, corrections and
restarts need no code of their own in a rule: the same evidence gives the same verdict, and the same verdict no
transition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """Values as in alarms.proto."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault of one asset, as the evidence now shows it. Times in UTC microseconds, event time."""

    onset_us: int
    """When the fault began."""
    raised_us: int
    """When the rule's condition was met (never in the future of the `now` it was evaluated at)."""
    cleared_us: int | None
    """When it was over by the rule's clearing condition; None while it lasts."""
    severity: Severity
    """Worst for a closed episode, present one for an open one."""
    level: str
    """The rule's own word, e.g. SUSTAINED, HEAVY, EMERGENCY_2, SILENT."""
    summary: str
    """One sentence for a person at three in the morning, with asset name and figures."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """JSON-able: counts, members, thresholds, timers."""
    parent: tuple[str, int] | None = None
    """(asset_kind, asset_id) of the asset whose open episode of the same rule explains this one (then it is
    suppressed)."""
    by_design: str = ""
    """Why nobody is called though it is so: planned work, a customer disconnected. Suppressed, and kept. Empty: not."""
    seen_us: int | None = None
    """End of the newest interval that shows it, of one that lasts; None: the rule cannot say, or it has none lately."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All episodes of one (rule, asset) that overlap the span [from_us, now], or [from_us, until_us]; none: empty."""

    rule: str
    """An AlarmType (meterwatch/alarms.py), or USER/NAME of a user rule."""
    asset_kind: str
    asset_id: int
    from_us: int
    """Alarms of this asset that ended before from_us are outside the verdict and stay as they are."""
    episodes: tuple[Episode, ...]
    until_us: int | None = None
    """Alarms whose onset is at or after until_us are outside too. Such a verdict is of the past: nothing in it lasts.
    None: the span reaches to now."""
    retract: bool = True
    """False: an alarm the verdict does not mention is left alone (rules that depend on the wall clock, after a
    restart)."""
    withdrawn: str = ""
    """Why an alarm that the verdict does not mention was none: what contradicted it. Empty: the rule cannot say."""
