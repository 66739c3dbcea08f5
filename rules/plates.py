"""Which thermal numbers a transformer has on which day: its own, else those of its type, else those of the profile.

A *type* is a named set of numbers in the profile, shipped or of a file. A transformer has the type that the registry
names, else the one its rating falls under, else none. Numbers hold for whole UTC days, warm-up and all: what holds at
noon of a day. So a temperature follows from the loads and the day, whenever it is reckoned: live, late, or again.
Refuses to know: the tables of the registry, loads, temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.dated import Dated
from rules.seasons import EPOCH, is_day
from rules.thermal import PARAMETERS, Floats, ThermalParameters, ThermalProfile

Ints = NDArray[np.int64]
DAY_US: Final = 86_400 * US
NO_TYPE: Final = -1


@dataclass(frozen=True, slots=True)
class ThermalType:
    """Numbers that transformers share, as in ThermalProfile; 0: not given, that of the profile."""

    name: str
    oil_rise_k: float = 0.0
    hot_spot_rise_k: float = 0.0
    loss_ratio: float = 0.0
    oil_exponent: float = 0.0
    winding_exponent: float = 0.0
    oil_time_constant_s: float = 0.0
    winding_time_constant_s: float = 0.0
    up_to_kva: float = 0.0
    """The type of transformers rated up to this for which the registry names none; of several the lowest. 0: only of
    those it is named for."""
    since: str = ""
    """The first UTC day on which this is so, as 2026-01-01; it replaces the type of the same name. Empty: always."""

    def problems(self) -> list[str]:
        """What is wrong with it, in words for the person who wrote it."""
        found = [
            f"type {self.name} has {name} {getattr(self, name)}; expected above 0, or 0 for that of the profile"
            for name in (*PARAMETERS, "up_to_kva")
            if not 0 <= getattr(self, name) < np.inf
        ]
        if self.since and not is_day(self.since):
            found.append(f"type {self.name} holds since {self.since!r}; expected a day, as 2026-01-01")
        return found


SHIPPED_TYPES: Final = (
    ThermalType("onan-small", 55.0, 23.0, 5.0, 0.8, 0.8, 7_200.0, 480.0),
    ThermalType("onan-medium", 55.0, 23.0, 5.0, 0.8, 0.8, 10_800.0, 480.0),
    ThermalType("onan-large", 52.0, 26.0, 6.0, 0.8, 0.65, 6_300.0, 600.0),
)
"""Naturally cooled. Distribution, and above some 2500 kVA, are ONAN of IEC 60076-7: time constants k11 tau_o and, of
the first, k22 tau_w; exponents m = y / 2. The hot spot of the second overshoots for two hours there (k21 = 2), which
this model cannot; tau_w in place of k22 tau_w gives back some of it. (std) Pole-mounted: less oil. (ours)"""


class Registered(Protocol):
    """What is needed of a topology, per transformer."""

    @property
    def rated_kva(self) -> Floats: ...
    @property
    def thermal(self) -> Mapping[str, Floats]: ...
    @property
    def thermal_types(self) -> Dated | None: ...
    @property
    def thermal_type_names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What all Plates of one registry and profile share."""

    thermal: ThermalProfile
    types: tuple[ThermalType, ...]
    of: Registered
    borders: Ints
    """Days with which something changes, ascending."""


