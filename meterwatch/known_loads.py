"""The loads of transformers as they are after the next commit: what is stored, and what is not stored yet."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from meterwatch.loads import Loads
from rules.ladder import NEVER, Ints
from rules.load import joined
from rules.overload import Overload


class StoredLoads(Protocol):
    """storage.past_loads.PastLoads."""

    async def oldest(self, transformers: Ints) -> int | None: ...
    async def between(self, transformers: Ints, first: int, stop: int) -> Loads: ...


class KnownLoads:
    """Of one overload rule and the table of its loads. Every method may raise StorageUnavailable."""

    def __init__(self, overload: Overload, stored: StoredLoads) -> None:
        self._overload, self._stored = overload, stored

    async def oldest(self, transformers: Ints) -> int:
        """First window of which one of these has a load; NEVER: none has."""
        stored = await self._stored.oldest(transformers)
        stop = NEVER if stored is None else stored
        unsaved = [_within(cells, transformers, 0, stop).window for cells in self._overload.unsaved_cells()]
        return min([stop, *(int(window[0]) for window in unsaved if len(window))])

    async def between(self, transformers: Ints, first: int, stop: int) -> Loads:
        """All loads of these, ascending, in the windows first..stop-1, by rising window. No query for no window."""
        if stop <= first:
            return Loads.none()
        stored = await self._stored.between(transformers, first, stop)
        counted, added = (_within(cells, transformers, first, stop) for cells in self._overload.unsaved_cells())
        n = self._overload.members.transformers
        if len(counted):
            anew = np.isin(stored.window * n + stored.transformer, counted.window * n + counted.transformer)
            stored = stored.take(~anew)
        return joined([stored, counted, added], n)


def _within(cells: Loads, transformers: Ints, first: int, stop: int) -> Loads:
    """Those of these transformers and windows; cells by rising window."""
    near = cells.take(slice(*np.searchsorted(cells.window, (first, stop)).tolist()))
    return near.take(np.isin(near.transformer, transformers))
