"""Rows in PostgreSQL's binary COPY format, made by numpy.

A row is a 16-bit field count, then per field a 32-bit length and the big-endian value; NULL is length -1 and no value.
A structured array has exactly that layout, so its memory is the COPY data of a batch. What is the same in every row
(counts, lengths, the version) is copied from one finished row, a third of the price of writing it column by column.
Rows with different absent channels have different layouts and are written group by group; their order in the table does
not matter.
A COPY names only the channels that some of its rows have: nine NULLs of a one-phase meter are a third of the bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.channels import ALL_CHANNELS, CHANNEL_BIT, CHANNELS

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
EPOCH_2000_US: Final = 946_684_800_000_000
"""PostgreSQL counts timestamps from 2000-01-01 UTC."""

FIXED: Final = ("end_at", "received_at", "slot", "interval_s", "quality", "version")
_FIXED_TYPES: Final = (">i8", ">i8", ">i4", ">i4", ">i4", ">i2")


def sent_of(reads: Reads) -> int:
    """Bits of the channels that some row may have."""
    return sum(CHANNEL_BIT[name] for name in reads.channels)


def columns_of(sent: int) -> tuple[str, ...]:
    """Columns of a COPY of rows with these channels, in its order."""
    return FIXED + tuple(channel.name for i, channel in enumerate(CHANNELS) if sent >> i & 1)


COLUMNS: Final = columns_of(ALL_CHANNELS)


def _layout(mask: int, sent: int, numbered: bool) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [("n", ">i2")]
    if numbered:
        fields += [("l_row_no", ">i4"), ("row_no", ">i4")]
    for name, dtype in zip(FIXED, _FIXED_TYPES, strict=True):
        fields += [(f"l_{name}", ">i4"), (name, dtype)]
    for i, channel in enumerate(CHANNELS):
        if sent >> i & 1:
            fields.append((f"l_{channel.name}", ">i4"))
        if mask >> i & 1:
            fields.append((channel.name, ">f4" if channel.dtype.kind == "f" else ">i4"))
    return np.dtype(fields)


@lru_cache(256)
def _blank(mask: int, sent: int, numbered: bool) -> NDArray[Any]:
    """One row with everything that does not depend on the reads."""
    columns = ("row_no",) * numbered + columns_of(sent)
    row: NDArray[Any] = np.zeros(1, _layout(mask, sent, numbered))
    row["n"] = len(columns)
    row["version"] = 1
    for name in columns:
        row[f"l_{name}"] = row.dtype[name].itemsize if name in (row.dtype.names or ()) else -1
    row.flags.writeable = False
    return row


def encode(reads: Reads, received_us: int, sent: int = ALL_CHANNELS, numbered: bool = False) -> memoryview | bytes:
    """Rows of `reads` for COPY ... (columns_of(sent)), without header and trailer; numbered: row_no first."""
    own = sent_of(reads)
    if reads.mask is None:
        return _group(reads, slice(None), own, sent, received_us, numbered)
    parts = []
    for mask in np.unique(reads.mask):
        parts.append(_group(reads, np.flatnonzero(reads.mask == mask), int(mask) & own, sent, received_us, numbered))
    return b"".join(parts)


def _group(reads: Reads, rows: Any, mask: int, sent: int, received_us: int, numbered: bool) -> memoryview:
    end_us = reads.end_us[rows]
    blank = _blank(mask, sent, numbered).copy()
    blank["received_at"] = received_us - EPOCH_2000_US
    blank["interval_s"] = reads.interval_s
    out: NDArray[Any] = np.empty(len(end_us), blank.dtype)
    whole_row = f"V{blank.dtype.itemsize}"
    out.view(whole_row)[:] = blank.view(whole_row)
    if numbered:
        out["row_no"] = np.arange(reads.rows)[rows]
    out["end_at"] = end_us - EPOCH_2000_US
    out["slot"] = reads.slot[rows]
    out["quality"] = reads.quality[rows]
    for channel in CHANNELS:
        if mask & CHANNEL_BIT[channel.name]:
            column = reads.channels[channel.name][rows]
            out[channel.name] = column.view(np.int32) if channel.dtype.kind == "u" else column
    return out.view(np.uint8).data  # tobytes() copies a structured array field by field: 50 ns a row
