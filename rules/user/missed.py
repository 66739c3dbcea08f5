"""User rules that raise: under which names they are suspended (rules.apart), and what they are owed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.apart import Owing, Rule
from rules.user.columns import On
from rules.user.fold import Ints
from rules.user.model import TYPE, US, UserRule

OWED_US: Final = 2 * 3600 * US
"""As of rules.contract: rows that end so long before the newest or later are owed together, older ones by asset."""
_NOBODY: Final = np.zeros(0, np.int64)


def named(rule: UserRule) -> Rule:
    """One rule, where it raises by itself."""
    return Rule(rule.alarm_rule, rule.on.value)


def family(on: On) -> Rule:
    """All rules on one kind of asset, where what they rest on raises."""
    return Rule(TYPE, on.value)


def is_users(rule: Rule) -> bool:
    """One of the two."""
    return rule.family.rule == TYPE


def owing(told_us: int, debts: Sequence[Owing]) -> Owing:
    """All that ends up to told_us was told of, but for these debts and what came since and is older."""
    from_us = min([max(told_us - OWED_US, 0), *(debt.from_us for debt in debts)])
    asset = np.concatenate([_NOBODY, *(debt.asset for debt in debts)])
    return Owing(from_us, asset, np.concatenate([_NOBODY, *(debt.start_us for debt in debts)]))


def owed(debt: Owing, assets: int, newest_us: int) -> tuple[NDArray[np.int32], Ints]:
    """Assets that are to be judged for it, and the first end of each."""
    first, known = np.full(assets, debt.from_us), debt.asset < assets
    np.minimum.at(first, debt.asset[known], debt.start_us[known])
    mine = np.flatnonzero(first < newest_us)
    return mine.astype(np.int32), first[mine] + 1
