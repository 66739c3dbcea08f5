"""Laws of rules that run apart: one that raises changes nothing for the others, and its alarms nothing in the end.

Two engines live through the same weeks of reads, many of them late or corrected; in one of them a rule raises somewhere
in the middle of what it does. Then new rules are made from the stored loads, as after a start, and are owed what it
missed. What is told is kept as the alarm book keeps it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from heat_world import PROFILE as HEAT
from heat_world import said_of
from hypothesis import event, given, settings
from hypothesis import strategies as st
from overload_world import PALETTE, QUICK, Row, change, now_after, rows_of, spoken, tree
from test_past import LOW, Of, Table, Told, as_sent, flat, hear
from test_phases import PROFILE as PHASES
from test_rungs import UP, fed

from meterwatch.episodes import Verdict
from meterwatch.errors import StorageUnavailable
from meterwatch.known_loads import KnownLoads
from meterwatch.late_loads import judged, judged_turn
from meterwatch.loads import Loads
from rules.apart import NEVER, Apart, Missed, Owing, Rule
from rules.engine import CONTRACT, HOT_SPOT, Engine
from rules.profile import RuleProfile

TRANSFORMERS, FEEDERS = 2, 1
PROFILE = RuleProfile(
    overload=replace(
        QUICK, reverse_levels=UP.reverse_levels, feeder_levels=QUICK.levels,
        phase_levels=PHASES.phase_levels, unbalance_levels=PHASES.unbalance_levels,
    ),
    hot_spot=HEAT,
)  # fmt: skip
TOWN = replace(
    fed(tree(2 * TRANSFORMERS, TRANSFORMERS), 180.0, FEEDERS),
    phases=np.repeat(np.array([1, 2], np.uint8), TRANSFORMERS),
    contract_kw=np.full(2 * TRANSFORMERS, np.nan, np.float32),
    winding=["Dyn11"] * TRANSFORMERS,
)
"""Each transformer has a member on phase A and one on phase B, and no meter has a contract."""
SHARE = (0.7, 0.3)
LADDERS = [Rule(rule, "transformer") for rule in ("OVERLOAD", "REVERSE", "PHASE", "UNBALANCE")]
LADDERS.append(Rule("OVERLOAD", "feeder"))
OF_LADDERS = ["touch", "judge", "rebase", "_fold", "_load", "dress", "_calm", "_spans"]
OF_HOT_SPOT = ["heard", "judge", "sort_out", "looked_back", "fold", "loads", "dressed", "_advance", "_near", "verdict"]
RAISING = st.one_of(
    st.tuples(st.sampled_from(LADDERS), st.sampled_from(OF_LADDERS)),
    st.tuples(st.just(HOT_SPOT), st.sampled_from(OF_HOT_SPOT)),
)
long_runs = st.lists(
    st.tuples(st.sampled_from([*PALETTE, LOW, LOW, LOW, LOW, LOW, LOW, 1.7, 1.7, -0.9]), st.integers(5, 50)),
    min_size=6,
    max_size=12,
)


class Life:
    """Rules over a table of stored loads, and what is told of them."""

    def __init__(self, apart: Apart | None, table: Table, told: dict[Of, Told]) -> None:
        self.engine, self.table, self.told = Engine(TOWN, PROFILE, apart), table, told

    async def send(self, rows: list[Row], now_us: int) -> list[Verdict]:
        self.engine.observe_reads(change(rows), now_us)
        return await self.judge(now_us)

    async def judge(self, now_us: int) -> list[Verdict]:
        engine, loads = self.engine, KnownLoads(self.engine.overload, self.table)
        found = await judged(engine.past, engine.overload, loads, now_us, lambda: engine.evaluate(now_us))
        for of, some in groupby(sorted(found, key=rule_of), key=rule_of):
            hear(self.told.setdefault(of, {}), list(some))
        self.table.save(engine.overload)
        assert judged_turn(engine.past, engine.overload.turn) == engine.overload.turn
        return found

    def anew(self) -> Life:
        """New rules that know the stored loads and what was told, as after a start."""
        life = Life(None, self.table, self.told)
        overload = life.engine.overload
        rows = sorted((w, t, *sums) for (t, w), sums in self.table.cells.items())
        for _, some in groupby(rows, key=lambda row: row[0] // 48):  # the ring goes with them
            window, transformer, wh, varh, covered, *phases = np.array(list(some), np.int64).T
            overload.restore(Loads(transformer, window, wh, varh, covered, np.stack(phases, axis=1)))
        for (rule, kind), told in self.told.items():
            if kind == "transformer" and rule != HOT_SPOT.rule:
                overload.recall(rule, np.array([t for t, episodes in told.items() if episodes], np.int64))
        hot = self.told.get(tuple(HOT_SPOT), {})
        life.engine.hot_spot.restore_told([t for t, episodes in hot.items() if episodes])
        return life


def rule_of(verdict: Verdict) -> Of:
    return verdict.rule, verdict.asset_kind


def standing(told: dict[Of, Told]) -> dict[Any, Any]:
    """What is told of each asset in the end."""
    return {
        (of, asset): said_of(episodes) if of == HOT_SPOT else spoken(tuple(episodes))
        for of, mine in told.items()
        for asset, episodes in mine.items()
        if episodes
    }


def raise_at(engine: Engine, rule: Rule, method: str, n: int) -> None:
    """The n-th call raises, and nobody calls once more."""
    found = [one for one in engine.overload._ladders if one.named == rule]
    kernel: Any = engine.hot_spot if rule == HOT_SPOT else found[0]
    call, calls = getattr(kernel, method), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        assert calls <= n, "a rule was asked after it had raised"
        if calls == n:
            raise FloatingPointError(f"call {n} of {method}")
        return call(*arguments, **options)

    setattr(kernel, method, counted)


def reads_of(each: list[list[tuple[float | None, int]]], rng: np.random.Generator) -> list[Row]:
    """What the members of each transformer send, some up to weeks late, some with a wrong value first."""
    rows = []
    for transformer, runs in enumerate(each):
        for member, share in enumerate(SHARE):
            loads = [b and b * share for b in flat(runs)]
            rows += rows_of(loads, transformer + member * TRANSFORMERS)
    return as_sent(rows, rng)


@settings(max_examples=4, deadline=None)
@given(
    each=st.lists(long_runs, min_size=TRANSFORMERS, max_size=TRANSFORMERS),
    raising=RAISING,
    n=st.sampled_from([1, 1, 2, 3, 5, 9, 17, 40]),
    mended=st.floats(0.3, 1.0),
    seed=st.integers(0, 2**32),
)
async def test_a_rule_that_raises_changes_nothing_for_the_others_and_mended_its_alarms_are_the_same(
    each: list[list[tuple[float | None, int]]], raising: tuple[Rule, str], n: int, mended: float, seed: int
) -> None:
    rng, (rule, method) = np.random.default_rng(seed), raising
    sent, now_us = reads_of(each, rng), now_after(max(len(flat(runs)) for runs in each) + 1)
    sound, apart = Life(None, Table(), {}), Apart()
    life = Life(apart, Table(), {})
    raise_at(life.engine, rule, method, n)
    at, mend_at = 0, int(mended * len(sent))
    while at < len(sent) or not at:
        some = int(rng.integers(1, 600))
        rows = sent[at : at + some]
        at += some
        said, others = await sound.send(rows, now_us), await life.send(rows, now_us)
        if life.engine.apart is apart:
            assert [one for one in others if rule_of(one) != rule] == [one for one in said if rule_of(one) != rule]
        if at >= mend_at and life.engine.apart is apart and rule in apart.suspended:
            event(f"{rule} raised in {method}")
            missed = apart.suspended[rule].missed
            life = life.anew()
            life.engine.owe(rule, missed.from_us, *missed.unsaved())
            await life.judge(now_us)
            assert standing(life.told) == standing(sound.told)
    if rule not in life.engine.apart.suspended:
        assert standing(life.told) == standing(sound.told)


@pytest.mark.parametrize("error", [MemoryError("no room"), StorageUnavailable("away")])
def test_what_is_no_fault_of_a_rule_is_not_caught(error: Exception) -> None:
    engine = Engine(TOWN, PROFILE, Apart())

    def raises(*_: Any) -> Any:
        raise error

    engine.hot_spot.judge = raises  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        engine.evaluate(0)
    with pytest.raises(type(error)):
        asyncio.run(engine.apart.wait_for(CONTRACT, raises))
    assert not engine.apart.suspended


def test_an_engine_by_itself_stands_nobody_aside() -> None:
    engine = Engine(TOWN, PROFILE)

    def raises(*_: Any) -> Any:
        raise ZeroDivisionError

    engine.hot_spot.judge = raises  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        engine.evaluate(0)


@pytest.mark.parametrize("part", ["overload.members.cells", "_votes"])
def test_what_others_rest_on_is_not_stood_aside(part: str) -> None:
    """The sums of loads, and the votes of outages."""
    engine = Engine(TOWN, PROFILE, Apart())
    *path, name = part.split(".")
    owner: Any = engine
    for step in path:
        owner = getattr(owner, step)

    def raises(*_: Any) -> Any:
        raise ZeroDivisionError

    setattr(owner, name, raises)
    off = replace(change(rows_of([0.5])), quality=np.array([64], np.int32))
    with pytest.raises(ZeroDivisionError):
        engine.observe_reads(off, now_after(1))


notes = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=6), max_size=6)


@settings(max_examples=200, deadline=None)
@given(from_us=st.one_of(st.none(), st.integers(0, 50)), begun=st.integers(0, 50), parts=notes, seed=st.integers(0, 99))
def test_what_is_missed_is_the_oldest_of_each_asset_and_told_once(
    from_us: int | None, begun: int, parts: list[list[tuple[int, int]]], seed: int
) -> None:
    """from_us None: not known before all was noted."""
    rng, none = np.random.default_rng(seed), np.zeros(0, np.int64)
    missed = Missed(5, Owing(NEVER if from_us is None else from_us, none, none))
    stored: dict[int, int] = {}

    def save() -> None:
        for asset, first in zip(*(column.tolist() for column in missed.unsaved()), strict=True):
            assert first < stored.get(asset, NEVER)
            stored[asset] = first
        missed.saved()
        assert missed.is_saved

    for part in parts:
        missed.note(*np.array(part, np.int64).reshape(-1, 2).T)
        if from_us is not None and rng.random() < 0.5:
            save()
    missed.begin(begun)
    save()
    limit = begun if from_us is None else from_us
    oldest: dict[int, int] = {}
    for asset, start in (note for part in parts for note in part):
        if start < limit:
            oldest[asset] = min(start, oldest.get(asset, start))
    assert (missed.from_us, stored) == (limit, oldest)
