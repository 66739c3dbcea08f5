"""Law: the alarms of overloads are what a scalar ladder says of the true loads, however late the reads come.

Weeks of them, with the alarm book beside the rule. Whole days of a meter come 3 or 20 days late, or not before the end,
so that an overload which lasts since the first day is told in pieces, joined, and known as one long after it began.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from overload_world import FULL_WH, QUICK, Row, change, now_after, oracle, rows_of, spoken, tree
from test_past import Table, judged

from alarm.book import Book
from alarm.differences import OPEN_HISTORY_US
from meterwatch.alarms import AlarmState
from meterwatch.episodes import Episode, Severity
from rules.overload import Overload

MEMBERS = 10
"""So that the load of a transformer without one of them is valid and lower."""
DAYS = 50
DAY = 96
NIGHT = 0.8
"""Not low enough to end an overload, unless a tenth of it is missing."""
TRUTH: list[list[float | None]] = [
    [*[NIGHT] * 40, *[1.3] * 56] * DAYS,
    [*[NIGHT] * 40, *[1.3] * 56] * 47 + [0.3] * DAY * (DAYS - 47),
    [*[0.3] * 70, *[1.1] * 26] * 3 + [1.1] * DAY * 20 + [0.3] * DAY * (DAYS - 23),
]
Days = NDArray[np.int64]


def in_order(rng: np.random.Generator) -> Days:
    return np.zeros((len(TRUTH) * MEMBERS, DAYS), np.int64)


def weeks_late(rng: np.random.Generator) -> Days:
    """What is late comes together, every ten days."""
    late = rng.choice([0, 3, 20], (len(TRUTH) * MEMBERS, DAYS), p=[0.9, 0.05, 0.05])
    come = np.arange(DAYS) + late
    return np.where(late > 0, -(-come // 10) * 10 - np.arange(DAYS), 0)


def at_the_end(rng: np.random.Generator) -> Days:
    """One meter in ten is told when all others are."""
    late = in_order(rng)
    late[: len(TRUTH)] = DAYS - np.arange(DAYS)
    return late


def told(late_days: Days) -> Iterator[tuple[int, list[Row]]]:
    """What comes on each day, with the number of windows that are over by then."""
    assert {round(b * FULL_WH) % MEMBERS for loads in TRUTH for b in loads if b is not None} == {0}
    rows = [rows_of([b and b / MEMBERS for b in TRUTH[slot % len(TRUTH)]], slot) for slot in range(len(late_days))]
    for today in range(int((late_days + np.arange(DAYS)).max()) + 1):
        come: list[Row] = []
        for slot, mine in enumerate(rows):
            for day in np.flatnonzero(late_days[slot] + np.arange(DAYS) == today):
                come += mine[day * DAY : (day + 1) * DAY]
        if come:
            yield min(today + 1, DAYS) * DAY, come


@pytest.mark.parametrize("way", [in_order, weeks_late, at_the_end])
async def test_overloads_of_weeks_leave_the_same_alarms_however_late_the_reads(way) -> None:  # type: ignore[no-untyped-def]
    names = tree(len(TRUTH) * MEMBERS, len(TRUTH))
    rule, table, book = Overload(names, QUICK), Table(), Book([], names)
    late = 0
    for windows, rows in told(way(np.random.default_rng(8))):
        now_us = now_after(windows)
        rule.observe(change(rows), now_us)
        late += len(rule.past[0].late)
        verdicts = await judged(rule, table, now_us)
        for some in (
            [one for one in verdicts if one.until_us is not None],
            [one for one in verdicts if one.until_us is None],
        ):
            book.adopt(draft.alarm for draft in book.reconcile(some, now_us))
        table.save(rule)
    assert (late > 0) is (way is not in_order)
    standing: dict[int, list[Episode]] = {t: [] for t in range(len(TRUTH))}
    for alarm in sorted(book, key=lambda one: one.onset_us):
        if alarm.state is not AlarmState.RETRACTED:
            shown = Episode(alarm.onset_us, alarm.raised_us, alarm.cleared_us, Severity.LOW, alarm.level, "")
            standing[alarm.asset_id].append(shown)
    assert {t: spoken(tuple(those)) for t, those in standing.items()} == dict(
        enumerate(oracle(loads, QUICK) for loads in TRUTH)
    )
    lasting = [alarm for alarm in book if alarm.lasts]
    assert min(alarm.raised_us for alarm in lasting) < now_after(DAY) < now_after(DAYS * DAY) - OPEN_HISTORY_US
    assert {alarm.state for alarm in lasting} == {AlarmState.UNACK_ACTIVE}, "what is seen now calls for somebody"
