"""Where in a block of rows a rule can be true at all, found without computing the rule on every row.

Argument. The least and greatest value of each column, taken once, bound every part of every expression (interval
arithmetic). So a comparison such as voltage_max_v > 1.1 * nominal_v is nowhere true where the greatest voltage is below
the least right side; and where it may be true, its rows are among those whose voltage reaches that least. Such a set of
rows, *candidates*, is looked up once for all rules that compare the same part, and only these rows are computed.
Bounds are wider than the arithmetic of float32 can err, and candidates are computed exactly as a whole block would be:
the answer is the same row by row. Cost where nothing is beyond a limit: one pass per column, some operations per rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.user.expression import Node
from rules.user.program import Columns, Program, Values

Rows = NDArray[np.intp]
Interval = tuple[float, float]
NOTHING: Final = (math.inf, -math.inf)
"""No row has a value."""
ANYTHING: Final = (-math.inf, math.inf)
WIDER: Final = 4e-7
"""Share by which each operation widens a bound: float32 rounds by 6e-8."""
TINY: Final = 1e-30
HUGE: Final = 1e37
"""Beyond it float32 is near its end, and a bound is none."""
FEW: Final = 8
"""Candidates are computed by themselves if they are at most one row in so many; else the whole block is."""
UP: Final = frozenset({">", ">="})
NONE: Final[Rows] = np.zeros(0, np.intp)


@dataclass(slots=True)
class Candidates:
    """Rows whose value of a part reaches a limit, with their columns."""

    limit: float
    rows: Rows
    values: Values


class Block:
    """A program on a block of rows."""

    def __init__(self, program: Program, columns: Columns) -> None:
        self._program = program
        self._columns = columns
        self._values = program.on(columns)
        self._bounds: dict[int, Interval] = {}
        self._candidates: dict[tuple[int, bool], Candidates | None] = {}

    def hits(self, number: int) -> Rows:
        """Rows where this step is true, ascending. Read only."""
        narrow = []
        for way in self._program.ways(number):
            atoms = [atom for atom in way if self._possible(atom)]
            if not atoms:
                return NONE
            if len(atoms) == 1:
                narrow.append(atoms[0])
        for atom in narrow:
            few = self._few(atom)
            if few is not None:
                return few.rows[few.values.truth(number)]
        return np.flatnonzero(self._values.truth(number))

    def _possible(self, atom: int) -> bool:
        """False: the comparison is true in no row."""
        node, (left, right) = self._program.step(atom)
        a, b = self.bounds(left), self.bounds(right)
        if a == NOTHING or b == NOTHING:
            return False
        if node.op == "==":
            return a[0] <= b[1] and b[0] <= a[1]
        return b[0] <= a[1] if node.op in UP else a[0] <= b[1]

    def _few(self, atom: int) -> Candidates | None:
        """Candidates for it; None: too many."""
        node, (left, right) = self._program.step(atom)
        a, b = self.bounds(left), self.bounds(right)
        if self._is_constant(left) or (not self._is_constant(right) and a[1] - a[0] < b[1] - b[0]):
            side, of, to = right, b, a
        else:
            side, of, to = left, a, b
        if node.op == "==":
            up = of[1] - to[0] < to[1] - of[0]
        else:
            up = (node.op in UP) == (side == left)
        least, greatest = _wider(*to)
        return self._reaching(side, up, least if up else greatest)

    def _is_constant(self, number: int) -> bool:
        return self._program.step(number)[0].op == "constant"

    def _reaching(self, side: int, up: bool, limit: float) -> Candidates | None:
        key = (side, up)
        known = self._candidates.get(key)
        if known is not None and (known.limit <= limit if up else known.limit >= limit):
            return known
        values = self._values.number(side)
        if not np.ndim(values):
            return None
        rows = np.flatnonzero(values >= limit if up else values <= limit)
        if len(rows) * FEW > self._columns.rows:
            return None
        found = Candidates(limit, rows, self._program.on(self._columns.take(rows)))
        self._candidates[key] = found
        return found

    def bounds(self, number: int) -> Interval:
        """Least and greatest value of a part over the rows that have one, or wider."""
        found = self._bounds.get(number)
        if found is None:
            node, args = self._program.step(number)
            found = self._bounds[number] = self._bounded(node, [self.bounds(arg) for arg in args])
        return found

    def _bounded(self, node: Node, args: list[Interval]) -> Interval:
        if node.op == "constant":
            return _wider(node.value, node.value)
        if node.op == "column":
            return _extent(self._columns.number(node.name))
        if NOTHING in args:
            return NOTHING
        return reduce(_ARITHMETIC[node.op], args[1:], args[0]) if len(args) > 1 else _UNARY[node.op](args[0])


def _extent(values: NDArray[Any]) -> Interval:
    if not len(values):
        return NOTHING
    low, high = float(values.min()), float(values.max())
    if math.isnan(low) or math.isnan(high):
        low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    return NOTHING if math.isnan(low) else (low, high)


def _wider(low: float, high: float) -> Interval:
    """The same with room for rounding; what is no number, or too large for one, has no bound."""
    low, high = low - abs(low) * WIDER - TINY, high + abs(high) * WIDER + TINY
    return low if low > -HUGE else -math.inf, high if high < HUGE else math.inf


def _plus(a: Interval, b: Interval) -> Interval:
    return _of_corners((a[0] + b[0], a[1] + b[1]))


def _minus(a: Interval, b: Interval) -> Interval:
    return _of_corners((a[0] - b[1], a[1] - b[0]))


def _times(a: Interval, b: Interval) -> Interval:
    return _of_corners(tuple(x * y for x in a for y in b))


def _over(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return ANYTHING
    return _of_corners(tuple(x / y for x in a for y in b))


def _of_corners(corners: tuple[float, ...]) -> Interval:
    return ANYTHING if any(map(math.isnan, corners)) else _wider(min(corners), max(corners))


def _least(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), min(a[1], b[1])


def _greatest(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), max(a[1], b[1])


def _negative(a: Interval) -> Interval:
    return -a[1], -a[0]


def _absolute(a: Interval) -> Interval:
    low, high = sorted((abs(a[0]), abs(a[1])))
    return (0.0 if a[0] <= 0 <= a[1] else low), high


_ARITHMETIC: Final[dict[str, Callable[[Interval, Interval], Interval]]] = {
    "+": _plus, "-": _minus, "*": _times, "/": _over, "min": _least, "max": _greatest,
}  # fmt: skip
_UNARY: Final[dict[str, Callable[[Interval], Interval]]] = {"neg": _negative, "abs": _absolute}
