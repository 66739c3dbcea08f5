"""The checks of cumulative registers (V08, V14) within a local day. Arrays in, masks out.

A register is compared with what the same register of the same device showed before; a day has the reads between its
midnights, 5 s to either side, and the last one before it. Everything is a function of these and of the day's interval
reads. V08 belongs to the day in which the later of two reads lies. V14 compares the first and the last read of the day
with the intervals between them, and says nothing where one of these is missing, estimated or cut by a register read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.quality import Quality
from meterwatch.registers import SNAP_US, Register
from rules.day_checks import DAY_US, US, DayReads, MeterDays

NEVER: Final = np.iinfo(np.int64).max
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DayRegisters:
    """Register reads by meter-day, register and time. Arrays of length n."""

    of: NDArray[np.intp]
    """Index of the meter-day."""
    register: Ints
    at_us: Ints
    value_wh: Ints
    device: Ints
    """Number of the device by the registry: another number, another count."""
    lsb_wh: NDArray[np.float64]
    """What the last digit stands for, primary Wh."""
    wrap_wh: NDArray[np.float64]
    """Where it rolls over to 0, primary Wh; 0: not known."""

    @property
    def follows(self) -> Mask:
        """The read before it is of the same meter-day, register and device."""
        found = np.zeros(len(self.of), np.bool_)
        if len(found):
            found[1:] = True
            for column in (self.of, self.register, self.device):
                found[1:] &= column[1:] == column[:-1]
        return found

    def within(self, days: MeterDays) -> Mask:
        """It lies between the midnights, or within 5 s of one."""
        found: Mask = (self.at_us >= days.start_us[self.of] - SNAP_US) & (self.at_us <= days.end_us[self.of] + SNAP_US)
        return found


@dataclass(frozen=True, slots=True)
class RegisterSums:
    """V14 in figures, one row per meter-day and register that could be judged. Arrays of equal length."""

    of: NDArray[np.intp]
    register: Ints
    first_us: Ints
    last_us: Ints
    register_wh: Ints
    interval_wh: Ints
    mismatch: Mask


def judge_registers(
    registers: DayRegisters, reads: DayReads, days: MeterDays
) -> tuple[NDArray[np.int32], NDArray[np.int32], RegisterSums]:
    """Bits of each interval read, findings of each meter-day (also where no read bears them), and V14 in figures."""
    bits, findings = np.zeros(len(reads.of), np.int32), np.zeros(len(days.start_us), np.int32)
    back, advance_wh = went_back(registers, days)
    mine = back & (registers.at_us > days.start_us[registers.of] + SNAP_US) & registers.within(days)
    findings[registers.of[mine]] |= np.int32(Quality.REGISTER_BACK)
    bits[_read_at(registers, mine, reads, days)] |= np.int32(Quality.REGISTER_BACK)
    sums, last_read = interval_sums(registers, back, advance_wh, reads, days)
    findings[sums.of[sums.mismatch]] |= np.int32(Quality.REGISTER_MISMATCH)
    bits[last_read[sums.mismatch]] |= np.int32(Quality.REGISTER_MISMATCH)
    return bits, findings, sums


def went_back(registers: DayRegisters, days: MeterDays) -> tuple[Mask, Ints]:
    """V08: less than before by more than 1 step of the display and no rollover; and how far each register advanced.

    A rollover: what it takes to the end of the display and on to what it shows could have flowed in the time. The
    advance of a read that follows none is 0.
    """
    rows = len(registers.of)
    follows = registers.follows
    advance, dt_s = np.zeros(rows, np.int64), np.zeros(rows, np.float64)
    advance[1:] = np.where(follows[1:], np.diff(registers.value_wh), 0)
    dt_s[1:] = np.where(follows[1:], np.diff(registers.at_us) / US, 0)
    less = advance < -days.limit("register_back_lsb")[registers.of] * registers.lsb_wh
    carried = advance + np.rint(registers.wrap_wh).astype(np.int64)
    most_wh = (days.limit("rollover_factor") * days.capacity_kw)[registers.of] * dt_s / 3.6
    rolled = less & (registers.wrap_wh > 0) & (carried >= 0) & (carried <= most_wh)
    return less & ~rolled, np.where(rolled, carried, advance)


def interval_sums(
    registers: DayRegisters, back: Mask, advance_wh: Ints, reads: DayReads, days: MeterDays
) -> tuple[RegisterSums, NDArray[np.intp]]:
    """V14: what a register advanced from the first to the last read of the day, against the intervals between them.

    Mismatch: they differ by more than 2 steps of the display and 0.1 % of the advance. Also the row of the last
    interval read of each.
    """
    rows = np.flatnonzero(registers.within(days))
    key = registers.of[rows] * 4 + registers.register[rows]
    began = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1]))) if len(rows) else np.zeros(0, np.intp)
    ended = np.concatenate((began[1:], [len(rows)])) - 1 if len(rows) else began
    first, last = rows[began], rows[ended]
    broken = np.concatenate(([0], np.cumsum(~registers.follows | back)))
    good = (last > first) & (broken[last + 1] == broken[first + 1])
    first, last = first[good], last[good]
    total = np.concatenate(([0], np.cumsum(advance_wh)))
    of, register = registers.of[first], registers.register[first]
    register_wh = total[last + 1] - total[first + 1]
    first_us, last_us = registers.at_us[first], registers.at_us[last]

    interval_wh, covered_s, usable = (np.zeros(len(of), np.int64) for _ in range(3))
    last_read, meters = np.zeros(len(of), np.intp), len(days.start_us)
    for one, energy_wh in ((Register.IMPORT, reads.import_wh), (Register.EXPORT, reads.export_wh)):
        here = np.flatnonzero(register == one)
        if not len(here):
            continue
        after_us, until_us = np.full(meters, NEVER), np.zeros(meters, np.int64)
        after_us[of[here]], until_us[of[here]] = first_us[here] - SNAP_US, last_us[here] + SNAP_US
        inside = (reads.start_us >= after_us[reads.of]) & (reads.end_us <= until_us[reads.of])
        inside &= (energy_wh >= 0) & ~reads.guessed
        interval_wh[here] = reads.per_day(energy_wh * inside, meters)[of[here]]
        covered_s[here] = reads.per_day(reads.interval_s * inside, meters)[of[here]]
        usable[here] = reads.per_day(inside, meters)[of[here]]
        last_read[here] = reads.per_day(np.arange(len(inside)) * inside, meters, np.maximum)[of[here]]
    judged = (usable > 0) & (np.abs(covered_s * US - (last_us - first_us)) <= 2 * SNAP_US)
    steps_wh = days.limit("register_sum_lsb")[of] * registers.lsb_wh[last]
    share_wh = days.limit("register_sum_share")[of] * np.abs(register_wh)
    mismatch = np.abs(interval_wh - register_wh) > np.maximum(steps_wh, share_wh)
    columns = (of, register, first_us, last_us, register_wh, interval_wh, mismatch)
    return RegisterSums(*(column[judged] for column in columns)), last_read[judged]


def _read_at(registers: DayRegisters, chosen: Mask, reads: DayReads, days: MeterDays) -> NDArray[np.intp]:
    """Interval reads during or at the end of which these register reads were taken."""
    rows = np.flatnonzero(chosen)
    if not len(rows) or not len(reads.of):
        return np.zeros(0, np.intp)
    of = registers.of[rows]
    at_us = registers.at_us[rows] - SNAP_US
    key = _key(reads.of, reads.end_us, days)
    found = np.searchsorted(key, _key(of, at_us, days))
    there = np.minimum(found, len(key) - 1)
    hit: Mask = (found < len(key)) & (reads.of[there] == of) & (reads.start_us[there] < at_us + SNAP_US)
    covering: NDArray[np.intp] = there[hit]
    return covering


def _key(of: NDArray[np.intp], at_us: Ints, days: MeterDays) -> Ints:
    """Meter-day and time as one rising number."""
    key: Ints = (of.astype(np.int64) << 39) + np.clip(at_us - days.start_us[of] + DAY_US, 0, (1 << 39) - 1)
    return key
