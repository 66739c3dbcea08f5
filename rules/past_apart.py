"""A rule that judges windows anew (rules.late.JudgesPast) and may be suspended while it does (rules.apart).

Suspended, nothing of it waits and nothing is wanted for it. Promises: what a Fold took counts as waiting until the rule
has learnt all of it, so a rule that raises in between has missed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from meterwatch.episodes import Verdict
from meterwatch.loads import Loads
from rules.apart import Apart, Rule
from rules.ladder import Ints
from rules.late import Fold, JudgesPast, Late

NOBODY: Final = np.zeros(0, np.int64)
NOTHING_LATE: Final = Late(np.zeros(0, np.bool_))


class PastApart:
    """One rule, run apart; as rules.late.JudgesPast."""

    def __init__(self, judges: JudgesPast, rule: Rule, apart: Apart) -> None:
        self._judges, self._rule, self._apart = judges, rule, apart
        self.asset_kind = judges.asset_kind

    @property
    def late(self) -> Late:
        return NOTHING_LATE if self._rule in self._apart.suspended else self._judges.late

    def waiting(self, now_us: int) -> Ints:
        return self._apart.ask(self._rule, NOBODY, self._judges.waiting, now_us)

    def part(self, waiting: Ints) -> int:
        return self._apart.ask(self._rule, len(waiting), self._judges.part, waiting)

    def made_of(self, assets: Ints) -> Ints:
        return self._apart.ask(self._rule, NOBODY, self._judges.made_of, assets)

    def fold(self, assets: Ints, oldest: int) -> Fold:
        made = self._apart.ask(self._rule, None, self._judges.fold, assets, oldest)
        return NoFold() if made is None else FoldApart(made, self._rule, self._apart)


class NoFold:
    """Of a rule that was suspended; as rules.late.Fold."""

    transformers = NOBODY

    def wanted(self) -> tuple[int, int] | None:
        return None

    def given(self, cells: Loads) -> None:
        raise AssertionError("nothing was wanted")

    def result(self) -> tuple[list[Verdict], Callable[[], None]]:
        return [], lambda: None


class FoldApart:
    """Some assets of one at work; as rules.late.Fold."""

    def __init__(self, fold: Fold, rule: Rule, apart: Apart) -> None:
        self._fold, self._rule, self._apart = fold, rule, apart

    @property
    def transformers(self) -> Ints:
        return self._fold.transformers

    def wanted(self) -> tuple[int, int] | None:
        return self._apart.ask(self._rule, None, self._fold.wanted)

    def given(self, cells: Loads) -> None:
        self._apart.ask(self._rule, None, self._fold.given, cells)

    def result(self) -> tuple[list[Verdict], Callable[[], None]]:
        verdicts, learn = self._apart.ask(self._rule, NoFold().result(), self._fold.result)
        return verdicts, lambda: self._apart.ask(self._rule, None, learn)
