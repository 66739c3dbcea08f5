"""validate() once more, one row at a time, with exact fractions: slow and obviously right.

Written from ingest.proto and the metering rules, not from the vector code; laws compare the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from meterwatch.quality import Quality
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

US = 1_000_000
DAY_US = 86_400 * US
VOLTAGE = ("voltage_a_v", "voltage_b_v", "voltage_c_v")
CURRENT = ("current_a_a", "current_b_a", "current_c_a")
ENERGY = ("import_wh", "export_wh", "import_varh", "export_varh")


@dataclass
class Row:
    """One read as sent; `values` holds the present channels only."""

    meter: str
    end_us: int
    values: dict[str, Any]
    origin: int = 0


@dataclass
class Judged:
    """What the oracle says of a batch."""

    refused: str | None = None
    reasons: dict[int, int] = field(default_factory=dict)
    kept: list[tuple[int, int, int, dict[str, Any]]] = field(default_factory=list)
    """(slot, end_us, quality, values), by time and slot."""
    duplicates: int = 0


def judge(rows: list[Row], interval_s: int, head_end_id: int, topology: Topology, now_us: int) -> Judged:
    """Judge a batch."""
    oldest_us = now_us - int(topology.late_window_us[head_end_id])
    latest_us = now_us + 120 * US
    many = len(rows) >= 20
    outside = sum(not oldest_us <= row.end_us <= latest_us for row in rows)
    if many and outside > 0.9 * len(rows):
        for per_us in (Fraction(1, 10**6), Fraction(1, 10**3), Fraction(1000)):
            low, high = math.floor(oldest_us * per_us), math.floor(latest_us * per_us)
            if sum(low <= row.end_us <= high for row in rows) > 0.9 * len(rows):
                return Judged(refused="LOOKS_LIKE_OTHER_UNIT")
    reasons = [_reason(row, interval_s, head_end_id, topology, oldest_us, latest_us) for row in rows]
    impossible = (pb.ROW_REASON_NOT_FINITE, pb.ROW_REASON_OUT_OF_RANGE, pb.ROW_REASON_ABOVE_CAPACITY)
    if many and sum(reason in impossible for reason in reasons) > 0.9 * len(rows):
        return Judged(refused="IMPLAUSIBLE_BATCH")
    by_key: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(rows):
        if not reasons[i]:
            key = topology.slot_of[row.meter], row.end_us + snap_us(row.end_us, interval_s)
            by_key.setdefault(key, []).append(i)
    judged = Judged()
    for (slot, end_us), same in sorted(by_key.items(), key=lambda one: (one[0][1], one[0][0])):
        first = rows[same[0]]
        if any(rows[i].values != first.values for i in same):
            for i in same:
                reasons[i] = pb.ROW_REASON_AMBIGUOUS
            continue
        judged.duplicates += len(same) - 1
        quality = _quality(first, slot, interval_s, topology, now_us)
        judged.kept.append((slot, end_us, quality, first.values))
    if len({end_us // DAY_US for _, end_us, _, _ in judged.kept}) > 64:
        return Judged(refused="TOO_SPREAD")
    judged.reasons = {i: reason for i, reason in enumerate(reasons) if reason}
    return judged


def snap_us(end_us: int, interval_s: int) -> int:
    """What to add to come to the nearest point of the grid."""
    beyond = end_us % (interval_s * US)
    return -beyond if 2 * beyond <= interval_s * US else interval_s * US - beyond


def _reason(row: Row, interval_s: int, head_end_id: int, topology: Topology, oldest_us: int, latest_us: int) -> int:
    if row.meter not in topology.slot_of:
        return pb.ROW_REASON_UNKNOWN_METER
    slot = topology.slot_of[row.meter]
    if topology.head_end_of[slot] not in (-1, head_end_id):
        return pb.ROW_REASON_NOT_YOURS
    if row.end_us > latest_us:
        return pb.ROW_REASON_FUTURE
    if row.end_us < oldest_us:
        return pb.ROW_REASON_TOO_OLD
    if row.end_us < topology.installed_us[slot] or row.end_us > topology.retired_us[slot]:
        return pb.ROW_REASON_NOT_INSTALLED
    if abs(snap_us(row.end_us, interval_s)) > 5 * US:
        return pb.ROW_REASON_UNALIGNED
    values = row.values
    if not values:
        return pb.ROW_REASON_NO_VALUE
    if any(not math.isfinite(value) for value in values.values()):
        return pb.ROW_REASON_NOT_FINITE
    if values.get("import_wh", 0) < 0 or values.get("export_wh", 0) < 0:
        return pb.ROW_REASON_NEGATIVE
    nominal_v = Fraction(float(topology.nominal_v[slot]))
    rated_a = Fraction(float(topology.rated_a[slot]))
    if (
        any(not 0 <= Fraction(values[name]) <= Fraction(3, 2) * nominal_v for name in VOLTAGE if name in values)
        or any(not 0 <= Fraction(values[name]) <= 20 * rated_a for name in CURRENT if name in values)
        or abs(values.get("power_factor", 0)) > 1
    ):
        return pb.ROW_REASON_OUT_OF_RANGE
    phases = int(topology.phases[slot]).bit_count() or 3
    limit_wh = Fraction(6, 5) * rated_a * nominal_v * phases * Fraction(interval_s, 3600)
    if any(abs(values[name]) > limit_wh for name in ENERGY if name in values):
        return pb.ROW_REASON_ABOVE_CAPACITY
    return 0


def _quality(row: Row, slot: int, interval_s: int, topology: Topology, now_us: int) -> int:
    values = row.values
    quality = row.origin << 24
    snap = snap_us(row.end_us, interval_s)
    if snap:
        quality |= Quality.SNAPPED
    contract_kw = float(topology.contract_kw[slot])
    if not math.isnan(contract_kw) and "import_wh" in values:
        kw = Fraction(values["import_wh"], 1000) * Fraction(3600, interval_s)
        if kw > 3 * Fraction(contract_kw):
            quality |= Quality.ABOVE_CONTRACT
    if values.get("device_status", 0) & ~0b1000:
        quality |= Quality.DEVICE_STATUS
    nominal_v = Fraction(float(topology.nominal_v[slot]))
    volts = [Fraction(values[name]) for name in VOLTAGE if name in values]
    draws = any(values[name] > float(np.float32(0.05)) for name in CURRENT if name in values)
    if volts and all(v < Fraction(3, 5) * nominal_v for v in volts) and not draws:
        quality |= Quality.SUPPLY_OFF
    if any(v >= Fraction(4, 5) * nominal_v for v in volts):
        quality |= Quality.SUPPLY_ON
    if all(name in values for name in ("power_factor", "import_wh")):
        pairs = [(values.get(u), values.get(i)) for u, i in zip(VOLTAGE, CURRENT, strict=True)]
        whole = [(u, i) for u, i in pairs if u is not None and i is not None]
        if whole and all((u is None) == (i is None) for u, i in pairs):
            measured = abs(sum(u * i for u, i in whole) * values["power_factor"])
            mean = abs((values["import_wh"] - values.get("export_wh", 0)) * (3600 / interval_s))
            if abs(measured - mean) > max(0.05 * mean, 20):
                quality |= Quality.POWER_MISMATCH
                if measured > 0 and mean > 0 and 1 / 1.05 <= max(measured, mean) / min(measured, mean) / 1000 <= 1.05:
                    quality |= Quality.UNIT_MISMATCH
    lateness_us = now_us - (row.end_us + snap)
    if lateness_us < -60 * US:
        quality |= Quality.CLOCK_DRIFT
    if lateness_us > DAY_US:
        quality |= Quality.BACKFILL
    elif lateness_us > interval_s * US:
        quality |= Quality.LATE
    return int(quality)
