"""Names of a million things in a few bytes each, by number and by name.

A list of strings and a dict cost some 200 bytes per meter; the text in one piece, its offsets, and hashes in rising
order cost 30. Looking names up is made for many at once (`find`); one by one it costs microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

HASHED_TOGETHER = 50_000
"""Names that are strings at the same time while an index is made."""


class Names(Sequence[str]):
    """Names by number, UTF-8 in pieces of text. A number without a name has the empty one."""

    def __init__(self, text: bytes, start: NDArray[np.int64], length: NDArray[np.int32]) -> None:
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

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), HASHED_TOGETHER):
            yield from self[at : at + HASHED_TOGETHER]


class Numbers(Mapping[str, int]):
    """The numbers of `Names` by name; names are unique, empty ones are left out."""

    def __init__(self, names: Names) -> None:
        self._names = names
        hashes = np.empty(len(names), np.int64)
        for at in range(0, len(names), HASHED_TOGETHER):
            part = names[at : at + HASHED_TOGETHER]
            hashes[at : at + len(part)] = [hash(name) for name in part]
        known = np.flatnonzero(names._length > 0).astype(np.int32)
        self._number = known[np.argsort(hashes[known])]
        self._hash = hashes[self._number]

    def find(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Number of each of these names; -1 where there is none."""
        hashes = np.array([hash(name) for name in names], np.int64)
        first = np.searchsorted(self._hash, hashes)
        found = np.full(len(names), -1, np.int32)
        for i, (name, at) in enumerate(zip(names, first.tolist(), strict=True)):
            while at < len(self._hash) and self._hash[at] == hashes[i]:
                if self._names[number := int(self._number[at])] == name:
                    found[i] = number
                    break
                at += 1
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
