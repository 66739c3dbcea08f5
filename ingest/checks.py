"""The ingest-time checks: one pure function each, arrays in, mask out. A set element is a finding; 0 is clean.

NaN compares false, so every value check is written to fire on NaN or runs after `not_finite`. Limits are arguments with
their defaults in Limits; V numbers as in docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Column
from meterwatch.channels import CURRENT, ENERGY, VOLTAGE

Mask = NDArray[np.bool_]
US = 1_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)
INT32_MAX = int(np.iinfo(np.int32).max)


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
    """Columns under check with what the registry says of each row's meter. Arrays of length rows.

    `extremes` lets a check answer "nothing found" from the least and the greatest value of a column, which costs a
    tenth of looking at each row; both are NaN if a value is NaN, so such a shortcut must be a comparison that NaN
    fails. Limits are computed in float64 on both ways, so that a row's verdict does not depend on its neighbours.
    """

    channels: dict[str, Column]
    present: dict[str, Mask] | None
    """None: every channel is present in every row."""
    interval_s: int
    nominal_v: NDArray[np.float64]
    rated_a: NDArray[np.float32]
    contract_kw: NDArray[np.float32]
    phases: NDArray[np.uint8]
    """Bits, 0 = unknown."""
    extremes: dict[str, tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        extremes = {name: (values.min().item(), values.max().item()) for name, values in self.channels.items()}
        object.__setattr__(self, "extremes", extremes)

    def any_of(self, names: tuple[str, ...], test: Callable[[Column], Mask]) -> Mask:
        """Rows in which a present channel among `names` passes `test`."""
        found = self.none()
        for name in names:
            if name in self.channels:
                hit = test(self.channels[name])
                found |= hit if self.present is None else hit & self.present[name]
        return found

    def none(self) -> Mask:
        """No row."""
        return np.zeros(len(self.nominal_v), np.bool_)

    def within(self, names: tuple[str, ...], low: float, high: float) -> bool:
        """True if all values sent of `names`, present or not, are in low..high; False at the first NaN."""
        return all(low <= self.extremes[n][0] and self.extremes[n][1] <= high for n in names if n in self.extremes)


def not_finite(view: View) -> Mask:
    """V06: any present value is NaN or infinite."""
    names = (*VOLTAGE, *CURRENT, "power_factor")
    if view.within(names, -FLOAT32_MAX, FLOAT32_MAX):
        return view.none()
    return view.any_of(names, lambda values: ~np.isfinite(values))


def negative_energy(view: View) -> Mask:
    """V06: an active-energy register is below 0."""
    if view.within(("import_wh", "export_wh"), 0, INT32_MAX):
        return view.none()
    return view.any_of(("import_wh", "export_wh"), lambda values: values < 0)


def above_capacity(view: View, limits: Limits) -> Mask:
    """V06: |energy| above 1.2 x Imax x Un x phases x dt of the meter; phases unknown: three, the widest limit."""
    factor = limits.capacity_factor * view.interval_s / 3600
    least = factor * float(view.nominal_v.min()) * float(view.rated_a.min())
    if view.within(ENERGY, -least, least):
        return view.none()
    phase_count = np.bitwise_count(view.phases)
    phase_count[phase_count == 0] = 3
    limit_wh = factor * view.nominal_v * view.rated_a * phase_count
    return view.any_of(ENERGY, lambda values: np.abs(values.astype(np.int64)) > limit_wh)


def out_of_range(view: View, limits: Limits) -> Mask:
    """V06: voltage outside 0..1.5 Un, current below 0, |power factor| above 1. NaN is for not_finite."""
    if (
        view.within(VOLTAGE, 0, limits.voltage_factor * float(view.nominal_v.min()))
        and view.within(CURRENT, 0, FLOAT32_MAX)
        and view.within(("power_factor",), -1, 1)
    ):
        return view.none()
    ceiling = limits.voltage_factor * view.nominal_v
    return (
        view.any_of(VOLTAGE, lambda values: (values < 0) | (values > ceiling))
        | view.any_of(CURRENT, lambda values: values < 0)
        | view.any_of(("power_factor",), lambda values: np.abs(values) > 1)
    )


def above_contract(view: View, limits: Limits) -> Mask:
    """V07: mean power above 3 x contract; a meter without a contract (NaN) never fires."""
    wh_per_kw = limits.contract_factor * view.interval_s / 3.6
    least_kw = float(np.fmin.reduce(view.contract_kw))
    if np.isnan(least_kw) or view.within(("import_wh",), -INT32_MAX - 1, least_kw * wh_per_kw):
        return view.none()
    limit_wh = view.contract_kw.astype(np.float64) * wh_per_kw
    return view.any_of(("import_wh",), lambda values: values > limit_wh)


def device_status(view: View) -> Mask:
    """V09: the meter's own status word has any bit but daylight saving (bit 3)."""
    if view.within(("device_status",), 0, 0):
        return view.none()
    return view.any_of(("device_status",), lambda values: (values & np.uint32(0xFFFFFFF7)) != 0)


def supply(view: View, limits: Limits) -> tuple[Mask, Mask]:
    """Votes on supply: (off, on). Off needs every present voltage below 0.6 Un and no current. No voltage: neither."""
    sent = [name for name in VOLTAGE if name in view.channels]
    if not sent:
        return view.none(), view.none()
    enough_v = limits.on_factor * float(view.nominal_v.max())
    if view.present is None and any(view.extremes[name][0] >= enough_v for name in sent):
        return view.none(), np.ones(len(view.nominal_v), np.bool_)
    any_voltage = view.any_of(VOLTAGE, lambda values: np.ones(len(values), np.bool_))
    alive = view.any_of(VOLTAGE, lambda values: values >= limits.off_factor * view.nominal_v)
    draws = view.any_of(CURRENT, lambda values: values > limits.off_current_a)
    on = view.any_of(VOLTAGE, lambda values: values >= limits.on_factor * view.nominal_v)
    return any_voltage & ~alive & ~draws, on
