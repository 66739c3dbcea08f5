"""The meters of one stream: their numbers by index, each with its slot and what stands for it in a digest.

30 bytes a meter; a list and a set of strings take 120, which at a million meters was a quarter of the service's memory.
Promises: append-only; a message is taken whole or not at all; a number is announced once. What was announced can be
read in another thread meanwhile. Refuses to know streams.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from ingest.decode import check_id, fingerprint
from meterwatch.errors import Rejected
from meterwatch.names import Names
from meterwatch.topology import Topology

PART: Final = 4096
"""Meters of a smaller part are joined with the next ones, so that few of them a message cost no more memory."""
RESOLVED_TOGETHER: Final = 50_000
"""Numbers that are strings at the same time while slots are looked up."""


class Dictionary(Sequence[str]):
    """See the module head. slots and fingerprints are arrays by index; they are replaced, never changed."""

    def __init__(self, topology: Topology) -> None:
        self._parts: list[tuple[int, Names]] = []
        """First index and the numbers from there on."""
        self.slots = np.zeros(0, np.int32)
        """-1: not in the registry."""
        self.fingerprints = np.zeros(0, np.uint32)
        self._unknown: set[str] = set()
        self._bits = np.zeros(0, np.uint8)
        """One bit by slot: announced."""
        self._topology = topology

    def __len__(self) -> int:
        return len(self.fingerprints)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        first, names = self._parts[bisect_right(self._parts, int(index), key=lambda part: part[0]) - 1]
        return names[int(index) - first]

    def append(self, meters: Iterable[str], topology: Topology) -> None:
        """Take the meters of a message. Rejected BAD_ID, DICTIONARY_CHANGED: then none of them."""
        fresh = [check_id(meter, "meter") for meter in meters]
        self.resolve(topology)
        slots = topology.slots_of(fresh)
        self._refuse_known(fresh, slots)
        part = _names(fresh)
        if self._parts and len(self._parts[-1][1]) + len(fresh) <= PART:
            first, before = self._parts[-1]
            self._parts[-1] = (first, _names([*before, *fresh]))
        elif fresh:
            self._parts.append((len(self), part))
        self._note(fresh, slots)
        self.slots = np.append(self.slots, slots)
        self.fingerprints = np.append(self.fingerprints, np.array([fingerprint(one) for one in fresh], np.uint32))

    def resolve(self, topology: Topology) -> None:
        """Look all meters up again if this is another registry than last time."""
        if topology is self._topology:
            return
        self._topology = topology
        self._unknown, self._bits = set(), np.zeros(topology.slots // 8 + 1, np.uint8)
        found = [np.zeros(0, np.int32)]
        for _, names in self._parts:
            for at in range(0, len(names), RESOLVED_TOGETHER):
                some = names[at : at + RESOLVED_TOGETHER]
                found.append(topology.slots_of(some))
                self._note(some, found[-1])
        self.slots = np.concatenate(found)

    def _note(self, meters: list[str], slots: NDArray[np.int32]) -> None:
        known = slots[slots >= 0]
        if not len(self._bits):
            self._bits = np.zeros(self._topology.slots // 8 + 1, np.uint8)
        np.bitwise_or.at(self._bits, known >> 3, np.left_shift(1, known & 7).astype(np.uint8))
        self._unknown.update(meters[at] for at in np.flatnonzero(slots < 0).tolist())

    def _refuse_known(self, meters: list[str], slots: NDArray[np.int32]) -> None:
        """Rejected DICTIONARY_CHANGED for a meter of the stream's, or one that comes twice."""
        again = np.zeros(len(meters), np.bool_)
        if len(self._bits):
            at = np.maximum(slots, 0)
            again = (slots >= 0) & ((self._bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1).astype(np.bool_)
        if again.any() or len(set(meters)) < len(meters) or not self._unknown.isdisjoint(meters):
            seen: set[str] = set(self._unknown)
            for meter, known in zip(meters, again.tolist(), strict=True):
                if known or meter in seen:
                    raise Rejected(
                        "DICTIONARY_CHANGED",
                        f"meter {meter} announced twice on one stream; expected each once; use its index",
                    )
                seen.add(meter)


def _names(meters: list[str]) -> Names:
    """Legal ids are ASCII, so a character is a byte."""
    length = np.fromiter(map(len, meters), np.int32, len(meters))
    return Names("".join(meters).encode(), (np.cumsum(length) - length).astype(np.int32), length)
