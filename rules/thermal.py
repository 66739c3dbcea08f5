"""Temperatures of transformers from their load: top oil, hot spot, ageing, time to a limit, in one vector step.

The form of IEEE C57.91 clause 7, load and ambient constant within an interval. At load b (per unit of the rating)

    top oil over ambient       ->  oil_rise_k     * ((b^2 * loss_ratio + 1) / (loss_ratio + 1)) ^ oil_exponent
    hot spot over top oil      ->  hot_spot_rise_k * b ^ (2 * winding_exponent)

are where the two rises go, each exponentially with a time constant of its own. A step is the exact solution, so an
interval may be cut anywhere without a change of temperature. Ambient is added as it is: the oil lags the load, not the
weather. What came before fades with the time constants: a state begun anywhere is right after a few of the longest
(`warm_up_s`), so a restart and a late read are both "run the loads since then again".
Refuses to know: where loads and ambient come from, the clock, alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meterwatch.errors import ConfigError

Floats = NDArray[np.float64]
Levels = NDArray[np.int8]

AGEING_K: Final = 15_000.0
"""Activation of thermally upgraded paper, kelvin: C57.91. (std)"""
REFERENCE_K: Final = 383.0
"""Hot spot at which a second costs a second of life: 110 C, with 273 as C57.91 has it. (std)"""
ZERO_C_K: Final = 273.0
BISECTIONS: Final = 24
"""Of the time to a limit: a bracket of ten days comes down to 50 ms."""

TOGETHER: Final = 8192
"""Transformers stepped at once: what a step needs of them stays in the cache of a core."""
EVERY: Final = slice(None)


class Level(IntEnum):
    """What a temperature, or the time to one, calls for."""

    NORMAL = 0
    WARNING = 1
    HIGH = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class ThermalProfile:
    """Numbers of a transformer without its own, and of the levels. ConfigError lists everything that does not fit."""

    oil_rise_k: float = 55.0
    """Top oil over ambient at rated load, steady. (check)"""
    hot_spot_rise_k: float = 25.0
    """Hot spot over top oil at rated load, steady. (check)"""
    loss_ratio: float = 5.0
    """Load loss at rated load over no-load loss: R. (check)"""
    oil_exponent: float = 0.8
    """n: natural cooling. (check)"""
    winding_exponent: float = 0.8
    """m: natural cooling. (check)"""
    oil_time_constant_s: float = 10_800.0
    """3 h. (check)"""
    winding_time_constant_s: float = 300.0
    """5 min. (check)"""
    ambient_c: float = 30.0
    """Where nobody says better. (ours)"""
    warning_c: float = 120.0
    """Hot spot of WARNING. (check)"""
    high_c: float = 140.0
    """Hot spot of HIGH: gas bubbles form in the oil. (check)"""
    critical_c: float = 160.0
    """Hot spot of CRITICAL. (ours)"""
    high_within_s: float = 3600.0
    """HIGH also if the present load leads to high_c in less than this. (ours)"""
    warm_up_time_constants: float = 6.0
    """A wrong begin counts exp(-6) = 0.25 % of itself after so many of the oil's: 0.1 K of 55. (ours)"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; expected above 0"
            for name in (*PARAMETERS, "high_within_s", "warm_up_time_constants")
            if not getattr(self, name) > 0
        ]
        if not self.warning_c < self.high_c < self.critical_c:
            problems.append(
                f"warning_c {self.warning_c}, high_c {self.high_c}, critical_c {self.critical_c}; expected them rising"
            )
        if problems:
            raise ConfigError(problems)

    @property
    def warm_up_s(self) -> float:
        """Loads from so far back make the present state, whatever was before."""
        return self.warm_up_time_constants * max(self.oil_time_constant_s, self.winding_time_constant_s)

    def warm_up_of(self, parameters: ThermalParameters) -> float:
        """The same of transformers with numbers of their own: that of the slowest."""
        slowest_s = max(
            parameters.oil_time_constant_s.max(initial=0.0), parameters.winding_time_constant_s.max(initial=0.0)
        )
        return self.warm_up_time_constants * float(slowest_s)


PARAMETERS: Final = (
    "oil_rise_k", "hot_spot_rise_k", "loss_ratio", "oil_exponent", "winding_exponent",
    "oil_time_constant_s", "winding_time_constant_s",
)  # fmt: skip
"""What a transformer may have of its own."""


