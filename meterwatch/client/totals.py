"""What became of what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from meterwatch.v1 import ingest_pb2


class _Answer(Protocol):
    accepted: int
    duplicates: int
    rejected: int
    replayed: bool

    @property
    def rejected_reason(self) -> Iterable[int]: ...


@dataclass
class Totals:
    """Rows, unless it says batches. sent = accepted + versions + duplicates + rejected + nacked_rows after flush()."""

    sent: int = 0
    accepted: int = 0
    versions: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> rows, e.g. UNKNOWN_METER."""
    batches: int = 0
    nacked: int = 0
    """Batches refused for good."""
    nacked_rows: int = 0
    nack_reasons: Counter[str] = field(default_factory=Counter)
    """`REASON: message` -> batches."""
    replayed: int = 0
    """Batches the service had answered before."""

    def add(self, answer: _Answer, versions: int = 0) -> None:
        """Count an Ack or the answer to events."""
        self.accepted += answer.accepted
        self.versions += versions
        self.duplicates += answer.duplicates
        self.rejected += answer.rejected
        self.replayed += answer.replayed
        for code in answer.rejected_reason:
            self.rejected_reasons[reason_name(code)] += 1

    def copy(self) -> Totals:
        return replace(self, rejected_reasons=Counter(self.rejected_reasons), nack_reasons=Counter(self.nack_reasons))


def reason_name(code: int) -> str:
    """UNKNOWN_METER for ROW_REASON_UNKNOWN_METER; the number if a newer service sent it."""
    value = ingest_pb2.RowReason.DESCRIPTOR.values_by_number.get(code)
    return str(code) if value is None else value.name.removeprefix("ROW_REASON_")
