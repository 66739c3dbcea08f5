"""The parts of CONTRACT (rules.contract): rows looked at, states of meters not at rest, the steps of their ladders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from rules.contract_levels import ContractProfile
from rules.ladder import Bools, Floats, Ints, Ladder, LadderState, Span, span_of
from rules.user.read_columns import is_evidence

Slots = NDArray[np.int32]
ROWS_MIN = 1024


class Looked(NamedTuple):
    """Rows of reads that may change something."""

    slot: Slots
    end_us: Ints
    length_s: Ints
    wh: NDArray[np.int32]
    sign: NDArray[np.int8]
    evidence: Bools
    """Measured, and an energy."""
    seen: NDArray[np.int32]
    """Newest window of the meter before this row."""

    @classmethod
    def of(cls, change: ReadChange, rows: NDArray[np.intp], length_s: int, seen: NDArray[np.int32]) -> Looked:
        slot = change.slot[rows]
        evidence = is_evidence(change.quality[rows]) & change.has_energy[rows]
        length = np.full(len(rows), length_s, np.int64)
        return cls(slot, change.end_us[rows], length, change.import_wh[rows], change.sign[rows], evidence, seen[slot])

    @classmethod
    def joined(cls, parts: Sequence[Looked]) -> Looked:
        return parts[0] if len(parts) == 1 else cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def take(self, rows: Any) -> Looked:
        return Looked(*(column[rows] for column in self))


class Restless:
    """States of meters not at rest. row: of each meter its place among them, -1: it is at rest."""

    def __init__(self, slots: int, levels: int) -> None:
        self.row = np.full(slots, -1, np.int32)
        self._levels = levels
        self._state = LadderState.cold(ROWS_MIN, levels)
        self._at: Ints = np.full(ROWS_MIN, -1, np.int64)
        self._free = np.arange(ROWS_MIN, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._at) - len(self._free)

    def picked(self, assets: Slots) -> tuple[LadderState, Ints]:
        """State of each of these meters, and the window it is after; -1: at rest, after any."""
        state, at = LadderState.cold(len(assets), self._levels), np.full(len(assets), -1, np.int64)
        row = self.row[assets].astype(np.int64)
        mine = np.flatnonzero(row >= 0)
        if len(mine):
            state.put(mine, self._state.take(row[mine]))
            at[mine] = self._at[row[mine]]
        return state, at

    def keep(self, assets: Slots, state: LadderState, at: Ints) -> None:
        """Take these states of these meters, each once; who is at rest is forgotten."""
        awake = state.latched.any(axis=1) | (state.hold_s > 0).any(axis=1)
        row = self.row[assets].astype(np.int64)
        gone, new = (row >= 0) & ~awake, np.flatnonzero((row < 0) & awake)
        self._free = np.concatenate((self._free, row[gone]))
        while len(new) > len(self._free):
            rows = len(self._at)
            self._state = LadderState.joined([self._state, LadderState.cold(rows, self._levels)])
            self._at = np.concatenate((self._at, np.full(rows, -1, np.int64)))
            self._free = np.concatenate((self._free, np.arange(rows, 2 * rows, dtype=np.int32)))
        row[gone] = -1
        row[new], self._free = self._free[: len(new)], self._free[len(new) :]
        self.row[assets] = row
        mine = np.flatnonzero(awake)
        self._state.put(row[mine], state.take(mine))
        self._at[row[mine]] = at[mine]


class Rows(NamedTuple):
    """Demand over contract of meters, a row a window; by window in each meter."""

    lane: NDArray[np.intp]
    window: Ints
    b: Floats

    def take(self, rows: Any) -> Rows:
        return Rows(*(column[rows] for column in self))


def walk(ladder: Ladder, profile: ContractProfile, state: LadderState, at: Ints, rows: Rows) -> dict[int, list[Span]]:
    """Take `state` through the rows, one step a window; by lane what ended. `at`, the last window of each, goes along.

    A missing window is a gap, which is known when the next one comes: silence by itself ends nothing.
    """
    ended: dict[int, list[Span]] = {}
    order = np.argsort(rows.window, kind="stable")
    windows, begins = np.unique(rows.window[order], return_index=True)
    for window, mine in zip(windows.tolist(), np.split(order, begins[1:]), strict=False):
        lane = rows.lane[mine]
        whole = len(lane) == len(at)  # each lane once, and by lane: no copy
        own = state if whole else state.take(lane)
        missing = np.where(at[lane] < 0, 0, window - at[lane] - 1)
        for n in range(profile.max_gap_windows + 1):
            gap = np.flatnonzero(missing > n)
            if len(gap):
                some = own.take(gap)
                ladder.step(some, window, np.zeros(len(gap)), np.zeros(len(gap), np.bool_))
                own.put(gap, some)
        for i in np.flatnonzero(ladder.step(own, window, rows.b[mine], np.ones(len(lane), np.bool_))).tolist():
            if own.raised[i] >= 0:
                ended.setdefault(int(lane[i]), []).append(span_of(own, i, int(own.worst[i]), window))
        if not whole:
            state.put(lane, own)
        at[lane] = window
    return ended


def calm_rows(rows: Rows, ladder: Ladder) -> Bools:
    """Rows that bring any state to rest: so many windows in a row up to them are below every threshold."""
    low = rows.b < ladder.calm_pu
    at = np.arange(len(low))
    goes_on = np.zeros(len(low), np.bool_)
    goes_on[1:] = low[:-1] & (rows.lane[1:] == rows.lane[:-1]) & (rows.window[1:] == rows.window[:-1] + 1)
    begin = np.maximum.accumulate(np.where(goes_on, 0, at)) if len(at) else at
    calm: Bools = low & (at - begin + 1 >= ladder.calm_windows)
    return calm


def quiet_rows(rows: Rows, calm: Bools) -> Bools:
    """Rows that change nothing: at the end of a calm, after another."""
    quiet = np.zeros(len(calm), np.bool_)
    quiet[1:] = calm[1:] & calm[:-1] & (rows.lane[1:] == rows.lane[:-1])
    return quiet