class Plates:
    """Thermal numbers of n transformers by UTC day (days since 1970)."""

    def __init__(self, sheet: _Sheet, index: Ints) -> None:
        """Of these transformers, in this order; see `of`."""
        self._sheet, self._index = sheet, index
        self._span = -1
        """Between which borders the following hold; -1: not looked up yet."""
        self._holding: list[ThermalType] = []
        self._numbers = np.zeros(0, np.int64)
        self._parameters: ThermalParameters | None = None

    @classmethod
    def of(
        cls, thermal: ThermalProfile, types: tuple[ThermalType, ...], of: Registered, index: Ints | None = None
    ) -> Plates:
        """Of these transformers; None: of all that are registered. Cost of some: that of their own rows."""
        sheet = _Sheet(thermal, types, of, _borders(types, of.thermal_types, index))
        return cls(sheet, np.arange(len(of.rated_kva)) if index is None else index)

    def __len__(self) -> int:
        return len(self._index)

    def take(self, index: NDArray[Any]) -> Plates:
        """Those of these transformers."""
        taken = Plates(self._sheet, self._index[index])
        if self._parameters is not None:
            taken._span, taken._holding = self._span, self._holding
            taken._numbers, taken._parameters = self._numbers[index], self._parameters.take(index)
        return taken

    def on(self, day: int) -> ThermalParameters:
        """Those of a day: the same object as long as nothing changes. ConfigError for own numbers that do not fit."""
        span = int(np.searchsorted(self._sheet.borders, day, "right"))
        if span != self._span or self._parameters is None:
            self._holding = _holding(self._sheet.types, EPOCH + timedelta(days=day))
            self._numbers = self._numbers_on(day)
            self._parameters = self._with(self._holding, self._numbers)
            self._span = span
        return self._parameters

    def types_on(self, day: int) -> list[str]:
        """Name of the type of each on a day; empty: none."""
        self.on(day)
        names = [*(one.name for one in self._holding), ""]
        return [names[number] for number in self._numbers.tolist()]

    def shown(self, at: int, day: int) -> dict[str, Any]:
        """The type of one of them and its numbers on a day, for people."""
        parameters = self.on(day)
        number = int(self._numbers[at])
        numbers = {name: round(float(getattr(parameters, name)[at]), 6) for name in PARAMETERS}
        return {"thermal_type": "none" if number == NO_TYPE else self._holding[number].name} | numbers

    def ever(self) -> Iterator[ThermalParameters]:
        """Sets of which each transformer has one on any day; some have none of some."""
        everybody = np.zeros(len(self), np.int64)
        yield self._with([], everybody + NO_TYPE)
        named = set() if self._sheet.of.thermal_types is None else set(self._sheet.of.thermal_type_names)
        for one in self._sheet.types:
            if one.up_to_kva > 0 or one.name in named:
                yield self._with([one], everybody)

    def _numbers_on(self, day: int) -> Ints:
        """Which of `_holding` each has, int64 [n]; NO_TYPE: none."""
        registered = self._sheet.of
        numbers = np.full(len(self), NO_TYPE, np.int64)
        by_rating = sorted((one.up_to_kva, number) for number, one in enumerate(self._holding) if one.up_to_kva > 0)
        if by_rating:
            rated = np.nan_to_num(registered.rated_kva[self._index])
            at = np.searchsorted([limit for limit, _ in by_rating], rated, "left")
            under = (rated > 0) & (at < len(by_rating))
            numbers[under] = np.array([number for _, number in by_rating])[at[under]]
        if registered.thermal_types is not None:
            number_of = {one.name: number for number, one in enumerate(self._holding)}
            known = np.array([number_of.get(name, NO_TYPE) for name in registered.thermal_type_names], np.int64)
            noon_us = np.full(len(self), day * DAY_US + DAY_US // 2)
            named = registered.thermal_types.at(self._index, noon_us)
            says = np.flatnonzero(~np.isnan(named))
            numbers[says] = known[named[says].astype(np.int64)]
        return numbers

    def _with(self, types: Sequence[ThermalType], numbers: Ints) -> ThermalParameters:
        given: dict[str, Floats] = {}
        for name in PARAMETERS:
            by_type = [getattr(one, name) or np.nan for one in types]
            given[name] = np.array([*by_type, np.nan])[numbers]  # NO_TYPE is the last
            if name in self._sheet.of.thermal:
                own = self._sheet.of.thermal[name][self._index]
                given[name] = np.where(np.isnan(own), given[name], own)
        return ThermalParameters.of(self._sheet.thermal, len(self), given)


def unknown_types(types: tuple[ThermalType, ...], of: Registered) -> list[str]:
    """Types that the registry names and the profile has not: such a transformer has the numbers of the profile."""
    if of.thermal_types is None:
        return []
    return sorted(set(of.thermal_type_names) - {one.name for one in types})


def _holding(types: tuple[ThermalType, ...], day: date) -> list[ThermalType]:
    """Those in force on a day, each name once."""
    found: dict[str, ThermalType] = {}
    for one in sorted(types, key=lambda one: one.since):
        if one.since <= day.isoformat():
            found[one.name] = one
    return list(found.values())


def _borders(types: tuple[ThermalType, ...], named: Dated | None, index: Ints | None) -> Ints:
    """Days with which something changes for these transformers, ascending; None: for any."""
    since = [(date.fromisoformat(one.since) - EPOCH).days for one in types if one.since]
    if named is None:
        return np.array(sorted(since), np.int64)
    rows = np.arange(len(named.slot))
    if index is not None:
        first, stop = (np.searchsorted(named.slot, index, side).tolist() for side in ("left", "right"))
        rows = np.concatenate([rows[:0], *(rows[a:b] for a, b in zip(first, stop, strict=True))])
    moments = np.concatenate((named.from_us[rows], named.to_us[rows]))
    noon = -(-(moments - DAY_US // 2 + 1) // DAY_US)  # the first whose noon is after it
    return np.unique(np.concatenate((np.array(since, np.int64), noon)))
