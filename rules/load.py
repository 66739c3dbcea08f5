"""The load of transformers out of the reads of their members: columns of reads in, cells out. Pure arithmetic.

A read is shared out over the windows it crosses: the energy of a part is that up to its end, rounded down, less that up
to its start, so the parts add up to the read exactly. Estimated and substituted reads count neither as energy nor as
coverage. A read counts for the transformer that supplied the meter when its interval ended (Topology.moves).
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from meterwatch.loads import Loads
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.topology import TERMINAL, Topology
from rules.phases import phase_of

US = 1_000_000
CONTRACT_W_UNKNOWN = 1000
"""Weight of a meter without a contract, in watts."""
NEVER = int(np.iinfo(np.int64).max)

Ints = NDArray[np.int64]


def share_of(covered: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """What was heard of what was to be, 0..1; 1 where nothing was."""
    heard = np.minimum(covered, expected)
    share: NDArray[np.float64] = np.divide(heard, expected, out=np.ones(heard.shape), where=expected > 0)
    return share


class Sums(NamedTuple):
    """What assets carried in windows, int64 [windows, assets] each; sums of cells."""

    wh: Ints
    varh: Ints
    covered: Ints
    expected: Ints
    """Weight-seconds of all members in service."""
    phase_wh: NDArray[np.integer] | None = None
    """[windows, assets, 3]; None: not counted."""

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of the expected weight-seconds that has reported, 0 to 1."""
        return np.divide(self.covered, self.expected, out=np.zeros(self.wh.shape), where=self.expected > 0)

    def take(self, windows: slice, assets: NDArray[np.int64]) -> Sums:
        """Some of both."""
        phase_wh = None if self.phase_wh is None else self.phase_wh[windows][:, assets]
        wh, varh, covered, expected = (column[windows][:, assets] for column in self[:4])
        return Sums(wh, varh, covered, expected, phase_wh)


class _Stays(NamedTuple):
    """For which transformer a meter that moved counted from when to when. Arrays of equal length."""

    slot: NDArray[np.int32]
    transformer: NDArray[np.int32]
    from_us: Ints
    to_us: Ints


