"""What the engine forgets of meters that are off for long: nothing that a verdict tells, whatever comes later.

A meter off that goes on sending says OFF every quarter-hour. Beside the engine that forgets all it may stands one that
was made anew and given everything.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from towns import T0, town

from meterwatch.batch import Events, ReadChange
from meterwatch.clock import US
from meterwatch.episodes import Verdict
from meterwatch.quality import Quality
from rules import engine as engine_module
from rules.engine import Engine
from rules.supply import HEARD, OFF, ON, Evidence, off_runs, telling

TOWN = town(feeders=1, transformers=2, meters=3)
SEEDS = int(os.environ.get("METERWATCH_THINNED_SEEDS", "6"))
DAYS, DAY_S, STEP_S = 8, 86_400, 7200
QUALITY = {OFF: int(Quality.SUPPLY_OFF), ON: int(Quality.SUPPLY_ON), HEARD: 0}
Read = tuple[int, int]
"""Slot, and seconds after T0."""


def change(rows: list[tuple[Read, int]], sign: int = 1) -> ReadChange:
    n = len(rows)
    slot, end_s, vote = (
        np.array(column, np.int64) for column in zip(*((*read, vote) for read, vote in rows), strict=True)
    )
    quality = np.array([QUALITY[one] for one in vote.tolist()], np.int32)
    zero, no = np.zeros(n, np.int32), np.zeros(n, np.bool_)
    return ReadChange(
        slot.astype(np.int32), T0 + end_s * US, zero + STEP_S, quality, zero, zero, zero, zero, no, no,
        np.full(n, sign, np.int8),
    )  # fmt: skip


def asked(engine: Engine, stored: dict[Read, int], now_s: int) -> list[Verdict]:
    """Answer what it wants to know, and evaluate."""
    nothing = Events(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int16))
    for wanted in engine.wanted():
        mine = [one for one in stored.items() if one[0][0] in wanted.slots and T0 + one[0][1] * US >= wanted.from_us]
        engine.given(wanted, [change(mine)] if mine else [], nothing)
    for state in engine._active.values():
        state.pruned_rows = 0  # so that every judgement forgets what it may
    return [verdict for verdict in engine.evaluate(T0 + now_s * US) if verdict.rule == "OUTAGE"]


def anew(stored: dict[Read, int], now_s: int) -> dict[tuple[str, int], Verdict]:
    """What an engine says that knows all and has forgotten nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "PRUNE_ROWS", 10**9)
        engine = Engine(TOWN)
        engine.activate(np.arange(6, dtype=np.int32), T0, T0 + now_s * US)
        return {(v.asset_kind, v.asset_id): v for v in asked(engine, stored, now_s)}


def spans(verdict: Verdict | None, from_us: int) -> list[tuple[int, int, int | None]]:
    """Episodes that last or ended since then."""
    episodes = verdict.episodes if verdict is not None else ()
    return sorted(
        (e.onset_us, e.raised_us, e.cleared_us) for e in episodes if e.cleared_us is None or e.cleared_us >= from_us
    )


class Delivery:
    """Days of reads, in the order they come: (when, read, vote). Seed 0 to n: transformer 0 or some meters off."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.rows: list[tuple[int, Read, int]] = []
        for slot in range(6):
            off = self._off(draw, slot)
            for end_s in range(STEP_S, DAYS * DAY_S, STEP_S):
                vote = OFF if any(a < end_s <= b for a, b in off) else ON
                vote = HEARD if draw.random() < 0.1 else vote
                late_s = draw.randrange(6 * DAY_S) if vote != OFF and draw.random() < 0.15 else 0
                self.rows.append((end_s + late_s, (slot, end_s), vote))
                if draw.random() < 0.05:  # another value later: it was not off, or nothing is known
                    self.rows.append(
                        (end_s + late_s + draw.randrange(1, 4 * DAY_S), (slot, end_s), draw.choice((ON, HEARD)))
                    )
        self.rows.sort()

    @staticmethod
    def _off(draw: random.Random, slot: int) -> list[tuple[int, int]]:
        together = draw.random() < 0.5 and slot < 3
        first = DAY_S if together else draw.randrange(5 * DAY_S)
        if draw.random() < 0.3:
            return []
        return [(first, draw.choice((first + draw.randrange(DAY_S), 100 * DAY_S)))]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_forgotten_of_meters_off_for_days_changes_no_verdict(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PRUNE_ROWS", 0)
    engine, stored, rows = Engine(TOWN), {}, Delivery(seed).rows
    for now_s in range(STEP_S, (DAYS + 2) * DAY_S, 3 * STEP_S):
        while rows and rows[0][0] <= now_s:
            _, read, vote = rows.pop(0)
            if read in stored:
                engine.observe_reads(change([(read, stored[read])], -1), T0 + now_s * US)
            stored[read] = vote
            engine.observe_reads(change([(read, vote)]), T0 + now_s * US)
        verdicts = asked(engine, stored, now_s)
        sound = anew(stored, now_s) if verdicts else {}
        for verdict in verdicts:
            expected = spans(sound.get((verdict.asset_kind, verdict.asset_id)), verdict.from_us)
            assert spans(verdict, verdict.from_us) == expected, (now_s / DAY_S, verdict.asset_kind, verdict.asset_id)


def test_of_a_meter_off_for_days_first_and_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PRUNE_ROWS", 0)
    stored = {(slot, s): ON if slot else OFF for slot in range(6) for s in range(STEP_S, DAYS * DAY_S, STEP_S)}
    engine = Engine(TOWN)
    held = []
    for day in range(1, DAYS + 1):
        now = [one for one in stored.items() if (day - 1) * DAY_S < one[0][1] <= day * DAY_S]
        if now:
            engine.observe_reads(change(now), T0 + day * DAY_S * US)
        asked(engine, dict(now), day * DAY_S)
        [state] = engine._active.values()
        held.append(sum(len(part.slot) for part in state.evidence))
    assert max(held[2:]) <= held[1] + 2
    assert (engine._active[next(iter(engine._active))].from_us) > T0 + (DAYS - 2) * DAY_S * US


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from((OFF, ON, HEARD))), max_size=30))
def test_without_what_repeats_the_off_runs_are_the_same(votes: list[tuple[int, int, int]]) -> None:
    slot, at, vote = (np.array([row[i] for row in votes], np.int64) for i in range(3))
    whole = Evidence(slot.astype(np.int32), at, vote.astype(np.int8))
    for left, right in zip(off_runs(whole), off_runs(whole.where(telling(whole, np.array([3, 7]), 2, 1))), strict=True):
        np.testing.assert_array_equal(left, right)
