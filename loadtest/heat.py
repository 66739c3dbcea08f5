"""The truth of a heatwave: how hot a transformer gets, and when "two hours above the rating" would say so.

Temperatures are integrated in steps of STEP_S from the two differential equations (C57.91 clause 7 form), by code of
its own: the service's closed form is judged by it, not used in it. Transformers are as the service's default profile
takes them to be, in AMBIENT_C. Refuses to know scenarios and alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AMBIENT_C: Final = 30.0
HOT_C: Final = 140.0
"""Gas bubbles form in the oil."""
OIL_RISE_K: Final = 55.0
HOT_SPOT_RISE_K: Final = 25.0
LOSS_RATIO: Final = 5.0
EXPONENT: Final = 0.8
OIL_TIME_CONSTANT_S: Final = 10_800.0
WINDING_TIME_CONSTANT_S: Final = 300.0
STEP_S: Final = 5.0
RULE_HOLD_S: Final = 7200
RULE_LAG_S: Final = 300
"""That rule, too, waits for its reads: 90 % of those by PLC are there 240 s after the interval's end."""


@dataclass(frozen=True, slots=True)
class Heat:
    """Of one transformer, seconds since its first interval began."""

    hot_s: float | None
    """When the hot spot passes HOT_C; None: never."""
    rule_s: tuple[float, ...]
    """When "more than two hours above the rating" warns: each time anew after an interval that is not above."""


def heat(load_pu: Floats, interval_s: int) -> Heat:
    """What a load by intervals does, beginning from a long time at the first of them."""
    hot_s = _passes(load_pu, interval_s)
    needed, run, warned = RULE_HOLD_S // interval_s, 0, []
    for number, above in enumerate((load_pu > 1).tolist(), 1):
        run = run + 1 if above else 0
        if run == needed:
            warned.append(float(number * interval_s + RULE_LAG_S))
    return Heat(hot_s, tuple(warned))


def hot_spots_c(load_pu: Floats, interval_s: int) -> Floats:
    """Hot spot at the end of every STEP_S."""
    oil, winding = _ultimate(float(load_pu[0]))
    found = []
    for load in load_pu.tolist():
        oil_to, winding_to = _ultimate(load)
        for _ in range(round(interval_s / STEP_S)):
            oil += (oil_to - oil) * STEP_S / OIL_TIME_CONSTANT_S
            winding += (winding_to - winding) * STEP_S / WINDING_TIME_CONSTANT_S
            found.append(AMBIENT_C + oil + winding)
    return np.array(found)


def _passes(load_pu: Floats, interval_s: int) -> float | None:
    if AMBIENT_C + sum(_ultimate(float(load_pu.max()))) <= HOT_C:
        return None  # not even for ever at the highest load
    over = np.flatnonzero(hot_spots_c(load_pu, interval_s) > HOT_C)
    return float((over[0] + 1) * STEP_S) if len(over) else None


def _ultimate(load: float) -> tuple[float, float]:
    square = load * load
    oil = OIL_RISE_K * ((square * LOSS_RATIO + 1) / (LOSS_RATIO + 1)) ** EXPONENT
    return oil, HOT_SPOT_RISE_K * square**EXPONENT
