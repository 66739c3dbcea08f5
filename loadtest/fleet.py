"""The bench's fleet: meters on a three-level grid, and their reads as columns, all from one seed.

Promises: the same seed, interval and rows give the same values in any process, so that every arm moves the same reads.
Refuses to know faults: nothing here is off, late by nature or overloaded; scenarios are not a bench's matter.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.registry_csv import Feeder, HeadEnd, Meter, Transformer

US: Final = 1_000_000
INTERVAL_S: Final = 900
ONE_PHASE: Final = ("import_wh", "voltage_a_v", "current_a_a")
THREE_PHASE: Final = (
    "import_wh", "export_wh", "import_varh", "export_varh", "voltage_a_v", "voltage_b_v", "voltage_c_v",
    "current_a_a", "current_b_a", "current_c_a", "power_factor", "device_status",
)  # fmt: skip
METERS_PER_TRANSFORMER: Final = 100
TRANSFORMERS_PER_FEEDER: Final = 50
MEAN_WH: Final = 220.0
"""Mean energy of an interval: 0.9 kW, so that 100 meters stay far below RATED_KVA."""
RATED_KVA: Final = 400


@dataclass(frozen=True, slots=True)
class Fleet:
    """Meters 0..meters-1, dealt out to `streams` head-ends in equal runs; day 0 begins at start_us."""

    meters: int
    streams: int
    start_us: int
    seed: int = 20_260_131

    def __post_init__(self) -> None:
        if self.meters % self.streams:
            raise ValueError(
                f"{self.meters} meters over {self.streams} streams; give a multiple, so that all are equal"
            )

    def name(self, meter: int) -> str:
        """Meter number: a 12-digit address."""
        return f"{10**11 + meter}"

    def head_end(self, stream: int) -> str:
        return f"BENCH-{stream}"

    def meters_of(self, stream: int) -> range:
        """Meters of one head-end."""
        share = self.meters // self.streams
        return range(stream * share, (stream + 1) * share)

    def end_us(self, interval: int) -> int:
        """End of the interval'th interval since start_us, from 1."""
        return self.start_us + interval * INTERVAL_S * US

    def registry(self) -> list[tuple[str, bytes]]:
        """(kind, CSV) of the whole registry, in the order in which they refer to each other."""
        transformers = -(-self.meters // METERS_PER_TRANSFORMER)
        feeders = -(-transformers // TRANSFORMERS_PER_FEEDER)
        head_of = [self.head_end(stream) for stream in range(self.streams) for _ in self.meters_of(stream)]
        return [
            _csv("head_ends", HeadEnd._fields, ({"head_end": self.head_end(i)} for i in range(self.streams))),
            _csv("feeders", Feeder._fields, ({"feeder": f"F{i}", "district": f"D{i % 10}"} for i in range(feeders))),
            _csv(
                "transformers",
                Transformer._fields,
                (
                    {"transformer": f"T{i}", "feeder": f"F{i // TRANSFORMERS_PER_FEEDER}", "rated_kva": RATED_KVA}
                    for i in range(transformers)
                ),
            ),
            _csv(
                "meters",
                Meter._fields,
                (
                    {
                        "meter": self.name(i),
                        "transformer": f"T{i // METERS_PER_TRANSFORMER}",
                        "phases": "ABC",
                        "head_end": head_of[i],
                    }
                    for i in range(self.meters)
                ),
            ),
        ]

    def values(self, interval: int, channels: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Values of every meter in one interval, by channel, in meter order; dtypes as on the wire."""
        rng = np.random.default_rng((self.seed, interval))
        wh = rng.gamma(2.0, MEAN_WH / 2, self.meters)
        out: dict[str, NDArray[Any]] = {}
        for name in THREE_PHASE:  # all are drawn, so that a value does not depend on the channels asked for
            noise = rng.random(self.meters, np.float32)
            if name == "import_wh":
                values: NDArray[Any] = wh.astype(np.int32)
            elif name.endswith("_wh"):
                values = (wh * 0.1 * noise).astype(np.int32)
            elif name.endswith("_varh"):
                values = (wh * 0.3 * noise).astype(np.int32)
            elif name.endswith("_v"):
                values = np.float32(225) + np.float32(10) * noise
            elif name.endswith("_a"):
                values = (wh * (3600 / INTERVAL_S) / 230).astype(np.float32) * (
                    np.float32(0.9) + np.float32(0.2) * noise
                )
            elif name == "power_factor":
                values = np.float32(0.9) + np.float32(0.1) * noise
            else:
                values = np.zeros(self.meters, np.uint32)
            if name in channels:
                out[name] = values
        return out


def _csv(kind: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> tuple[str, bytes]:
    """A registry file; what a row does not say takes the service's default."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return kind, text.getvalue().encode()
