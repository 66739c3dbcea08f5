"""What a written batch changed in the stored reads, for the rules: +1 for a read now stored, -1 for one replaced.

Promise: nothing for a duplicate, and nothing for a value that lost against a better one. Pure; knows no connection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange, Reads
from meterwatch.channels import CHANNEL_BIT, ENERGY


def change_of(reads: Reads, rows: NDArray[np.intp] | None = None) -> ReadChange:
    """Rows of `reads` (all by default) as newly stored."""
    take: Any = slice(None) if rows is None else rows
    n = len(reads.slot[take])

    def column(name: str) -> NDArray[np.int32]:
        if name not in reads.channels:
            return np.zeros(n, np.int32)
        values: NDArray[np.int32] = reads.channels[name][take]
        if reads.mask is not None:
            values = np.where(reads.mask[take] & CHANNEL_BIT[name], values, 0).astype(np.int32)
        return values

    def has(*names: str) -> NDArray[np.bool_]:
        bits = sum(CHANNEL_BIT[name] for name in names if name in reads.channels)
        if reads.mask is None:
            return np.full(n, bits != 0)
        present: NDArray[np.bool_] = (reads.mask[take] & np.uint32(bits)) != 0
        return present

    energy = [column(name) for name in ENERGY]
    return ReadChange(
        slot=reads.slot[take],
        end_us=reads.end_us[take],
        interval_s=np.full(n, reads.interval_s, np.int32),
        quality=reads.quality[take],
        import_wh=energy[0],
        export_wh=energy[1],
        import_varh=energy[2],
        export_varh=energy[3],
        has_energy=has("import_wh", "export_wh"),
        has_reactive=has("import_varh", "export_varh"),
        sign=np.ones(n, np.int8),
        added=(reads if rows is None else reads.take(rows),),
    )


def joined(changes: list[ReadChange]) -> ReadChange | None:
    """All in one; None for nothing."""
    if len(changes) < 2:
        return changes[0] if changes else None
    names = [name for name in ReadChange.__dataclass_fields__ if name != "added"]
    added = tuple(reads for change in changes for reads in change.added)
    columns = {name: np.concatenate([getattr(change, name) for change in changes]) for name in names}
    return ReadChange(**columns, added=added)
