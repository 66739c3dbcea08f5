"""The ingest-time checks: one pure function each, arrays in, mask out. A set element is a finding; 0 is clean.

NaN compares false, so every value check is written to fire on NaN or runs after `not_finite`. Limits are arguments
(meterwatch.check_profile); V numbers as in docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Column
from meterwatch.channels import CURRENT, ENERGY, VOLTAGE
from meterwatch.check_profile import Limits

Mask = NDArray[np.bool_]
FLOAT32_MAX = float(np.finfo(np.float32).max)
INT32_MAX = int(np.iinfo(np.int32).max)
ROUNDING = 1e-4
"""More than what single precision may be off in `power_mismatch`, as a share of its tolerance."""


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
    multiplier: NDArray[np.float32] | None = None
    """Of the instrument transformers; None: 1."""
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
    """V06: voltage outside 0..1.5 Un, current outside 0..20 Imax, |power factor| above 1. NaN is for not_finite."""
    if (
        view.within(VOLTAGE, 0, limits.voltage_factor * float(view.nominal_v.min()))
        and view.within(CURRENT, 0, limits.current_factor * float(view.rated_a.min()))
        and view.within(("power_factor",), -1, 1)
    ):
        return view.none()
    most_v = limits.voltage_factor * view.nominal_v
    most_a = limits.current_factor * view.rated_a.astype(np.float64)
    return (
        view.any_of(VOLTAGE, lambda values: (values < 0) | (values > most_v))
        | view.any_of(CURRENT, lambda values: (values < 0) | (values > most_a))
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


def clock_ahead(lateness_us: NDArray[np.int64], limits: Limits) -> Mask:
    """V10: it arrived more than 60 s before its interval was over. lateness_us: arrival less end."""
    return lateness_us < -limits.ahead_us


def power_mismatch(view: View, limits: Limits) -> Mask:
    """V11: |U I PF - P| above both 5 % of P and 20 W; P = |import - export| / length, U I summed over the phases.

    Judged where power factor, import and, phase by phase, both or neither of U and I are there. U, I and PF are of the
    interval's end and P is its mean: a load that changes within the interval fires. In single precision with limits a
    little low; what that finds and is near the limit is judged again in double. Nothing to do without a power factor.
    """
    phases = _phases(view)
    lone = sum(name in view.channels for name in (*VOLTAGE, *CURRENT)) - 2 * len(phases)
    if not {"power_factor", "import_wh"} <= view.channels.keys() or not phases or (lone and view.present is None):
        return view.none()
    off, mean = _powers(view, phases, slice(None), np.float32)
    off -= mean
    np.abs(off, out=off)
    mean *= np.float32(limits.power_share * (1 - ROUNDING))
    tolerance = np.maximum(mean, np.float32(limits.power_floor_w * (1 - ROUNDING)), out=mean)
    found: Mask = off > tolerance
    if view.present is not None:
        found &= _judged(view)
    if not found.any():
        return found
    tolerance *= np.float32(1 + 3 * ROUNDING)
    near = np.flatnonzero(found & (off <= tolerance))
    if len(near):
        measured64, mean64 = _powers(view, phases, near, np.float64)
        found[near] = np.abs(measured64 - mean64) > np.maximum(mean64 * limits.power_share, limits.power_floor_w)
    return found


def unit_mismatch(view: View, mismatch: Mask, limits: Limits) -> Mask:
    """V05: of the rows that V11 found, those where U I PF is P times or divided by 1000 or the meter's multiplier.

    Reads are to be primary values in Wh; such a ratio says that a multiplier or a unit was forgotten, or applied twice.
    """
    found = view.none()
    rows = np.flatnonzero(mismatch)
    if len(rows) == 0:
        return found
    measured, mean = _powers(view, _phases(view), rows, np.float64)
    with np.errstate(divide="ignore"):
        ratio = np.abs(np.log(measured) - np.log(mean))
    near = np.log1p(limits.unit_share)
    hit = np.abs(ratio - np.log(limits.unit_factor)) <= near
    if view.multiplier is not None:
        factor = np.abs(np.log(view.multiplier[rows].astype(np.float64)))
        hit |= (factor > near) & (np.abs(ratio - factor) <= near)
    found[rows] = hit
    return found


def _phases(view: View) -> list[tuple[str, str]]:
    return [(u, i) for u, i in zip(VOLTAGE, CURRENT, strict=True) if u in view.channels and i in view.channels]


def _powers(view: View, phases: list[tuple[str, str]], rows: Any, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """|U I PF| and |P| of some rows, W; a phase without U or I, and an absent export, count as 0."""

    def zeroed(values: NDArray[Any], *names: str) -> NDArray[Any]:
        if view.present is not None:
            for name in names:
                np.copyto(values, dtype(0), where=~view.present[name][rows])
        return values

    measured: NDArray[Any] = np.zeros(0)
    for n, (u, i) in enumerate(phases):
        apparent = zeroed(np.multiply(view.channels[u][rows], view.channels[i][rows], dtype=dtype), u, i)
        measured = measured + apparent if n else apparent
    measured *= view.channels["power_factor"][rows]
    np.abs(measured, out=measured)
    mean: NDArray[Any] = view.channels["import_wh"][rows].astype(dtype)
    if "export_wh" in view.channels:
        mean -= zeroed(view.channels["export_wh"][rows].astype(dtype), "export_wh")
    mean *= dtype(3600 / view.interval_s)
    return measured, np.abs(mean, out=mean)


def _judged(view: View) -> Mask:
    """Rows with power factor and import, with both or neither of U and I of each phase, and one such pair at least."""
    assert view.present is not None
    none = view.none()
    any_pair, rest = none, view.present["power_factor"] & view.present["import_wh"]
    for u, i in zip(VOLTAGE, CURRENT, strict=True):
        has_u, has_i = view.present.get(u, none), view.present.get(i, none)
        rest = rest & (has_u == has_i)
        any_pair = any_pair | (has_u & has_i)
    return rest & any_pair


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
