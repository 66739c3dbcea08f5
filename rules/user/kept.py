"""The state of one rule's assets that are not at rest, by asset.

A batch concerns few of them, so their rows stay where they are: what is kept in order is one number per asset, which
says where its row is. Cost: of a batch its own assets, and a copy of those numbers where one falls asleep or wakes up.
Memory: some 50 bytes an asset, of at most four times as many assets as are kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from rules.user.fold import REST, Ints, Lanes

_ROW_BITS: Final = 32
_ROW: Final = (1 << _ROW_BITS) - 1
ROWS_MIN: Final = 64
"""Rows are never fewer."""


class Kept:
    """Lanes by asset. columns: values shown."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self.clear()

    def clear(self) -> None:
        """Forget everybody."""
        self._entries = np.zeros(0, np.int64)
        """Asset and, in the lower bits, its row; ascending."""
        self._lanes = Lanes.at_rest(ROWS_MIN, self._columns)
        self._free = np.arange(ROWS_MIN)
        """Rows that are nobody's."""

    def __len__(self) -> int:
        return len(self._entries)

    def firing(self) -> tuple[NDArray[np.int32], Ints]:
        """Assets that fire, ascending, and since when."""
        rows = self._entries & _ROW
        mine = np.flatnonzero(self._lanes.raised_us[rows] > 0)
        return (self._entries[mine] >> _ROW_BITS).astype(np.int32), self._lanes.onset_us[rows[mine]]

    def picked(self, assets: NDArray[np.int32]) -> Lanes:
        """A copy of the state of these assets, ascending and each once."""
        found = Lanes.at_rest(len(assets), self._columns)
        at, known = self._find(assets)
        if len(known):
            found.put(known, self._lanes.take(self._entries[at] & _ROW))
        return found

    def keep(self, assets: NDArray[np.int32], state: Lanes) -> None:
        """Take this state of these assets, ascending and each once."""
        awake = state.onset_us != REST
        at, known = self._find(assets)
        rows = np.full(len(assets), -1)
        rows[known] = self._entries[at] & _ROW
        gone, new = at[~awake[known]], np.flatnonzero(awake & (rows < 0))
        if len(gone):
            self._free = np.concatenate((self._free, self._entries[gone] & _ROW))
            self._entries = np.delete(self._entries, gone)
        if len(new):
            rows[new] = self._room(len(new))
            added = (assets[new].astype(np.int64) << _ROW_BITS) | rows[new]
            self._entries = np.insert(self._entries, np.searchsorted(self._entries, added), added)
        self._lanes.put(rows[awake], state.take(awake))
        if len(self._entries) * 4 < len(self._lanes.onset_us) - ROWS_MIN:
            self._closed_up()

    def _find(self, assets: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Places among the entries, and which of the assets they are of."""
        key = assets.astype(np.int64) << _ROW_BITS
        at = np.searchsorted(self._entries, key)
        known = np.flatnonzero(at < len(self._entries))
        known = known[self._entries[at[known]] >> _ROW_BITS == assets[known]]
        return at[known], known

    def _room(self, count: int) -> NDArray[np.intp]:
        """Rows for so many more."""
        if len(self._free) < count:
            had = len(self._lanes.onset_us)
            more = max(had, count)
            self._lanes = self._lanes.joined(Lanes.at_rest(more, self._columns))
            self._free = np.concatenate((self._free, np.arange(had, had + more)))
        rows, self._free = self._free[:count], self._free[count:]
        return rows

    def _closed_up(self) -> None:
        """Give back the rows that are nobody's."""
        count = len(self._entries)
        lanes = self._lanes.take(self._entries & _ROW)
        self._entries = (self._entries >> _ROW_BITS << _ROW_BITS) | np.arange(count)
        self._lanes = lanes.joined(Lanes.at_rest(count + ROWS_MIN, self._columns))
        self._free = np.arange(count, 2 * count + ROWS_MIN)
