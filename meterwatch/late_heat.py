"""Temperatures judged anew from windows before the near ones: the loads that have left the ring come from the database.

Promises: what is not stored yet is counted too; the rule is told only when all of a Lookback is known, so a failure of
the database in between leaves everything as it was and the next try begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meterwatch.loads import Loads
from rules.heat_past import TRANSFORMERS_TOGETHER, Lookback
from rules.hot_spot import HotSpot
from rules.load import joined
from rules.overload import Overload

Ints = NDArray[np.int64]


class StoredLoads(Protocol):
    """storage.past_loads.PastLoads."""

    async def oldest(self, transformers: Ints) -> int | None: ...
    async def between(self, transformers: Ints, first: int, stop: int) -> Loads: ...


async def looked_back(
    rule: HotSpot, stored: StoredLoads, now_us: int, go_on: Callable[[], bool] = lambda: True
) -> None:
    """Answer what the rule wants to know before it judges. Raises StorageUnavailable.

    go_on: asked before each TRANSFORMERS_TOGETHER transformers; of the rest the rule says nothing until they are
    answered, and counts them as waiting.
    """
    index, first = rule.wanted(now_us)
    order = np.argsort(first, kind="stable")
    for at in range(0, len(order), TRANSFORMERS_TOGETHER):  # those of about the same time together
        if not go_on():
            return
        mine = np.sort(order[at : at + TRANSFORMERS_TOGETHER])
        oldest = await stored.oldest(index[mine])
        look = Lookback(rule, index[mine], first[mine], _oldest(rule.overload, oldest))
        while (wanted := look.wanted()) is not None:
            found = Loads.none()
            if wanted[0] < wanted[1]:
                found = _with_unsaved(rule.overload, index[mine], await stored.between(index[mine], *wanted), *wanted)
            look.given(found)
        look.tell()


def _oldest(overload: Overload, stored: int | None) -> int:
    unsaved = [int(cells.window.min()) for cells in overload.unsaved_cells() if len(cells)]
    return min([*unsaved, overload.tail if stored is None else stored])


def _with_unsaved(overload: Overload, index: Ints, stored: Loads, first: int, stop: int) -> Loads:
    """What is stored of these windows after the next commit."""
    counted, added = (
        cells.take(np.isin(cells.transformer, index) & (cells.window >= first) & (cells.window < stop))
        for cells in overload.unsaved_cells()
    )
    n = overload.members.transformers
    anew = np.isin(stored.window * n + stored.transformer, counted.window * n + counted.transformer)
    return joined([stored.take(~anew), counted, added], n)
