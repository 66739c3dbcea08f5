"""A load plan: the least harm that brings a transformer's load below a limit, in the order of harm.

Argument. Windows above the limit are cut into turns. In each turn measures are taken in the order shift (use it at
another time), avoid (do without), limit (no more than agreed), disconnect; the next measure begins only when every
customer the one before may touch has given all of it. Within a measure the customer who was limited least lately is
first, and who was touched in an earlier turn of this plan comes after who was not, so a long need goes round. A
protected customer is in no step. Energy that is shifted comes back in windows that have room for it, so it makes no
new need.
Promises: pure; the result is below the limit, or `shortfall_kw` says by how much it is not. It advises: nobody is
switched. Refuses to know: forecasts, temperatures, the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

TINY_KW: Final = 1e-6


class Measure(IntEnum):
    """What is asked of a customer, from the least harm to the most."""

    SHIFT = 1
    AVOID = 2
    LIMIT = 3
    DISCONNECT = 4


@dataclass(frozen=True, slots=True)
class PlanProfile:
    """Numbers of the plan. ConfigError lists everything that does not fit."""

    window_s: int = 900
    """Length of a window, seconds. (std)"""
    turn_s: int = 3600
    """A customer is asked for so long at once; then the next one is. (ours)"""
    target_pu: float = 1.0
    """Bring the load down to this share of the rating. (ours)"""

    def __post_init__(self) -> None:
        problems = []
        if self.window_s <= 0 or self.turn_s < self.window_s or self.turn_s % self.window_s:
            problems.append(f"turn_s {self.turn_s}, window_s {self.window_s}; expected whole windows")
        if self.target_pu <= 0:
            problems.append(f"target_pu is {self.target_pu}; expected above 0")
        if problems:
            raise ConfigError(problems)

    @property
    def turn(self) -> int:
        """Windows of a turn."""
        return self.turn_s // self.window_s


@dataclass(frozen=True, slots=True)
class Customers:
    """Of n customers, float64 [n] where nothing else is said."""

    load_kw: Floats
    """[n, windows], 0 or more: what each would draw."""
    protected: Bools
    shift_kw: Floats
    avoid_kw: Floats
    limit_to_kw: Floats
    """NaN: may not be limited."""
    limited_us: Ints
    """When limited or disconnected last, int64; 0: never."""

    def __len__(self) -> int:
        return len(self.protected)


@dataclass(frozen=True, slots=True)
class Step:
    """One measure for one customer in windows first..stop-1."""

    measure: Measure
    customer: int
    first: int
    stop: int
    kw: float
    """Most that is taken off in one of them."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """float64 [windows] each."""

    steps: tuple[Step, ...]
    """By turn, then measure, then in the order of asking."""
    need_kw: Floats
    """How far the load was above the limit."""
    relief_kw: Floats
    """What the steps take off."""
    shortfall_kw: Floats
    """How far the load still is above the limit; 0: met."""
    load_kw: Floats
    """With the plan, what was shifted included."""


def load_plan(load_kw: Floats, limit_kw: float, customers: Customers, profile: PlanProfile) -> LoadPlan:
    """Plan for a transformer's load_kw [windows]; customers.load_kw are parts of it.

    Cost: turns x measures x customers that are asked.
    """
    making = _Making(load_kw, limit_kw, customers, profile)
    for first, stop in _turns(making.need_kw > TINY_KW, profile.turn):
        making.turn(first, stop)
    still_kw = np.maximum(making.now_kw - limit_kw, 0.0)
    still_kw[still_kw <= TINY_KW] = 0.0
    return LoadPlan(tuple(making.steps), making.need_kw, making.relief_kw, still_kw, making.now_kw)


class _Making:
    def __init__(self, load_kw: Floats, limit_kw: float, customers: Customers, profile: PlanProfile) -> None:
        self._limit_kw = limit_kw
        self._customers = customers
        self._left_kw = np.where(customers.protected[:, None], 0.0, np.maximum(customers.load_kw, 0.0))
        """What each could still give."""
        self._turns_asked = np.zeros(len(customers), np.int64)
        self.now_kw = load_kw.astype(np.float64)
        self.need_kw = np.maximum(self.now_kw - limit_kw, 0.0)
        self.relief_kw = np.zeros(len(load_kw))
        self.steps: list[Step] = []

    def turn(self, first: int, stop: int) -> None:
        """Ask customers until the turn's need is met or nobody is left."""
        customers = self._customers
        order = np.lexsort((np.arange(len(customers)), customers.limited_us, self._turns_asked)).tolist()
        rows = slice(first, stop)
        asked = set()
        for measure in Measure:
            for customer in order:
                missing = np.maximum(self.now_kw[rows] - self._limit_kw, 0.0)
                if missing.max() <= TINY_KW:
                    break
                taken = self._taken(measure, customer, rows, missing)
                if taken.max() <= TINY_KW:
                    continue
                self.steps.append(Step(measure, customer, first, stop, float(taken.max())))
                self._left_kw[customer, rows] -= taken
                self.now_kw[rows] -= taken
                self.relief_kw[rows] += taken
                asked.add(customer)
        self._turns_asked[list(asked)] += 1

    def _taken(self, measure: Measure, customer: int, rows: slice, missing: Floats) -> Floats:
        """What this measure takes off this customer in each window of the turn."""
        left, who = self._left_kw[customer, rows], self._customers
        enough = float(missing.max())
        match measure:
            case Measure.SHIFT:
                most_kw = float(who.shift_kw[customer])
                return self._moved(np.minimum(left, min(most_kw, enough)), most_kw, rows)
            case Measure.AVOID:
                return np.minimum(left, min(float(who.avoid_kw[customer]), enough))
            case Measure.LIMIT:
                limit_kw = float(who.limit_to_kw[customer])
                if np.isnan(limit_kw):
                    return np.zeros(len(left))
                return np.minimum(np.maximum(left - limit_kw, 0.0), enough)
            case _:
                return left.copy()

    def _moved(self, taken: Floats, most_kw: float, rows: slice) -> Floats:
        """Put what is taken into windows with room, those after the turn first; less is taken if room is short."""
        total = float(taken.sum())
        if total <= TINY_KW:
            return taken
        after, before = np.arange(rows.stop, len(self.now_kw)), np.arange(rows.start)[::-1]
        places = np.concatenate([after, before])
        free = np.where(self.need_kw[places] > TINY_KW, 0.0, np.maximum(self._limit_kw - self.now_kw[places], 0.0))
        free = np.minimum(free, most_kw)
        upto = np.minimum(np.cumsum(free), total)
        self.now_kw[places] += np.diff(upto, prepend=0.0)
        return _capped(taken, float(upto[-1]) if len(upto) else 0.0)


def _capped(parts: Floats, total: float) -> Floats:
    """The parts, each cut at the level with which they add up to `total`; as they are if they are no more."""
    ordered, after = np.sort(parts), np.arange(len(parts))[::-1]
    below = np.cumsum(ordered) - ordered
    at = int(np.searchsorted(below + ordered * (after + 1), total))
    if at == len(parts):
        return parts
    return np.minimum(parts, max(total - float(below[at]), 0.0) / (int(after[at]) + 1))


def _turns(violated: Bools, length: int) -> list[tuple[int, int]]:
    """Runs of windows that are violated, cut into turns of `length` windows."""
    edges = np.flatnonzero(np.diff(violated.astype(np.int8), prepend=0, append=0))
    return [
        (at, min(at + length, stop))
        for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        for at in range(first, stop, length)
    ]
