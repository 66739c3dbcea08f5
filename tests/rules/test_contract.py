"""Laws of CONTRACT: a scalar ladder beside the rule, and what order, splits, corrections, restarts may not change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch import user_judging
from meterwatch.batch import ReadChange
from meterwatch.dated import Contracts
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.errors import ConfigError
from meterwatch.quality import ORIGIN_SHIFT, Origin
from meterwatch.topology import Topology
from rules.contract import Contract
from rules.contract_levels import ABOVE, ContractProfile
from tests.rules.overload_world import START, START_US, WINDOW_US, Row, Spoken, change, oracle, spoken, tree

KW = 12.0
WH_PER_S = 12_000 / 3600
LENGTH_S = (900, 3600, 300, 900, 900)
"""By slot. Slot 3 has another contract later, and then none; slot 4 never has one."""
CHANGES = (15, 30)
WINDOWS = 48
Key = tuple[int, int]
"""slot, number of its interval."""


def town() -> Topology:
    border_us = [START_US + window * WINDOW_US for window in CHANGES]
    until_us = int(np.iinfo(np.int64).max)
    spans = [(0, 0, until_us, KW), (1, 0, until_us, KW), (2, 0, until_us, KW)]
    spans += [(3, 0, border_us[0], KW), (3, border_us[0], border_us[1], 2 * KW)]
    slot, from_us, to_us, kw = (np.array(column) for column in zip(*spans, strict=True))
    contracts = Contracts(slot.astype(np.int32), from_us, to_us, kw.astype(np.float32))
    return replace(tree(len(LENGTH_S), kw=KW), contracts=contracts)


TOWN = town()
QUICK = ContractProfile(page_from_level="ABOVE")
"""Every level is told."""


def contract_w(slot: int, window: int) -> float | None:
    """Of the window with this number after START."""
    if slot != 3:
        return None if slot == 4 else 12_000
    return 12_000 if window < CHANGES[0] else 24_000 if window < CHANGES[1] else None


def rows_of(reads: Mapping[Key, float], sign: int = 1) -> list[Row]:
    return [
        (slot, START_US + (n + 1) * LENGTH_S[slot] * 1_000_000, LENGTH_S[slot], wh_of(slot, b), sign)
        for (slot, n), b in reads.items()
    ]


def wh_of(slot: int, b: float) -> int:
    return round(b * WH_PER_S * LENGTH_S[slot])


def loads_of(slot: int, stored: Mapping[Key, float]) -> list[float | None]:
    """Demand over contract of each window, one after the other; None: reads do not cover it."""
    loads: list[float | None] = []
    for window in range(WINDOWS):
        limit, found = contract_w(slot, window), []
        for second in range(window * 900, (window + 1) * 900, min(LENGTH_S[slot], 900)):
            found.append(stored.get((slot, second // LENGTH_S[slot])))
        if None in found:
            loads.append(None)
        elif limit is None:
            loads.append(0.0)
        else:
            wh = sum(wh_of(slot, b) for b in found if b is not None)
            loads.append(wh * 3600 / (LENGTH_S[slot] * len(found)) / limit)
    return loads


@dataclass
class World:
    """A store, the rule over it, and a book that takes its verdicts as alarm.book does."""

    profile: ContractProfile = QUICK
    stored: dict[Key, float] = field(default_factory=dict)
    book: dict[int, list[Episode]] = field(default_factory=dict)
    ever: set[int] = field(default_factory=set)
    unheard: list[ReadChange] = field(default_factory=list)
    """What is stored and comes before the rule later: writers are ahead of it."""

    def __post_init__(self) -> None:
        self.rule = Contract(TOWN, self.profile)

    def newest_us(self) -> int:
        return max((row[1] for row in rows_of(self.stored)), default=0)

    def send(self, reads: Mapping[Key, float], *, told: bool = True) -> None:
        """Store reads and tell the rule what changed, now or later."""
        new = {key: b for key, b in reads.items() if self.stored.get(key) != b}
        old = {key: self.stored[key] for key in new if key in self.stored}
        self.stored.update(new)
        if new:
            self.unheard.append(change(rows_of(old, -1) + rows_of(new)))
        if told:
            self.hear()

    def hear(self) -> None:
        """Have the rule told of all that is stored."""
        for one in self.unheard:
            self.rule.observe(one)
        self.unheard = []

    def evaluate(self) -> None:
        asyncio.run(user_judging.judged(self.rule, self))
        assert self.rule.wanted() is None
        verdicts = self.rule.taken()
        assert len({verdict.asset_id for verdict in verdicts}) == len(verdicts)
        for verdict in sorted(verdicts, key=lambda one: one.until_us is None):
            self._take(verdict)

    def _take(self, verdict: Verdict) -> None:
        onsets = {episode.onset_us for episode in verdict.episodes}
        kept = [
            one
            for one in self.book.get(verdict.asset_id, [])
            if not (one.cleared_us is None or one.cleared_us >= verdict.from_us or one.onset_us in onsets)
            or (verdict.until_us is not None and one.onset_us >= verdict.until_us)
        ]
        self.book[verdict.asset_id] = sorted([*kept, *verdict.episodes], key=lambda one: one.onset_us)
        self.ever.add(verdict.asset_id)

    def restart(self) -> None:
        """As the service does: who was told of, and what is open in the book, is known; all else is not."""
        self.rule = Contract(TOWN, self.profile)
        self.rule.begin(self.newest_us(), np.array(sorted(self.ever), np.int32))
        for slot, episodes in self.book.items():
            for one in episodes:
                if one.cleared_us is None:
                    span = (np.array([us], np.int64) for us in (one.onset_us + 1, self.newest_us()))
                    self.rule.touch(np.array([slot], np.int32), *span)

    async def oldest_us(self) -> int:
        return min((row[1] for row in rows_of(self.stored)), default=0)

    async def rows(self, assets: Any, from_us: int, to_us: int) -> Sequence[ReadChange]:
        rows = [row for row in rows_of(self.stored) if row[0] in assets and from_us < row[1] <= to_us]
        return [change(rows)] if rows else []

    def known(self) -> dict[int, list[Spoken]]:
        return {slot: spoken(tuple(said)) for slot, said in self.book.items() if said}

    def expected(self) -> dict[int, list[Spoken]]:
        ladder = self.profile.as_ladder()
        said = {slot: oracle(loads_of(slot, self.stored), ladder) for slot in range(len(LENGTH_S))}
        return {slot: found for slot, found in said.items() if found}


PALETTE = [0.0, 0.5, 0.94, 0.97, 1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.6, 2.4]


def keys(slot: int) -> st.SearchStrategy[Key]:
    return st.tuples(st.just(slot), st.integers(0, WINDOWS * 900 // LENGTH_S[slot] - 1))


READS = st.dictionaries(st.integers(0, 4).flatmap(keys), st.sampled_from(PALETTE), min_size=1, max_size=30)
STEP = st.one_of(
    READS.map(lambda reads: ("send", reads)),
    READS.map(lambda reads: ("store", reads)),
    st.tuples(st.integers(0, 4), st.integers(0, 40), st.lists(st.sampled_from(PALETTE), min_size=1, max_size=12)).map(
        lambda run: ("send", {(run[0], run[1] + i): b for i, b in enumerate(run[2])})
    ),
    st.just(("evaluate", {})),
    st.just(("restart", {})),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(STEP, max_size=14), st.sampled_from(["ABOVE", "ABOVE_110"]))
def test_any_order_split_correction_and_restart_gives_the_episodes_of_the_oracle(steps: list[Any], page: str) -> None:
    world = World(ContractProfile(page_from_level=page))
    for what, reads in steps:
        if what in ("send", "store"):
            inside = {(slot, n): b for (slot, n), b in reads.items() if (n + 1) * LENGTH_S[slot] <= WINDOWS * 900}
            world.send(inside, told=what == "send")
        else:
            if what == "restart":
                world.hear()
            world.evaluate()
            if what == "restart":
                world.restart()
    world.hear()
    world.evaluate()
    assert world.known() == world.expected()


def test_what_was_judged_before_it_came_is_no_news_of_its_own() -> None:
    world = World()
    loads = day(0, [0.0, 0.0, 1.2, 1.2, 1.2, 1.2, *[0.0] * 20])
    late, ahead = (0, 2), {key: b for key, b in loads.items() if key[1] > 4}
    world.send({key: b for key, b in loads.items() if key not in ahead and key != late})
    world.evaluate()
    world.stored.update(ahead)  # the writer is ahead of the rule, beyond the calm that ends the episode
    world.rule.newest_us = world.newest_us()
    world.send({late: 1.2})
    world.evaluate()
    assert world.known() == world.expected()
    world.rule.observe(change(rows_of(ahead)))
    world.evaluate()
    assert world.known() == world.expected()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([None, *PALETTE]), min_size=5, max_size=5), min_size=1, max_size=WINDOWS),
    st.data(),
)
def test_whole_windows_in_order_never_need_the_store(columns: list[list[float | None]], data: Any) -> None:
    world = World()
    for window, loads in enumerate(columns):
        reads = {}
        for slot, b in enumerate(loads):
            if b is not None and LENGTH_S[slot] >= 900 and (window + 1) * 900 % LENGTH_S[slot] == 0:
                reads[slot, window * 900 // LENGTH_S[slot]] = b
        world.send(reads)
        assert world.rule.wanted() is None
        if data.draw(st.booleans()):
            world.evaluate()
    world.evaluate()
    assert world.known() == world.expected()


def day(slot: int, loads: Sequence[float]) -> dict[Key, float]:
    return {(slot, n): b for n, b in enumerate(loads)}


def test_severity_steps_up_at_once_and_down_with_its_delay() -> None:
    world = World()
    told = []
    for n, b in enumerate([1.05, 1.2, 1.2, 1.6, 1.6, 1.2, 1.2, 1.2, 0.98, 0.98, 0.9, 0.9]):
        world.send({(0, n): b})
        world.evaluate()
        [episode] = world.book[0]
        told.append((episode.level, episode.severity, episode.cleared_us))
    low, medium, high = (
        ("ABOVE", Severity.LOW, None), ("ABOVE_110", Severity.MEDIUM, None), ("ABOVE_150", Severity.HIGH, None)
    )  # fmt: skip
    assert told[:-1] == [low, low, medium, medium, high, high, medium, medium, medium, low, low]
    assert told[-1] == ("ABOVE_150", Severity.HIGH, START_US + 12 * WINDOW_US)


def test_the_contract_itself_may_be_drawn_and_no_watt_hour_more() -> None:
    for wh, said in ((3000, []), (3001, [(0, 1, None, "ABOVE")])):
        rule = Contract(TOWN, QUICK)
        rule.observe(change([(0, START_US + WINDOW_US, 900, wh, 1)]))
        assert [spoken(verdict.episodes) for verdict in rule.taken()] == ([said] if said else [])


def test_a_contract_that_no_float_is_may_be_drawn() -> None:
    rule = Contract(tree(kw=9.2), QUICK)  # 9.2 as a float32 is 9.19999980
    rule.observe(change([(0, START_US + WINDOW_US, 900, 2300, 1)]))
    assert not rule.taken()


def test_by_default_an_alarm_needs_110_per_cent_twice() -> None:
    world = World(ContractProfile())
    world.send(day(0, [1.05, 1.05, 1.05, 1.2]))
    world.evaluate()
    assert not world.known()
    world.send({(0, 4): 1.2})
    world.evaluate()
    assert world.known() == {0: [(0, 5, None, "ABOVE_110")]}


def test_a_contract_that_was_another_has_its_time_judged_again() -> None:
    world = World()
    world.send(day(0, [0.5] * 5 + [0.8] * 15 + [0.5] * 4) | day(1, [1.2] * 3 + [0.5] * 3))
    world.evaluate()
    assert world.known() == {1: [(0, 1, 14, "ABOVE_110")]}
    border_us = START_US + 10 * WINDOW_US
    contracts, until_us = TOWN.contracts, int(np.iinfo(np.int64).max)
    assert contracts is not None
    rows = [(0, 0, border_us, KW), (0, border_us, until_us, KW / 2), (1, 0, until_us, 2 * KW)]
    slot, from_us, to_us, kw = (np.array(column) for column in zip(*rows, strict=True))
    changed = Contracts(slot.astype(np.int32), from_us, to_us, kw.astype(np.float32))
    before, world.rule = world.rule, Contract(replace(TOWN, contracts=changed), QUICK)
    world.rule.replaces(before)
    world.rule.begin(world.newest_us(), np.array(sorted(world.ever), np.int32))
    world.evaluate()
    assert world.known() == {0: [(10, 11, None, "ABOVE_110")]}


@pytest.mark.parametrize("gap", [0, 1])
def test_a_hold_that_began_before_a_restart_goes_on_after_it(gap: int) -> None:
    world = World(ContractProfile())
    world.send({(0, 0): 1.2})
    world.evaluate()
    world.restart()
    world.send({(0, 1 + gap): 1.2})
    world.evaluate()
    assert world.known() == {0: [(0, 2 + gap, None, "ABOVE_110")]}


def test_who_has_no_contract_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Contract(tree(meters=3, kw=float("nan")), QUICK)
    monkeypatch.setattr(rule, "_observe", None)
    rule.observe(change([(slot, START_US + WINDOW_US, 900, 10**6, 1) for slot in range(3)]))
    assert not rule.watches
    assert rule.wanted() is None


def test_estimates_are_no_demand() -> None:
    for origin, said in ((Origin.MEASURED, 1), (Origin.ESTIMATED, 0), (Origin.SUBSTITUTED, 0)):
        rule = Contract(TOWN, QUICK)
        rule.observe(change([(0, START_US + WINDOW_US, 900, 6000, 1)], int(origin) << ORIGIN_SHIFT))
        assert len(rule.taken()) == said


def test_a_window_that_misses_a_minute_is_judged_once_something_later_came() -> None:
    rule, minute_us = World().rule, 60_000_000
    reads = [(2, START_US + (n + 1) * minute_us, 60, 400, 1) for n in range(16) if n != 7]

    class Minutes(World):
        async def oldest_us(self) -> int:
            return reads[0][1]

        async def rows(self, assets: Any, from_us: int, to_us: int) -> Sequence[ReadChange]:
            return [change([row for row in sent if from_us < row[1] <= to_us])]

    told = []
    for count in (14, 15):
        sent = reads[:count]
        rule.observe(change(sent if count == 14 else sent[-1:]))
        asyncio.run(user_judging.judged(rule, Minutes()))
        told.append([spoken(verdict.episodes) for verdict in rule.taken()])
    assert told == [[], [[(0, 1, None, "ABOVE")]]]


def test_state_is_kept_only_of_meters_not_at_rest() -> None:
    world = World()
    world.send({(slot, 0): 1.2 for slot in (0, 3, 4)})
    assert world.rule.restless == 2
    for n in range(1, 4):
        world.send({(slot, n): 0.5 for slot in (0, 3, 4)})
    assert world.rule.restless == 0


def test_it_says_what_it_was_judged_by() -> None:
    world = World()
    world.send(day(3, [0.5, 1.25, 1.25]))
    world.evaluate()
    [episode] = world.book[3]
    assert episode.summary == (
        "Meter m3 draws up to 1.25 x its contract of 12 kW since 2024-10-04 00:15 UTC, ABOVE_110 for 30 min"
    )
    assert episode.evidence == {
        "peak_b": 1.25, "peak_kw": 15.0, "contract_kw": 12.0, "worst_level": "ABOVE_110", "raise_pu": 1.1,
        "hold_s": 1800, "clear_pu": 1.0, "clear_s": 1800, "coverage_min": 0.9,
    }  # fmt: skip
    assert START * WINDOW_US == START_US


def test_levels_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        ContractProfile(levels=(replace(ABOVE, clear_pu=1.1),), page_from_level="NONE")
    assert len(error.value.problems) == 2
