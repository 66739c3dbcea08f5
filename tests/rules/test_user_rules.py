"""Laws of user rules: a scalar oracle beside the kernel, and what order, corrections, restarts may not change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch import user_judging
from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT
from meterwatch.episodes import Verdict
from meterwatch.quality import ORIGIN_SHIFT, Origin
from rules.user import kept
from rules.user.columns import COLUMNS, On
from rules.user.expression import parsed
from rules.user.kernel import Kernel
from rules.user.model import UserRule
from rules.user.read_columns import blocks, evidence_only
from rules.user.seen import Rows
from tests.rules import user_oracle
from tests.rules.overload_world import tree

US = 1_000_000
Q = 900 * US
START_US = 20_000 * 86_400 * US
METERS = 3
TOPOLOGY = tree(METERS)
Key = tuple[int, int]
"""slot, number of the quarter."""
HIGH, LOW, ABSENT = 250.0, 230.0, None


def rule(name: str = "high", expr: str = "voltage_a_v > 240", for_s: int = 0, keep_s: int = 0) -> UserRule:
    return UserRule(name, On.METER, expr, parsed(expr, COLUMNS[On.METER]), for_s, keep_s)


def reads_of(rows: Sequence[tuple[Key, float | None]], quality: int = 0) -> Reads:
    volts = np.array([np.nan if value is None else value for _, value in rows], np.float32)
    present = np.array([0 if value is None else CHANNEL_BIT["voltage_a_v"] for _, value in rows], np.uint32)
    return Reads(
        slot=np.array([slot for (slot, _), _ in rows], np.int32),
        end_us=np.array([START_US + (n + 1) * Q for (_, n), _ in rows], np.int64),
        interval_s=900,
        quality=np.full(len(rows), quality, np.int32),
        channels={"voltage_a_v": np.nan_to_num(volts)},
        mask=present,
    )


def rows_of(reads: Reads) -> list[Rows]:
    reads = evidence_only(reads)
    return [
        Rows(columns.slot, reads.end_us[part], np.full(columns.rows, reads.interval_s * US), columns)
        for part, columns in blocks(reads, TOPOLOGY)
    ]


@dataclass
class World:
    """A store, a kernel over it, and a book that takes its verdicts as alarm.book does."""

    rules: Sequence[UserRule]
    meters: int = METERS
    stored: dict[Key, float | None] = field(default_factory=dict)
    book: dict[tuple[str, int], list[user_oracle.Spoken]] = field(default_factory=dict)
    ever: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kernel = self.fresh()

    def fresh(self) -> Kernel:
        newest = max((START_US + (n + 1) * Q for _, n in self.stored), default=0)
        return Kernel(On.METER, self.rules, self.meters, newest, lambda slot: (f"m{slot}", {}), lambda: 0)

    def send(self, rows: Sequence[tuple[Key, float | None]]) -> None:
        """Store rows, each key once, and tell the kernel what changed."""
        new = [(key, value) for key, value in rows if key not in self.stored or self.stored[key] != value]
        old = [(key, self.stored[key]) for key, _ in new if key in self.stored]
        self.stored.update(new)
        if old:
            was = reads_of(old)
            self.kernel.replaced(was.slot, was.end_us)
        if new:
            self.kernel.observe(rows_of(reads_of(new)))

    def evaluate(self) -> None:
        asyncio.run(user_judging.judged(self.kernel, self))
        verdicts = self.kernel.taken()
        for past in (True, False):
            mine = [one for one in verdicts if (one.until_us is not None) is past]
            assert len({(one.rule, one.asset_id) for one in mine}) == len(mine)
            for verdict in mine:
                self._take(verdict)

    def _take(self, verdict: Verdict) -> None:
        key = (verdict.rule.removeprefix("USER/"), verdict.asset_id)
        onsets = {episode.onset_us for episode in verdict.episodes}
        kept = [
            (onset, raised, cleared)
            for onset, raised, cleared in self.book.get(key, [])
            if not (cleared is None or cleared >= verdict.from_us or onset in onsets)
            or (verdict.until_us is not None and onset >= verdict.until_us)
        ]
        self.book[key] = sorted([*kept, *((e.onset_us, e.raised_us, e.cleared_us) for e in verdict.episodes)])
        self.ever.add(key)

    def restart(self) -> None:
        """As the service does: who was told of, and what is open in the book, is known; all else is not."""
        self.kernel = self.fresh()
        for name, slot in self.ever:
            self.kernel.told(name, np.array([slot], np.int32))
        for (_, slot), said in self.book.items():
            for onset, _, cleared in said:
                if cleared is None:
                    last = np.array([self.kernel.newest_us], np.int64)
                    self.kernel.touch(np.array([slot], np.int32), np.array([onset], np.int64), last)

    async def oldest_us(self) -> int:
        return min((START_US + (n + 1) * Q for _, n in self.stored), default=0)

    async def rows(self, assets: Any, from_us: int, to_us: int) -> Sequence[Rows]:
        rows = [
            (k, v) for k, v in self.stored.items() if k[0] in assets and from_us < START_US + (k[1] + 1) * Q <= to_us
        ]
        return rows_of(reads_of(rows))

    def expected(self) -> dict[tuple[str, int], list[user_oracle.Spoken]]:
        found = {}
        for one in self.rules:
            for slot in range(self.meters):
                reads = [
                    (START_US + (n + 1) * Q, Q,
                     user_oracle.truth(one.expr, {"voltage_a_v": np.float32(np.nan if v is None else v)}))
                    for (s, n), v in self.stored.items() if s == slot
                ]  # fmt: skip
                if said := user_oracle.episodes(reads, one.for_s * US, one.keep_firing_s * US):
                    found[one.name, slot] = said
        return found

    def known(self) -> dict[tuple[str, int], list[user_oracle.Spoken]]:
        return {key: said for key, said in self.book.items() if said}


RULES = (
    rule("at_once"),
    rule("held", for_s=1800),
    rule("kept", for_s=900, keep_s=2700),
    rule("low", "not voltage_a_v > 240", for_s=2700, keep_s=900),
)
KEYS = st.tuples(st.integers(0, METERS - 1), st.integers(0, 40))
VALUES = st.sampled_from([HIGH, HIGH, LOW, LOW, ABSENT])
STEP = st.one_of(
    st.dictionaries(KEYS, VALUES, min_size=1, max_size=25).map(lambda rows: ("send", rows)),
    st.just(("evaluate", {})),
    st.just(("restart", {})),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_any_order_split_correction_and_restart_gives_the_episodes_of_the_oracle(steps: list[Any]) -> None:
    world = World(RULES)
    for what, rows in steps:
        if what == "send":
            world.send(list(rows.items()))
        else:
            world.evaluate()
            if what == "restart":
                world.restart()
    world.evaluate()
    assert world.known() == world.expected()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(VALUES, min_size=METERS, max_size=METERS), min_size=1, max_size=60),
    st.data(),
)
def test_reads_in_order_never_need_the_store_and_give_the_episodes_of_the_oracle(columns: Any, data: Any) -> None:
    world = World(RULES)
    for n, values in enumerate(columns):
        world.send([((slot, n), value) for slot, value in enumerate(values)])
        assert world.kernel.wanted() is None
        if data.draw(st.booleans()):
            world.evaluate()
    world.evaluate()
    assert world.known() == world.expected()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.01, 0.1, 0.5]), parts=st.integers(1, 4))
def test_a_fleet_told_in_parts_of_any_order_gives_the_episodes_of_the_oracle(
    seed: int, share: float, parts: int
) -> None:
    """Many assets fall asleep and wake up; some rules have few of them awake and some most."""
    rng, meters = np.random.default_rng(seed), 150
    world = World((*RULES, rule("rare", "voltage_a_v > 290")), meters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "ROWS_MIN", 4)
        world.kernel = world.fresh()
        for n in range(12):
            volts = np.where(rng.random(meters) < share, rng.choice([250.0, 300.0], meters), LOW)
            for some in np.array_split(rng.permutation(meters), parts):
                world.send([((int(slot), n), ABSENT if rng.random() < 0.03 else float(volts[slot])) for slot in some])
            if rng.random() < 0.3:
                world.evaluate()
        assert world.kernel.wanted() is None
        world.evaluate()
    assert world.known() == world.expected()


def test_an_estimate_is_no_evidence() -> None:
    world = World([rule()])
    world.kernel.observe(rows_of(reads_of([((0, 1), HIGH)], int(Origin.ESTIMATED) << ORIGIN_SHIFT)))
    world.evaluate()
    assert not world.known()


def test_a_kernel_by_itself_stands_nobody_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([rule()])
    monkeypatch.setattr(Kernel, "_pick", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        world.send([((0, 0), HIGH)])


def test_a_slow_rule_is_put_aside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rules.user.running.BUDGET_ROWS", 1)
    now = [0]

    def spent() -> int:
        return now[0]

    kernel = Kernel(On.METER, [rule("slow"), rule("good")], METERS, 0, lambda slot: (f"m{slot}", {}), spent)
    real = Kernel._pick

    def slow(self: Kernel, i: int, one: Any, *rest: Any) -> None:
        now[0] += 10_000_000 if one.rule.name == "slow" else 10
        real(self, i, one, *rest)

    monkeypatch.setattr(Kernel, "_pick", slow)
    kernel.observe(rows_of(reads_of([((0, 0), HIGH)])))
    kernel.observe(rows_of(reads_of([((1, 0), HIGH)])))
    assert [(one.rule, one.asset_id) for one in kernel.taken()] == [("USER/good", 0), ("USER/good", 1)]
    assert [health.last_error for _, health, _ in kernel.rules] == ["slow", ""]


def test_what_is_told_shows_the_read_with_which_it_fired() -> None:
    world = World([rule(for_s=1800)])
    world.send([((1, 0), 241.0), ((1, 1), 250.5)])
    world.evaluate()
    world.send([((1, 2), 260.0)])
    [verdict] = world.kernel.taken() or [None]
    assert verdict is None
    assert world.known() == {("high", 1): [(START_US, START_US + 2 * Q, None)]}


def test_state_is_kept_only_of_assets_not_at_rest() -> None:
    world = World([rule(for_s=3600)])
    world.send([((slot, 0), HIGH if slot == 1 else LOW) for slot in range(METERS)])
    assert [awake for _, _, awake in world.kernel.rules] == [1]
    world.send([((slot, 1), LOW) for slot in range(METERS)])
    assert [awake for _, _, awake in world.kernel.rules] == [0]
