"""Law: CONTRACT may raise anywhere, any number of times; at work again, its episodes are those of the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import LENGTH_S, QUICK, READS, STEP, TOWN, WINDOWS, Key, World, rows_of

from meterwatch import user_judging
from rules.apart import NEVER, Apart
from rules.contract import OWED_US, Contract
from rules.engine import CONTRACT, Engine
from rules.profile import RuleProfile
from tests.rules.overload_world import change, now_after

METHODS = ["observe", "wanted", "judge", "judged", "taken", "_settle", "_forward", "_say", "_episode", "_between_calms"]
BROKEN = st.tuples(st.just("break"), st.sampled_from(METHODS), st.integers(1, 4))


class WorldApart(World):
    """The rule in an engine, and what is written down of what it missed."""

    def __post_init__(self) -> None:
        self.owed: dict[int, int] = {}
        self.owed_from = NEVER
        self.anew()

    def anew(self) -> None:
        self.engine = Engine(TOWN, RuleProfile(contract=self.profile), Apart())
        self.rule: Contract = self.engine.contract

    def raise_at(self, method: str, n: int) -> None:
        call, calls = getattr(self.rule, method), 0

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n:
                raise FloatingPointError(method)
            return call(*arguments, **options)

        setattr(self.rule, method, counted)

    def send(self, reads: Mapping[Key, float]) -> None:
        new = {key: b for key, b in reads.items() if self.stored.get(key) != b}
        old = {key: self.stored[key] for key in new if key in self.stored}
        self.stored.update(new)
        if new:
            self.engine.observe_reads(change(rows_of(old, -1) + rows_of(new)), now_after(WINDOWS))

    def evaluate(self) -> None:
        asyncio.run(self.engine.apart.wait_for(CONTRACT, lambda: user_judging.judged(self.rule, self)))
        verdicts = [one for one in self.engine.evaluate(now_after(WINDOWS)) if one.rule == CONTRACT.rule]
        for verdict in sorted(verdicts, key=lambda one: one.until_us is None):
            self._take(verdict)
        missed = self.engine.apart.missed(CONTRACT)
        if missed is None:
            self.owed, self.owed_from = {}, NEVER
            return
        missed.begin(self.newest_us() - OWED_US)
        self.owed_from = min(self.owed_from, missed.from_us)
        for asset, first_us in zip(*(column.tolist() for column in missed.unsaved()), strict=True):
            self.owed[asset] = min(first_us, self.owed.get(asset, NEVER))
        missed.saved()

    def restart(self) -> None:
        self.anew()
        self.rule.begin(self.newest_us(), np.array(sorted(self.ever), np.int32))
        for slot, episodes in self.book.items():
            for one in episodes:
                if one.cleared_us is None:
                    span = (np.array([us], np.int64) for us in (one.onset_us + 1, self.newest_us()))
                    self.rule.touch(np.array([slot], np.int32), *span)
        if self.owed_from < NEVER:
            first_us = np.array(list(self.owed.values()), np.int64)
            self.engine.owe(CONTRACT, self.owed_from, np.array(list(self.owed), np.int64), first_us)


@settings(max_examples=60, deadline=None)
@given(first=READS, steps=st.lists(st.one_of(STEP, STEP, STEP, BROKEN), max_size=16))
def test_where_contract_raised_its_episodes_are_in_the_end_those_of_the_oracle(
    first: dict[Key, float], steps: list[Any]
) -> None:
    world = WorldApart(QUICK)
    for what, *rest in [("send", first), *steps]:
        if what == "send":
            [reads] = rest
            world.send({(slot, n): b for (slot, n), b in reads.items() if (n + 1) * LENGTH_S[slot] <= WINDOWS * 900})
        elif what == "break":
            world.raise_at(*rest)
        else:
            world.evaluate()
            if what == "restart":
                world.restart()
    world.evaluate()
    world.restart()
    world.evaluate()
    assert CONTRACT not in world.engine.apart.suspended
    assert world.known() == world.expected()


def test_of_a_rule_that_raises_few_meters_are_noted_one_by_one() -> None:
    """Reads in the order of time are owed by one moment for all; a late one by its meter."""
    world = WorldApart(QUICK)
    world.send({(0, n): 1.2 for n in range(20)})
    world.evaluate()
    world.raise_at("taken", 1)
    for n in range(20, 40):
        world.send({(0, n): 1.2})
        world.evaluate()
    assert (world.owed_from, world.owed) == (now_after(21) - OWED_US, {})
    world.send({(0, 3): 0.2})
    world.evaluate()
    assert world.owed == {0: now_after(3)}
