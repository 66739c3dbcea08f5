"""Batches of reads and events as columns, after validation. One-way door: nobody re-checks them, nobody writes to
them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Reads:
    """Validated reads of one batch. All arrays have length n and are read-only.

    No (slot, end_us) occurs twice. Every row belongs to a known meter in service.
    """

    slot: NDArray[np.int32]
    end_us: NDArray[np.int64]
    """Interval end, UTC, microseconds since 1970, on the grid of interval_s."""
    interval_s: int
    quality: NDArray[np.int32]
    """meterwatch.quality word."""
    channels: dict[str, Column]
    """Channel name -> values, only channels present in some row; dtype as in meterwatch.channels."""
    mask: NDArray[np.uint32] | None = None
    """Channel bits present per row; None: every channel in `channels` is present in every row."""

    @property
    def rows(self) -> int:
        return len(self.slot)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Reads:
        """Some of the rows, by number or by mask."""
        channels = {name: values[rows] for name, values in self.channels.items()}
        mask = None if self.mask is None else self.mask[rows]
        return Reads(self.slot[rows], self.end_us[rows], self.interval_s, self.quality[rows], channels, mask)


@dataclass(frozen=True, slots=True)
class Rejects:
    """Rows for the quarantine table, aligned arrays of length n."""

    row: NDArray[np.uint32]
    """Row number in the batch as sent."""
    reason: NDArray[np.uint8]
    """RowReason code of ingest.proto."""
    detail: list[bytes] = field(default_factory=list)
    """JSON object per row: what arrived (meter number, stamp, values)."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Who put the reads of a batch in by hand, and why."""

    action_id: str
    operator: str
    reason: str
    expected_version: NDArray[np.int64]
    """Per read, the version of the stored one that was looked at; 0: any."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A validated batch with its key, as storage takes it."""

    head_end_id: int
    epoch: int
    seq: int
    digest: bytes
    reads: Reads
    rejects: Rejects
    inner_duplicates: int
    """Rows equal to an earlier row of the same batch; counted, not stored."""
    rows_sent: int
    edit: Edit | None = None
    """None: from a head-end."""
    by_service: bool = False
    """Estimated by the service itself."""

    @property
    def insists(self) -> bool:
        """A value that was current once is meant to be so again; one a head-end sends again is a duplicate."""
        return self.edit is not None or self.by_service


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch: the content of its ack, and what the rules must see."""

    seq: int
    batch_id: int
    accepted: int
    versions: int
    duplicates: int
    rejected_row: NDArray[np.uint32]
    rejected_reason: NDArray[np.uint8]
    replayed: bool
    reused: bool
    """The key was used before for another content; nothing was stored."""
    change: ReadChange | None
    """None: nothing changed, or the batch was evaluated before."""


@dataclass(frozen=True, slots=True)
class ReadChange:
    """What a committed batch changed in the stored reads: the input of the rules. Arrays of length n.

    sign +1: this read is now stored; -1: this read (an older version) is not the current one any more. A
    duplicate is no
    change. Applying the same changes in any order gives the same sums.
    """

    slot: NDArray[np.int32]
    end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    quality: NDArray[np.int32]
    import_wh: NDArray[np.int32]
    """0 where absent; see has_energy."""
    export_wh: NDArray[np.int32]
    import_varh: NDArray[np.int32]
    export_varh: NDArray[np.int32]
    has_energy: NDArray[np.bool_]
    """import_wh or export_wh present."""
    has_reactive: NDArray[np.bool_]
    sign: NDArray[np.int8]
    added: tuple[Reads, ...] = ()
    """The reads of sign +1 with all their channels, for who judges those; left out where the change is a part."""

    def take(self, rows: NDArray[np.intp]) -> ReadChange:
        """Some of the reads, without `added`."""
        return ReadChange(*(getattr(self, column.name)[rows] for column in fields(self) if column.name != "added"))


class EventCode(IntEnum):
    """Normalised events; values as in ingest.proto."""

    POWER_FAIL = 1
    POWER_RESTORED = 2
    PHASE_LOSS = 3
    PHASE_RETURN = 4
    TAMPER = 5
    CLOCK_SET = 6
    CLOCK_INVALID = 7
    RELAY_OPEN = 8
    RELAY_CLOSED = 9
    OVER_VOLTAGE = 10
    UNDER_VOLTAGE = 11


@dataclass(frozen=True, slots=True)
class Events:
    """Screened events newly stored; arrays of length n."""

    slot: NDArray[np.int32]
    at_us: NDArray[np.int64]
    code: NDArray[np.int16]
    phases: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """Which phases it is about, bits as in meterwatch.topology; 0: not told. Left out: of none."""

    def __post_init__(self) -> None:
        if not len(self.phases):
            object.__setattr__(self, "phases", np.zeros(len(self.slot), np.uint8))

    @property
    def rows(self) -> int:
        return len(self.slot)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Events:
        """Some of the events, by number or by mask."""
        return Events(self.slot[rows], self.at_us[rows], self.code[rows], self.phases[rows])


@dataclass(frozen=True, slots=True)
class EventBatch:
    """A screened request of events with its key, as storage takes it."""

    head_end_id: int
    epoch: int
    seq: int
    digest: bytes
    events: Events
    rejects: Rejects
    rows_sent: int
