"""What the registers of some meters counted within a local day and its margins, as spans for the ladder. No I/O.

A span lies between two reads of one register that follow each other, of the same device and each within SNAP_US of an
interval's end. One that went back (a rollover, an exchange that nobody told of) says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.estimated_days import DayOf, ends_of
from meterwatch.registers import SNAP_US, Register
from rules.estimation import ABSENT, Registers


def counted(day: DayOf, shown: list[NDArray[Any]], multiplier: NDArray[np.float32]) -> Registers:
    """Spans on the grid of ends_of(day).

    shown: columns of storage.registers.registers_of_days, by meter, register and time. multiplier: float32[meters].
    """
    of, register, at_us, value_wh, device = (column.astype(np.int64) for column in shown[:5])
    interval_us = day.interval_s * US
    ends_us = ends_of(day)
    start_us = int(ends_us[0]) - interval_us
    border = (at_us - start_us + interval_us // 2) // interval_us  # 0: where the first interval begins
    sharp = np.abs(at_us - start_us - border * interval_us) <= SNAP_US
    sharp &= (border >= 0) & (border <= len(ends_us))
    of, register, value_wh, device, border = (column[sharp] for column in (of, register, value_wh, device, border))
    lsb_wh = shown[5].astype(np.float64)[sharp]
    same = (of[1:] == of[:-1]) & (register[1:] == register[:-1]) & (device[1:] == device[:-1])
    advance_wh = value_wh[1:] - value_wh[:-1]
    pair = np.flatnonzero(same & (border[1:] > border[:-1]) & (advance_wh >= 0))
    import_wh, export_wh = (
        np.where(register[pair] == one, advance_wh[pair], ABSENT) for one in (Register.IMPORT, Register.EXPORT)
    )
    step_wh = lsb_wh[pair + 1] * multiplier[of[pair]]
    return Registers(of[pair], border[pair], border[pair + 1] - 1, import_wh, export_wh, step_wh)
