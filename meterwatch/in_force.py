"""The rules in force: how they are made of what is known, and how they are changed while reads flow.

A change (registry, planned work, weather, a lesson, a file of user rules) is made ready beside the running rules and
takes effect between two groups of reads. This module does not know how rules judge, nor who asks for a change.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from alarm.desk import AlarmDesk
from meterwatch.clock import Clock
from meterwatch.day_marks import DayMarks
from meterwatch.delivery import Learnt
from meterwatch.errors import Missing
from meterwatch.interruptions import Interruptions
from meterwatch.judged_days import JudgedDays
from meterwatch.memory import give_back
from meterwatch.pipeline import Pipeline
from meterwatch.planned import Works
from meterwatch.standing_aside import StandingAside, SuspendedRule
from meterwatch.topology import Topology
from meterwatch.weather import Weather
from meterwatch.wired_rules import HEARD_US, WiredRules, hear, judged_until_us, rebuild
from meterwatch.wired_user_rules import UserRules
from rules.apart import Apart
from rules.engine import COMM_LOSS, CONTRACT, HOT_SPOT, Engine
from rules.hot_spot import HotSpot
from rules.plates import unknown_types
from rules.profile import RuleProfile
from rules.user.missed import is_users
from storage.ambient import AmbientStore
from storage.arrived import Arrived
from storage.delivery import DeliveryStore
from storage.history import History
from storage.planned import PlannedStore
from storage.registry import RegistryStore

PLANNED_US = 45 * 86_400 * 1_000_000
"""Planned work that ended longer ago explains nothing that is still judged: the late window."""
WEATHER_US = 60 * 86_400 * 1_000_000
"""Air of so long ago is known to the rules: the late window, and the heat in which it may begin."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What rules are made of: their profile, and the stores of all that they must know before they judge."""

    profile: RuleProfile
    version: str
    clock: Clock
    marks: DayMarks
    interruptions: Interruptions
    history: History
    planned: PlannedStore
    delivery: DeliveryStore
    ambient: AmbientStore
    arrived: Arrived
    user: UserRules
    aside: StandingAside

    async def rules(self, topology: Topology) -> WiredRules:
        """Rules over these meters that know all but the reads."""
        engine = Engine(topology, self.profile, Apart())
        if unknown := unknown_types(self.profile.hot_spot.types, topology):
            _log.warning("thermal types the profile has not", types=unknown[:20], count=len(unknown))
        engine.replan(await self.works())
        engine.learn(await self.delivery.learnt())
        engine.reweather(await self.weather())
        engine.judged = self.interruptions.judged
        return WiredRules(
            engine, self.history, self.clock, self.marks, self.version, self.arrived, self.user, self.aside
        )  # fmt: skip

    async def works(self) -> Works:
        """Planned work that can still explain something."""
        return await self.planned.works(self.clock.now_us() - PLANNED_US)

    async def weather(self) -> Weather:
        """The air as far as the rules look back."""
        return Weather(await self.ambient.readings(self.clock.now_us() - WEATHER_US))


class InForce:
    """The rules that judge now, and every way to change them."""

    def __init__(
        self, recipe: Recipe, registry: RegistryStore, pipeline: Pipeline, desk: AlarmDesk, days: JudgedDays
    ) -> None:
        self._recipe = recipe
        self._registry = registry
        self._pipeline = pipeline
        self._desk = desk
        self._days = days
        self._unheard = asyncio.Event()
        """When each meter was heard last is to be looked up."""

    @property
    def rules(self) -> WiredRules:
        """Those that judge now."""
        rules = self._pipeline.rules
        assert isinstance(rules, WiredRules)
        return rules

    @property
    def suspended(self) -> tuple[SuspendedRule, ...]:
        """Rules that have raised and stand aside."""
        return self.rules.suspended

    @property
    def hot_spot(self) -> HotSpot:
        """The rule, as it knows temperatures. Missing RULE_SUSPENDED."""
        if HOT_SPOT in self.rules.engine.apart.suspended:
            text = "temperatures are not followed: HOT_SPOT has raised and stands aside; `rules list` says since when"
            raise Missing("RULE_SUSPENDED", text)
        return self.rules.engine.hot_spot

    async def resume(self) -> tuple[SuspendedRule, ...]:
        """Have all rules work that stand aside; those that have raised again. They are owed what they missed."""
        if self.suspended:
            await self.reregister()
        return self.suspended

    async def hear(self, from_us: int) -> None:
        """Tell the rules when each meter was heard last: after a start, and when COMM_LOSS comes back. A job."""
        while True:
            self._unheard.clear()
            await hear(lambda: self.rules, self._recipe.history, self._pipeline.topology().slots, from_us)
            await self._unheard.wait()
            from_us = self._recipe.clock.now_us() - HEARD_US

    async def learn(self, learnt: list[Learnt]) -> None:
        """How often last gasps arrive by each mode was learnt anew."""
        async with self._pipeline.paused():
            self.rules.engine.learn(learnt)

    async def replan(self) -> None:
        """Planned work was entered or withdrawn."""
        async with self._pipeline.paused():
            self.rules.engine.replan(await self._recipe.works())

    async def reweather(self) -> None:
        """Temperatures of the air came in."""
        weather = await self._recipe.weather()
        async with self._pipeline.paused():
            self.rules.engine.reweather(weather)

    async def reregister(self) -> None:
        """Meters, transformers or their places changed: new rules, which know what the old ones had heard."""
        recipe = self._recipe
        fresh = await self._registry.load_topology(self._pipeline.steady.now_us())
        rebuilt = await recipe.rules(fresh)
        async with self._pipeline.paused():
            rebuilt.engine.replan(await recipe.works())
            rebuilt.engine.reweather(await recipe.weather())
            before = self.rules.engine
            rebuilt.engine.apart.ask(CONTRACT, None, rebuilt.engine.contract.replaces, before.contract)
            await self.rules.owe_missed()
            now_us = self._pipeline.steady.begins_us(await judged_until_us(recipe.history, self._desk.book))
            verdicts, _ = await rebuild(rebuilt, fresh, recipe.history, self._desk, now_us)
            if COMM_LOSS in before.apart.suspended:
                self._unheard.set()
            else:
                rebuilt.engine.heard(*before.silence.last_heard())
            await self._days.replace(fresh)
            self._pipeline.replace(fresh, rebuilt, verdicts, now_us)
            self._desk.book.names = fresh
            await self._pipeline.settle()
        await asyncio.to_thread(give_back)

    async def reread_user_rules(self) -> list[str]:
        """Read the files of user rules again. Returns what is wrong with them; then the old ones stay.

        Where one of them stands aside all rules are made anew: what it missed is judged by what the files say now.
        """
        async with self._pipeline.paused():
            problems = await asyncio.to_thread(self._recipe.user.read)
            aside = any(map(is_users, self.rules.engine.apart.suspended))
            if not (problems or aside):
                await self.rules.begin_user_rules(self._pipeline.topology(), list(self._desk.book))
        if aside and not problems:
            await self.reregister()
        return problems
