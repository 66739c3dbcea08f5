"""Who would be told of an alarm that nobody acknowledges, and when: the plan itself, run ahead. Nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from alarm.routes.model import Routes
from alarm.routes.plan import Planner
from meterwatch.alarms import Alarm, Transition, TransitionKind
from meterwatch.notices import Kept

AHEAD_US: Final = 31 * 86_400 * 1_000_000
"""Longer than the latest escalation."""
STEPS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """One target, told of the alarm for the first time."""

    at_us: int
    route: str
    department: str
    step: int
    target: str
    kind: str
    group: str


def rehearse(routes: Routes, alarm: Alarm, at_us: int) -> list[Told]:
    """In the order of time; a target is told at most once here."""
    quiet = replace(routes, routes=tuple(replace(route, repeat_us=None) for route in routes.routes))
    planner = Planner(quiet, Kept(cursor=0))
    planner.take([Transition(1, TransitionKind.RAISED, replace(alarm, seq=1), at_us)], at_us)
    told: dict[str, Told] = {}
    for _ in range(STEPS_MAX):
        now_us = planner.next_us()
        if now_us is None or now_us > at_us + AHEAD_US:
            break
        planner.plan(now_us)
        for delivery in planner.drain().deliveries:
            planner.settled(delivery.target)
            target = routes.targets[delivery.target]
            one = Told(
                now_us, delivery.route, delivery.department, delivery.step, target.name, target.kind, delivery.group
            )
            told.setdefault(target.name, one)
    return sorted(told.values(), key=lambda one: (one.at_us, one.step, one.target))
