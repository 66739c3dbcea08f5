"""A block of rows and what is known of its assets before any rule has looked at it.

The rows of assets that some rule has in its state are computed together, once for all rules, unless a rule has so few
of them that these are cheaper by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.user.bounds import FEW, NONE, Block
from rules.user.fold import Bools, Evidence, Ints
from rules.user.program import Columns, Program, Values
from rules.user.running import Running


class Rows(NamedTuple):
    """Rows of some assets with their columns. No (asset, end) occurs twice in one call."""

    asset: NDArray[np.int32]
    end_us: Ints
    length_us: Ints
    columns: Columns


class Seen(NamedTuple):
    """A block and what is known of its assets."""

    rows: Rows
    block: Block
    awake: Awake
    is_late: Bools
    again: Bools
    """To be judged by what is stored; the rules add to it."""
    several: bool
    """The block has more than one end, so that an asset may be here twice."""
    in_order: bool
    """All rows have one end, and it is the newest of each asset."""


class Awake:
    """Rows of assets in the state of some rule, and of which."""

    def __init__(self, program: Program, columns: Columns, words: NDArray[np.uint64]) -> None:
        """words: of each row, the rules that have its asset in their state, as bits."""
        self._program, self._columns, self.words = program, columns, words
        self._rows = np.flatnonzero(words)
        self._mine = words[self._rows]
        self._any = int(np.bitwise_or.reduce(self._mine))
        self._values: Values | None = None
        """Of `_rows`, all together."""

    def false(self, one: Running) -> NDArray[np.intp]:
        """Rows of the assets in its state where it is false, ascending."""
        if not self._any & one.mask:
            return NONE
        mine = np.flatnonzero(self._mine & one.bit)
        if len(mine) * FEW < len(self._rows):
            few = self._rows[mine]
            return few[self._program.on(self._columns.take(few)).truth(one.false)]
        if self._values is None:
            self._values = self._program.on(self._columns.take(self._rows))
        return self._rows[mine[self._values.truth(one.false)[mine]]]


def gathered(rows: Rows, at: NDArray[np.intp], is_true: Bools, shown: Sequence[str]) -> Evidence:
    """Of the rows `at`, asset in the place of the lane."""
    values = np.empty((len(at), len(shown)))
    for column, name in enumerate(shown):
        try:
            values[:, column] = rows.columns.number(name)[at]
        except KeyError:
            values[:, column] = rows.columns.flag(name)[at]
    return Evidence(rows.asset[at].astype(np.intp), rows.end_us[at], rows.length_us[at], is_true, values)
