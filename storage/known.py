"""Which reads are stored: for certain where there is no unique index, as a hint where there is one.

Per interval end one bit per meter. A set bit: the read is stored, or may be; look. A clear bit of a *complete* end: it
is not stored, and a COPY may write it unseen.

With a unique index (no `horizon_us`) every end counts as complete. What was stored before this start, by others or is
forgotten here is then missing; the index says so, and the batch is looked up row by row. So a wrong hint costs time,
never truth. Without one a clear bit has to be the truth. Why it is:

1. Nobody else writes. The lease keeps other services out, and the fence (storage.fence) writers that outlived theirs.
2. An end is complete in two ways. It is later than `horizon_us`, the newest end stored when we began or forgotten
   since: nobody can have written it but us. Or its slots were loaded from the table: every row committed before that
   query is in its answer, and the bits of every row written since are set in the same entry, because an entry that is
   being loaded or written is not forgotten.
3. Bits are set before the reads are written (`take`), so they are never behind the table. A rollback leaves a set bit,
   which costs a look, never truth.
4. A read being written by another connection has a set bit and cannot be seen yet. Whoever takes it too waits until
   that transaction has ended (`give_back`); with the index too, or the two would collide in it. If nobody knows how it
   ended (`lose`: the connection broke), it may still commit; then Doubtful is raised until the fence was raised, which
   waits for it or shuts it out (`settled`).
5. Two batches of one group with the same read: the second is set apart, to be taken when the first is committed.

Rows of an end that is not complete are all suspects. Promises: at most `bytes_max` beside what is being written; the
longest unused ends are forgotten first. Safe to use from threads; knows no database.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.errors import StorageUnavailable
from storage.slot_bits import END_BYTES, NO_BITS, Bits, Mask, Rows, by_end, distinct, has, put, roomy

BYTES_MAX: Final = 64 * 1024 * 1024
"""Two days of quarter-hours of 2.7 million meters."""
WAIT_S: Final = 30.0
"""Longer than a COPY takes: then the group is refused, and sent again."""
LOAD_ROWS: Final = 1_000
"""Asked for so many rows, an end is loaded; below it its rows are looked up one by one."""
LOADS_MAX: Final = 8
"""Ends loaded for one group."""


class Doubtful(Exception):
    """A read is held by a transaction whose end is unknown: raise the fence first."""


@dataclass(slots=True, eq=False)
class End:
    """What is known of one interval end."""

    complete: bool
    bits: Bits = field(default_factory=lambda: NO_BITS)
    asked: int = 0
    """Rows asked for while it was not complete."""
    held: int = 0
    """Groups that write it and queries that load it: it is not forgotten."""


@dataclass(slots=True, eq=False)
class Taken:
    """The reads of one group, held for the connection that writes them."""

    suspects: list[Mask | None]
    """Per batch the rows to look up; None: none."""
    apart: list[int]
    """Batches not taken: they repeat a read of an earlier one of the group."""
    slots: dict[int, list[NDArray[np.int32]]]
    lost: bool = False


class Known:
    """See the module head."""

    def __init__(self, horizon_us: int | None, bytes_max: int = BYTES_MAX) -> None:
        """horizon_us: None where a unique index has the last word."""
        self._horizon_us = horizon_us
        self._bytes_max = bytes_max
        self._bytes = 0
        self._ends: OrderedDict[int, End] = OrderedDict()
        self._open: list[Taken] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._ends)

    def to_load(self, group: Sequence[Reads]) -> list[tuple[int, End]]:
        """Ends whose slots are worth a query; each must come back with `loaded`."""
        rows: dict[int, int] = {}
        for reads in group:
            for end_us, part in by_end(reads.end_us):
                rows[end_us] = rows.get(end_us, 0) + len(reads.slot[part])
        with self._changed:
            wanted: list[tuple[int, End]] = []
            for end_us, count in rows.items():
                end = self._end(end_us)
                if not end.complete:
                    end.asked += count
                    if end.asked >= LOAD_ROWS:
                        wanted.append((end_us, end))
            wanted = sorted(wanted, key=lambda pair: -rows[pair[0]])[:LOADS_MAX]
            for _, end in wanted:
                end.held += 1
            return wanted

    def loaded(self, end: End, slots: NDArray[np.int32] | None) -> None:
        """The slots stored with an end, by a query that began after `to_load`; None: it failed."""
        with self._changed:
            end.held -= 1
            if slots is not None:
                self._set(end, slots)
                end.complete = True
            self._forget()

    def take(self, group: Sequence[Reads], wait_s: float = WAIT_S) -> Taken:
        """Hold the reads of a group until `give_back` or `lose`.

        Waits while another group holds one of them: StorageUnavailable after wait_s, Doubtful if that one is lost.
        """
        ends = _ends_of(group)
        with self._changed:
            taken = self._take_new(len(group), ends)
            if taken is not None:
                return taken
        parts = [by_end(reads.end_us) for reads in group]
        deadline_s = time.monotonic() + wait_s
        with self._changed:
            while (other := self._holder(group, parts)) is not None:
                if other.lost:
                    raise Doubtful
                if not self._changed.wait(deadline_s - time.monotonic()):
                    raise StorageUnavailable("the same reads are being written already; send again")
            return self._opened(self._take(group, parts))

    def give_back(self, taken: Taken) -> None:
        """Its transaction was committed or rolled back, for certain."""
        with self._changed:
            self._open.remove(taken)
            for end_us in taken.slots:
                self._ends[end_us].held -= 1
            self._forget()
            self._changed.notify_all()

    def lose(self, taken: Taken) -> None:
        """How its transaction ended, or will end, is unknown."""
        with self._changed:
            taken.lost = True
            self._changed.notify_all()

    def lost(self) -> list[Taken]:
        """What is held by transactions whose end is unknown."""
        with self._changed:
            return [taken for taken in self._open if taken.lost]

    def settled(self, lost: Sequence[Taken]) -> None:
        """The fence was raised after `lost` said these: their transactions are over."""
        for taken in lost:
            with self._changed:
                open_still = taken in self._open
            if open_still:
                self.give_back(taken)

    def _take_new(self, batches: int, ends: list[tuple[int, NDArray[np.int32]]]) -> Taken | None:
        """As mostly: each read comes once, and nobody has ever had one. None: look at each batch by itself."""
        for end_us, slot in ends:
            end = self._end(end_us)
            if not end.complete or has(end.bits, slot).any() or not distinct(slot):
                return None
        for end_us, slot in ends:
            end = self._end(end_us)
            self._set(end, slot)
            end.held += 1
        return self._opened(Taken([None] * batches, [], {end_us: [slot] for end_us, slot in ends}))

    def _opened(self, taken: Taken) -> Taken:
        self._open.append(taken)
        self._forget()
        return taken

    def _holder(self, group: Sequence[Reads], parts: Sequence[list[tuple[int, Rows]]]) -> Taken | None:
        for reads, ends in zip(group, parts, strict=True):
            for end_us, rows in ends:
                end = self._ends.get(end_us)
                if end is None or not end.held:
                    continue
                slot = reads.slot[rows]
                slot = slot[has(end.bits, slot)]
                for other in self._open:
                    if _overlap(slot, other.slots.get(end_us, [])):
                        return other
        return None

    def _take(self, group: Sequence[Reads], parts: Sequence[list[tuple[int, Rows]]]) -> Taken:
        taken = Taken([], [], {})
        for number, (reads, ends) in enumerate(zip(group, parts, strict=True)):
            hits = [has(self._end(end_us).bits, reads.slot[rows]) for end_us, rows in ends]
            mine = ((end_us, reads.slot[rows][hit]) for (end_us, rows), hit in zip(ends, hits, strict=True))
            if any(_overlap(slot, taken.slots.get(end_us, [])) for end_us, slot in mine):
                taken.apart.append(number)
                taken.suspects.append(None)
                continue
            suspect = np.zeros(reads.rows, np.bool_)
            for (end_us, rows), hit in zip(ends, hits, strict=True):
                end = self._end(end_us)
                suspect[rows] = hit if end.complete else True
                self._set(end, reads.slot[rows])
                if end_us not in taken.slots:
                    end.held += 1
                taken.slots.setdefault(end_us, []).append(reads.slot[rows])
            taken.suspects.append(suspect if suspect.any() else None)
        return taken

    def _end(self, end_us: int) -> End:
        end = self._ends.get(end_us)
        if end is None:
            end = self._ends[end_us] = End(complete=self._horizon_us is None or end_us > self._horizon_us)
            self._bytes += END_BYTES
        self._ends.move_to_end(end_us)
        return end

    def _set(self, end: End, slot: NDArray[np.int32]) -> None:
        bits = roomy(end.bits, slot)
        self._bytes += len(bits) - len(end.bits)
        end.bits = bits
        put(bits, slot)

    def _forget(self) -> None:
        if self._bytes <= self._bytes_max:
            return
        for end_us, end in list(self._ends.items()):
            if self._bytes <= self._bytes_max:
                return
            if not end.held:
                del self._ends[end_us]
                self._bytes -= len(end.bits) + END_BYTES
                if self._horizon_us is not None:
                    self._horizon_us = max(self._horizon_us, end_us)


def _ends_of(group: Sequence[Reads]) -> list[tuple[int, NDArray[np.int32]]]:
    """The slots of each interval end, of all batches together: those of a backlog have a hundred ends each."""
    if len(group) == 1:
        end_us, slot = group[0].end_us, group[0].slot
    else:
        end_us, slot = (np.concatenate([getattr(reads, name) for reads in group]) for name in ("end_us", "slot"))
    return [(end, slot[rows]) for end, rows in by_end(end_us)]


def _overlap(slot: NDArray[np.int32], others: list[NDArray[np.int32]]) -> bool:
    return len(slot) > 0 and any(bool(np.isin(slot, other).any()) for other in others)
