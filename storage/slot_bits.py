"""One bit per meter: which slots are in a set, 8 to a byte. Pure functions over arrays."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rows = slice | NDArray[np.intp]
SPREAD: Final = 2
"""Up to so many bytes of bits a slot, all between the first and the last one are made anew: 2 ns a slot, not 9."""
SCATTER: Final = 256
"""Up to so many slots from the first to the last one for each, marking them in an array is cheaper than sorting."""
END_BYTES: Final = 400
"""What an interval end costs beside its bits, about: its number, the array around them, its places in dicts."""
NO_BITS: Final[Bits] = np.zeros(0, np.uint8)


def has(bits: Bits, slot: NDArray[np.int32]) -> Mask:
    """bool[len(slot)]: its bit is set; slots beyond the end are in no set."""
    if not len(slot) or not bits[int(slot.min()) >> 3 : (int(slot.max()) >> 3) + 1].any():
        return np.zeros(len(slot), np.bool_)  # nobody near them: so it is while meters come in their order
    inside = slot < 8 * len(bits)
    at = np.where(inside, slot, 0)
    found: Mask = ((bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1).astype(np.bool_) & inside
    return found


def distinct(slot: NDArray[np.int32]) -> bool:
    """Each slot comes once."""
    if (slot[1:] > slot[:-1]).all():  # as meters come in their order
        return True
    first, last = int(slot.min()), int(slot.max())
    if last - first > SCATTER * len(slot):
        return len(np.unique(slot)) == len(slot)
    mine = np.zeros(last + 1 - first, np.bool_)
    mine[slot - first] = True
    return int(np.count_nonzero(mine)) == len(slot)


def put(bits: Bits, slot: NDArray[np.int32]) -> None:
    """Set the bits of these slots, all of which have room."""
    if not len(slot):
        return
    first, last = int(slot.min()) >> 3, int(slot.max()) >> 3
    if last - first > SPREAD * len(slot):
        np.bitwise_or.at(bits, slot >> 3, np.left_shift(1, slot & 7).astype(np.uint8))
        return
    mine = np.zeros(8 * (last + 1 - first), np.bool_)
    mine[slot - 8 * first] = True
    bits[first : last + 1] |= np.packbits(mine, bitorder="little")


def roomy(bits: Bits, slot: NDArray[np.int32]) -> Bits:
    """The bits, or a longer copy with room for these slots."""
    size = int(slot.max()) // 8 + 1 if len(slot) else 0
    if len(bits) >= size:
        return bits
    grown = np.zeros(max(size, 2 * len(bits)), np.uint8)
    grown[: len(bits)] = bits
    return grown


def by_end(end_us: NDArray[np.int64]) -> list[tuple[int, Rows]]:
    """Rows by interval end; mostly a batch has one."""
    if not len(end_us):
        return []
    if end_us[0] == end_us[-1] and (end_us == end_us[0]).all():
        return [(int(end_us[0]), slice(None))]
    step = np.diff(end_us)
    if (step >= 0).all():  # as batches come to the writer
        first = np.flatnonzero(np.concatenate(([1], step)))
        bounds = pairwise([*first.tolist(), len(end_us)])
        return [(end, slice(*some)) for end, some in zip(end_us[first].tolist(), bounds, strict=True)]
    order = np.argsort(end_us, kind="stable")
    ends, first = np.unique(end_us[order], return_index=True)
    return list(zip(ends.tolist(), np.split(order, first[1:]), strict=True))
