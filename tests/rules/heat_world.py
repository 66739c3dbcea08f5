"""Transformers that heat up, a scalar twin that says what the rule has to say of them, and the rule over stored loads.

What is told is kept as the alarm book keeps it: a verdict replaces what it covers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from overload_world import START, START_US, WINDOW_US, Row, change, now_after, rows_of, tree
from test_past import Table, Told, hear

from meterwatch.episodes import Episode, Verdict
from meterwatch.known_loads import KnownLoads
from meterwatch.late_loads import judged
from meterwatch.loads import Loads
from meterwatch.weather import Weather
from rules.heat_past import PastHeat
from rules.hot_spot import HotSpot
from rules.overload import Overload
from rules.thermal import ThermalProfile
from rules.twin import HotSpotProfile
from tests.rules.twin_oracle import DAY, PROFILE, WARM, Scalar

LEVEL = ["NORMAL", "WARNING", "HIGH", "CRITICAL"]
Loaded = list[float | None]


class Said(NamedTuple):
    onset: int
    cleared: int | None
    level: str
    peak_c: float


def same_numbers(day: int) -> ThermalProfile:
    return PROFILE.thermal


def oracle(loads: Loaded, air: list[float], thermal: Callable[[int], ThermalProfile] = same_numbers) -> list[Said]:
    """All episodes, each day's run by itself, with the numbers of that day."""
    level, onset, worst, peak, below, below_top = 0, 0, 0, 0.0, 0, 0
    said: list[Said] = []
    for at, (b, ambient_c) in enumerate(zip(loads, air, strict=True)):
        if (START + at) % DAY == 0 or at == 0:
            begin = START + at - (START + at) % DAY - WARM - START
            twin = Scalar(thermal((START + at) // DAY))
            for before in range(begin, at):
                twin.step(loads[before] if before >= 0 else None)
        twin.step(b)
        if b is None:
            continue
        hot = ambient_c + twin.after(0.0)
        reached = 0 if twin.guessed > PROFILE.guessed_max else twin.level(ambient_c, 0.0)
        held = twin.level(ambient_c, PROFILE.clear_k)
        if reached > level:
            if level == 0:
                onset, worst, peak = at, 0, hot
            level, below, below_top = reached, 0, 0
        elif held < level:
            below, below_top = below + 1, max(below_top, held)
            if below * 900 >= PROFILE.clear_s:
                level, below, below_top = below_top, 0, 0
                if level == 0:
                    said.append(Said(onset, at + 1, LEVEL[worst], max(peak, hot)))
        else:
            below, below_top = 0, 0
        worst, peak = max(worst, level), max(peak, hot)
    if level:
        said.append(Said(onset, None, LEVEL[level], peak))
    return said


def said_of(episodes: list[Episode]) -> list[Said]:
    return [
        Said(
            (e.onset_us - START_US) // WINDOW_US,
            None if e.cleared_us is None else (e.cleared_us - START_US) // WINDOW_US,
            e.level,
            e.evidence["peak_hot_spot_c"],
        )
        for e in episodes
    ]


@dataclass
class Plant:
    """The rule over its ring and a table of stored loads, and what is told of it."""

    transformers: int
    weather: Weather = field(default_factory=Weather)
    table: Table = field(default_factory=Table)
    told: Told = field(default_factory=dict)
    newest: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    go_on: Callable[[], bool] = lambda: True
    """Whether there is time to look back, when reads came."""
    profile: HotSpotProfile = PROFILE
    registered: dict[str, Any] = field(default_factory=dict)
    """What else the registry says of the transformers."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.overload = Overload(tree(self.transformers, self.transformers))
        districts = list("NS" * 9)[: self.transformers]
        topology = replace(
            tree(self.transformers, self.transformers), transformer_district=districts, **self.registered
        )
        self.rule = HotSpot(topology, self.profile, self.overload, self.weather)
        self.past = PastHeat(self.rule)

    async def send(self, rows: list[Row]) -> None:
        self.overload.observe(change(rows), 0)
        self.newest = max(self.newest, *((row[1] - START_US) // WINDOW_US for row in rows))
        await self.judge(self.go_on)

    async def judge(self, go_on: Callable[[], bool] = lambda: True) -> None:
        now_us = now_after(self.newest)
        loads = KnownLoads(self.overload, self.table)
        self.verdicts = await judged(
            [self.past], self.overload, loads, now_us, lambda: self.rule.judge(now_us), go_on
        )  # fmt: skip
        self.overload.judge(now_us)
        hear(self.told, self.verdicts)

    async def restart(self) -> None:
        """As stored_loads does it: the ring comes from the table."""
        await self.judge()
        self.table.save(self.overload)
        self.begin()
        if self.table.cells:
            rows = sorted((w, t, *sums) for (t, w), sums in self.table.cells.items())
            rows = [row for row in rows if row[0] > rows[-1][0] - 192]
            for at in range(0, len(rows), 50):
                window, transformer, wh, varh, covered, *_ = np.array(rows[at : at + 50], np.int64).T
                self.overload.restore(Loads(transformer, window, wh, varh, covered))
        self.rule.restore_told([t for t, episodes in self.told.items() if episodes])
        before = {t: said_of(episodes) for t, episodes in self.told.items() if episodes}
        await self.judge()
        assert {t: said_of(episodes) for t, episodes in self.told.items() if episodes} == before


def close(told: list[Said], truth: list[Said]) -> bool:
    return [one[:3] for one in told] == [one[:3] for one in truth] and all(
        abs(a.peak_c - b.peak_c) < 0.11 for a, b in zip(told, truth, strict=True)
    )


async def told_of(loads: Loaded, weather: Weather | None = None) -> list[Episode]:
    """In order, a window at a time."""
    plant = Plant(1, weather or Weather())
    for row in rows_of(loads):
        await plant.send([row])
    return plant.told.get(0, [])
