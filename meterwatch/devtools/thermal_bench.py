"""The thermal step alone: ms per 100,000 transformers. `python -m meterwatch.devtools.thermal_bench 100000`.

What an interval costs: the step, the time to the limit, the levels. Two fleets: calm, and one in which a tenth is
loaded so that the limit lies ahead. Prints one JSON object (CPU, median over the intervals). No database, no wire;
`make bench` runs it as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Final

import numpy as np

from rules.thermal import Thermal, ThermalParameters, ThermalProfile, levels

INTERVAL_S: Final = 900
INTERVALS: Final = 15
WARM_INTERVALS: Final = 3
PER: Final = 100_000
HOT_LOAD_PU: Final = 1.4


def measure(transformers: int, hot_share: float) -> float:
    """CPU ms per 100,000 transformers and interval."""
    profile, rng = ThermalProfile(), np.random.default_rng(1)
    model = Thermal(
        ThermalParameters.of(profile, transformers, {"oil_rise_k": rng.normal(profile.oil_rise_k, 4, transformers)})
    )
    usual = rng.uniform(0.2, 0.8, transformers)
    usual[: int(transformers * hot_share)] = HOT_LOAD_PU
    state = model.steady(rng.uniform(0.2, 0.8, transformers), profile.ambient_c)
    ms: list[float] = []
    for _ in range(WARM_INTERVALS + INTERVALS):
        load = usual * rng.normal(1, 0.1, transformers)
        began_ns = time.process_time_ns()
        model.step(state, INTERVAL_S, load, profile.ambient_c)
        levels(profile, state.hot_spot_c, model.seconds_to(state, profile.high_c))
        ms.append((time.process_time_ns() - began_ns) / 1e6 * PER / transformers)
    return median(ms[WARM_INTERVALS:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transformers", type=int)
    count = parser.parse_args().transformers
    print(json.dumps({"calm": measure(count, 0.0), "hot": measure(count, 0.1)}))


if __name__ == "__main__":
    main()
