"""The table reads in rows, under a unique index (end_at, slot), which has the last word: what is known is a hint.

Writers of one service do not meet in the index: who has a read that another one is writing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from storage.known import Known
from storage.probe import by_key, probe
from storage.reads_table import Connection, Cursor, Suspects
from storage.versions import Versions, supersede


class Rowstore:
    """A ReadsTable. known: without a horizon; a fresh one knows nothing."""

    locks = True

    def __init__(self, known: Known | None = None) -> None:
        self._known = Known(None) if known is None else known

    def opened(self, connection: Connection) -> None:
        pass

    @contextmanager
    def taking(self, connection: Connection, group: Sequence[Reads]) -> Iterator[Suspects]:
        taken = self._known.take(group)
        try:
            yield Suspects(taken.suspects, frozenset(taken.apart))
        finally:
            self._known.give_back(taken)

    def begin(self, cursor: Cursor) -> None:
        pass

    def probe(self, cursor: Cursor, reads: Reads, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return probe(cursor, reads, rows, by_key)

    def supersede(self, cursor: Cursor, reads: Reads, now_us: int, *, insist: bool = False) -> Versions:
        return supersede(cursor, reads, now_us, insist=insist)

    def before_copy(self, cursor: Cursor, rows: int) -> None:
        pass
