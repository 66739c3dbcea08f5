"""What a file becomes: reads as columns, or one error that lists everything wrong with it.

Promises: a file gives all of its reads or none; what a file holds and this package does not carry is counted by reason,
never dropped silently. Refuses to know which meters exist and which reads are plausible: that is validation, and it
happens once, in the service.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.channels import CHANNEL_NAMES, INTERVALS_S
from meterwatch.errors import Rejected

PROBLEMS_MAX = 50
"""Problems reported per file: enough to see the pattern, few enough to read."""

ACTUAL, SUBSTITUTED, ESTIMATED, MISSING = 0, 1, 2, 3
"""Values of FileReads.method; a MISSING value is counted and gives no row."""


class Problem(NamedTuple):
    """One finding; line 0 means the file as a whole."""

    line: int
    message: str


class FileError(Rejected):
    """A file that was refused as a whole: nothing of it was loaded."""

    def __init__(self, file: str, line: int, message: str, *others: Problem) -> None:
        self.file = file
        self.line = line
        self.problems = (Problem(line, message), *others)
        where = (f"{file}, line {p.line}: " if p.line else f"{file}: " for p in self.problems)
        super().__init__("FILE", "\n".join(w + p.message for w, p in zip(where, self.problems, strict=True)))


class Problems:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Problem] = []

    @property
    def full(self) -> bool:
        return len(self.found) > PROBLEMS_MAX

    def add(self, line: int, message: str) -> None:
        self.found.append(Problem(line, message))

    def extend(self, problems: Iterable[Problem]) -> None:
        self.found.extend(problems)

    def raise_if_any(self) -> None:
        """Raise FileError with the first PROBLEMS_MAX problems in line order."""
        if not self.found:
            return
        found = sorted(self.found, key=lambda p: p.line)
        shown = found[:PROBLEMS_MAX]
        if len(found) > PROBLEMS_MAX:
            shown.append(Problem(0, f"more than {PROBLEMS_MAX} problems; the others are not listed"))
        raise FileError(self.file, *shown[0], *shown[1:])


@dataclass(frozen=True)
class FileReads:
    """Reads of one file as columns of length n; row i belongs to meter[meter_index[i]]."""

    source: str
    """File name, for messages and audit."""
    meter: list[str]
    """Distinct meter numbers, in order of first appearance."""
    meter_index: NDArray[np.uint32]
    end_us: NDArray[np.int64]
    """Interval end, UTC, microseconds since 1970."""
    interval_s: NDArray[np.int32]
    channels: dict[str, NDArray[Any]]
    """Only channels that occur. Energy int64 (Wh, varh), device_status uint32, else float32; 0 where absent."""
    method: NDArray[np.uint8]
    """ACTUAL, SUBSTITUTED or ESTIMATED: the worst of the row's channels."""
    present: NDArray[np.uint32] | None = None
    """Channel bits (meterwatch.channels) per row; None: every channel in `channels` is present in every row."""
    quality: NDArray[np.uint32] | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> values of the file that are not in the columns."""
    rounded_values: int = 0
    """Values that were not whole Wh or varh and were rounded, half to even."""
    rounding_wh: float = 0.0
    """Sum over the rounded values of (file minus column), Wh and varh together."""
    notes: tuple[str, ...] = ()
    """What whoever loads the file should be told."""

    @property
    def rows(self) -> int:
        return len(self.end_us)

    def has(self, channel: str) -> NDArray[np.bool_]:
        """Return a mask [n]: True where the row carries the channel."""
        if channel not in self.channels:
            return np.zeros(self.rows, np.bool_)
        if self.present is None:
            return np.ones(self.rows, np.bool_)
        return (self.present >> np.uint32(CHANNEL_NAMES.index(channel)) & 1).astype(np.bool_)

    def sums(self) -> dict[tuple[str, str], int]:
        """Return Wh or varh per (meter, energy channel), for meters that carry the channel."""
        out = {}
        for name in CHANNEL_NAMES[:4]:
            here = self.has(name)
            at = self.meter_index[here]
            if not here.any():
                continue
            total = np.zeros(len(self.meter), np.int64)
            np.add.at(total, at, self.channels[name][here])
            out.update({(self.meter[i], name): int(total[i]) for i in np.unique(at)})
        return out

    def take(self, rows: NDArray[Any]) -> FileReads:
        """Return the chosen rows (mask or indices); the meter dictionary stays."""
        return replace(
            self,
            meter_index=self.meter_index[rows],
            end_us=self.end_us[rows],
            interval_s=self.interval_s[rows],
            channels={name: values[rows] for name, values in self.channels.items()},
            method=self.method[rows],
            present=None if self.present is None else self.present[rows],
            quality=None if self.quality is None else self.quality[rows],
        )

    def storable(self) -> FileReads:
        """Return the reads whose interval length the service accepts; the others are counted in `skipped`.

        The accumulated reads of a NEM13 file are such others: months in one value, which no interval rule can use.
        """
        fits = np.isin(self.interval_s, INTERVALS_S)
        if fits.all():
            return self
        kept = self.take(fits)
        reason = "interval length the service does not store (accumulated reads)"
        return replace(kept, skipped={**self.skipped, reason: int((~fits).sum())})
