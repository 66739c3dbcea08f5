"""Batches that wait for the database, taken in turn from the streams they came on.

Promises: each stream's batches leave in their order; of the streams that wait the one served fewest rows is next, so
who sends ten times as much waits for itself, and nobody is delayed by more than one batch of each of the others. A
stream that comes back after a pause has saved nothing up. Cost: linear in the streams that wait, 64 at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[int, int]
"""Head-end and epoch: one live stream."""


@dataclass(slots=True)
class _Line(Generic[T]):
    served_rows: int
    items: deque[tuple[T, int]] = field(default_factory=deque)
    rows: int = 0


class Turns(Generic[T]):
    """A queue with a line for each stream. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line[T]] = {}
        self._served_rows = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def lines(self) -> int:
        """Streams that wait."""
        return len(self._lines)

    def rows_of(self, key: Key) -> int:
        """Rows of one stream that wait."""
        return self._lines[key].rows if key in self._lines else 0

    def add(self, key: Key, item: T, rows: int) -> None:
        """Put at the end of the stream's line."""
        line = self._line(key)
        line.items.append((item, rows))
        line.rows += rows

    def put_back(self, key: Key, items: Sequence[tuple[T, int]]) -> None:
        """Put at the head of the stream's line, in the order given."""
        if items:
            line = self._line(key)
            line.items.extendleft(reversed(items))
            line.rows += sum(rows for _, rows in items)

    def peek(self) -> tuple[T, int]:
        """The next item and its rows. IndexError if nobody waits."""
        return self._next()[1].items[0]

    def take(self) -> T:
        """The next item, removed."""
        key, line = self._next()
        item, rows = line.items.popleft()
        self._served_rows = line.served_rows
        line.served_rows += rows
        line.rows -= rows
        if not line.items:
            del self._lines[key]
        return item

    def _line(self, key: Key) -> _Line[T]:
        return self._lines.setdefault(key, _Line(self._served_rows))

    def _next(self) -> tuple[Key, _Line[T]]:
        if not self._lines:
            raise IndexError("nobody waits")
        return min(self._lines.items(), key=lambda entry: entry[1].served_rows)
