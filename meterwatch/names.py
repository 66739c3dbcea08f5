"""Names of a million things in a few bytes each, by number and by name.

A list of strings and a dict cost some 200 bytes per meter; the text in one piece, its offsets, and hashes in rising
order cost 30. Looking names up is made for many at once (`find`); one by one it costs microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
HASHED_TOGETHER = 50_000
"""Names that are strings at the same time while an index is made."""


class Names(Sequence[str]):
    """Names by number, UTF-8 in pieces of text. A number without a name has the empty one."""

    def __init__(self, text: bytes, start: Integers, length: NDArray[np.int32]) -> None:
        self._text = text
        self._start = start
        self._length = length

    def __len__(self) -> int:
        return len(self._length)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            starts, lengths = self._start[number].tolist(), self._length[number].tolist()
            text = self._text
            return [text[at : at + n].decode() for at, n in zip(starts, lengths, strict=True)]
        at = int(self._start[number])
        return self._text[at : at + int(self._length[number])].decode()

    def hashes(self) -> NDArray[np.uint64]:
        """uint64 [names]: 64 bits for each; equal names have equal ones."""
        return _hashes(np.frombuffer(self._text, np.uint8), self._start, self._length)

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), HASHED_TOGETHER):
            yield from self[at : at + HASHED_TOGETHER]


class Numbers(Mapping[str, int]):
    """The numbers of `Names` by name; names are unique, empty ones are left out."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._text = np.frombuffer(names._text, np.uint8)
        hashes = np.empty(len(names), np.uint64)
        for at in range(0, len(names), HASHED_TOGETHER):
            some = slice(at, at + HASHED_TOGETHER)
            hashes[some] = _hashes(self._text, names._start[some], names._length[some])
        known = np.flatnonzero(names._length > 0).astype(np.int32)
        self._number = known[np.argsort(hashes[known])]
        self._hash = hashes[self._number]

    def find(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Number of each of these names; -1 where there is none. 0.2 us each, if they are many."""
        encoded = [name.encode() for name in names]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        length = np.fromiter(map(len, encoded), np.int32, len(encoded))
        start = np.cumsum(length) - length
        hashes = _hashes(text, start, length)
        found = np.full(len(names), -1, np.int32)
        row, at = np.flatnonzero(length > 0), np.searchsorted(self._hash, hashes)[length > 0]
        while len(row):  # once, and once more for each name that shares its hash with another one
            alike = at < len(self._hash)
            alike[alike] = self._hash[at[alike]] == hashes[row[alike]]
            row, at = row[alike], at[alike]
            number = self._number[at]
            same = self._names._length[number] == length[row]
            ours, theirs = (self._names._start[number[same]], length[row[same]]), start[row[same]]
            same[same] = _equal(self._text, *ours, text, theirs)
            found[row[same]] = number[same]
            row, at = row[~same], at[~same] + 1
        return found

    def __getitem__(self, name: str) -> int:
        number = int(self.find([name])[0])
        if number < 0:
            raise KeyError(name)
        return number

    def __len__(self) -> int:
        return len(self._number)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name)


def _columns(length: NDArray[np.int32]) -> Iterator[tuple[int, Any]]:
    """(place, names that have a byte there): by place, so that arrays are as long as there are names."""
    shortest = int(length.min()) if len(length) else 0
    for place in range(int(length.max(initial=0))):
        yield place, slice(None) if place < shortest else np.flatnonzero(length > place)


def _hashes(text: NDArray[np.uint8], start: Integers, length: NDArray[np.int32]) -> NDArray[np.uint64]:
    """uint64 [names]: bytes as digits of a number to an odd base, its upper half mixed into the lower; empty ones 0."""
    hashes = np.zeros(len(length), np.uint64)
    for place, rows in _columns(length):
        hashes[rows] = hashes[rows] * _FACTOR + text[start[rows] + place] + np.uint64(1)
    return hashes ^ (hashes >> np.uint64(32))


def _equal(
    text: NDArray[np.uint8], start: Integers, length: NDArray[np.int32], other: NDArray[np.uint8], at: Integers
) -> NDArray[np.bool_]:
    """bool [names]: the names of these lengths in one text are those in the other."""
    equal = np.ones(len(length), np.bool_)
    for place, rows in _columns(length):
        equal[rows] &= text[start[rows] + place] == other[at[rows] + place]
    return equal


_FACTOR = np.uint64(0x9E3779B97F4A7C15)
