"""Loads of transformers and feeders as rows of user rules: from the ring of the overload rule, and before it as stored.

A window counts when its coverage reaches the profile's `coverage_min`; else it is unknown. What is not stored yet is
counted too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from meterwatch.known_loads import KnownLoads
from meterwatch.topology import Topology
from rules.overload import Overload
from rules.user.columns import On
from rules.user.load_columns import LoadColumns
from rules.user.seen import Rows

Ints = NDArray[np.int64]


class LoadRows:
    """meterwatch.user_judging.StoredRows over the loads of one engine."""

    def __init__(
        self, on: On, overload: Overload, topology: Topology, past: KnownLoads, oldest_us: Callable[[], Awaitable[int]]
    ) -> None:
        self._on = on
        self._overload = overload
        self._past = past
        self._oldest_us = oldest_us
        self._asset_of = assets_of_transformers(on, topology)
        self._rated_kva = np.maximum(np.nan_to_num(topology.rated_kva.astype(np.float64)), 0.0)
        self._touched: list[NDArray[np.int64]] = []
        """Pairs (window, asset) since they were asked for."""

    def observe(self, change: ReadChange) -> None:
        """Note which windows these reads change."""
        cells, _ = self._overload.members.cells(change)
        asset = self._asset_of[cells.transformer]
        self._touched.append(np.stack((cells.window, asset))[:, asset >= 0])

    def touched(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Windows that changed since `seen`, each with its assets."""
        if not self._touched:
            return
        self._touched = [np.unique(np.concatenate(self._touched, axis=1), axis=1)]
        window, asset = self._touched[0]
        for one in np.unique(window).tolist():
            yield one, asset[window == one].astype(np.int32)

    def seen(self) -> None:
        """What `touched` gave is known."""
        self._touched = []

    @property
    def window_us(self) -> int:
        return self._overload.window_us

    async def oldest_us(self) -> int:
        """No window ends before it."""
        return await self._oldest_us()

    async def rows(self, assets: NDArray[np.int32], from_us: int, to_us: int) -> Sequence[Rows]:
        """The windows with enough coverage. Raises StorageUnavailable."""
        first, stop = max(from_us, 0) // self.window_us, to_us // self.window_us
        index = np.flatnonzero(np.isin(self._asset_of, assets))
        if stop <= first or not len(index):
            return []
        group = np.searchsorted(assets, self._asset_of[index])
        wh, varh, covered = await self._sums(index, first, stop)
        members = self._overload.members
        expected = np.stack([members.expected(window)[index] for window in range(first, stop)])
        summed = (_by_group(column, group, len(assets)) for column in (wh, varh, covered, expected))
        rated_kva = np.bincount(group, self._rated_kva[index], len(assets)).astype(np.float64)
        return self._rows(assets, first, rated_kva, *summed)

    async def _sums(self, index: Ints, first: int, stop: int) -> list[Ints]:
        overload = self._overload
        found = [np.zeros((stop - first, len(index)), np.int64) for _ in range(3)]
        tail = max(overload.tail, first) if overload.head >= 0 else stop
        cells = await self._past.between(index, first, min(tail, stop))
        at = cells.window - first, np.searchsorted(index, cells.transformer)
        for column, values in zip(found, (cells.wh, cells.varh, cells.covered), strict=True):
            column[at] = values
        last = min(stop, overload.head + 1)
        if tail < last:
            sums = overload.sums(index, tail, last)
            for column, values in zip(found, (sums.wh, sums.varh, sums.covered), strict=True):
                column[tail - first : last - first] = values
        return found

    def _rows(
        self,
        assets: NDArray[np.int32],
        first: int,
        rated_kva: NDArray[np.float64],
        wh: Ints,
        varh: Ints,
        covered: Ints,
        expected: Ints,
    ) -> list[Rows]:
        coverage = np.divide(covered, expected, out=np.zeros(wh.shape), where=expected > 0)
        window, asset = np.nonzero(coverage >= self._overload.profile.coverage_min)
        kilo_per_hour = 3.6e9 / (1000 * self.window_us)
        columns = {
            "net_kw": wh[window, asset] * kilo_per_hour,
            "net_kvar": varh[window, asset] * kilo_per_hour,
            "rated_kva": rated_kva[asset],
            "coverage": coverage[window, asset],
        }
        end_us = (first + window + 1) * self.window_us
        length_us = np.full(len(window), self.window_us, np.int64)
        return [Rows(assets[asset], end_us, length_us, LoadColumns(columns))]


def assets_of_transformers(on: On, topology: Topology) -> Ints:
    """Of each transformer the one of these assets to whose load it adds; -1: none."""
    return np.arange(len(topology.transformer)) if on is On.TRANSFORMER else topology.feeder_of.astype(np.int64)


def _by_group(values: Ints, group: NDArray[np.intp], groups: int) -> Ints:
    """[windows, members] -> [windows, groups]."""
    summed = np.zeros((groups, len(values)), np.int64)
    np.add.at(summed, group, values.T)
    return summed.T
