"""The ingest-time checks: one pure function each, arrays in, mask out. A set element is a finding; 0 is clean.

NaN compares false, so every value check is written to fire on NaN or runs after `not_finite`. Limits are arguments with
their defaults in Limits; V numbers as in docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Column
from meterwatch.channels import CURRENT, ENERGY, VOLTAGE

Mask = NDArray[np.bool_]
US = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of the ingest-time checks."""

    future_tolerance_us: int = 120 * US
    """V04, practice of AMI head-ends: clocks are set once a day."""
    snap_us: int = 5 * US
    """V03: nearer to the grid than this is snapped and flagged, farther is quarantined."""
    capacity_factor: float = 1.2
    """V06: 1.2 Imax Un phases dt."""
    voltage_factor: float = 1.5
    """V06: 1.5 Un."""
    contract_factor: float = 3.0
    """V07."""
    off_factor: float = 0.6
    """SUPPLY_OFF below this share of Un (DL/T 698 terminals: 132 of 220 V)."""
    on_factor: float = 0.8
    """SUPPLY_ON from this share of Un (DL/T 698 terminals: 176 of 220 V)."""
    off_current_a: float = 0.05
    """SUPPLY_OFF needs a current below this: a meter that draws current has supply."""


@dataclass(frozen=True, slots=True)
class View:
    """Columns under check with what the registry says of each row's meter. Arrays of length rows."""

    channels: dict[str, Column]
    present: dict[str, Mask]
    interval_s: int
    nominal_v: NDArray[np.float32]
    rated_a: NDArray[np.float32]
    contract_kw: NDArray[np.float32]
    phase_count: NDArray[np.int64]

    def any_of(self, names: tuple[str, ...], test: Callable[[Column], Mask]) -> Mask:
        """Rows in which a present channel among `names` passes `test`."""
        found: Mask = np.zeros(len(self.nominal_v), np.bool_)
        for name in names:
            if name in self.channels:
                found |= test(self.channels[name]) & self.present[name]
        return found


def not_finite(view: View) -> Mask:
    """V06: any present value is NaN or infinite."""
    return view.any_of((*VOLTAGE, *CURRENT, "power_factor"), lambda values: ~np.isfinite(values))


def negative_energy(view: View) -> Mask:
    """V06: an active-energy register is below 0."""
    return view.any_of(("import_wh", "export_wh"), lambda values: values < 0)


def above_capacity(view: View, limits: Limits) -> Mask:
    """V06: |energy| above 1.2 x Imax x Un x phases x dt of the meter."""
    hours = view.interval_s / 3600
    limit_wh = limits.capacity_factor * view.nominal_v.astype(np.float64) * view.rated_a * view.phase_count * hours
    return view.any_of(ENERGY, lambda values: np.abs(values.astype(np.int64)) > limit_wh)


def out_of_range(view: View, limits: Limits) -> Mask:
    """V06: voltage outside 0..1.5 Un, current below 0, |power factor| above 1. NaN is for not_finite."""
    ceiling = limits.voltage_factor * view.nominal_v
    return (
        view.any_of(VOLTAGE, lambda values: (values < 0) | (values > ceiling))
        | view.any_of(CURRENT, lambda values: values < 0)
        | view.any_of(("power_factor",), lambda values: np.abs(values) > 1)
    )


def above_contract(view: View, limits: Limits) -> Mask:
    """V07: mean power above 3 x contract; a meter without a contract (NaN) never fires."""
    kw_per_wh = 3.6 / view.interval_s
    return view.any_of(("import_wh",), lambda values: values * kw_per_wh > limits.contract_factor * view.contract_kw)


def device_status(view: View) -> Mask:
    """V09: the meter's own status word has any bit but daylight saving (bit 3)."""
    return view.any_of(("device_status",), lambda values: (values & np.uint32(0xFFFFFFF7)) != 0)


def supply(view: View, limits: Limits) -> tuple[Mask, Mask]:
    """Votes on supply: (off, on). Off needs every present voltage below 0.6 Un and no current. No voltage: neither."""
    any_voltage = view.any_of(VOLTAGE, lambda values: np.ones(len(values), np.bool_))
    alive = view.any_of(VOLTAGE, lambda values: values >= limits.off_factor * view.nominal_v)
    draws = view.any_of(CURRENT, lambda values: values > limits.off_current_a)
    on = view.any_of(VOLTAGE, lambda values: values >= limits.on_factor * view.nominal_v)
    return any_voltage & ~alive & ~draws, on