class Members:
    """Who counts for which transformer, with what weight. Its own terminal measures them all and is none of them."""

    def __init__(
        self, topology: Topology, window_s: int, assumed_power_factor: float, phases_known_min: float | None = None
    ) -> None:
        """phases_known_min: count by phase, where so much of the members' weight is of known phase; None: do not."""
        self.window_s = window_s
        self.transformers = len(topology.transformer)
        self._topology = topology
        terminal = topology.witness == TERMINAL
        self._of = np.where(terminal, np.int32(-1), topology.member_of) if terminal.any() else topology.member_of
        moves, self._moved = topology.moves, np.zeros(topology.slots if len(topology.moves) else 0, np.bool_)
        self._moved[moves.slot[(topology.measures[moves.slot] < 0) & ~terminal[moves.slot]]] = True
        self._power_factor = assumed_power_factor
        self._varh_per_wh = sqrt(1 - assumed_power_factor**2) / assumed_power_factor
        contract = topology.contract_kw
        watts = np.where(np.isnan(contract), CONTRACT_W_UNKNOWN, contract.astype(np.float64) * 1000)
        self._weight: NDArray[np.int32] = np.minimum(np.rint(watts), 2**31 - 1).astype(np.int32)
        self.phase: NDArray[np.int8] | None = None
        """Per slot, see rules.phases.phase_of; None: nothing is counted by phase."""
        if phases_known_min is not None:
            self.phase = phase_of(topology, self._of, self._weight.astype(np.int64), phases_known_min)
        self._stays = self._stays_of_moved()
        self._installed_sorted = _borders(np.concatenate((topology.installed_us, self._stays.from_us)))
        self._retired_sorted = _borders(np.concatenate((topology.retired_us, self._stays.to_us)))
        self._expected: dict[tuple[int, int], Ints] = {}

    def count(self) -> Ints:
        """Registered members of every transformer."""
        tree = self._topology
        served = (self._of >= 0) & (tree.installed_us != NEVER)
        return np.bincount(self._of[served], minlength=self.transformers).astype(np.int64)

    def of(self, slot: NDArray[np.int32], end_us: Ints) -> NDArray[np.int32]:
        """The transformer for whose load a read of this meter counts that ends then; -1: for none."""
        transformer: NDArray[np.int32] = self._of[slot]
        if len(self._moved):
            moved = np.flatnonzero(self._moved[slot])
            if len(moved):
                transformer[moved] = self._topology.moves.at(slot[moved], end_us[moved])
        return transformer

    def transformers_of(self, slot: NDArray[np.int32]) -> Ints:
        """Transformers for which these meters count, or did once, ascending."""
        found = self._of[slot]
        if len(self._moved):
            moves = self._topology.moves
            found = np.concatenate((found, moves.transformer[self._moved[moves.slot] & np.isin(moves.slot, slot)]))
        return np.unique(found[found >= 0]).astype(np.int64)

    def slots_of(self, transformers: Ints) -> NDArray[np.int32]:
        """Meters that count for these transformers, or did once, ascending."""
        chosen = np.zeros(self.transformers + 1, np.bool_)  # the last one stands for none (-1)
        chosen[transformers] = True
        mine = chosen[self._of]
        if len(self._moved):
            moves = self._topology.moves
            mine[moves.slot[chosen[moves.transformer] & self._moved[moves.slot]]] = True
        return np.flatnonzero(mine).astype(np.int32)

    def _stays_of_moved(self) -> _Stays:
        tree, moves = self._topology, self._topology.moves
        there = np.flatnonzero(self._moved[moves.slot]) if len(self._moved) else np.zeros(0, np.intp)
        slot = moves.slot[there]
        return _Stays(
            slot,
            moves.transformer[there],
            np.maximum(tree.installed_us[slot], moves.from_us[there]),
            np.minimum(tree.retired_us[slot], moves.to_us[there]),
        )

    def _never_moved(self) -> NDArray[np.bool_]:
        """bool[slots]: counts for one transformer, for all its time."""
        mine: NDArray[np.bool_] = self._of >= 0
        return mine & ~self._moved if len(self._moved) else mine

    def digest(self) -> Ints:
        """Per transformer a number that changes with its members, their weights and terms, and the arithmetic."""
        tree, moved, mine = self._topology, self._stays, np.flatnonzero(self._never_moved())
        slot = np.concatenate((mine, moved.slot))
        mixed = np.zeros(len(slot), np.uint64)
        columns: list[NDArray[Any]] = [
            slot,
            self._weight[slot],
            np.concatenate((tree.installed_us[mine], moved.from_us)),
            np.concatenate((tree.retired_us[mine], moved.to_us)),
        ]
        if self.phase is not None:
            columns.append(self.phase[slot])
        for column in columns:
            mixed = _mix(mixed ^ column.astype(np.int64).view(np.uint64))
        profile = np.array([self.window_s, int(self._power_factor * 1e6)], np.uint64)
        total = np.full(self.transformers, _mix(profile).sum(), np.uint64)
        np.add.at(total, np.concatenate((self._of[mine], moved.transformer)), mixed)
        return total.view(np.int64)

    def expected(self, window: int) -> Ints:
        """Weight-seconds of the meters in service in a whole window, per transformer; read only."""
        start_us = window * self.window_s * US
        end_us = start_us + self.window_s * US
        key = (
            int(np.searchsorted(self._installed_sorted, start_us, "right")),
            int(np.searchsorted(self._retired_sorted, end_us, "left")),
        )
        row = self._expected.get(key)
        if row is None:
            tree, moved = self._topology, self._stays
            served = self._never_moved() & (tree.installed_us <= start_us) & (tree.retired_us >= end_us)
            stayed = (moved.from_us <= start_us) & (moved.to_us >= end_us)
            row = np.zeros(self.transformers, np.int64)
            never = self._of[served], np.flatnonzero(served).astype(np.int32)
            for of, slot in (never, (moved.transformer[stayed], moved.slot[stayed])):
                np.add.at(row, of, self._weight[slot].astype(np.int64) * self.window_s)
            if len(self._expected) > EXPECTED_KEPT:
                self._expected.clear()
            self._expected[key] = row
        return row

    def expected_of(self, cells: Loads) -> Ints:
        """Weight-seconds expected in each of these cells."""
        expected = np.zeros(len(cells), np.int64)
        order = np.argsort(cells.window, kind="stable")
        window = cells.window[order]
        for first, stop in pairwise(np.flatnonzero(np.diff(window, prepend=-1, append=-1)).tolist()):
            here = order[first:stop]
            expected[here] = self.expected(int(window[first]))[cells.transformer[here]]
        return expected

    def sums(self, cells: Loads, column_of: Ints, columns: int, first: int, stop: int) -> Sums:
        """What assets carried in windows first..stop-1, from all cells of the transformers they are made of.

        column_of: of each transformer, the column of the asset it adds to; -1: none.
        """
        column = column_of[cells.transformer]
        mine = np.flatnonzero(column >= 0)
        at = cells.window[mine] - first, column[mine]
        shape = stop - first, columns
        wh, varh, covered = (np.zeros(shape, np.int64) for _ in range(3))
        for found, values in ((wh, cells.wh), (varh, cells.varh), (covered, cells.covered)):
            np.add.at(found, at, values[mine])
        phase_wh = None
        if self.phase is not None:
            phase_wh = np.zeros((*shape, 3), np.int64)
            if cells.phase_wh is not None:
                np.add.at(phase_wh, at, cells.phase_wh[mine])
        return Sums(wh, varh, covered, self._expected_sums(column_of, columns, first, stop), phase_wh)

    def _expected_sums(self, column_of: Ints, columns: int, first: int, stop: int) -> Ints:
        mine = np.flatnonzero(column_of >= 0)
        rows: dict[int, tuple[Ints, Ints]] = {}
        """By the row of all transformers, which is kept beside: many windows have the same one."""
        found = np.zeros((stop - first, columns), np.int64)
        for window in range(first, stop):
            everybody = self.expected(window)
            if id(everybody) not in rows:
                row = np.zeros(columns, np.int64)
                np.add.at(row, column_of[mine], everybody[mine])
                rows[id(everybody)] = everybody, row
            found[window - first] = rows[id(everybody)][1]
        return found

    def cells(self, change: ReadChange) -> tuple[Loads, Ints]:
        """Sums per (transformer, window), and of each read that counts the window in which it ends."""
        transformer = self.of(change.slot, change.end_us)
        origin = change.quality & ORIGIN_MASK
        counts = (transformer >= 0) & change.has_energy
        if origin.any():
            origin = origin >> ORIGIN_SHIFT
            counts &= (origin != Origin.ESTIMATED) & (origin != Origin.SUBSTITUTED)
        rows: Any = slice(None) if counts.all() else np.flatnonzero(counts)
        transformer = transformer[rows].astype(np.int64)
        if not len(transformer):
            return Loads.none(), np.zeros(0, np.int64)
        window_s = self.window_s
        end_us, length_s = _one_if_equal(change.end_us[rows]), _one_if_equal(change.interval_s[rows].astype(np.int64))
        end_s = end_us // US
        last = (end_s - 1) // window_s
        start_s = end_s - length_s
        first = start_s // window_s

        wh = change.import_wh[rows].astype(np.int64) - change.export_wh[rows]
        reactive = change.has_reactive[rows]
        varh: Ints
        if reactive.all():
            varh = change.import_varh[rows].astype(np.int64) - change.export_varh[rows]
        else:
            varh = np.rint(np.maximum(wh, 0) * self._varh_per_wh).astype(np.int64)
            if reactive.any():
                varh = np.where(reactive, change.import_varh[rows].astype(np.int64) - change.export_varh[rows], varh)
        weight, sign = self._weight[change.slot[rows]], change.sign[rows]
        phase = None if self.phase is None else self.phase[change.slot[rows]]
        if (sign < 0).any():
            # a part of a negative read is rounded as the read it takes back, so the sign comes last
            signed = sign.astype(np.int64)
        else:
            signed = None
        last = np.broadcast_to(last, transformer.shape)
        if (first == last).all():  # no read crosses a border: the everyday case
            parts = (transformer, last, wh, varh, weight * length_s)
        else:
            first, start_s, length_s = (np.broadcast_to(one, transformer.shape) for one in (first, start_s, length_s))
            read, window, since, until = parts_of(first, last, start_s, length_s, window_s)
            whole = length_s[read]
            wh, varh = (energy[read] * until // whole - energy[read] * since // whole for energy in (wh, varh))
            parts = (transformer[read], window, wh, varh, weight[read] * (until - since))
            signed = None if signed is None else signed[read]
            phase = None if phase is None else phase[read]
        if signed is not None:
            parts = (*parts[:2], *(column * signed for column in parts[2:]))
        by_phase = None if phase is None else parts[2][:, None] * (phase[:, None] == _PHASES)
        return _summed(self.transformers, *parts, phase_wh=by_phase), last


EXPECTED_KEPT = 64
"""Rows of expected weight-seconds kept: one for each stretch of time in which nobody comes, moves or goes."""


def joined(cells: list[Loads], transformers: int) -> Loads:
    """All in one, equal cells added up; by phase only where all are."""
    cells = [one for one in cells if len(one)]
    if len(cells) < 2:
        return cells[0] if cells else Loads.none()
    columns = ("transformer", "window", "wh", "varh", "covered")
    by_phase = [one.phase_wh for one in cells if one.phase_wh is not None]
    return _summed(
        transformers,
        *(np.concatenate([getattr(one, name) for one in cells]) for name in columns),
        phase_wh=np.concatenate(by_phase) if len(by_phase) == len(cells) else None,
    )


def _summed(
    transformers: int, transformer: Ints, window: Ints, wh: Ints, varh: Ints, covered: Ints, *, phase_wh: Ints | None
) -> Loads:
    key = window * transformers + transformer
    step = key[1:] - key[:-1]
    if len(step) and int(step.min()) < 0:
        order = np.argsort(key, kind="stable")
        key, wh, varh, covered = key[order], wh[order], varh[order], covered[order]
        phase_wh = None if phase_wh is None else phase_wh[order]
        step = key[1:] - key[:-1]
    start = np.concatenate((_FIRST, np.flatnonzero(step) + 1))
    if len(start) < len(key):
        wh, varh, covered = (np.add.reduceat(column, start) for column in (wh, varh, covered))
        phase_wh = None if phase_wh is None else np.add.reduceat(phase_wh, start, axis=0)
        key = key[start]
    window = key // transformers
    return Loads(key - window * transformers, window, wh, varh, covered, phase_wh)


_FIRST = np.zeros(1, np.intp)
_PHASES = np.arange(3, dtype=np.int8)


def _one_if_equal(column: Ints) -> Ints:
    """The column, or its one value where all are equal: divisions of stamps are the dearest step of `cells`."""
    return column[:1] if column[0] == column[-1] and bool((column == column[0]).all()) else column


def parts_of(first: Ints, last: Ints, start_s: Ints, length_s: Ints, window_s: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut reads at the borders of the windows: (read, window, since, until), the last two in seconds of the read."""
    count = last - first + 1
    read = np.repeat(np.arange(len(first)), count)
    window = np.arange(len(read)) - np.repeat(np.cumsum(count) - count - first, count)
    since = np.maximum(window * window_s - start_s[read], 0)
    until = np.minimum((window + 1) * window_s - start_s[read], length_s[read])
    return read, window, since, until


def _borders(stamps_us: Ints) -> Ints:
    """Where the meters in service may change, ascending."""
    return np.unique(stamps_us)


def _mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finisher; wraps on purpose."""
    number = number + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))
