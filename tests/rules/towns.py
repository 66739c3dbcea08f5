"""Small regular registries for the tests of the rules."""

from __future__ import annotations

import numpy as np

from meterwatch.clock import US
from meterwatch.topology import Topology

T0 = 1_790_000_100 * US
NEVER = int(np.iinfo(np.int64).max)


def town(
    *,
    feeders: int,
    transformers: int,
    meters: int,
    loose_transformers: int = 0,
    loose_meters: int = 0,
    concentrator_meters: int = 0,
    comm_mode: str = "RF mesh",
) -> Topology:
    """`transformers` per feeder, `meters` per transformer; then transformers without feeder, meters without either.

    concentrator_meters: meters per concentrator, in slot order; 0 = no concentrators. One head-end.
    """
    stations = feeders * transformers + loose_transformers
    slots = stations * meters + loose_meters
    transformer_of = np.arange(slots, dtype=np.int32) // meters
    transformer_of[stations * meters :] = -1
    feeder_of = np.arange(stations, dtype=np.int32) // transformers
    feeder_of[feeders * transformers :] = -1
    if concentrator_meters:
        concentrator_of = np.arange(slots, dtype=np.int32) // concentrator_meters
    else:
        concentrator_of = np.full(slots, -1, np.int32)
    concentrators = int(concentrator_of.max()) + 1
    names = [f"M{slot}" for slot in range(slots)]
    return Topology(
        as_of_us=T0,
        meter=names,
        transformer_of=transformer_of,
        concentrator_of=concentrator_of,
        head_end_of=np.zeros(slots, np.int32),
        phases=np.full(slots, 1, np.uint8),
        nominal_v=np.full(slots, 230, np.float32),
        rated_a=np.full(slots, 100, np.float32),
        contract_kw=np.full(slots, np.nan, np.float32),
        interval_s=np.full(slots, 900, np.int32),
        installed_us=np.zeros(slots, np.int64),
        retired_us=np.full(slots, NEVER, np.int64),
        comm_mode=np.zeros(slots, np.int16),
        comm_modes=[comm_mode],
        transformer=[f"T{i}" for i in range(stations)],
        feeder_of=feeder_of,
        rated_kva=np.full(stations, 400.0),
        transformer_district=["North"] * stations,
        feeder=[f"F{i}" for i in range(feeders)],
        feeder_district=["North"] * feeders,
        concentrator=[f"C{i}" for i in range(concentrators)],
        concentrator_head_end=np.zeros(concentrators, np.int32),
        head_end=["H0"],
        late_window_us=np.full(1, 45 * 86_400 * US, np.int64),
        slot_of={name: slot for slot, name in enumerate(names)},
    )
