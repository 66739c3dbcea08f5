"""What the engine wants is read for many groups at once; each group gets what it would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meterwatch import wired_rules
from meterwatch.batch import Events, ReadChange
from meterwatch.clock import ReplayClock
from meterwatch.wired_rules import WiredRules
from rules.apart import Apart
from rules.engine import Wanted

METERS = 24
Row = tuple[int, int]  # slot, us
ROWS = st.lists(st.tuples(st.integers(0, METERS - 1), st.integers(0, 40)), max_size=60)


class StoredRows:
    """A history that holds these reads and events, and gives reads in pages of three."""

    pool = None

    def __init__(self, reads: list[Row], events: list[Row]) -> None:
        self.reads, self.events = reads, events

    async def reads_between(self, from_us: int, to_us: int, slots: NDArray[np.int32]) -> AsyncIterator[ReadChange]:
        rows = found(self.reads, from_us, to_us, slots)
        for first in range(0, len(rows), 3):
            slot, at_us = columns(rows[first : first + 3])
            none = np.zeros(len(slot), np.int32)
            flags = np.zeros(len(slot), np.bool_)
            yield ReadChange(
                slot, at_us, none, none, slot * 7, none, none, none, flags, flags, np.ones(len(slot), np.int8)
            )

    async def events_between(self, from_us: int, to_us: int, slots: NDArray[np.int32]) -> Events:
        slot, at_us = columns(sorted(found(self.events, from_us, to_us, slots), key=lambda row: row[1]))
        return Events(slot, at_us, slot.astype(np.int16))


class Asking:
    """An engine that wants these and keeps what it is given; nothing of its past is late."""

    overload = SimpleNamespace(members=SimpleNamespace(window_s=900, phase=None), tail=0)
    past = ()
    apart = Apart(raising=True)
    contract = SimpleNamespace(wanted=lambda: None)

    def __init__(self, wanted: list[Wanted]) -> None:
        self._wanted = wanted
        self.given_to: dict[Any, tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]] = {}

    def assets(self, wanted: Wanted) -> list[tuple[str, NDArray[np.int32]]]:
        return []

    def wanted(self) -> list[Wanted]:
        return self._wanted

    def given(self, wanted: Wanted, reads: list[ReadChange], events: Events) -> None:
        rows = [row for one in reads for row in zip(one.slot, one.end_us, one.import_wh, strict=True)]
        assert wanted.group not in self.given_to
        self.given_to[wanted.group] = (
            [tuple(map(int, row)) for row in rows],
            [tuple(map(int, row)) for row in zip(events.slot, events.at_us, events.code, strict=True)],
        )

    def evaluate(self, _now_us: int) -> list[Any]:
        return []


def found(rows: list[Row], from_us: int, to_us: int, slots: NDArray[np.int32]) -> list[Row]:
    return [(slot, at) for slot, at in rows if from_us <= at < to_us and slot in slots.tolist()]


def columns(rows: list[Row]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    return np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.int64)


@settings(max_examples=200, deadline=None)
@given(
    ROWS,
    ROWS,
    st.lists(st.integers(0, 5), min_size=METERS, max_size=METERS),
    st.lists(st.integers(0, 40), min_size=6, max_size=6),
    st.integers(1, 30),
    st.integers(0, 40),
)
def test_groups_read_together_get_what_each_would_get_alone(
    reads: list[Row], events: list[Row], group_of: list[int], from_us: list[int], meters: int, apart_us: int
) -> None:

    wanted = [
        Wanted(("feeder", number), np.flatnonzero(np.array(group_of) == number).astype(np.int32), from_us[number])
        for number in sorted(set(group_of))
    ]
    engine, history = Asking(wanted), StoredRows(reads, events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wired_rules, "TOGETHER_METERS", meters)
        patch.setattr(wired_rules, "TOGETHER_US", apart_us)
        asyncio.run(WiredRules(engine, history, ReplayClock(0)).evaluate(30))
    for one in wanted:
        mine_reads, mine_events = engine.given_to[one.group]
        to_us = 30 + wired_rules.AHEAD_US
        expected = [(slot, at, 7 * slot) for slot, at in found(reads, one.from_us, to_us, one.slots)]
        assert sorted(mine_reads) == sorted(expected)
        expected = [(slot, at, slot) for slot, at in found(events, one.from_us, to_us, one.slots)]
        assert sorted(mine_events) == sorted(expected)
        assert [at for _, at, _ in mine_events] == sorted(at for _, at, _ in mine_events)
    assert set(engine.given_to) == {one.group for one in wanted}
