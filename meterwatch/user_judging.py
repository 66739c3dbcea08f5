"""Rules on stored rows and what late data touched: the stored rows around it, asked for in widening pieces of time.

Promise: a failure of the database in between leaves everything as it was, and the next try begins anew. Memory is
CELLS_TOGETHER rows, however many assets were touched and however old that is. Refuses to know the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from rules.user.kernel import Span

PIECE_US: Final = 6 * 3600 * US
"""Looked at around what was touched at first; then four times as much, and so on, until a calm read is found."""
CELLS_TOGETHER: Final = 200_000
QUARTER_US: Final = 900 * US
ASSETS_TOGETHER: Final = 2_000


R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Judge(Protocol[R_contra]):
    """Rules that find anew what was touched: rules.user.kernel.Kernel, rules.contract.Contract."""

    newest_us: int
    keep_us_max: int

    def wanted(self) -> Span | None: ...
    def judge(
        self, span: Span, rows: Sequence[R_contra], from_us: int, to_us: int, *, whole: bool
    ) -> NDArray[np.bool_]: ...
    def judged(self) -> None: ...


class StoredRows(Protocol[R_co]):
    """Where rows of one kind of asset are read again."""

    async def oldest_us(self) -> int:
        """No row ends before it."""

    async def rows(self, assets: NDArray[np.int32], from_us: int, to_us: int) -> Sequence[R_co]:
        """All evidence of these assets, ascending, with from_us < end <= to_us."""


async def judged(kernel: Judge[R], stored: StoredRows[R]) -> None:
    """Judge all that was touched. Raises StorageUnavailable."""
    span = kernel.wanted()
    if span is None:
        return
    oldest_us = await stored.oldest_us()
    around_us = PIECE_US + kernel.keep_us_max
    while len(span.asset):
        left = []
        for part in _parts(span, around_us):
            from_us = max(int(part.first_us.min()) - around_us, oldest_us - 1)
            to_us = min(int(part.last_us.max()) + around_us, max(kernel.newest_us, int(part.last_us.max())))
            rows = await stored.rows(np.sort(part.asset), from_us, to_us)
            more = kernel.judge(part, rows, from_us, to_us, whole=from_us < oldest_us)
            left.append(part.take(more))
        span = Span(*(np.concatenate(column) for column in zip(*left, strict=True)))
        around_us *= 4
    kernel.judged()


def _parts(span: Span, around_us: int) -> Iterator[Span]:
    """Assets to read together: touched at about the same time, and not too many for that much of it."""
    at = 0
    while at < len(span.asset):
        first_us = span.first_us[at]
        near = span.first_us[at:] <= first_us + around_us
        stop = at + min(int(np.searchsorted(~near, True)), ASSETS_TOGETHER)
        longest_us = int(np.maximum.accumulate(span.last_us[at:stop]).max()) - int(first_us) + 2 * around_us
        stop = min(stop, at + max(1, CELLS_TOGETHER * QUARTER_US // longest_us))
        yield span.take(slice(at, stop))
        at = stop
