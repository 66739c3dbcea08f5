"""The load of transformers as cells (transformer, window): what the rules sum up and the database keeps.

A cell holds the sums of its members' reads as integers, so cells add up exactly in any order. Energy is net of export;
coverage is counted in weight-seconds: a member's contract power in watts times the seconds its reads cover.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Loads:
    """Cells, aligned arrays of length n; no (transformer, window) occurs twice."""

    transformer: Ints
    window: Ints
    """Number of the window: its start is window x window length since 1970."""
    wh: Ints
    varh: Ints
    covered: Ints
    """Weight-seconds of the reads that arrived."""
    phase_wh: Ints | None = None
    """[n, 3]: active energy of the single-phase members of each phase, part of wh. None: not counted."""

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Loads:
        """Some of the cells."""
        phase_wh = None if self.phase_wh is None else self.phase_wh[rows]
        return Loads(
            self.transformer[rows], self.window[rows], self.wh[rows], self.varh[rows], self.covered[rows], phase_wh
        )

    def __len__(self) -> int:
        return len(self.window)

    @classmethod
    def none(cls) -> Loads:
        return cls(*(np.zeros(0, np.int64) for _ in range(5)))


@dataclass(frozen=True, slots=True)
class LoadChange:
    """What a commit does to the stored loads: first cells counted anew, then what batches added since the last one.

    expected_*: weight-seconds of all members in service, per cell. A commit of batches without a LoadChange puts their
    loads off; the next one with a LoadChange brings them.
    """

    window_s: int
    counted: Loads
    expected_counted: Ints
    added: Loads
    expected_added: Ints
    members: Ints
    """Transformers whose cells of the ring were counted anew, and the digest of the members they were counted with."""
    digest: Ints
    past_owed: bool = False
    """What lies before the ring of the rules is not judged yet: after a crash these batches are judged again."""
    judged: tuple[int, ...] = ()
    """Batches of earlier commits of which all is judged by now."""
    marks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Paid by the cells counted anew: of loads that an import of the registry made dirty."""

    def __bool__(self) -> bool:
        return bool(len(self.counted) or len(self.added) or len(self.members) or len(self.marks) or self.judged)
