"""The meters of one stream: their numbers by index, each with its slot and what stands for it in a digest.

30 bytes a meter, and 8 more of one that is not in the registry; a list and a set of strings take 120, which at a
million meters was a quarter of the service's memory. Promises: append-only; a message is taken whole or not at all; a
number is announced once (of unknown ones their 64-bit hashes say so: of a million of them one stream in 10^7 is refused
in error). What was announced can be read in another thread meanwhile. Refuses to know streams.
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
ROW_BYTES: Final = 24
"""Of a meter beside its number: place, length, slot, what stands for it, and its hash."""
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
        self._unknown = _Seen()
        self._bits = np.zeros(0, np.uint8)
        """One bit by slot: announced."""
        self._topology = topology
        self._text_bytes = 0

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

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self._text_bytes + ROW_BYTES * len(self)

    def append(self, meters: Iterable[str], topology: Topology) -> None:
        """Take the meters of a message. Rejected BAD_ID, DICTIONARY_CHANGED: then none of them."""
        fresh = [check_id(meter, "meter") for meter in meters]
        self.resolve(topology)
        slots = topology.slots_of(fresh)
        part = _names(fresh)
        self._refuse_known(fresh, slots, part.hashes())
        if self._parts and len(self._parts[-1][1]) + len(fresh) <= PART:
            first, before = self._parts[-1]
            self._parts[-1] = (first, _names([*before, *fresh]))
        elif fresh:
            self._parts.append((len(self), part))
        self._note(slots, part.hashes())
        self._text_bytes += sum(map(len, fresh))
        self.slots = np.append(self.slots, slots)
        self.fingerprints = np.append(self.fingerprints, np.array([fingerprint(one) for one in fresh], np.uint32))

    def resolve(self, topology: Topology) -> None:
        """Look all meters up again if this is another registry than last time."""
        if topology is self._topology:
            return
        self._topology = topology
        self._unknown, self._bits = _Seen(), np.zeros(topology.slots // 8 + 1, np.uint8)
        found = [np.zeros(0, np.int32)]
        for _, names in self._parts:
            for at in range(0, len(names), RESOLVED_TOGETHER):
                some = names[at : at + RESOLVED_TOGETHER]
                found.append(topology.slots_of(some))
                self._note(found[-1], _names(some).hashes())
        self.slots = np.concatenate(found)

    def _note(self, slots: NDArray[np.int32], hashes: NDArray[np.uint64]) -> None:
        known = slots[slots >= 0]
        if not len(self._bits):
            self._bits = np.zeros(self._topology.slots // 8 + 1, np.uint8)
        np.bitwise_or.at(self._bits, known >> 3, np.left_shift(1, known & 7).astype(np.uint8))
        self._unknown.add(hashes[slots < 0])

    def _refuse_known(self, meters: list[str], slots: NDArray[np.int32], hashes: NDArray[np.uint64]) -> None:
        """Rejected DICTIONARY_CHANGED for a meter of the stream's, or one that comes twice."""
        again = (slots < 0) & self._unknown.has(hashes)
        if len(self._bits):
            at = np.maximum(slots, 0)
            again |= (slots >= 0) & ((self._bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1).astype(np.bool_)
        if again.any() or len(set(meters)) < len(meters):
            seen: set[str] = set()
            for meter, known in zip(meters, again.tolist(), strict=True):
                if known or meter in seen:
                    raise Rejected(
                        "DICTIONARY_CHANGED",
                        f"meter {meter} announced twice on one stream; expected each once; use its index",
                    )
                seen.add(meter)


class _Seen:
    """Hashes: sorted ones, and the newest, which are joined with them before there are many."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, np.uint64)
        self._newest = np.zeros(0, np.uint64)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        self._newest = np.append(self._newest, hashes)
        if len(self._newest) > PART:
            self._sorted = np.union1d(self._sorted, self._newest)
            self._newest = np.zeros(0, np.uint64)

    def has(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        found = np.isin(hashes, self._newest)
        if len(self._sorted):
            at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
            found |= self._sorted[at] == hashes
        return found


def _names(meters: list[str]) -> Names:
    """Legal ids are ASCII, so a character is a byte."""
    length = np.fromiter(map(len, meters), np.int32, len(meters))
    return Names("".join(meters).encode(), (np.cumsum(length) - length).astype(np.int32), length)
