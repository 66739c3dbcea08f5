"""Receipts of subscribers: the vocabulary. Knows neither the wire nor the tables. Times are UTC microseconds of the
machine's clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A subscriber is as far as this cursor since then."""

    seq: int
    at_us: int


@dataclass(frozen=True, slots=True)
class SentMessage:
    """One message to one named subscriber, and what it has said of it."""

    number: int
    """Rises with each message."""
    subscriber: str
    seqs: tuple[int, ...]
    """Transitions in it; of a snapshot the last one of each alarm."""
    upto: int
    """Cursor with which it is confirmed."""
    sent_us: int
    received_us: int | None = None
    shown_us: int | None = None
