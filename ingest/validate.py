"""Validation: from a batch's columns to reads that need no further check, rejected rows with reasons, and their counts.

One-way door. The order of the checks is the order of precedence of the reasons: identity, time, values, ambiguity. The
registry snapshot and the time are arguments; nothing here waits or writes.
"""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from ingest import checks
from ingest.checks import US, Limits, View
from ingest.decode import Columns
from meterwatch.batch import Batch, Reads, Rejects
from meterwatch.channels import CHANNEL_BIT
from meterwatch.errors import Rejected
from meterwatch.quality import ORIGIN_SHIFT, Quality
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

DAYS_MAX = 64
"""Distinct days (chunks) a batch may touch: a chunk costs milliseconds to create, thousands exhaust the lock table."""
IMPLAUSIBLE_SHARE = 0.9
IMPLAUSIBLE_ROWS_MIN = 20


def validate(
    columns: Columns,
    slot: NDArray[np.int32],
    meter: NDArray[np.object_],
    head_end_id: int,
    epoch: int,
    topology: Topology,
    now_us: int,
    limits: Limits,
) -> Batch:
    """Check one batch.

    Args: slot, per row the slot or -1 if unknown; meter, the stream's dictionary (texts by index) for details;
    now_us, the service's clock. Raises Rejected IMPLAUSIBLE_BATCH, LOOKS_LIKE_OTHER_UNIT or TOO_SPREAD for the batch.
    """
    rows = columns.rows
    reason = np.zeros(rows, np.uint8)
    known = slot >= 0
    at = np.where(known, slot, 0)
    end_us = columns.end_us

    def reject(mask: checks.Mask, code: int) -> None:
        reason[mask & (reason == 0)] = code

    window_us = topology.late_window_us[head_end_id]
    future = end_us > now_us + limits.future_tolerance_us
    too_old = end_us < now_us - window_us
    _refuse_other_unit(end_us, future | too_old, now_us, window_us, limits)

    reject(~known, pb.ROW_REASON_UNKNOWN_METER)
    if topology.slots:
        owner = topology.head_end_of[at]
        reject((owner >= 0) & (owner != head_end_id), pb.ROW_REASON_NOT_YOURS)
    reject(future, pb.ROW_REASON_FUTURE)
    reject(too_old, pb.ROW_REASON_TOO_OLD)
    if topology.slots:
        start_us = np.where(future | too_old, 0, end_us) - columns.interval_s * US
        outside = (start_us < topology.installed_us[at]) | (end_us > topology.retired_us[at])
        reject(outside, pb.ROW_REASON_NOT_INSTALLED)

    step_us = columns.interval_s * US
    offset = np.where(reason == 0, end_us, 0) % step_us
    snap = np.where(offset > step_us // 2, step_us - offset, -offset)
    reject(np.abs(snap) > limits.snap_us, pb.ROW_REASON_UNALIGNED)
    quality = np.zeros(rows, np.int32)
    quality[snap != 0] |= Quality.SNAPPED
    end_us = np.where(reason == 0, end_us + snap, end_us)

    present = {
        name: np.ones(rows, np.bool_) if columns.mask is None else (columns.mask & CHANNEL_BIT[name]) != 0
        for name in columns.channels
    }
    view = _view(columns, present, topology, at)
    reject(checks.not_finite(view), pb.ROW_REASON_NOT_FINITE)
    reject(checks.negative_energy(view), pb.ROW_REASON_NEGATIVE)
    reject(checks.out_of_range(view, limits), pb.ROW_REASON_OUT_OF_RANGE)
    reject(checks.above_capacity(view, limits), pb.ROW_REASON_ABOVE_CAPACITY)
    impossible = np.isin(reason, (pb.ROW_REASON_NOT_FINITE, pb.ROW_REASON_OUT_OF_RANGE, pb.ROW_REASON_ABOVE_CAPACITY))
    if rows >= IMPLAUSIBLE_ROWS_MIN and impossible.sum() > IMPLAUSIBLE_SHARE * rows:
        raise Rejected(
            "IMPLAUSIBLE_BATCH",
            f"{int(impossible.sum())} of {rows} rows are physically impossible; expected little-endian values in the "
            "units the fields name; check byte order and units",
        )

    quality[checks.above_contract(view, limits)] |= Quality.ABOVE_CONTRACT
    quality[checks.device_status(view)] |= Quality.DEVICE_STATUS
    off, on = checks.supply(view, limits)
    quality[off] |= Quality.SUPPLY_OFF
    quality[on] |= Quality.SUPPLY_ON
    lateness_us = now_us - end_us
    quality[(lateness_us > step_us) & (lateness_us <= 86_400 * US)] |= Quality.LATE
    quality[lateness_us > 86_400 * US] |= Quality.BACKFILL
    if columns.origin is not None:
        quality |= columns.origin.astype(np.int32) << ORIGIN_SHIFT

    keep, inner_duplicates = _settle_inside(columns, at, end_us, reason)
    days = np.unique(end_us[keep] // (86_400 * US))
    if len(days) > DAYS_MAX:
        raise Rejected(
            "TOO_SPREAD",
            f"reads of {len(days)} days in one batch; expected at most {DAYS_MAX}; sort by time, split",
        )
    order = keep[np.lexsort((end_us[keep], at[keep]))]
    channels = {name: values[order] for name, values in columns.channels.items()}
    mask = None if columns.mask is None else columns.mask[order]
    reads = Reads(at[order].astype(np.int32), end_us[order], columns.interval_s, quality[order], channels, mask)
    rejected = np.flatnonzero(reason)
    detail = [_detail(columns, present, meter, int(row)) for row in rejected]
    rejects = Rejects(rejected.astype(np.uint32), reason[rejected], detail)
    return Batch(head_end_id, epoch, columns.seq, columns.digest, reads, rejects, inner_duplicates, rows)


def _view(columns: Columns, present: dict[str, checks.Mask], topology: Topology, at: NDArray[np.int32]) -> View:
    rows = columns.rows
    if topology.slots == 0:
        ones = np.ones(rows, np.float32)
        return View(columns.channels, present, columns.interval_s, ones, ones, ones, np.ones(rows, np.int64))
    phases = np.bitwise_count(topology.phases[at]).astype(np.int64)
    phases[phases == 0] = 3  # unknown: the widest limit, never a wrong rejection
    return View(
        columns.channels,
        present,
        columns.interval_s,
        topology.nominal_v[at],
        topology.rated_a[at],
        topology.contract_kw[at],
        phases,
    )


def _settle_inside(
    columns: Columns, at: NDArray[np.int32], end_us: NDArray[np.int64], reason: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], int]:
    """Rows to store, and how many equal repeats were dropped. Different values for one key: all its rows AMBIGUOUS."""
    good = np.flatnonzero(reason == 0)
    order = good[np.lexsort((good, end_us[good], at[good]))]
    same = (at[order][1:] == at[order][:-1]) & (end_us[order][1:] == end_us[order][:-1])
    if not same.any():
        return good, 0
    equal = np.ones(len(same), np.bool_)
    first, second = order[:-1], order[1:]
    for name, values in columns.channels.items():
        bit = CHANNEL_BIT[name]
        a_on = np.ones(len(same), np.bool_) if columns.mask is None else (columns.mask[first] & bit) != 0
        b_on = np.ones(len(same), np.bool_) if columns.mask is None else (columns.mask[second] & bit) != 0
        equal &= (a_on == b_on) & (~a_on | (values[first] == values[second]))
    group = np.concatenate(([0], np.cumsum(~same)))
    clash = np.zeros(group[-1] + 1, np.bool_)
    clash[group[1:][same & ~equal]] = True
    reason[order[clash[group]]] = pb.ROW_REASON_AMBIGUOUS
    repeat = np.concatenate(([False], same)) & ~clash[group]
    keep = order[~repeat & ~clash[group]]
    return np.sort(keep), int(repeat.sum())


def _refuse_other_unit(
    end_us: NDArray[np.int64], outside: checks.Mask, now_us: int, window_us: int, limits: Limits
) -> None:
    if len(end_us) < IMPLAUSIBLE_ROWS_MIN or outside.sum() <= IMPLAUSIBLE_SHARE * len(end_us):
        return
    for unit, to_us in (("seconds", 1_000_000), ("milliseconds", 1000)):
        low, high = (now_us - window_us) // to_us, (now_us + limits.future_tolerance_us) // to_us
        if ((end_us >= low) & (end_us <= high)).sum() > IMPLAUSIBLE_SHARE * len(end_us):
            raise Rejected(
                "LOOKS_LIKE_OTHER_UNIT", f"stamp_us {int(end_us[0])} looks like {unit}; expected microseconds"
            )
    low_ns, high_ns = (now_us - window_us) * 1000, (now_us + limits.future_tolerance_us) * 1000
    if ((end_us >= low_ns) & (end_us <= high_ns)).sum() > IMPLAUSIBLE_SHARE * len(end_us):
        raise Rejected(
            "LOOKS_LIKE_OTHER_UNIT", f"stamp_us {int(end_us[0])} looks like nanoseconds; expected microseconds"
        )


def _detail(columns: Columns, present: dict[str, checks.Mask], meter: NDArray[np.object_], row: int) -> bytes:
    """What arrived in a rejected row, as JSON. NaN and infinities as text, because JSON has none."""
    found: dict[str, object] = {
        "meter": str(meter[columns.meter_index[row]]),
        "end_us": int(columns.end_us[row]),
        "interval_s": columns.interval_s,
    }
    for name, values in columns.channels.items():
        if present[name][row]:
            value = values[row].item()
            found[name] = value if np.isfinite(value) else str(value)
    return orjson.dumps(found)
