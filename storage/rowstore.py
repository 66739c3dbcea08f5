"""The table reads in rows, under a unique index (end_at, slot), which has the last word: the hint may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from storage.probe import by_key, probe
from storage.reads_table import Connection, Cursor, Suspects
from storage.seen import Seen
from storage.versions import Versions, supersede


class Rowstore:
    """A ReadsTable. seen: the hint; a fresh one knows nothing."""

    locks = True

    def __init__(self, seen: Seen | None = None) -> None:
        self._seen = Seen() if seen is None else seen

    def opened(self, connection: Connection) -> None:
        pass

    @contextmanager
    def taking(self, connection: Connection, group: Sequence[Reads]) -> Iterator[Suspects]:
        yield Suspects([self._seen.ask(reads) for reads in group], frozenset())
        for reads in group:
            self._seen.add(reads)

    def begin(self, cursor: Cursor) -> None:
        pass

    def probe(self, cursor: Cursor, reads: Reads, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return probe(cursor, reads, rows, by_key)

    def supersede(self, cursor: Cursor, reads: Reads, now_us: int, *, insist: bool = False) -> Versions:
        return supersede(cursor, reads, now_us, insist=insist)

    def before_copy(self, cursor: Cursor, rows: int) -> None:
        pass
