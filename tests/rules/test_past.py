"""Laws of late loads: windows that have left the ring say in the end what a fold over all time says.

The oracle is the scalar ladder over the true loads. Reads come up to weeks late, wrong ones first, in any batches;
loads are stored at once or put off. What is told is kept as the alarm book keeps it: a verdict replaces what it covers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import FULL_WH, PALETTE, QUICK, Row, change, now_after, oracle, rows_of, spoken, tree

from meterwatch.episodes import Episode, Verdict
from meterwatch.errors import StorageUnavailable
from meterwatch.known_loads import KnownLoads
from meterwatch.late_loads import judged as judged_by
from meterwatch.late_loads import judged_turn
from meterwatch.loads import Loads
from rules import past
from rules.ladder import Ints
from rules.overload import Overload

LOW = 0.3
Told = dict[int, list[Episode]]
Of = tuple[str, str]
OF_TRANSFORMERS: Of = ("OVERLOAD", "transformer")
NOTHING = (0,) * 6
DAY = [LOW] * 96
HOT = [LOW] * 40 + [1.2] * 16 + [LOW] * 40


@dataclass
class Table:
    """The stored loads; with what each phase drew."""

    cells: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    away: bool = False
    pieces: int = 0
    windows_max: int = 0

    async def oldest(self, transformers: Ints) -> int | None:
        of = set(transformers.tolist())
        return min((window for t, window in self.cells if t in of), default=None)

    async def between(self, transformers: Ints, first: int, stop: int) -> Loads:
        if self.away:
            raise StorageUnavailable("away")
        self.pieces, self.windows_max = self.pieces + 1, max(self.windows_max, stop - first)
        of = set(transformers.tolist())
        rows = [(t, w, *sums) for (t, w), sums in self.cells.items() if first <= w < stop and t in of]
        columns = np.array(rows, np.int64).reshape(-1, 8).T
        return Loads(*columns[:5], phase_wh=columns[5:].T)

    def save(self, rule: Overload) -> None:
        stored = rule.unsaved()
        for cells, adds in ((stored.counted, False), (stored.added, True)):
            for t, w, *sums in zip(*(column.tolist() for column in columns(cells)), strict=True):
                before = self.cells.get((t, w), NOTHING) if adds else NOTHING
                self.cells[t, w] = tuple(a + b for a, b in zip(before, sums, strict=True))
        rule.saved()


def columns(cells: Loads) -> list[Ints]:
    phases = np.zeros((len(cells), 3), np.int64) if cells.phase_wh is None else cells.phase_wh
    return [cells.transformer, cells.window, cells.wh, cells.varh, cells.covered, *phases.T]


async def judged(
    rule: Overload, table: Table, now_us: int, go_on: Callable[[], bool] = lambda: True, of: Of = OF_TRANSFORMERS
) -> list[Verdict]:
    """What is said of one rule after what was observed."""
    loads = KnownLoads(rule, table)
    found = await judged_by(rule.past, rule, loads, now_us, lambda: rule.judge(now_us), go_on)
    return [one for one in found if (one.rule, one.asset_kind) == of]


def hear(told: Told, verdicts: list[Verdict]) -> None:
    """Keep what is told, as the book does; what stays must not touch what comes."""
    for verdict in sorted(verdicts, key=lambda one: one.until_us is None):
        kept = [
            e
            for e in told.get(verdict.asset_id, [])
            if (e.cleared_us is not None and e.cleared_us < verdict.from_us)
            or (verdict.until_us is not None and e.onset_us >= verdict.until_us)
        ]
        told[verdict.asset_id] = sorted([*kept, *verdict.episodes], key=lambda e: e.onset_us)
        ends = [(e.onset_us, e.cleared_us or now_after(10**6)) for e in told[verdict.asset_id]]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ends)), ends


def as_sent(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    """These reads, some up to weeks late, some with a wrong value first."""
    sent: list[tuple[float, Row]] = []
    for row in rows:
        at = row[1] / (900 * 10**6) + rng.choice([0.0, 0.0, 0.0, 300.0, 2000.0]) * rng.random()
        if rng.random() < 0.2:
            wrong = (*row[:3], int(rng.integers(0, 3 * FULL_WH)))
            sent += [(at, (*wrong, 1)), (at + 400, (*wrong, -1)), (at + 400, row)]
        else:
            sent.append((at, row))
    return [row for _, row in sorted(sent, key=lambda one: one[0])]


load_runs = st.lists(st.tuples(st.sampled_from([*PALETTE, LOW, LOW, LOW]), st.integers(1, 60)), min_size=5, max_size=60)


def flat(runs: list[tuple[float | None, int]]) -> list[float | None]:
    return [b for b, length in runs for _ in range(length)]


@settings(max_examples=60, deadline=None)
@given(
    each=st.lists(load_runs, min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    put_off=st.booleans(),
    waits=st.sampled_from([0.0, 0.5, 1.0]),
)
async def test_reads_weeks_late_say_what_they_say_in_order(
    each: list[list[tuple[float | None, int]]], seed: int, put_off: bool, waits: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(past, "TRANSFORMERS_TOGETHER", 3 if seed % 2 else 1)
        await weeks_late(each, seed, put_off, waits)


async def weeks_late(each: list[list[tuple[float | None, int]]], seed: int, put_off: bool, waits: float) -> None:
    """waits: how often the time is up before a part of the past is judged."""
    rng = np.random.default_rng(seed)
    loads = [flat(runs) for runs in each]
    sent = as_sent([row for slot, mine in enumerate(loads) for row in rows_of(mine, slot)], rng)
    now = now_after(max(map(len, loads)) + 1)
    rule, table, told = Overload(tree(len(loads), len(loads)), QUICK), Table(), Told()
    at = 0
    while at < len(sent):
        some = int(rng.integers(1, 400))
        rule.observe(change(sent[at : at + some]), now)
        hear(told, await judged(rule, table, now, lambda: rng.random() >= waits))
        if not put_off or rng.random() < 0.3:
            table.save(rule)
        at += some
    hear(told, await judged(rule, table, now))
    assert judged_turn(rule.past, rule.turn) == rule.turn
    for transformer, mine in enumerate(loads):
        assert spoken(tuple(told.get(transformer, []))) == oracle(mine, QUICK)


async def test_the_past_is_judged_in_the_order_in_which_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "TRANSFORMERS_TOGETHER", 1)
    rule, table = Overload(tree(4, 4), QUICK), Table()
    now = now_after(500)
    rule.observe(change(rows_of([LOW] * 500, 3)), now)
    await judged(rule, table, now)
    assert judged_turn(rule.past, rule.turn) == rule.turn == 1
    for slot in (1, 2, 0, 1):
        rule.observe(change(rows_of([LOW], slot)), now)
    for left, turn in (([2, 0], 2), ([0], 3), ([], 5)):
        once = iter([True, False])
        await judged(rule, table, now, partial(next, once))
        assert (rule.past[0].waiting(now).tolist(), judged_turn(rule.past, rule.turn)) == (left, turn)


async def tell(rule: Overload, table: Table, told: Told, rows: list[Row], now: int) -> list[Verdict]:
    rule.observe(change(rows), now)
    said = await judged(rule, table, now)
    hear(told, said)
    table.save(rule)
    return said


async def test_a_correction_twenty_days_old_amends_and_another_retracts() -> None:
    rule, table, told = Overload(tree(), QUICK), Table(), Told()
    truth = [*DAY, *HOT, *DAY * 20]
    now = now_after(len(truth))
    await tell(rule, table, told, rows_of(truth), now)
    assert spoken(tuple(told[0])) == [(136, 138, 154, "OVERLOAD")]
    shorter = [(slot, end, length, wh, -1) for slot, end, length, wh, _ in rows_of(truth)[146:152]]
    [verdict] = await tell(rule, table, told, shorter + [(*row[:3], 0, 1) for row in shorter], now)
    assert spoken(tuple(told[0])) == [(136, 138, 148, "OVERLOAD")]
    assert verdict.until_us == now_after(155)  # it does not reach beyond the calm that follows the change
    gone = [(slot, end, length, wh, -1) for slot, end, length, wh, _ in rows_of(truth)[136:146]]
    await tell(rule, table, told, gone + [(*row[:3], 0, 1) for row in gone], now)
    assert told[0] == []


async def test_a_late_read_that_opens_the_way_into_the_ring_moves_the_onset_of_what_lasts() -> None:
    """Nine days of overload; a day of it came late, so two alarms become one that still lasts."""
    rule, table, told = Overload(tree(), QUICK), Table(), Told()
    before: list[float | None] = [LOW] * 10 + [1.2] * 300
    truth = [*before, *[1.2] * 20, *[1.2] * 300]
    late = rows_of(truth)[310:330]
    now = now_after(len(truth))
    wrong = [(slot, end, length, 0, 1) for slot, end, length, _, _ in late]
    await tell(rule, table, told, rows_of(truth)[:310] + wrong + rows_of(truth)[330:], now)
    assert spoken(tuple(told[0])) == [(10, 12, 312, "OVERLOAD"), (330, 332, None, "OVERLOAD")]
    await tell(rule, table, told, [(*row[:4], -1) for row in wrong] + late, now)
    assert spoken(tuple(told[0])) == [(10, 12, None, "OVERLOAD")] == oracle(truth, QUICK)


async def test_an_old_read_costs_the_days_around_it_and_no_more() -> None:
    rule, table, told = Overload(tree(), QUICK), Table(), Told()
    truth = [*DAY * 30, *HOT, *DAY * 60]
    now = now_after(len(truth))
    await tell(rule, table, told, rows_of(truth), now)
    pieces = table.pieces
    await tell(rule, table, told, [(0, now_after(96 * 30 + 50), 900, 5_000, 1)], now)
    assert table.pieces - pieces <= 3
    assert table.windows_max <= 2 * 96


async def test_many_transformers_are_judged_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "TRANSFORMERS_TOGETHER", 2)
    rule, table, told = Overload(tree(5, 5), QUICK), Table(), Told()
    truth = [*DAY, *HOT, *DAY * 4]
    now = now_after(len(truth))
    gap = [*DAY, *[None] * 96, *DAY * 4]
    rule.observe(change([row for slot in range(5) for row in rows_of(gap, slot)]), now)
    hear(told, await judged(rule, table, now))
    table.save(rule)
    hot = [row for slot in range(5) for row in rows_of(truth, slot)[96:192]]
    rule.observe(change(hot), now)
    hear(told, await judged(rule, table, now))
    assert [spoken(tuple(told[slot])) for slot in range(5)] == [oracle(truth, QUICK)] * 5


async def test_a_failure_of_the_database_leaves_the_rule_as_it_was() -> None:
    rule, table, told = Overload(tree(), QUICK), Table(), Told()
    truth = [*DAY, *HOT, *DAY * 4]
    now = now_after(len(truth))
    await tell(rule, table, told, [*rows_of(truth)[:96], *rows_of(truth)[192:]], now)
    table.away = True
    rule.observe(change(rows_of(truth)[96:192]), now)
    with pytest.raises(StorageUnavailable):
        await judged(rule, table, now)
    table.away = False
    hear(told, await judged(rule, table, now))
    assert spoken(tuple(told[0])) == oracle(truth, QUICK)
    assert not len(rule.past[0].late)


async def test_batches_counted_after_a_crash_are_judged_too() -> None:
    rule, table, told = Overload(tree(), QUICK), Table(), Told()
    truth = [*DAY, *HOT, *DAY * 4]
    now = now_after(len(truth))
    known = [*rows_of(truth)[:96], *rows_of(truth)[192:]]
    await tell(rule, table, told, known, now)
    again = Overload(tree(), QUICK)
    again.restore(again.members.cells(change(known[-100:]))[0])
    owed, _ = again.members.cells(change(rows_of(truth)[96:192]))
    again.recount(owed, np.zeros(0, np.int64), owed)
    hear(told, await judged(again, table, now))
    assert spoken(tuple(told[0])) == oracle(truth, QUICK)
