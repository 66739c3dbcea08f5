"""One user rule at work: its state of the assets not at rest, and how it fares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.apart import Rule
from rules.user.fold import Ints
from rules.user.kept import Kept
from rules.user.missed import named
from rules.user.model import US, UserRule

BUDGET_NS_PER_ROW: Final = 200.0
"""A rule that takes longer, over BUDGET_ROWS rows in a row, is slow: ten to a hundred times what one costs. (ours)"""
BUDGET_ROWS: Final = 200_000
PAUSE_ROWS: Final = 5_000_000
"""A rule put aside comes back after so many rows, and after twice as many each time it is put aside again. (ours)"""
PAUSE_ROWS_MAX: Final = 640_000_000


@dataclass(slots=True)
class Health:
    """How a rule fares."""

    rows: int = 0
    spent_ns: int = 0
    errors: int = 0
    last_error: str = ""
    aside_rows: int = 0
    """Rows until it comes back from being slow; 0: it is at work, or has raised."""
    pauses: int = 0
    alarms: int = 0
    _window_ns: int = 0
    _window_rows: int = 0
    _ns_per_row: float = 0.0

    def untimed(self, rows: int) -> None:
        """Rows of which nobody knows how long they took: as the last ones that were timed."""
        self.rows += rows
        self.spent_ns += round(rows * self._ns_per_row)

    def over_budget(self, rows: int, spent_ns: int) -> bool:
        """True: too slow. Rows that were timed."""
        self.rows += rows
        self.spent_ns += spent_ns
        self._ns_per_row = spent_ns / rows
        self._window_rows += rows
        self._window_ns += spent_ns
        if self._window_rows < BUDGET_ROWS:
            return False
        slow = self._window_ns > BUDGET_NS_PER_ROW * self._window_rows
        self._window_rows = self._window_ns = 0
        return slow

    def raised(self, error: str) -> None:
        self.errors += 1
        self.last_error = error

    def put_aside(self, why: str) -> None:
        self.errors += 1
        self.last_error = why
        self.pauses += 1
        self.aside_rows = min(PAUSE_ROWS << (self.pauses - 1), PAUSE_ROWS_MAX)
        self._window_rows = self._window_ns = 0


@dataclass(slots=True)
class Running:
    rule: UserRule
    bit: np.uint64
    true: int
    """Steps of the program: where it is true, and where it is false."""
    false: int
    state: Kept
    """Of the assets not at rest."""
    cold_us: int
    """What ends up to then was not watched by it."""
    left: tuple[NDArray[np.int32], Ints]
    """What fired when it was put aside, and since when."""
    raised: bool = False
    """It has raised, and is asked nothing any more."""
    health: Health = field(default_factory=Health)
    named: Rule = field(init=False)
    mask: int = field(init=False)
    """The bit as a number of Python's, which is compared faster."""
    shown: list[str] = field(init=False)
    """Columns whose values are kept with an alarm."""

    def __post_init__(self) -> None:
        self.named = named(self.rule)
        self.mask = int(self.bit)
        self.shown = self.rule.shown

    @property
    def for_us(self) -> int:
        return self.rule.for_s * US

    @property
    def keep_us(self) -> int:
        return self.rule.keep_firing_s * US