@dataclass(frozen=True, slots=True)
class ThermalParameters:
    """Of n transformers, float64 [n] each; units are those of ThermalProfile."""

    oil_rise_k: Floats
    hot_spot_rise_k: Floats
    loss_ratio: Floats
    oil_exponent: Floats
    winding_exponent: Floats
    oil_time_constant_s: Floats
    winding_time_constant_s: Floats

    @classmethod
    def of(cls, profile: ThermalProfile, n: int, own: Mapping[str, ArrayLike] | None = None) -> ThermalParameters:
        """The profile's numbers, and `own` [n] where it is not NaN. ConfigError names all that do not fit."""
        own = own or {}
        problems = [
            f"{name} is no thermal parameter; expected {', '.join(PARAMETERS)}" for name in own.keys() - PARAMETERS
        ]
        columns: dict[str, Floats] = {}
        for name in PARAMETERS:
            given = np.broadcast_to(np.asarray(own.get(name, np.nan), np.float64), (n,))
            columns[name] = np.where(np.isnan(given), getattr(profile, name), given)
            bad = np.flatnonzero(~((columns[name] > 0) & np.isfinite(columns[name])))
            if len(bad):
                problems.append(f"{name} of transformer {bad[0]} is {columns[name][bad[0]]}; expected above 0")
        if problems:
            raise ConfigError(problems)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.oil_rise_k)

    def take(self, index: NDArray[np.intp]) -> ThermalParameters:
        """Those of these transformers; one may be taken many times."""
        return ThermalParameters(*(getattr(self, column.name)[index] for column in fields(self)))


@dataclass(slots=True)
class ThermalState:
    """Of n transformers after some interval, float64 [n] each."""

    oil_rise_k: Floats
    """Top oil over ambient."""
    winding_rise_k: Floats
    """Hot spot over top oil."""
    oil_to_k: Floats
    """Where the oil's rise goes at the present load."""
    winding_to_k: Floats
    load_pu: Floats
    """The last known."""
    ambient_c: Floats
    life_s: Floats
    """Consumed since the state began, seconds at 110 C."""
    unknown_s: Floats
    """Since the last known load."""

    @property
    def top_oil_c(self) -> Floats:
        return self.ambient_c + self.oil_rise_k

    @property
    def hot_spot_c(self) -> Floats:
        return self.ambient_c + self.oil_rise_k + self.winding_rise_k

    def take(self, index: NDArray[np.intp]) -> ThermalState:
        """The state of these transformers, to step on its own; one may be taken many times."""
        return ThermalState(*(getattr(self, column.name)[index] for column in fields(self)))

    def copy(self) -> ThermalState:
        """One that steps on its own."""
        return ThermalState(*(getattr(self, column.name).copy() for column in fields(self)))


class Thermal:
    """The parameters as arrays, and the step. It holds no state of a transformer."""

    def __init__(self, parameters: ThermalParameters) -> None:
        self._parameters = p = parameters
        self._oil_scale = p.oil_rise_k * (p.loss_ratio + 1) ** -p.oil_exponent
        self._interval_s = -1.0
        self._decay: tuple[Floats, ...] = ()

    def take(self, index: NDArray[np.intp]) -> Thermal:
        """Of these transformers; one may be taken many times."""
        return Thermal(self._parameters.take(index))

    def steady(self, load_pu: ArrayLike, ambient_c: ArrayLike) -> ThermalState:
        """The state after a long time at this load, and no life consumed yet. load_pu, ambient_c: [n] or a number."""
        n = len(self._parameters)
        load = np.broadcast_to(np.asarray(load_pu, np.float64), (n,)).copy()
        ambient = np.broadcast_to(np.asarray(ambient_c, np.float64), (n,)).copy()
        oil, winding = self.ultimate(load)
        return ThermalState(oil, winding, oil.copy(), winding.copy(), load, ambient, np.zeros(n), np.zeros(n))

    def ultimate(self, load_pu: Floats, rows: slice = EVERY) -> tuple[Floats, Floats]:
        """Where the two rises go at this load, kelvin. A reverse load (negative) heats as the same load forward."""
        p, square = self._parameters, load_pu * load_pu
        oil = self._oil_scale[rows] * (square * p.loss_ratio[rows] + 1) ** p.oil_exponent[rows]
        return oil, p.hot_spot_rise_k[rows] * square ** p.winding_exponent[rows]

    def step(self, state: ThermalState, interval_s: float, load_pu: Floats, ambient_c: ArrayLike) -> None:
        """Take `state` through one interval, in place.

        load_pu [n]: S / S_rated; NaN: not known, the last known load goes on. ambient_c: [n] or a number, of this
        interval. Life is the ageing factor by Simpson's rule over the interval (docs/thermal.md: how near that is).
        """
        known = ~np.isnan(load_pu)
        np.copyto(state.load_pu, load_pu, where=known)
        state.unknown_s += interval_s
        state.unknown_s[known] = 0.0
        state.ambient_c[:] = ambient_c
        decays = self._decays(interval_s)
        for at in range(0, len(load_pu), TOGETHER):
            self._step(state, interval_s, decays, slice(at, at + TOGETHER))

    def _step(self, state: ThermalState, interval_s: float, decays: tuple[Floats, ...], rows: slice) -> None:
        oil_half, oil_whole, winding_half, winding_whole = (part[rows] for part in decays)
        oil_to, winding_to = self.ultimate(state.load_pu[rows], rows)
        state.oil_to_k[rows], state.winding_to_k[rows] = oil_to, winding_to
        oil, winding = state.oil_rise_k[rows] - oil_to, state.winding_rise_k[rows] - winding_to
        settled_c = state.ambient_c[rows] + oil_to + winding_to
        life = ageing_factor(settled_c + oil + winding)
        life += 4 * ageing_factor(settled_c + oil * oil_half + winding * winding_half)
        oil *= oil_whole
        winding *= winding_whole
        life += ageing_factor(settled_c + oil + winding)
        np.add(oil, oil_to, out=state.oil_rise_k[rows])
        np.add(winding, winding_to, out=state.winding_rise_k[rows])
        state.life_s[rows] += life * (interval_s / 6)

    def _decays(self, interval_s: float) -> tuple[Floats, ...]:
        """What is left of a difference after half an interval and a whole one: oil, oil, winding, winding."""
        if interval_s != self._interval_s:
            p = self._parameters
            self._decay = tuple(
                np.exp(-interval_s * part / constant)
                for constant in (p.oil_time_constant_s, p.winding_time_constant_s)
                for part in (0.5, 1.0)
            )
            self._interval_s = interval_s
        return self._decay

    def seconds_to(self, state: ThermalState, limit_c: float) -> Floats:
        """Time until the hot spot is at `limit_c` if load and ambient stay; 0: it is there, inf: never. float64 [n].

        The hot spot is the sum of two exponentials, so it turns at most once. It meets the limit for the first time
        before it turns down, or between the turn and the time by which both have faded. Only those are bisected.
        """
        p, n = self._parameters, len(state.load_pu)
        seconds = np.full(n, np.inf)
        some = [slice(at, at + TOGETHER) for at in range(0, n, TOGETHER)]
        ahead = [np.flatnonzero(_sort_out(state, limit_c, seconds[rows], rows)) + rows.start for rows in some]
        may = np.concatenate(ahead) if ahead else np.zeros(0, np.intp)
        if not len(may):
            return seconds
        oil, winding, room = _differences(state, limit_c, may)
        oil_s, winding_s = p.oil_time_constant_s[may], p.winding_time_constant_s[may]

        def over(at_s: Floats) -> NDArray[np.bool_]:
            reached: NDArray[np.bool_] = oil * np.exp(-at_s / oil_s) + winding * np.exp(-at_s / winding_s) >= room
            return reached

        turn = _turn_s(oil, oil_s, winding, winding_s)
        by_turn = over(turn)
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # room == 0 or nothing to fade: not reached, or at the turn
            faded = np.maximum(oil_s, winding_s) * np.log((np.abs(oil) + np.abs(winding)) / -room)
        high = np.where(by_turn, turn, np.where(room < 0, np.maximum(faded, 0.0), np.inf))
        ever = np.isfinite(high)
        low = np.zeros(len(may))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            there = over(middle)
            high = np.where(there, middle, high)
            low = np.where(there, low, middle)
        seconds[may[ever]] = high[ever]
        return seconds


