"""The electrical and the communication tree as arrays, indexed by the ids the database assigned.

An id is an index: slot (meter), transformer, feeder, concentrator and head-end ids are small dense integers, so
membership is one `take` and a sum over members one `bincount`. Ids need not be without gaps; a gap has an empty name.
-1 means none. A Topology is immutable: a registry change makes a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from meterwatch.check_profile import MeterClass
from meterwatch.dated import Contracts, Dated
from meterwatch.moves import Moves
from meterwatch.multipliers import Multipliers
from meterwatch.names import Numbers
from meterwatch.own_parts import KIND as SERVICE
from meterwatch.own_parts import Part

PHASE_A, PHASE_B, PHASE_C = 1, 2, 4
PHASE_NAMES = {PHASE_A: "A", PHASE_B: "B", PHASE_C: "C"}
BELLWETHER, TERMINAL = 1, 2
"""Witness kinds of a meter: one chosen to speak for its transformer, and the transformer's own terminal."""
WITNESS_OF = {"bellwether": BELLWETHER, "transformer": TERMINAL}
"""By the registry's terminal_type, in small letters."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Snapshot of the registry at `as_of_us`.

    Per slot arrays have length `slots`, per transformer arrays length `transformers`, and so on (highest id + 1).
    """

    as_of_us: int
    # meters
    meter: Sequence[str]
    transformer_of: NDArray[np.int32]
    concentrator_of: NDArray[np.int32]
    head_end_of: NDArray[np.int32]
    phases: NDArray[np.uint8]
    """Bits PHASE_A | PHASE_B | PHASE_C; 0 = unknown."""
    nominal_v: NDArray[np.float32]
    rated_a: NDArray[np.float32]
    contract_kw: NDArray[np.float32]
    """As last imported; NaN where unknown."""
    interval_s: NDArray[np.int32]
    installed_us: NDArray[np.int64]
    """Installation; INT64_MAX for a gap in the ids: such a slot accepts nothing."""
    retired_us: NDArray[np.int64]
    """Retirement; INT64_MAX while in service."""
    comm_mode: NDArray[np.int16]
    """Index into comm_modes."""
    comm_modes: list[str]
    # transformers
    transformer: list[str]
    feeder_of: NDArray[np.int32]
    rated_kva: NDArray[np.float64]
    transformer_district: list[str]
    # feeders, concentrators, head-ends
    feeder: list[str]
    feeder_district: list[str]
    concentrator: list[str]
    concentrator_head_end: NDArray[np.int32]
    head_end: list[str]
    late_window_us: NDArray[np.int64]
    """Per head-end: how far back a read may reach."""
    slot_of: Mapping[str, int] = field(repr=False)
    """Meter number -> slot. For many at once: slots_of."""
    multiplier: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Of the instrument transformers, per slot, as last imported; left out: 1."""
    multipliers: Multipliers | None = None
    """The same over time; left out: as last imported, always."""
    contracts: Contracts | None = None
    """Contracted power over time; left out: contract_kw, always."""
    moves: Moves = field(default_factory=Moves.none)
    """Where meters hung that did not always hang where they do now; left out: nobody ever moved."""
    head_end_zone: Sequence[str] = ()
    """IANA time zone of each head-end; its meters' days begin by it. Left out: UTC."""
    measures: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Per slot, the transformer whose supply the meter measures; -1: none. Left out: nobody measures one."""
    thermal: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Thermal parameters transformers have of their own, by name; NaN: none. Left out: nobody has one."""
    thermal_types: Dated | None = None
    """Which thermal type a transformer has over time, as an index into thermal_type_names; left out: nobody has one."""
    thermal_type_names: Sequence[str] = ()
    member_of: NDArray[np.int32] = field(init=False)
    """Per slot, the transformer whose load it is part of: transformer_of, but -1 for who measures one."""
    terminal_type: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    """Per slot, index into terminal_types; left out: all of the first."""
    terminal_types: list[str] = field(default_factory=lambda: [""])
    winding: Sequence[str] = ()
    """Of each transformer, as Dyn11; left out: of none."""
    feeder_ampacity_a: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """NaN where unknown; left out: of none."""
    witness: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """0 ordinary, BELLWETHER or TERMINAL, per slot; left out: all ordinary."""
    any_multiplier: bool = field(init=False)
    """Some meter has, or had, a multiplier other than 1."""
    meter_class: NDArray[np.uint8] = field(init=False)
    """meterwatch.check_profile.MeterClass per slot."""

    def __post_init__(self) -> None:
        multiplier = self.multiplier if len(self.multiplier) else np.ones(self.slots, np.float32)
        witness = self.witness if len(self.witness) else np.zeros(self.slots, np.uint8)
        object.__setattr__(self, "witness", witness)
        meter_class = np.where(np.bitwise_count(self.phases) == 1, MeterClass.SINGLE_PHASE, MeterClass.POLYPHASE)
        meter_class[multiplier != 1] = MeterClass.TRANSFORMER_RATED
        meter_class = meter_class.astype(np.uint8)
        measures = self.measures if len(self.measures) else np.full(self.slots, -1, np.int32)
        member_of = np.where(measures >= 0, np.int32(-1), self.transformer_of) if len(self.measures) else None
        ampacity = (
            self.feeder_ampacity_a if len(self.feeder_ampacity_a) else np.full(len(self.feeder), np.nan, np.float32)
        )
        object.__setattr__(self, "feeder_ampacity_a", ampacity)
        for column in (multiplier, witness, meter_class, measures, ampacity):
            column.flags.writeable = False
        object.__setattr__(self, "measures", measures)
        object.__setattr__(self, "member_of", self.transformer_of if member_of is None else member_of)
        object.__setattr__(self, "multiplier", multiplier)
        ever = self.multipliers is not None and self.multipliers.most > 0
        object.__setattr__(self, "any_multiplier", ever or bool((multiplier != 1).any()))
        object.__setattr__(self, "meter_class", meter_class)

    @property
    def slots(self) -> int:
        return len(self.meter)

    def multiplier_at(self, slot: NDArray[np.intp], end_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """Multiplier for intervals of these meters that end then."""
        return self.multiplier.take(slot) if self.multipliers is None else self.multipliers.at(slot, end_us)

    def contract_kw_at(self, slot: NDArray[np.int32], end_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """Contracted power of these meters for intervals that end then, kW; NaN: none."""
        return self.contract_kw.take(slot) if self.contracts is None else self.contracts.at(slot, end_us)

    def slots_of(self, meters: Sequence[str]) -> NDArray[np.int32]:
        """Slot of each of these meter numbers; -1 where it is unknown."""
        if isinstance(self.slot_of, Numbers):
            return self.slot_of.find(meters)
        return np.array([self.slot_of.get(meter, -1) for meter in meters], np.int32)

    def district_of(self, kind: str, name: str) -> str:
        """District of an asset by its name; empty where it has none, or nobody registered it."""
        if kind == "feeder":
            return self.feeder_district[self.feeder.index(name)] if name and name in self.feeder else ""
        if kind == "transformer":
            transformer = self.transformer.index(name) if name and name in self.transformer else -1
        else:
            slot = self.slot_of.get(name, -1) if kind == "meter" else -1
            transformer = int(self.transformer_of[slot]) if slot >= 0 else -1
        return self.transformer_district[transformer] if transformer >= 0 else ""

    def in_districts(self, districts: Collection[str]) -> NDArray[np.bool_]:
        """Per slot, True where the meter hangs at a transformer of these districts."""
        theirs = np.array([name in districts for name in self.transformer_district] + [False], np.bool_)
        return theirs[self.transformer_of]

    def asset_name(self, kind: str, asset_id: int) -> str:
        """Registry name of an asset. KeyError for an unknown kind, ValueError for an unknown part of the service."""
        if kind == SERVICE:
            return Part(asset_id).asset
        names = {
            "meter": self.meter,
            "transformer": self.transformer,
            "feeder": self.feeder,
            "concentrator": self.concentrator,
            "head_end": self.head_end,
        }
        return names[kind][asset_id]
