"""What is sent: a small town whose reads, corrections, repetitions and events are a function of seed and step.

So the journal need not hold values: who knows which batch was acknowledged knows every row of it. Two head-ends, each
with half of the transformers; a step is a quarter of an hour. Faults come in blocks of BLOCK_STEPS: a transformer is
overloaded (its members draw twice its rating, told at once), is without supply (its meters say so and send no reads),
or neither; the first block has none, so that a subscriber is there before the first alarm.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch import registry_csv
from meterwatch.batch import EventCode
from meterwatch.client import RegistryFile
from meterwatch.clock import US

HEAD_ENDS: Final = ("T-0", "T-1")
TRANSFORMERS: Final = 32
MEMBERS: Final = 10
METERS: Final = TRANSFORMERS * MEMBERS
STEP_S: Final = 900
STEP_US: Final = STEP_S * US
START_US: Final = 1_767_225_600 * US
"""2026-01-01, end of step 0."""
BLOCK_STEPS: Final = 32
RATED_KVA: Final = 100
OVERLOADED: Final = range(4, 14)
"""Steps of the block in which a faulty transformer carries twice its rating."""
DARK: Final = range(8, 12)
"""Steps of the block in which the reads of a dark one are missing."""
FAULT_SHARES: Final = (0.80, 0.12, 0.08)
CORRECTED_LAG: Final = 6
CORRECTED_EVERY: Final = 4
"""Every so many steps some reads of CORRECTED_LAG steps ago are sent once more, some with another value."""
CORRECTION_WH: Final = 7
NORMAL, OVERLOAD, OUTAGE = range(3)

Rows = NDArray[np.intp]
METER: Final = tuple(f"K-{i:04d}" for i in range(METERS))
TRANSFORMER_OF: Final = np.arange(METERS) // MEMBERS


class Reads(NamedTuple):
    """Reads of one batch; arrays of equal length."""

    meter: Rows
    step: int
    import_wh: NDArray[np.int32]
    voltage_v: NDArray[np.float32]


class Events(NamedTuple):
    """Events of one request; arrays of equal length."""

    meter: Rows
    at_us: NDArray[np.int64]
    code: NDArray[np.int64]


def registry() -> list[RegistryFile]:
    """The files to import, complete."""
    tables: dict[str, tuple[tuple[str, ...], list[dict[str, object]]]] = {
        "head_ends": (
            registry_csv.HeadEnd._fields,
            [{"head_end": name, "time_zone": "UTC", "late_window_days": 36500} for name in HEAD_ENDS],
        ),
        "feeders": (registry_csv.Feeder._fields, [{"feeder": f"F-{i}", "ampacity_a": 400} for i in range(4)]),
        "transformers": (
            registry_csv.Transformer._fields,
            [
                {"transformer": f"X-{i:02d}", "feeder": f"F-{i % 4}", "rated_kva": RATED_KVA, "district": "D"}
                for i in range(TRANSFORMERS)
            ],
        ),
        "meters": (
            registry_csv.Meter._fields,
            [
                {
                    "meter": meter, "transformer": f"X-{t:02d}", "phases": "A", "nominal_v": 230, "interval_s": STEP_S,
                    "installed_on": "2020-01-01", "head_end": HEAD_ENDS[t % len(HEAD_ENDS)],
                }
                for meter, t in zip(METER, TRANSFORMER_OF.tolist(), strict=True)
            ],
        ),
    }  # fmt: skip
    return [RegistryFile(kind, f"{kind}.csv", _csv(*table).encode()) for kind, table in tables.items()]


def _csv(columns: tuple[str, ...], rows: list[dict[str, object]]) -> str:
    lines = [columns, *(tuple(str(row.get(name, "")) for name in columns) for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


def end_us(step: int) -> int:
    """End of the interval of a step."""
    return START_US + step * STEP_US


class Town:
    """See the module head."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._mine = [np.flatnonzero(TRANSFORMER_OF % len(HEAD_ENDS) == h) for h in range(len(HEAD_ENDS))]
        self._fault_of = lru_cache(256)(self._draw)
        self._values = lru_cache(256)(self._draw_values)

    def reads(self, head_end: int, step: int) -> Reads:
        """What the meters of a head-end measured in a step."""
        wh, volts = self._values(step)
        meter = self._mine[head_end][self._sends(step)[self._mine[head_end]]]
        return Reads(meter, step, wh[meter], volts[meter])

    def again(self, head_end: int, step: int) -> Reads | None:
        """What is sent once more in a step, of the reads of CORRECTED_LAG steps before; None: nothing."""
        if step % CORRECTED_EVERY or step < CORRECTED_LAG:
            return None
        return self.again_of(head_end, step - CORRECTED_LAG)

    def again_of(self, head_end: int, step: int) -> Reads:
        """What is sent once more of the reads of a step: every fifth meter's as it was, every seventh's corrected."""
        was = self.reads(head_end, step)
        corrected = was.meter % 7 == step % 7
        chosen = np.flatnonzero(corrected | (was.meter % 5 == 0))
        wh = was.import_wh + np.where(corrected, CORRECTION_WH, 0).astype(np.int32)
        return Reads(was.meter[chosen], was.step, wh[chosen], was.voltage_v[chosen])

    def events(self, head_end: int, step: int) -> Events | None:
        """What meters tell in a step: that they lost their supply, or have it again; None: nothing."""
        at = step % BLOCK_STEPS
        if at not in (DARK.start, DARK.stop):
            return None
        dark = self._fault_of(step // BLOCK_STEPS)[TRANSFORMER_OF] == OUTAGE
        meter = self._mine[head_end][dark[self._mine[head_end]]]
        if not len(meter):
            return None
        code = EventCode.POWER_FAIL if at == DARK.start else EventCode.POWER_RESTORED
        at_us = end_us(step) - 600 * US + meter.astype(np.int64) * 10_000
        return Events(meter, at_us, np.full(len(meter), int(code), np.int64))

    def _sends(self, step: int) -> NDArray[np.bool_]:
        if step % BLOCK_STEPS not in DARK:
            return np.ones(METERS, np.bool_)
        supplied: NDArray[np.bool_] = self._fault_of(step // BLOCK_STEPS)[TRANSFORMER_OF] != OUTAGE
        return supplied

    def _draw(self, block: int) -> NDArray[Any]:
        """The fault of each transformer in a block."""
        if block == 0:
            return np.zeros(TRANSFORMERS, np.int64)
        return np.random.default_rng([self._seed, 1, block]).choice(3, TRANSFORMERS, p=FAULT_SHARES)

    def _draw_values(self, step: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        rng = np.random.default_rng([self._seed, 2, step])
        over = (self._fault_of(step // BLOCK_STEPS)[TRANSFORMER_OF] == OVERLOAD) & (step % BLOCK_STEPS in OVERLOADED)
        share = np.where(over, 2.1, 0.3) * RATED_KVA * 1000 * STEP_S / 3600 / MEMBERS
        wh = (share + rng.integers(0, 50, METERS)).astype(np.int32)
        return wh, (225 + rng.integers(0, 100, METERS) / 10).astype(np.float32)