def _differences(state: ThermalState, limit_c: float, rows: slice | NDArray[np.intp]) -> tuple[Floats, ...]:
    """How far oil and winding are above where they go, and the limit above where the hot spot goes: kelvin."""
    oil_to, winding_to = state.oil_to_k[rows], state.winding_to_k[rows]
    room = limit_c - (state.ambient_c[rows] + oil_to + winding_to)
    return state.oil_rise_k[rows] - oil_to, state.winding_rise_k[rows] - winding_to, room


def _sort_out(state: ThermalState, limit_c: float, seconds: Floats, rows: slice) -> NDArray[np.bool_]:
    """True where the limit may lie ahead; `seconds` of these rows becomes 0 where it is met already."""
    oil, winding, room = _differences(state, limit_c, rows)
    below = oil + winding < room
    seconds[~below] = 0.0
    return below & ((room < 0) | (np.maximum(oil, 0) + np.maximum(winding, 0) >= room))


def _turn_s(oil: Floats, oil_s: Floats, winding: Floats, winding_s: Floats) -> Floats:
    """When the sum of the two exponentials turns from rising to falling; 0 where it does not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = -(winding / winding_s) / (oil / oil_s)
        at_s = np.log(ratio) / (1 / winding_s - 1 / oil_s)
    turns = (oil / oil_s + winding / winding_s < 0) & np.isfinite(at_s) & (at_s > 0)
    return np.where(turns, at_s, 0.0)


def ageing_factor(hot_spot_c: Floats) -> Floats:
    """Seconds of life a second at this hot spot costs: 1 at 110 C, 2.71 at 120, 17.2 at 140 (C57.91)."""
    factor: Floats = np.exp(AGEING_K / REFERENCE_K - AGEING_K / (hot_spot_c + ZERO_C_K))
    return factor


def levels(profile: ThermalProfile, hot_spot_c: Floats, seconds_to_high: Floats) -> Levels:
    """Level of each transformer, int8 [n]. seconds_to_high: seconds_to(state, profile.high_c)."""
    level = np.zeros(len(hot_spot_c), np.int8)
    level[hot_spot_c >= profile.warning_c] = Level.WARNING
    level[(hot_spot_c >= profile.high_c) | (seconds_to_high < profile.high_within_s)] = Level.HIGH
    level[hot_spot_c >= profile.critical_c] = Level.CRITICAL
    return level
