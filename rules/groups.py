"""Which meters are judged together: those of a feeder, of a transformer without one, or a meter by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterwatch.topology import Topology

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Members:
    """The meters judged together: all of a feeder, of a transformer without feeder, or one meter without either."""

    kind: str
    asset_id: int
    slot: Ids
    """Ascending."""
    transformer: Ids
    """Per slot; -1 none."""


class Tree:
    """Who hangs below what, without going through every meter for each answer. Cost: 4 bytes a meter."""

    def __init__(self, topology: Topology) -> None:
        self._transformer_of = topology.transformer_of
        self._meters = _Children(topology.transformer_of)
        self._transformers = _Children(topology.feeder_of)

    def members(self, kind: str, asset_id: int) -> Members:
        """Members of a feeder, of a transformer, or the meter itself. KeyError for another kind."""
        match kind:
            case "feeder":
                below = [self._meters.of(one) for one in self._transformers.of(asset_id).tolist()]
                slot = np.sort(np.concatenate([np.zeros(0, np.int32), *below]))
            case "transformer":
                slot = self._meters.of(asset_id)
            case "meter":
                slot = np.array([asset_id], np.int32)
            case _:
                raise KeyError(kind)
        return Members(kind, asset_id, slot, self._transformer_of[slot])


class _Children:
    """Numbers by their parent, ascending. parent_of: -1 for none."""

    def __init__(self, parent_of: NDArray[np.int32]) -> None:
        count = np.bincount(parent_of[parent_of >= 0])
        self._child = np.argsort(parent_of, kind="stable").astype(np.int32)[len(parent_of) - int(count.sum()) :]
        self._start = np.append(0, np.cumsum(count))

    def of(self, parent: int) -> Ids:
        if not 0 <= parent < len(self._start) - 1:
            return self._child[:0]
        return self._child[self._start[parent] : self._start[parent + 1]]


def groups_of(topology: Topology, slot: Ids) -> set[tuple[str, int]]:
    """(kind, asset_id) of the groups to judge when these meters voted; for Tree.members."""
    slot = np.unique(slot)
    transformer = topology.transformer_of[slot]
    lone = transformer < 0
    transformer = np.unique(transformer[~lone])
    feeder = topology.feeder_of[transformer]
    return (
        {("meter", i) for i in slot[lone].tolist()}
        | {("transformer", i) for i in transformer[feeder < 0].tolist()}
        | {("feeder", i) for i in np.unique(feeder[feeder >= 0]).tolist()}
    )
