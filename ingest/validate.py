"""Validation: from a batch's columns to reads that need no further check, rejected rows with reasons, and their counts.

One-way door. The order of the checks is the order of precedence of the reasons: identity, time, values, ambiguity. The
registry snapshot and the time are arguments; nothing here waits or writes. A batch in which nothing is wrong and which
comes ordered by slot and time is not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
from numpy.typing import NDArray

from ingest import checks
from ingest.checks import View
from ingest.decode import Columns
from meterwatch.batch import Batch, Column, Reads, Rejects
from meterwatch.channels import CHANNEL_BIT, ENERGY
from meterwatch.check_profile import US, CheckProfile, Limits
from meterwatch.errors import Rejected
from meterwatch.quality import ORIGIN_SHIFT, Quality
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

DAYS_MAX = 64
"""Distinct days (chunks) a batch may touch: a chunk costs milliseconds to create, thousands exhaust the lock table."""
IMPLAUSIBLE_SHARE = 0.9
IMPLAUSIBLE_ROWS_MIN = 20
DAY_US = 86_400 * US
INT32_MAX = int(np.iinfo(np.int32).max)
IMPOSSIBLE = (pb.ROW_REASON_NOT_FINITE, pb.ROW_REASON_OUT_OF_RANGE, pb.ROW_REASON_ABOVE_CAPACITY)

Rows = NDArray[np.intp]


class _Verdicts:
    """The first reason found for each row; 0 for a good row."""

    def __init__(self, rows: int) -> None:
        self.reason = np.zeros(rows, np.uint8)
        self.clean = True

    def reject(self, mask: checks.Mask, code: int) -> None:
        if mask.any():
            self.reason[mask & (self.reason == 0)] = code
            self.clean = False


@np.errstate(invalid="ignore", over="ignore")  # a signalling NaN or 1e38 A is a finding, or absent: no reason to warn
def validate(
    columns: Columns,
    slot: NDArray[np.int32],
    meter: Sequence[str],
    head_end_id: int,
    epoch: int,
    topology: Topology,
    now_us: int,
    profile: CheckProfile,
) -> Batch:
    """Check one batch.

    Args: slot, per row the slot or -1 if unknown; meter, the stream's dictionary (texts by index) for details;
    now_us, the service's clock; profile, the limits: what V03 and V04 compare with the clock is as of now, the rest
    as of the end of each interval.
    Raises Rejected IMPLAUSIBLE_BATCH, LOOKS_LIKE_OTHER_UNIT or TOO_SPREAD for the batch.
    """
    rows = columns.rows
    limits = profile.at(now_us).ingest[0]
    verdicts = _Verdicts(rows)
    end_us = columns.end_us
    late_us = now_us - int(topology.late_window_us[head_end_id])
    soon_us = now_us + limits.future_tolerance_us
    future, too_old = end_us > soon_us, end_us < late_us
    _refuse_other_unit(end_us, future | too_old, late_us, soon_us)

    at: Rows = np.maximum(slot, 0).astype(np.intp)
    verdicts.reject(slot < 0, pb.ROW_REASON_UNKNOWN_METER)
    if topology.slots:
        owner = topology.head_end_of.take(at)
        verdicts.reject((owner >= 0) & (owner != head_end_id), pb.ROW_REASON_NOT_YOURS)
    verdicts.reject(future, pb.ROW_REASON_FUTURE)
    verdicts.reject(too_old, pb.ROW_REASON_TOO_OLD)
    if topology.slots:
        outside = (end_us < topology.installed_us.take(at)) | (end_us > topology.retired_us.take(at))
        verdicts.reject(outside, pb.ROW_REASON_NOT_INSTALLED)

    quality = np.zeros(rows, np.int32)
    step_us = columns.interval_s * US
    offset = end_us - end_us // step_us * step_us
    if offset.any():
        snap = np.where(offset > step_us // 2, step_us - offset, -offset)
        verdicts.reject(np.abs(snap) > limits.snap_us, pb.ROW_REASON_UNALIGNED)
        quality[snap != 0] |= Quality.SNAPPED
        end_us = end_us + snap
    if columns.mask is not None:
        verdicts.reject(columns.mask == 0, pb.ROW_REASON_NO_VALUE)

    as_metered = _view(columns, topology, at, end_us)
    view = as_metered
    if columns.secondary and as_metered.multiplier is not None:
        columns, too_large = _multiplied(columns, as_metered.multiplier)
        verdicts.reject(too_large, pb.ROW_REASON_ABOVE_CAPACITY)
        view = _view(columns, topology, at, end_us)
    verdicts.reject(checks.not_finite(view), pb.ROW_REASON_NOT_FINITE)
    verdicts.reject(checks.negative_energy(view), pb.ROW_REASON_NEGATIVE)
    groups = _groups(topology, at, end_us, profile)
    for of_class, rows_of_class in groups:
        verdicts.reject(_within(checks.out_of_range(view, of_class), rows_of_class), pb.ROW_REASON_OUT_OF_RANGE)
    for of_class, rows_of_class in groups:
        verdicts.reject(_within(checks.above_capacity(view, of_class), rows_of_class), pb.ROW_REASON_ABOVE_CAPACITY)
    if not verdicts.clean:
        _refuse_implausible(verdicts.reason)

    for of_class, rows_of_class in groups:
        _flag(quality, view, as_metered, now_us - end_us, of_class, rows_of_class)
    if columns.origin is not None:
        quality |= columns.origin.astype(np.int32) << ORIGIN_SHIFT
    keep, inner_duplicates = _settle_inside(columns, at, end_us, verdicts)
    if keep is not None:
        end_us = end_us[keep]
    _refuse_spread(end_us)
    reads = _reads(columns, at.astype(np.int32), end_us, quality, keep)
    rejected = np.flatnonzero(verdicts.reason) if not verdicts.clean else np.zeros(0, np.intp)
    rejects = Rejects(rejected.astype(np.uint32), verdicts.reason[rejected], _details(columns, meter, rejected))
    return Batch(head_end_id, epoch, columns.seq, columns.digest, reads, rejects, inner_duplicates, rows)


def _multiplied(columns: Columns, multiplier: NDArray[np.float32]) -> tuple[Columns, checks.Mask]:
    """Energies times the multiplier, half to even; and the rows in which one does not fit into 32 bits."""
    channels, too_large = dict(columns.channels), np.zeros(columns.rows, np.bool_)
    for name in ENERGY:
        if name in channels:
            energy = np.rint(channels[name] * multiplier.astype(np.float64))
            beyond = np.abs(energy) > INT32_MAX
            too_large |= beyond if columns.mask is None else beyond & ((columns.mask & CHANNEL_BIT[name]) != 0)
            channels[name] = np.clip(energy, -INT32_MAX, INT32_MAX).astype(np.int32)
    return replace(columns, channels=channels), too_large


def _view(columns: Columns, topology: Topology, at: Rows, end_us: NDArray[np.int64]) -> View:
    present = None
    if columns.mask is not None:
        present = {name: (columns.mask & CHANNEL_BIT[name]) != 0 for name in columns.channels}
    if topology.slots == 0:
        none = np.full(columns.rows, np.nan, np.float32)
        phases = np.zeros(columns.rows, np.uint8)
        return View(columns.channels, present, columns.interval_s, none.astype(np.float64), none, none, phases)
    return View(
        columns.channels,
        present,
        columns.interval_s,
        topology.nominal_v.take(at).astype(np.float64),
        topology.rated_a.take(at),
        topology.contract_kw.take(at),
        topology.phases.take(at),
        topology.multiplier_at(at, end_us) if topology.any_multiplier else None,
    )


def _groups(
    topology: Topology, at: Rows, end_us: NDArray[np.int64], profile: CheckProfile
) -> list[tuple[Limits, checks.Mask | None]]:
    """Limits with the rows they are for; None: all rows."""
    groups: list[tuple[Limits, checks.Mask | None]] = []
    for version, rows in profile.parts(end_us):
        if len(version.ingest) == 1 or topology.slots == 0:
            groups.append((version.ingest[0], rows))
            continue
        meter_class = topology.meter_class.take(at)
        for number in np.unique(meter_class).tolist():
            groups.append((version.ingest[number], _within(meter_class == number, rows)))
    return groups


def _within(found: checks.Mask, rows: checks.Mask | None) -> checks.Mask:
    return found if rows is None else found & rows


def _flag(
    quality: NDArray[np.int32],
    view: View,
    as_metered: View,
    lateness_us: NDArray[np.int64],
    limits: Limits,
    rows: checks.Mask | None,
) -> None:
    """Set the quality bits of all rows, of those too that are rejected. as_metered: energies as U and I are sent."""
    off, on = checks.supply(view, limits)
    step_us = view.interval_s * US
    findings = [
        (checks.above_contract(view, limits), Quality.ABOVE_CONTRACT),
        (checks.device_status(view), Quality.DEVICE_STATUS),
        (off, Quality.SUPPLY_OFF),
        (on, Quality.SUPPLY_ON),
    ]
    mismatch = checks.power_mismatch(as_metered, limits)
    if mismatch.any():
        findings.append((mismatch, Quality.POWER_MISMATCH))
        findings.append((checks.unit_mismatch(as_metered, mismatch, limits), Quality.UNIT_MISMATCH))
    if lateness_us.max() > step_us:
        findings.append(((lateness_us > step_us) & (lateness_us <= DAY_US), Quality.LATE))
        findings.append((lateness_us > DAY_US, Quality.BACKFILL))
    if lateness_us.min() < -limits.ahead_us:
        findings.append((checks.clock_ahead(lateness_us, limits), Quality.CLOCK_DRIFT))
    for mask, bit in findings:
        if mask.any():
            quality |= _within(mask, rows) * np.int32(bit)


def _settle_inside(
    columns: Columns, at: Rows, end_us: NDArray[np.int64], verdicts: _Verdicts
) -> tuple[Rows | None, int]:
    """Rows to store by time and slot, None for all as they are, and how many equal repeats were dropped.

    Different values for one key: all its rows AMBIGUOUS.
    """
    if verdicts.clean and _ascending(at, end_us):
        return None, 0
    good = np.flatnonzero(verdicts.reason == 0)
    if len(good) == 0:
        return good, 0
    order = good.take(_order(at.take(good), end_us.take(good), columns.interval_s * US))
    slot, end_us = at.take(order), end_us.take(order)
    same = (slot[1:] == slot[:-1]) & (end_us[1:] == end_us[:-1])
    if not same.any():
        return order, 0
    equal = np.ones(len(same), np.bool_)
    first, second = order[:-1], order[1:]
    for name, values in columns.channels.items():
        if columns.mask is None:
            equal &= values[first] == values[second]
        else:
            bit = CHANNEL_BIT[name]
            a_on, b_on = (columns.mask[first] & bit) != 0, (columns.mask[second] & bit) != 0
            equal &= (a_on == b_on) & (~a_on | (values[first] == values[second]))
    group = np.concatenate(([0], np.cumsum(~same)))
    clash = np.zeros(group[-1] + 1, np.bool_)
    clash[group[1:][same & ~equal]] = True
    verdicts.reject(np.isin(np.arange(len(at)), order[clash[group]]), pb.ROW_REASON_AMBIGUOUS)
    repeat = np.concatenate(([False], same)) & ~clash[group]
    return order[~repeat & ~clash[group]], int(repeat.sum())


def _ascending(at: Rows, end_us: NDArray[np.int64]) -> bool:
    """True if (end, slot) rises strictly: ordered, and no key twice."""
    later, same = end_us[1:] > end_us[:-1], end_us[1:] == end_us[:-1]
    return bool((later | (same & (at[1:] > at[:-1]))).all())


def _order(slot: Rows, end_us: NDArray[np.int64], step_us: int) -> Rows:
    """Rows by (end, slot), as the index of the reads is; equal ones in the order sent. Ends lie on the grid.

    A batch of meters' days in the order of the meters would go to another page of the index with each read.

    Keys are given to numpy as 16-bit digits, which it sorts by radix: 7 ns a row where int64 takes 46 (10,000 rows).
    """
    digits: list[NDArray[np.uint16]] = []
    for key in (slot, (end_us - end_us.min()) // step_us):
        for shift in range(0, int(key.max()).bit_length(), 16):
            digits.append((key >> shift).astype(np.uint16))
    return np.lexsort(digits) if digits else np.arange(len(slot))


def _reads(
    columns: Columns, slot: NDArray[np.int32], end_us: NDArray[np.int64], quality: NDArray[np.int32], keep: Rows | None
) -> Reads:
    """The rows to store; end_us is of these rows already. -0.0 becomes 0: one value, one spelling."""

    def taken(values: Column) -> Column:
        kept = values if keep is None else values.take(keep)
        return kept + np.float32(0) if kept.dtype.kind == "f" else kept

    channels = {name: taken(values) for name, values in columns.channels.items()}
    mask = None if columns.mask is None else taken(columns.mask)
    return Reads(taken(slot), end_us, columns.interval_s, taken(quality), channels, mask)


def _refuse_spread(end_us: NDArray[np.int64]) -> None:
    if len(end_us) == 0 or (int(end_us.max()) - int(end_us.min())) // DAY_US < DAYS_MAX - 1:
        return
    days = len(np.unique(end_us // DAY_US))
    if days > DAYS_MAX:
        raise Rejected(
            "TOO_SPREAD", f"reads of {days} days in one batch; expected at most {DAYS_MAX}; sort by time, split"
        )


def _refuse_implausible(reason: NDArray[np.uint8]) -> None:
    rows, impossible = len(reason), int(np.isin(reason, IMPOSSIBLE).sum())
    if rows >= IMPLAUSIBLE_ROWS_MIN and impossible > IMPLAUSIBLE_SHARE * rows:
        raise Rejected(
            "IMPLAUSIBLE_BATCH",
            f"{impossible} of {rows} rows are physically impossible; expected little-endian values in the "
            "units the fields name; check byte order and units",
        )


def _refuse_other_unit(end_us: NDArray[np.int64], outside: checks.Mask, late_us: int, soon_us: int) -> None:
    most = IMPLAUSIBLE_SHARE * len(end_us)
    if len(end_us) < IMPLAUSIBLE_ROWS_MIN or np.count_nonzero(outside) <= most:
        return
    for unit, low, high in (
        ("seconds", late_us // 1_000_000, soon_us // 1_000_000),
        ("milliseconds", late_us // 1000, soon_us // 1000),
        ("nanoseconds", late_us * 1000, soon_us * 1000),
    ):
        if np.count_nonzero((end_us >= low) & (end_us <= high)) > most:
            raise Rejected(
                "LOOKS_LIKE_OTHER_UNIT", f"stamp_us {int(end_us[0])} looks like {unit}; expected microseconds"
            )


def _details(columns: Columns, meter: Sequence[str], rows: Rows) -> list[bytes]:
    """What arrived in each rejected row, as JSON. NaN and infinities as text, because JSON has none."""
    if len(rows) == 0:
        return []
    found: list[dict[str, object]] = [
        {"meter": meter[index], "end_us": end_us, "interval_s": columns.interval_s}
        for index, end_us in zip(columns.meter_index[rows].tolist(), columns.end_us[rows].tolist(), strict=True)
    ]
    for name, values in columns.channels.items():
        sent = values[rows]
        texts = sent.tolist()
        if sent.dtype.kind == "f":
            for i in np.flatnonzero(~np.isfinite(sent)).tolist():
                texts[i] = str(texts[i])
        present = None if columns.mask is None else columns.mask[rows] & CHANNEL_BIT[name]
        for i in range(len(rows)) if present is None else np.flatnonzero(present).tolist():
            found[i][name] = texts[i]
    return [orjson.dumps(row) for row in found]
