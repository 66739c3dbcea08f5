"""Storm mode: where so much is off at once that people need roots and counts first, and a line a meter last.

A storm is of a district (OFF), from more than `enter_share` of its meters below open outages until fewer than
`leave_share` for `calm_s`; or it is everywhere (FLOOD), while what begins to page is a flood (alarm.kpi). In it the
alarms of single meters *stand aside*: they come last in a list, are counted instead of shown in messages to
departments, and are neither repeated, escalated nor announced again before it is over.

Argument. A storm changes no alarm: none is raised, folded or ended otherwise, and what pages, pages. Folding is the
rules' work, by the evidence, in event time: a storm that changed alarms would have to know how much is off at every
moment of the past, late data included, and each late last gasp would change alarms of the whole district. So it belongs
to delivery, goes by the service's clock, and the law of event time does not know it. Pure; no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from alarm.profile import StormLimits
from meterwatch.alarms import Alarm, Priority
from meterwatch.storms import EVERYWHERE, Census, Storm, StormReason

WIDE: Final = {"service": 0, "feeder": 1, "head_end": 2, "transformer": 3, "concentrator": 4}
"""Assets whose alarms stand for those of many meters, the widest first."""


class Storms:
    """The storms that last. One watcher steps it; anybody may ask."""

    def __init__(self, limits: StormLimits, lasting: Iterable[Storm] = ()) -> None:
        self._limits = limits
        self._lasting = {storm.key: storm for storm in lasting}

    def lasting(self) -> list[Storm]:
        """Floods first, then by district."""
        return [storm for _, storm in sorted(self._lasting.copy().items())]  # a scrape asks in another thread

    def step(self, districts: Mapping[str, Census], flood: bool, now_us: int) -> list[Storm]:
        """Take what is off by district, and whether alarms are a flood; storms that began, grew or ended by that."""
        total = Census(*(sum(getattr(one, name) for one in districts.values()) for name in ("meters", "off", "roots")))
        changed = []
        for key, census in [((StormReason.OFF, name), census) for name, census in districts.items()] + [
            ((StormReason.FLOOD, EVERYWHERE), total)
        ]:
            storm = self._lasting.get(key)
            rages = flood if key[0] is StormReason.FLOOD else self._rages(census, storm is not None)
            if storm is None and rages:
                changed.append(self._keep(Storm(*key, now_us, census, census.off, census.roots)))
            elif storm is not None:
                grown = census.off > storm.off_max or census.roots > storm.roots_max
                kept = self._keep(self._followed(storm, census, rages, now_us))
                if grown or kept.until_us is not None:
                    changed.append(kept)
        for key in [key for key in self._lasting if key[0] is StormReason.OFF and key[1] not in districts]:
            changed.append(self._keep(replace(self._lasting[key], until_us=now_us)))  # a district that is no more
        return changed

    def stands_aside(self, alarm: Alarm) -> bool:
        """True: it is of a single meter in a storm, and no priority says that it must not wait."""
        return (
            bool(self._lasting)
            and alarm.asset_kind == "meter"
            and alarm.priority < Priority.HIGH
            and any(storm.covers(alarm.district) for storm in self._lasting.values())
        )

    def _rages(self, census: Census, already: bool) -> bool:
        if already:
            return census.off >= self._limits.leave_share * census.meters and census.off > 0
        return census.meters >= self._limits.meters_min and census.off > self._limits.enter_share * census.meters

    def _followed(self, storm: Storm, census: Census, rages: bool, now_us: int) -> Storm:
        calm_us = None if rages else now_us if storm.calm_us is None else storm.calm_us
        hold_us = 0 if storm.reason is StormReason.FLOOD else self._limits.calm_s * 1_000_000
        over = calm_us is not None and now_us - calm_us >= hold_us
        return replace(
            storm,
            now=census,
            off_max=max(storm.off_max, census.off),
            roots_max=max(storm.roots_max, census.roots),
            calm_us=calm_us,
            until_us=now_us if over else None,
        )

    def _keep(self, storm: Storm) -> Storm:
        if storm.until_us is None:
            self._lasting[storm.key] = storm
        else:
            self._lasting.pop(storm.key, None)
        return storm


def roots_first(alarm: Alarm) -> tuple[int, int]:
    """Order of a list in a storm, beside whatever order there is: the widest assets first, then the gravest."""
    return (WIDE.get(alarm.asset_kind, len(WIDE)) if alarm.parent_id is None else len(WIDE) + 1), -alarm.priority


def no_storms() -> Storms:
    """Fair weather."""
    return Storms(StormLimits())
