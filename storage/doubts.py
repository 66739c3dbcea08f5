"""Answers of batches that were, or may have been, committed and whose answer reached nobody.

The rules have not seen what such a batch stored. Its re-send finds the ledger row; what is kept here under the same key
is then its answer, once, with the change for the rules. A key whose commit failed after all is overwritten by the next
try. Shared by the writers of a service. Promise: never more than ENTRIES_MAX.
"""

from __future__ import annotations

import threading
from typing import Final

import structlog

from meterwatch.batch import Batch, Events, Stored
from meterwatch.registers import RegisterChange

ENTRIES_MAX: Final = 4096
Key = tuple[int, int, int, int]
News = Events | RegisterChange | None
"""What the rest of the service must be told, beside the answer."""

_log = structlog.get_logger(__name__)


class Doubts:
    """See the module head. Safe to use from many threads."""

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[Stored, News]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, kind: int, batch: Batch, stored: Stored, news: News) -> None:
        """Keep an answer until its batch is sent again."""
        with self._lock:
            key = _key(kind, batch)
            self._kept.pop(key, None)
            self._kept[key] = (stored, news)
            if len(self._kept) > ENTRIES_MAX:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                _log.error("the rules will not see a stored batch before the next start", key=oldest)

    def take(self, kind: int, batch: Batch, batch_id: int) -> tuple[Stored, News] | None:
        """The kept answer if it is the one of ledger row `batch_id`; it is then the caller's to deliver."""
        with self._lock:
            kept = self._kept.pop(_key(kind, batch), None)
        return kept if kept is not None and kept[0].batch_id == batch_id else None

    def forget(self, kind: int, batch: Batch) -> None:
        """The batch has an answer: a kept one was of a try that failed."""
        with self._lock:
            self._kept.pop(_key(kind, batch), None)


def _key(kind: int, batch: Batch) -> Key:
    return kind, batch.head_end_id, batch.epoch, batch.seq
