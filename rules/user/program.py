"""Expressions of many rules over blocks of rows, in numpy: what two rules have in common is computed once.

Numbers are float32 as measured (volts, amperes, power factor) or float64 (energy, power, what is computed of both);
constants take the type of their column, so that voltage_a_v > 253.1 means the float32 nearest to 253.1. No warning, no
error for any value: what has no value (also x / 0) is NaN. Cost: about a nanosecond per row and step that no other
rule has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from rules.user.expression import Node

BLOCK_ROWS: Final = 65_536
"""Rows computed together: the columns of a block, 256 KiB each, stay in the cache of a core."""
COMPARED: Final = frozenset({"<", "<=", ">", ">=", "=="})
"""Comparisons whose truth the bounds of both sides may rule out."""
Bools = NDArray[np.bool_]
Numbers = NDArray[Any]


class Columns(Protocol):
    """A block of rows."""

    rows: int

    def number(self, name: str) -> Numbers:
        """float32 or float64, NaN where absent."""

    def flag(self, name: str) -> Bools: ...

    def take(self, rows: NDArray[np.intp]) -> Columns: ...


def _divided(a: Any, b: Any) -> Any:
    return np.where(np.equal(b, 0), np.nan, np.divide(a, b))


_NUMBERS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": _divided, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
_TRUTHS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal,
    "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip


class Program:
    """The steps of all expressions added to it, each once."""

    def __init__(self) -> None:
        self._number_of: dict[tuple[Any, ...], int] = {}
        self._steps: list[tuple[Node, tuple[int, ...]]] = []
        self._ways: dict[int, list[tuple[int, ...]]] = {}

    def add(self, node: Node) -> int:
        """Number of the step that gives this node's value."""
        args = tuple(self.add(arg) for arg in node.args)
        key = (node.op, args, node.name, node.value)
        if key not in self._number_of:
            self._number_of[key] = len(self._steps)
            self._steps.append((node, args))
        return self._number_of[key]

    def step(self, number: int) -> tuple[Node, tuple[int, ...]]:
        """A step and the steps it works on."""
        return self._steps[number]

    def ways(self, number: int) -> list[tuple[int, ...]]:
        """Sets of comparisons: where the step is true, one at least of each set is. None: nothing follows from it."""
        found = self._ways.get(number)
        if found is None:
            found = self._ways[number] = self._ways_of(*self._steps[number], number)
        return found

    def _ways_of(self, node: Node, args: tuple[int, ...], number: int) -> list[tuple[int, ...]]:
        if node.op in COMPARED:
            return [(number,)]
        each = [self.ways(arg) for arg in args] if node.op in ("and", "or") else []
        if node.op == "and":
            return [way for ways in each for way in ways]
        return [tuple(atom for ways in each for atom in ways[0])] if each and all(each) else []

    def on(self, columns: Columns) -> Values:
        return Values(self._steps, columns)


class Values:
    """The values of a program on one block, computed when they are asked for."""

    def __init__(self, steps: list[tuple[Node, tuple[int, ...]]], columns: Columns) -> None:
        self._steps = steps
        self._columns = columns
        self._known: dict[int, Any] = {}

    def truth(self, number: int) -> Bools:
        """Where the step is true; False where it is false or unknown. Read only."""
        found = self._value(number)
        return found if np.ndim(found) else np.full(self._columns.rows, bool(found))

    def number(self, number: int) -> Any:
        """The value of a step that is a number: an array, or one for all rows. Read only."""
        return self._value(number)

    def _value(self, number: int) -> Any:
        found = self._known.get(number)
        if found is None:
            found = self._known[number] = self._computed(*self._steps[number])
        return found

    def _computed(self, node: Node, args: tuple[int, ...]) -> Any:
        match node.op:
            case "column":
                return self._columns.number(node.name)
            case "constant":
                return node.value
            case "flag":
                return self._columns.flag(node.name)
            case "not-flag":
                return ~self._columns.flag(node.name)
            case "absent":
                return np.isnan(self._columns.number(node.name))
            case "present":
                return ~np.isnan(self._columns.number(node.name))
        values = [self._value(arg) for arg in args]
        match node.op:
            case "neg":
                return np.negative(values[0])
            case "abs":
                return np.abs(values[0])
            case "!=":
                return np.less(*values) | np.greater(*values)
        if node.op in _TRUTHS:
            return reduce(_TRUTHS[node.op], values)
        with np.errstate(all="ignore"):
            return reduce(_NUMBERS[node.op], values)
