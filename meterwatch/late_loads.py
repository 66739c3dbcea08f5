"""Windows of transformer load that changed after they had left the ring of the overload rule: judged from stored loads.

Promises: what is not stored yet is counted too; the ring is changed only when all is known, so a failure of the
database in between leaves everything as it was and the next try begins anew. Memory is a piece of the loads of
TRANSFORMERS_TOGETHER transformers, however old the reads are and however many. What may wait is judged in the order in
which it came; judging later is the same as its reads coming later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from meterwatch.episodes import Verdict
from meterwatch.loads import Loads
from rules.ladder import Ints, LadderState
from rules.load import joined
from rules.overload import Overload
from rules.past import TRANSFORMERS_TOGETHER, Past, with_ring


class StoredLoads(Protocol):
    """storage.past_loads.PastLoads."""

    async def oldest(self, transformers: Ints) -> int | None: ...
    async def between(self, transformers: Ints, first: int, stop: int) -> Loads: ...


async def judged(
    overload: Overload,
    stored: StoredLoads,
    judge: Callable[[], list[Verdict]],
    go_on: Callable[[], bool] = lambda: True,
) -> list[Verdict]:
    """The verdicts of `judge`, and those of windows that have left the ring. Raises StorageUnavailable.

    go_on: asked before each TRANSFORMERS_TOGETHER transformers; the rest stays late.
    """
    index, first, last = overload.late()
    past: list[Verdict] = []
    before_ring: list[tuple[Ints, LadderState]] = []
    done = 0
    while done < len(index) and go_on():
        mine = done + np.argsort(index[done : done + TRANSFORMERS_TOGETHER])
        done += len(mine)
        unsaved = _Unsaved(overload, index[mine])
        oldest = await stored.oldest(index[mine])
        folded = Past(overload, index[mine], first[mine], last[mine], unsaved.oldest(oldest))
        while (wanted := folded.wanted()) is not None:
            folded.given(unsaved.over(await stored.between(index[mine], *wanted), *wanted))
        past += folded.verdicts()
        before_ring.append(folded.before_ring())
    if not done:
        return judge()
    tail = overload.tail
    overload.late_judged(
        index[:done],
        np.concatenate([lasting for lasting, _ in before_ring]),
        LadderState.joined([state for _, state in before_ring]),
    )
    return with_ring(past, judge(), tail, overload.window_us)


class _Unsaved:
    """What the next commit does to the stored loads of some transformers."""

    def __init__(self, overload: Overload, index: Ints) -> None:
        self._n = overload.members.transformers
        counted, added = overload.unsaved_cells()
        self._counted = counted.take(np.isin(counted.transformer, index))
        self._added = added.take(np.isin(added.transformer, index))

    def oldest(self, stored: int | None) -> int:
        windows = [int(one.window.min()) for one in (self._counted, self._added) if len(one)]
        return min(windows if stored is None else [*windows, stored])

    def over(self, stored: Loads, first: int, stop: int) -> Loads:
        counted, added = (one.take((one.window >= first) & (one.window < stop)) for one in (self._counted, self._added))
        if len(counted):
            key = counted.window * self._n + counted.transformer
            stored = stored.take(~np.isin(stored.window * self._n + stored.transformer, key))
        return joined([stored, counted, added], self._n)
