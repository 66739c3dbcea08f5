"""The table reads in TimescaleDB's columnstore, without a unique index: storage.known settles what is stored already.

A COPY of DIRECT_ROWS_MIN reads or more is compressed as it comes, a smaller one goes into rows that upkeep compresses
later. A look-up by key costs a decompressed batch of 1,000 reads each, so keys are looked up and changed by boxes: one
interval end, or one day where the ends are many, and the span of their slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg.pq import TransactionStatus

from meterwatch.batch import Reads
from storage.arrays import columns_of, moment
from storage.fence import Fence
from storage.known import Doubtful, Known, Taken
from storage.probe import by_box, probe
from storage.reads_table import Connection, Cursor, Suspects
from storage.slot_bits import by_end
from storage.versions import Versions, supersede

DIRECT_ROWS_MIN = 200
"""To compress fewer costs more than to write them as rows."""
ENDS_APART_MAX: Final = 24
"""So many interval ends are looked up one by one; from there on one scan of the day is cheaper."""
SLOT_GAP_MAX: Final = 1_000
"""Reads to be changed that lie further apart are in different compressed batches."""
DOUBT_TRIES: Final = 3
_DAY_US: Final = 86_400_000_000
_DIRECT: Final = "timescaledb.enable_direct_compress_copy"
_UNLIMITED: Final = "timescaledb.max_tuples_decompressed_per_dml_transaction"


class Columnstore:
    """A ReadsTable."""

    locks = False

    def __init__(self, known: Known, fence: Fence, *, direct: bool) -> None:
        self._known = known
        self._fence = fence
        self._direct = direct
        """The database can compress a COPY as it comes."""

    def opened(self, connection: Connection) -> None:
        if self._direct:
            connection.execute(f"SET {_UNLIMITED} = 0")

    @contextmanager
    def taking(self, connection: Connection, group: Sequence[Reads]) -> Iterator[Suspects]:
        self._load(connection, group)
        taken = self._take(connection, group)
        try:
            yield Suspects(taken.suspects, frozenset(taken.apart))
        except BaseException:
            if connection.info.transaction_status == TransactionStatus.IDLE:
                self._known.give_back(taken)
            else:
                self._known.lose(taken)
            raise
        self._known.give_back(taken)

    def _load(self, connection: Connection, group: Sequence[Reads]) -> None:
        for end_us, end in self._known.to_load(group):
            slots = None
            try:
                with connection.cursor(binary=True) as cursor:
                    cursor.execute("SELECT array_agg(slot) FROM reads WHERE end_at = %s", (moment(end_us),))
                    slots = columns_of(cursor)[0].astype(np.int32)
            finally:
                self._known.loaded(end, slots)

    def _take(self, connection: Connection, group: Sequence[Reads]) -> Taken:
        for _ in range(DOUBT_TRIES):
            lost = self._known.lost()
            if lost or self._fence.stale:
                self._fence.raise_(connection)
                self._known.settled(lost)
            try:
                return self._known.take(group)
            except Doubtful:
                continue
        return self._known.take(group)

    def begin(self, cursor: Cursor) -> None:
        self._fence.hold(cursor)

    def probe(self, cursor: Cursor, reads: Reads, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        state = np.zeros(len(rows), np.uint8)
        for part in _boxes(reads.end_us[rows]):
            state[part] = probe(cursor, reads, rows[part], by_box)
        return state

    def supersede(self, cursor: Cursor, reads: Reads, now_us: int, *, insist: bool = False) -> Versions:
        return supersede(cursor, reads, now_us, _clusters(reads), insist=insist)

    def before_copy(self, cursor: Cursor, rows: int) -> None:
        if self._direct and rows >= DIRECT_ROWS_MIN:
            cursor.execute(f"SET LOCAL {_DIRECT} = on")


def _boxes(end_us: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """The rows by interval end, or by day where the ends are many."""
    every = np.arange(len(end_us))
    ends = by_end(end_us)
    if len(ends) > ENDS_APART_MAX:
        ends = by_end(end_us // _DAY_US)
    return [every[rows] for _, rows in ends]


def _clusters(reads: Reads) -> list[NDArray[np.intp]]:
    """The rows by interval end and by runs of slots without a wide gap."""
    parts: list[NDArray[np.intp]] = []
    every = np.arange(reads.rows)
    for _, rows in by_end(reads.end_us):
        here = every[rows]
        here = here[np.argsort(reads.slot[here], kind="stable")]
        gaps = np.flatnonzero(np.diff(reads.slot[here]) > SLOT_GAP_MAX) + 1
        parts += np.split(here, gaps)
    return parts
