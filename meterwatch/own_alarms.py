"""Alarms about the service itself: type SYSTEM, asset `service` and the part, level the name of the condition.

    well     it is not so                    -> begins: it is so
    begins   so for less than `begins_s`     -> well, or told
    told     the alarm stands                -> ends: it is not so; worse, better or otherwise: told at once
    ends     not so for less than `ends_s`   -> told: the same alarm goes on; or over

They go through the alarm book like all others. Holds are the machine's monotonic seconds, so that a clock that runs
fast or is set does not shorten them; the times of an alarm are the service's clock when it began to be so and ceased to
be. What they rest on is no read and is not stored: they are outside the law of event time. After a start an alarm that
stood is told still; what it was told with is in its evidence. Refuses to know what is looked at: own_conditions does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from alarm.desk import AlarmDesk
from alarm.differences import STAGE
from meterwatch.alarms import Alarm, AlarmType
from meterwatch.clock import US, Clock
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.own_parts import KIND, Part

EVERY_S: Final = 2.0
"""As often as the disk is looked at: a look reads a few numbers."""
RULE: Final = AlarmType.SYSTEM.value
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ill:
    """What is the matter with a part."""

    severity: Severity
    summary: str
    """One sentence: what it is and what of it follows."""
    evidence: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    """Told again when this changes; figures that move stand in the summary alone."""


UNKNOWN: Final = Ill(Severity.LOW, "not looked at yet")
"""It cannot be said now: everything stays as it is."""
Look = Callable[[Severity | None], Ill | None]
"""What is the matter now; None: nothing. Given the severity told, None if it is not: a limit may lie lower then."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One row of the table (meterwatch.own_conditions)."""

    part: Part
    level: str
    look: Look
    begins_s: float
    ends_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """us of the service's clock, s of the monotonic one."""

    us: int
    s: float


class Standing:
    """One condition over time. told: its alarm as it stood before a restart."""

    def __init__(self, condition: Condition, told: Episode | None = None) -> None:
        self.condition = condition
        self._told = told
        self._turned: Moment | None = None
        """Since when it is otherwise than told."""

    def look(self, now: Moment) -> Episode | None:
        """The episode, if there is something new to tell of it."""
        told = self._told
        ill = self.condition.look(None if told is None else told.severity)
        if ill is UNKNOWN:
            return None
        if (ill is None) is (told is None):
            self._turned = None
            return None if told is None or ill is None else self._goes_on(told, ill)
        since = self._turned = self._turned or now
        hold_s = self.condition.begins_s if told is None else self.condition.ends_s
        if now.s - since.s < hold_s:
            return None
        self._turned = None
        if told is not None:
            self._told = None
            return replace(told, cleared_us=max(since.us, told.raised_us))
        assert ill is not None
        self._told = _dressed(
            Episode(since.us, max(now.us, since.us), None, ill.severity, self.condition.level, ""), ill
        )
        return self._told

    def _goes_on(self, told: Episode, ill: Ill) -> Episode | None:
        if (ill.severity, ill.stage) == (told.severity, told.evidence.get(STAGE, "")):
            return None
        self._told = _dressed(told, ill)
        return self._told


def _dressed(episode: Episode, ill: Ill) -> Episode:
    evidence = ill.evidence | ({STAGE: ill.stage} if ill.stage else {})
    return replace(episode, severity=ill.severity, summary=ill.summary, evidence=evidence)


class OwnAlarms:
    """The conditions of one service, watched. `run()` is a task; the service serves without it."""

    def __init__(
        self,
        desk: AlarmDesk,
        clock: Clock,
        conditions: Iterable[Condition],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """The desk has its book open: what stood before the restart is taken from there."""
        self._desk, self._clock, self._monotonic = desk, clock, monotonic
        stood = {alarm.asset_id: alarm for alarm in desk.book if alarm.rule == RULE and alarm.lasts}
        self._standing = [
            Standing(one, self._told(stood[one.part]) if one.part in stood else None) for one in conditions
        ]
        self._blind: set[Part] = set()
        """Said once, until it can be looked at again."""
        self._untold: dict[Part, Verdict] = {}
        """What the database has not taken yet: of a part the newest, so what began and ended meanwhile is told once."""

    def _told(self, alarm: Alarm) -> Episode:
        """What was said, without what the alarm profile made of it."""
        delay_us = self._desk.book.profile.of(RULE, KIND).on_delay_s * US
        raised_us = max(alarm.onset_us, alarm.raised_us - delay_us)
        return Episode(
            alarm.onset_us, raised_us, None, alarm.severity, alarm.level, alarm.summary, dict(alarm.evidence)
        )

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self.look()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("alarms about the service wait for the database", error=error.message)
            except Exception as error:  # the task's boundary: the service serves without it
                _log.error("looking at the service failed", error=repr(error))
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look once, and tell what is new."""
        now = Moment(self._clock.now_us(), self._monotonic())
        for one in self._standing:
            part = one.condition.part
            try:
                episode = one.look(now)
            except Exception as error:  # a defect in one look must not silence the others
                if part not in self._blind:
                    _log.error("a condition of the service cannot be looked at", part=part.asset, error=repr(error))
                self._blind.add(part)
                continue
            self._blind.discard(part)
            if episode is not None:
                self._untold[part] = Verdict(RULE, KIND, int(part), episode.onset_us, (episode,), retract=False)
        if self._untold:
            await self._desk.record(list(self._untold.values()), ())
            self._untold = {}
