"""The rule engine alone: ns per read, at so many meters. `python -m meterwatch.devtools.rules_bench 1000000 10000000`.

Whole intervals of a calm fleet, in batches of 10,000 as the writer hands them over, evaluated after every 50,000 reads
as the pipeline does under load. `--contract-kw 9.2` gives each meter such a contract, else none has one. Prints one
JSON object: meters -> ns per read (median over the intervals). No database, no wire; `make bench` runs it as a process
of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from meterwatch.clock import US
from meterwatch.quality import Quality
from meterwatch.topology import Topology
from rules.engine import Engine

START_US: Final = 1_767_571_200_000_000
INTERVAL_S: Final = 900
BATCH_ROWS: Final = 10_000
EVALUATE_ROWS: Final = 50_000
METERS_PER_TRANSFORMER: Final = 100
TRANSFORMERS_PER_FEEDER: Final = 50
INTERVALS: Final = 3
WARM_INTERVALS: Final = 2
FAR_US: Final = int(np.iinfo(np.int64).max)


def town(meters: int, contract_kw: float = math.nan) -> Topology:
    """Three levels, one head-end. The meters' numbers are all one text: no rule of a calm fleet reads them."""
    transformers = -(-meters // METERS_PER_TRANSFORMER)
    feeders = -(-transformers // TRANSFORMERS_PER_FEEDER)
    return Topology(
        as_of_us=START_US,
        meter=["0"] * meters,
        transformer_of=(np.arange(meters) // METERS_PER_TRANSFORMER).astype(np.int32),
        concentrator_of=np.full(meters, -1, np.int32),
        head_end_of=np.zeros(meters, np.int32),
        phases=np.full(meters, 7, np.uint8),
        nominal_v=np.full(meters, 230, np.float32),
        rated_a=np.full(meters, 100, np.float32),
        contract_kw=np.full(meters, contract_kw, np.float32),
        interval_s=np.full(meters, INTERVAL_S, np.int32),
        installed_us=np.zeros(meters, np.int64),
        retired_us=np.full(meters, FAR_US, np.int64),
        comm_mode=np.full(meters, -1, np.int16),
        comm_modes=[],
        transformer=[f"T{i}" for i in range(transformers)],
        feeder_of=(np.arange(transformers) // TRANSFORMERS_PER_FEEDER).astype(np.int32),
        rated_kva=np.full(transformers, 400.0),
        transformer_district=[""] * transformers,
        feeder=[f"F{i}" for i in range(feeders)],
        feeder_district=[""] * feeders,
        concentrator=[],
        concentrator_head_end=np.zeros(0, np.int32),
        head_end=["H"],
        late_window_us=np.full(1, 45 * 86_400 * US),
        slot_of={},
    )


def change(slot: NDArray[np.int32], end_us: int, wh: NDArray[np.int32]) -> ReadChange:
    """Reads of these meters, newly stored."""
    rows = len(slot)
    none = np.zeros(rows, np.int32)
    return ReadChange(
        slot=slot,
        end_us=np.full(rows, end_us),
        interval_s=np.full(rows, INTERVAL_S, np.int32),
        quality=np.full(rows, Quality.SUPPLY_ON, np.int32),
        import_wh=wh,
        export_wh=none,
        import_varh=none,
        export_varh=none,
        has_energy=np.ones(rows, np.bool_),
        has_reactive=np.zeros(rows, np.bool_),
        sign=np.ones(rows, np.int8),
    )


def measure(meters: int, intervals: int = INTERVALS, contract_kw: float = math.nan) -> float:
    """CPU ns per read, median over `intervals` whole intervals."""
    engine = Engine(town(meters, contract_kw))
    engine.silence.head_end_connected(0, START_US)
    rng = np.random.default_rng(1)
    wh = rng.gamma(2.0, 110.0, meters).astype(np.int32)
    ns: list[float] = []
    for interval in range(1, WARM_INTERVALS + intervals + 1):
        end_us = START_US + interval * INTERVAL_S * US
        spent_ns = rows = 0
        for at in range(0, meters, BATCH_ROWS):
            slot = np.arange(at, min(at + BATCH_ROWS, meters), dtype=np.int32)
            one = change(slot, end_us, wh[slot])
            began_ns = time.process_time_ns()
            engine.observe_reads(one, end_us)
            rows += len(slot)
            if rows >= EVALUATE_ROWS or at + BATCH_ROWS >= meters:
                engine.evaluate(end_us)
                engine.overload.unsaved()
                engine.overload.saved()
                rows = 0
            spent_ns += time.process_time_ns() - began_ns
        ns.append(spent_ns / meters)
    return median(ns[WARM_INTERVALS:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("meters", type=int, nargs="+")
    parser.add_argument("--contract-kw", type=float, default=math.nan)
    chosen = parser.parse_args()
    print(json.dumps({str(n): measure(n, contract_kw=chosen.contract_kw) for n in chosen.meters}))


if __name__ == "__main__":
    main()
