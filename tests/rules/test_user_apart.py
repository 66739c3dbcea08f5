"""Law: user rules, and what they rest on, may raise anywhere, any number of times; the others go on, and at work again
their episodes are those of the oracle.

What was missed is written down and owed as the service does it (meterwatch.standing_aside), over a store of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_user_rules import (
    ABSENT,
    HIGH,
    KEYS,
    LOW,
    RULES,
    START_US,
    STEP,
    TOPOLOGY,
    US,
    VALUES,
    Key,
    Q,
    World,
    reads_of,
)

from meterwatch.alarms import USER_PREFIX, AlarmState
from meterwatch.batch import ReadChange, Reads, Stored
from meterwatch.errors import StorageUnavailable
from meterwatch.standing_aside import StandingAside
from meterwatch.user_rules import Placed, RuleSet
from meterwatch.user_rules_at_work import AtWork, StoredReads
from rules.apart import NEVER, Apart, Rule
from rules.overload import Overload
from rules.user.columns import On
from rules.user.kernel import Kernel
from rules.user.missed import OWED_US, family
from storage.evidence import Told
from storage.suspended import Kept

ALONE = ["_running", "_pick", "_move", "_judge_rule", "_take", "_say"]
"""Steps of one rule by itself."""
TOGETHER = ["observe", "replaced", "wanted", "judge", "judged", "taken", "owe", "_observe", "_seen", "_see"]
"""Steps of all rules on meters."""
BROKEN = st.tuples(
    st.just("break"), st.one_of(st.sampled_from(ALONE), st.sampled_from([*TOGETHER, "rows"])), st.integers(1, 4)
)
MENDED = st.just(("mend",))
BAD = "held"
"""The rule that raises."""
METER = family(On.METER)
OVERLOAD = Overload(TOPOLOGY)
"""Rules on meters do not ask it."""


class Written:
    """storage.suspended.SuspendedStore in memory."""

    def __init__(self) -> None:
        self.rows: dict[Rule, Kept] = {}

    async def keep(self, one: Kept) -> None:
        rule, first = Rule(one.rule, one.asset_kind), dict(zip(one.asset.tolist(), one.first_us.tolist(), strict=True))
        before = self.rows.get(rule)
        if before is not None:
            for asset, us in zip(before.asset.tolist(), before.first_us.tolist(), strict=True):
                first[asset] = min(us, first.get(asset, NEVER))
            one = one._replace(from_us=min(before.from_us, one.from_us))
        columns = np.array(list(first), np.int64), np.array(list(first.values()), np.int64)
        self.rows[rule] = one._replace(asset=columns[0], first_us=columns[1])

    async def kept(self) -> list[Kept]:
        return list(self.rows.values())

    async def paid(self, rule: str, asset_kind: str) -> None:
        del self.rows[Rule(rule, asset_kind)]


class WorldApart(World):
    """The rules at work as the service has them; the store of World is what EvidenceStore reads."""

    def __post_init__(self) -> None:
        self.pool: Any = None
        self.written, self.unevaluated = Written(), set[Key]()
        self.set = RuleSet([Placed(one, "g", "file", 1) for one in self.rules])
        self.began = 0
        self.anew()

    def anew(self) -> None:
        """New rules that know what is stored, as after a start or `rules resume`."""
        store: Any = self.written
        evidence: Any = self
        self.apart, self.aside = Apart(), StandingAside(store, lambda: 1)
        begun = AtWork.begin(self.set, evidence, TOPOLOGY, OVERLOAD, self.apart, self.lasting(), 0, None)
        self.work = asyncio.run(begun)
        asyncio.run(self.aside.owed(self.work.owe))

    def lasting(self) -> Iterator[Any]:
        for (name, slot), said in self.book.items():
            for onset_us, _, cleared_us in said:
                yield SimpleNamespace(
                    rule=USER_PREFIX + name, asset_kind="meter", asset_id=slot, onset_us=onset_us,
                    cleared_us=cleared_us, state=AlarmState.UNACK_ACTIVE,
                )  # fmt: skip

    # EvidenceStore

    async def bounds_us(self) -> tuple[int, int]:
        ends = [START_US + (n + 1) * Q for _, n in self.stored]
        return min(ends, default=0), max(ends, default=0)

    async def told(self) -> list[Told]:
        return [Told(USER_PREFIX + name, "meter", np.array([slot], np.int32)) for name, slot in self.ever]

    async def owed(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        keys = sorted(self.unevaluated)
        ends = [START_US + (n + 1) * Q for _, n in keys]
        return np.array([slot for slot, _ in keys], np.int32), np.array(ends, np.int64)

    async def reads(self, slots: Any, from_us: int, to_us: int) -> list[Reads]:
        rows = [
            (k, v) for k, v in self.stored.items() if k[0] in slots and from_us < START_US + (k[1] + 1) * Q <= to_us
        ]
        return [reads_of(rows)] if rows else []

    # The service

    def take(self, rows: Mapping[Key, float | None]) -> None:
        """Store rows, and tell the rules what changed."""
        new = [(key, value) for key, value in rows.items() if self.stored.get(key, "none") != value]
        if not new:
            return
        old = [(key, self.stored[key]) for key, _ in new if key in self.stored]
        self.stored.update(new)
        self.unevaluated.update(key for key, _ in new)
        was, now = reads_of(old), reads_of(new)
        n, zeros = len(old) + len(new), np.zeros(len(old) + len(new), np.int32)
        change = ReadChange(
            np.concatenate([was.slot, now.slot]), np.concatenate([was.end_us, now.end_us]), zeros + np.int32(900),
            zeros, zeros, zeros, zeros, zeros, np.zeros(n, np.bool_), np.zeros(n, np.bool_),
            np.repeat(np.array([-1, 1], np.int8), [len(old), len(new)]), (now,),
        )  # fmt: skip
        stored = Stored(1, 1, n, 0, 0, np.zeros(0, np.uint32), np.zeros(0, np.uint8), False, False, change)
        self.work.observe([stored], change)

    def judge(self) -> None:
        """An evaluation and its record, as the pipeline does them."""
        asyncio.run(self.work.judge())
        verdicts = self.work.taken()
        self.aside.notice(self.apart)
        if self.aside.unwritten(self.apart):
            asyncio.run(self.aside.write(self.apart, 0))
        for verdict in sorted(verdicts, key=lambda one: one.until_us is None):
            self._take(verdict)
        self.unevaluated.clear()
        asyncio.run(self.aside.paid(self.apart))
        if METER not in self.apart.suspended:
            aside = {rule.rule.removeprefix(USER_PREFIX) for rule in self.apart.suspended}
            expected, known = self.expected(), self.known()
            for name in {one.name for one in self.rules} - aside - {rule.rule[5:] for rule in self.written.rows}:
                assert {k: v for k, v in known.items() if k[0] == name} == {
                    k: v for k, v in expected.items() if k[0] == name
                }


@contextmanager
def broken(method: str, n: int) -> Iterator[None]:
    """From the n-th call on a step raises; one of a rule by itself only for BAD."""
    owner: Any = StoredReads if method == "rows" else Kernel
    call, calls = getattr(owner, method), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        mine = method not in ALONE or any(getattr(getattr(one, "rule", one), "name", "") == BAD for one in arguments)
        calls += mine
        if mine and calls >= n:
            raise FloatingPointError(method)
        return call(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, counted)
        yield


def live(world: WorldApart, steps: list[Any]) -> None:
    """Steps up to one that mends; what is broken meanwhile stays so."""
    while steps:
        what, *rest = steps.pop(0)
        if what == "mend":
            return
        if what == "break":
            with broken(*rest):
                live(world, steps)
        elif what == "send":
            world.take(rest[0])
        else:
            world.judge()
            if what == "restart":
                world.anew()
                world.judge()


@settings(max_examples=40, deadline=None)
@given(
    first=st.dictionaries(KEYS, VALUES, min_size=1, max_size=25),
    steps=st.lists(st.one_of(STEP, STEP, STEP, BROKEN, MENDED), max_size=16),
    dies=st.booleans(),
)
def test_where_user_rules_raised_their_episodes_are_in_the_end_those_of_the_oracle(
    first: dict[Key, float | None], steps: list[Any], dies: bool
) -> None:
    world = WorldApart(RULES)
    world.take(first)
    while steps:
        live(world, steps)
    for rule in world.apart.suspended:
        event(f"{rule} stands aside")
    if not dies:
        world.judge()
    world.anew()
    world.judge()
    assert not world.apart.suspended
    assert not world.written.rows
    assert world.known() == world.expected()


@pytest.mark.parametrize("method", ALONE)
def test_a_user_rule_that_raises_stands_aside_alone(method: str) -> None:
    world = WorldApart(RULES)
    rows: dict[Key, float | None] = {(slot, n): HIGH for slot in range(2) for n in range(4)}
    world.take({(2, 0): LOW})
    world.judge()
    with broken(method, 1):
        world.anew()
        world.take(rows)
        world.judge()
        world.take({(0, n): LOW for n in range(4, 9)})
        world.judge()
    assert list(world.apart.suspended) == [Rule("USER/held", "meter")]
    found, expected = world.known(), world.expected()
    assert {key for key in expected if key[0] != BAD} == set(found)
    world.anew()
    world.judge()
    assert world.known() == expected


@pytest.mark.parametrize("method", [*TOGETHER, "rows"])
def test_where_what_they_rest_on_raises_the_rules_on_that_kind_stand_aside_together(method: str) -> None:
    world = WorldApart(RULES)
    world.take({(0, n): HIGH for n in range(4)})
    world.judge()
    before = world.known()
    if method == "owe":
        with broken("_pick", 1):
            world.take({(0, 4): HIGH})
            world.judge()
    with broken(method, 1):
        world.anew()
        world.take({(0, 1): LOW, (1, 2): HIGH, (1, 9): HIGH})
        world.judge()
        assert METER in world.apart.suspended
        assert world.known() == before, "what was told stays as it was"
        world.take({(2, 10): HIGH, (0, 2): ABSENT})
        world.judge()
    world.anew()
    world.judge()
    assert world.known() == world.expected()
    assert not world.written.rows


def test_a_failure_of_the_database_is_no_fault_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    world = WorldApart(RULES)
    world.take({(0, n): HIGH for n in range(4)})
    world.judge()
    world.take({(0, 1): LOW})

    async def away(*_: Any) -> Any:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world, "reads", away)
        with pytest.raises(StorageUnavailable):
            world.judge()
    assert not world.apart.suspended
    world.judge()
    assert world.known() == world.expected()


def test_of_a_user_rule_that_raises_few_assets_are_noted_one_by_one() -> None:
    """Reads in the order of time are owed by one moment for all; a late one by its meter."""
    world = WorldApart(RULES)
    world.take({(0, n): HIGH for n in range(20)})
    world.judge()
    with broken("_pick", 1):
        for n in range(20, 40):
            world.take({(0, n): HIGH, (1, n - 1): LOW})
            world.judge()
        [row] = world.written.rows.values()
        assert (row.from_us, row.asset.tolist()) == (START_US + 20 * Q - OWED_US, [])
        world.take({(2, 3): LOW})
        world.judge()
    [row] = world.written.rows.values()
    assert (row.asset.tolist(), row.first_us.tolist()) == ([2], [START_US + 4 * Q - 1])


HOURS = 4 * (OWED_US // (3600 * US) + 2)
"""Quarters after which what was missed is not owed by what is newest."""


def missed_by(world: WorldApart, method: str) -> None:
    """An episode that begins and ends while a step raises, and then hours of reads."""
    with broken(method, 1):
        world.anew()
        world.take({(0, n): HIGH for n in range(4)} | {(0, n): LOW for n in (4, 7)})
        world.judge()
        world.take({(1, 4 + n): LOW for n in range(HOURS)})
        world.judge()


@pytest.mark.parametrize("method", ["__init__", "owe", "judge"])
def test_what_one_rule_missed_is_owed_though_all_stand_aside_at_the_next_start(method: str) -> None:
    world = WorldApart(RULES)
    world.take({(2, 0): LOW})
    world.judge()
    missed_by(world, "_pick")
    with broken(method, 1):
        world.anew()
        world.judge()
        assert METER in world.apart.suspended
    world.anew()
    world.judge()
    assert world.known() == world.expected()
    assert not world.written.rows


def test_what_all_missed_is_owed_by_the_one_that_raises_when_it_is_judged() -> None:
    world = WorldApart(RULES)
    world.take({(2, 0): LOW})
    world.judge()
    missed_by(world, "observe")
    with broken("_judge_rule", 1):
        world.anew()
        world.judge()
        assert list(world.apart.suspended) == list(world.written.rows) == [Rule("USER/held", "meter")]
        assert {key for key in world.expected() if key[0] != BAD} == set(world.known())
    world.anew()
    world.judge()
    assert world.known() == world.expected()
