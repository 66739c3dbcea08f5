"""A small grid drawn from a seed: 1 to 3 feeders, 2 to 8 transformers, 10 to 60 meters.

Every transformer has at least three meters, so that one meter without supply is no outage of it, and if it has a rating
it is loaded to half of it. Refuses to know what happens in the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.topology import Topology
from rules.profile import PHASES, RuleProfile

START_US: Final = 1_770_076_800_000_000
INTERVAL_S: Final = 900
INTERVAL_US: Final = INTERVAL_S * US
FAR_US: Final = int(np.iinfo(np.int64).max)
METERS_MIN: Final = 3
LOADED: Final = 0.5
"""Of the rating, before anything happens."""
POWER_FACTOR: Final = 0.95
"""What OVERLOAD assumes of meters that send no reactive energy."""
DEFAULT: Final = RuleProfile()
RATED: Final = 0.35
"""Of the grids; in the others no load is judged, which is ten times cheaper. Their loads are counted all the same."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What the registry says, the limits in force, and what each meter draws."""

    topology: Topology
    profile: RuleProfile
    base_w: NDArray[np.int64]
    """By slot."""

    def members(self, kind: str, asset_id: int) -> NDArray[np.int32]:
        """Slots of the meters that a feeder or transformer supplies, or of the meter itself."""
        topology = self.topology
        if kind == "meter":
            return np.array([asset_id], np.int32)
        mine = topology.transformer_of == asset_id if kind == "transformer" else self.feeder_of_meter == asset_id
        return np.flatnonzero(mine).astype(np.int32)

    @property
    def rated(self) -> bool:
        """Loads are judged."""
        return bool(np.isfinite(self.topology.rated_kva).any())

    @property
    def feeder_of_meter(self) -> NDArray[np.int32]:
        """By slot; -1: none."""
        return self.topology.feeder_of[self.topology.transformer_of]


def draw_grid(rng: np.random.Generator) -> Grid:
    """The grid of a seed."""
    transformers = int(rng.integers(2, 9))
    meters = int(rng.integers(max(10, METERS_MIN * transformers), 61))
    feeders = int(rng.integers(1, min(4, transformers + 1)))
    feeder_of = np.sort(rng.integers(0, feeders, transformers)).astype(np.int32)
    if rng.random() < 0.15:
        feeder_of[-1] = -1
    some = np.repeat(np.arange(transformers), METERS_MIN)
    transformer_of = np.sort(np.append(some, rng.integers(0, transformers, meters - len(some)))).astype(np.int32)
    head_ends = int(rng.integers(1, 4))
    by_transformer = rng.random() < 0.5
    head_end_of = transformer_of % head_ends if by_transformer else rng.integers(0, head_ends, meters)
    concentrators = transformers if by_transformer and rng.random() < 0.7 else 0
    phases = np.where(rng.random(meters) < 0.3, 7, np.left_shift(1, np.arange(meters) % 3)).astype(np.uint8)
    base_w = rng.integers(200, 1_500, meters)
    carried_w = np.bincount(transformer_of, base_w, transformers)
    rated = rng.random() < RATED
    rated_kva = carried_w / POWER_FACTOR / 1000 / LOADED if rated else np.full(transformers, np.nan)
    contracted = rng.random(meters) < (0.5 if rng.random() < 0.3 else 0.0)
    names = [f"M{i}" for i in range(meters)]
    topology = Topology(
        as_of_us=START_US,
        meter=names,
        transformer_of=transformer_of,
        concentrator_of=transformer_of if concentrators else np.full(meters, -1, np.int32),
        head_end_of=head_end_of.astype(np.int32),
        phases=phases,
        nominal_v=np.full(meters, 230, np.float32),
        rated_a=np.full(meters, 100, np.float32),
        contract_kw=np.where(contracted, base_w / 1000 * 1.5, np.nan).astype(np.float32),
        interval_s=np.full(meters, INTERVAL_S, np.int32),
        installed_us=np.full(meters, START_US - 365 * 86_400 * US),
        retired_us=np.full(meters, FAR_US),
        comm_mode=rng.integers(0, 2, meters).astype(np.int16),
        comm_modes=["PLC", "LTE"],
        transformer=[f"T{i}" for i in range(transformers)],
        feeder_of=feeder_of,
        rated_kva=rated_kva,
        transformer_district=["North"] * transformers,
        feeder=[f"F{i}" for i in range(feeders)],
        feeder_district=["North"] * feeders,
        concentrator=[f"C{i}" for i in range(concentrators)],
        concentrator_head_end=(np.arange(concentrators) % head_ends).astype(np.int32),
        head_end=[f"H{i}" for i in range(head_ends)],
        late_window_us=np.full(head_ends, 45 * 86_400 * US),
        slot_of={name: slot for slot, name in enumerate(names)},
        feeder_ampacity_a=_ampacity(rng, feeder_of, rated_kva, feeders),
    )
    return Grid(topology, PHASES if rng.random() < 0.2 else DEFAULT, base_w)


def _ampacity(
    rng: np.random.Generator, feeder_of: NDArray[np.int32], rated_kva: NDArray[np.float64], feeders: int
) -> NDArray[np.float32]:
    """Half of the grids know none; in the others a feeder carries three quarters of what its transformers may."""
    if rng.random() < 0.5:
        return np.full(feeders, np.nan, np.float32)
    mine = feeder_of >= 0
    kva = np.bincount(feeder_of[mine], np.nan_to_num(rated_kva[mine]), feeders) * 0.75
    return np.where(kva > 0, kva / (10 * 3**0.5), np.nan).astype(np.float32)
