"""The load test's fleet: meters on transformers, feeders and districts, how they speak, and what they measure.

Promises: the same inputs give the same grid and the same values in any process; a read's values depend on its meter and
interval alone, so any process can make any read, in any order and as often as it likes. No transformer is above
NATURAL_LOAD_MAX of its rating by nature. Refuses to know faults and time tables: those are loadtest.scenarios' and
loadtest.plan's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch import data
from meterwatch.channels import CHANNEL_BIT

US: Final = 1_000_000
INTERVAL_S: Final = 900
INTERVAL_US: Final = INTERVAL_S * US
METERS_PER_TRANSFORMER: Final = (15, 65)
TRANSFORMERS_PER_FEEDER: Final = 12
TRANSFORMERS_PER_RF: Final = 4
FEEDERS_PER_DISTRICT: Final = 10
KVA: Final = (25, 50, 100, 160, 250, 400, 630, 1000, 1600)
NATURAL_LOAD_MAX: Final = 0.6
POWER_FACTOR: Final = 0.95
VARH_PER_WH: Final = float(np.sqrt(1 - POWER_FACTOR**2) / POWER_FACTOR)
REGISTRY_ROWS_MAX: Final = 250_000
"""Meters in one registry file: far below the service's 64 MiB a message."""
STREAM_METERS_MAX: Final = 1_000_000
"""Below server.dictionary_entries_max, with room for the feeder by which a stream has more than its share."""
ONE_PHASE: Final = ("import_wh", "import_varh", "voltage_a_v", "current_a_a")
THREE_PHASE: Final = (*ONE_PHASE, "voltage_b_v", "voltage_c_v", "current_b_a", "current_c_a")

Ints = NDArray[np.int64]
Meters = NDArray[np.int32]


class Mode(NamedTuple):
    """How a communication mode behaves."""

    name: str
    lag_s: float
    """Mean time from the interval's end to the head-end, beyond a third of it which everybody takes."""
    loss_share: float
    """Reads that never come."""
    gasp_probability: float
    share: float
    """Of the transformers (PLC, RF mesh) or, the last two, of the meters."""


MODES: Final = (
    Mode("PLC", 90.0, 0.004, 0.8, 0.7),
    Mode("RF mesh", 60.0, 0.003, 0.6, 0.3),
    Mode("4G", 15.0, 0.001, 0.9, 0.10),
    Mode("NB-IoT", 40.0, 0.002, 0.9, 0.05),
)
PLC, RF, CELL, NB = range(4)
LAG_MAX_S: Final = 840.0
"""Later than this is a matter of the knob late_share, not of the mode."""


def chance(seed: int, purpose: int, meter: NDArray[Any], at: NDArray[Any] | int) -> NDArray[np.float64]:
    """Uniform in [0, 1), float64 as `meter`, from a hash of (seed, purpose, meter, at). purpose: any number."""
    with np.errstate(over="ignore"):
        x = np.asarray(meter).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x ^= np.asarray(at).astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        x += np.uint64((seed * 0x165667B19E3779F9 + purpose * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Asset:
    """A node of the tree above the meters first..last-1."""

    kind: str
    name: str
    first: int
    last: int

    @property
    def meters(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class World:
    """Meters 0..meters-1, those of a transformer, feeder, head-end in one run each."""

    meters: int
    streams: int
    seed: int
    three_phase_share: float = 0.2
    meters_per_transformer: int = 0
    """Mean, so that there are exactly meters // this transformers; less in a fleet that would have fewer than two
    feeders a stream. 0: METERS_PER_TRANSFORMER, as it comes."""

    def __post_init__(self) -> None:
        if self.meters < 100:
            raise ValueError(f"{self.meters} meters; give at least 100")
        if self.meters > self.streams * STREAM_METERS_MAX:
            needed = -(-self.meters // STREAM_METERS_MAX)
            raise ValueError(
                f"{self.meters} meters on {self.streams} streams; a stream speaks for at most {STREAM_METERS_MAX} by "
                f"the service's default; give at least --streams {needed}"
            )
        if self.feeders < self.streams:
            raise ValueError(
                f"{self.streams} streams for {self.feeders} feeders; each stream needs one; give fewer streams or more "
                f"than {self.streams * TRANSFORMERS_PER_FEEDER * 40} meters"
            )

    @cached_property
    def first_of_transformer(self) -> Ints:
        """int64 [transformers + 1]: first meter of each, and the end."""
        rng = np.random.default_rng((self.seed, 1))
        if self.meters_per_transformer:
            least = min(2 * self.streams * TRANSFORMERS_PER_FEEDER, self.meters // METERS_PER_TRANSFORMER[0])
            share = np.cumsum(rng.uniform(0.5, 1.5, max(self.meters // self.meters_per_transformer, least, 1)))
            return np.append(0, np.rint(share * (self.meters / share[-1])).astype(np.int64))
        low, high = METERS_PER_TRANSFORMER
        sizes = rng.integers(low, high + 1, self.meters // low + 2)
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        count = int(np.searchsorted(bounds, self.meters))
        bounds = bounds[: count + 1]
        bounds[-1] = self.meters
        if count > 1 and bounds[-1] - bounds[-2] < low:  # the rest goes to the last but one
            bounds = np.delete(bounds, -2)
        return bounds

    @property
    def transformers(self) -> int:
        return len(self.first_of_transformer) - 1

    @property
    def feeders(self) -> int:
        """Feeders; the last one has what is left over besides, so that none has but one transformer."""
        return max(self.transformers // TRANSFORMERS_PER_FEEDER, 1)

    def feeder_of(self, transformer: int) -> int:
        return min(transformer // TRANSFORMERS_PER_FEEDER, self.feeders - 1)

    @cached_property
    def transformer_of(self) -> Meters:
        """int32 [meters]."""
        return np.repeat(np.arange(self.transformers, dtype=np.int32), np.diff(self.first_of_transformer))

    @cached_property
    def mode(self) -> NDArray[np.uint8]:
        """uint8 [meters]: index into MODES."""
        every, transformer = np.arange(self.meters), np.arange(self.transformers)
        group = transformer // TRANSFORMERS_PER_RF
        wired = np.where(chance(self.seed, 11, group, 0) < MODES[PLC].share, PLC, RF).astype(np.uint8)
        own = chance(self.seed, 12, every, 0)
        mode = wired[self.transformer_of]
        mode[own < MODES[CELL].share + MODES[NB].share] = NB
        mode[own < MODES[CELL].share] = CELL
        return mode

    @cached_property
    def three_phase(self) -> NDArray[np.bool_]:
        return chance(self.seed, 13, np.arange(self.meters), 0) < self.three_phase_share

    @cached_property
    def _shapes(self) -> tuple[NDArray[np.float32], int]:
        shapes = data.shapes()
        return shapes.wh.astype(np.float32), int(shapes.end_s[0])

    @cached_property
    def _shape_of(self) -> NDArray[np.uint8]:
        return (chance(self.seed, 14, np.arange(self.meters), 0) * len(self._shapes[0])).astype(np.uint8)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        return (0.7 + 0.6 * chance(self.seed, 15, np.arange(self.meters), 0)).astype(np.float32)

    @cached_property
    def rated_kva(self) -> NDArray[np.int32]:
        """int32 [transformers]: the smallest usual size that the members' common peak leaves at NATURAL_LOAD_MAX."""
        shapes, _ = self._shapes
        peak_wh = np.zeros(self.transformers)
        for low in range(0, self.transformers, 10_000):
            high = min(low + 10_000, self.transformers)
            rows = slice(self.first_of_transformer[low], self.first_of_transformer[high])
            key = (self.transformer_of[rows] - low).astype(np.int64) * len(shapes) + self._shape_of[rows]
            weight = np.bincount(key, self._scale[rows], (high - low) * len(shapes)).reshape(high - low, -1)
            peak_wh[low:high] = (weight @ shapes).max(axis=1)
        kva = peak_wh / 1000 * (3600 / INTERVAL_S) / POWER_FACTOR / NATURAL_LOAD_MAX
        sizes = np.array(KVA)
        return sizes[np.minimum(np.searchsorted(sizes, kva), len(sizes) - 1)].astype(np.int32)

    def meters_of_stream(self, stream: int) -> range:
        """Meters of one head-end: whole feeders."""
        low = self.feeders * stream // self.streams * TRANSFORMERS_PER_FEEDER
        high = self.feeders * (stream + 1) // self.streams * TRANSFORMERS_PER_FEEDER
        bounds = self.first_of_transformer[[low, self.transformers if stream == self.streams - 1 else high]]
        return range(int(bounds[0]), int(bounds[1]))

    def stream_of(self, meter: int) -> int:
        """The head-end that speaks for a meter."""
        return next(s for s in range(self.streams) if meter in self.meters_of_stream(s))

    def transformer(self, number: int) -> Asset:
        first, last = self.first_of_transformer[number : number + 2].tolist()
        return Asset("transformer", f"T{number:06}", first, last)

    def feeder(self, number: int) -> Asset:
        own = self.transformers_of_feeder(number)
        first, last = self.first_of_transformer[[own.start, own.stop]].tolist()
        return Asset("feeder", f"F{number:05}", first, last)

    def meter(self, number: int) -> Asset:
        return Asset("meter", self.name(number), number, number + 1)

    def transformers_of_feeder(self, number: int) -> range:
        low, last = number * TRANSFORMERS_PER_FEEDER, number == self.feeders - 1
        return range(low, self.transformers if last else low + TRANSFORMERS_PER_FEEDER)

    @staticmethod
    def name(meter: int) -> str:
        """Meter number: 12 digits."""
        return f"7{meter:011}"

    def parents(self, name: str) -> Iterator[tuple[str, str]]:
        """(asset, its parent) from a meter, transformer or feeder up to the district; nothing for other assets."""
        kind, number = name[:1], int(name[1:]) if name[1:].isdecimal() else -1
        if kind == "7" and 0 <= number < self.meters:
            parent = int(self.transformer_of[number])
            yield name, f"T{parent:06}"
            kind, number, name = "T", parent, f"T{parent:06}"
        if kind == "T" and 0 <= number < self.transformers:
            number = self.feeder_of(number)
            yield name, f"F{number:05}"
            kind, name = "F", f"F{number:05}"
        if kind == "F" and 0 <= number < self.feeders:
            yield name, f"D{number // FEEDERS_PER_DISTRICT:03}"

    def first_meter(self, name: str) -> int | None:
        """A meter below an asset of any kind, by its name; None if the world has none such."""
        kind, number = name[:1], name.rpartition("-")[2] if "-" in name else name[1:]
        if not number.isdecimal():
            return None
        span = {"7": 0, "F": TRANSFORMERS_PER_FEEDER, "R": TRANSFORMERS_PER_RF, "L": -1}.get(kind, 1)
        if span < 0:
            return self.meters_of_stream(int(number)).start if int(number) < self.streams else None
        first = int(number) if span == 0 else int(number) * span
        if span == 0:
            return first if first < self.meters else None
        return int(self.first_of_transformer[first]) if first < self.transformers else None

    @staticmethod
    def head_end(stream: int) -> str:
        return f"LT-{stream}"

    def concentrator_of(self, meter: int) -> str:
        """Its concentrator; empty: the meter speaks for itself."""
        return _concentrator(int(self.transformer_of[meter]), int(self.mode[meter]))

    def behind(self, concentrator: str) -> Meters:
        """Meters that speak through a concentrator. int32."""
        kind, _, number = concentrator.partition("-")
        span = TRANSFORMERS_PER_RF if kind == "RF" else 1
        low = int(number) * span
        bounds = self.first_of_transformer[[low, min(low + span, self.transformers)]]
        rows = np.arange(bounds[0], bounds[1], dtype=np.int32)
        behind: Meters = rows[self.mode[rows] == (RF if kind == "RF" else PLC)]
        return behind

    def channels(self, meter: Meters, end_us: Ints, extra_wh: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """Values of reads, by channel; dtypes as on the wire. extra_wh: on top of what the meter draws by nature."""
        shapes, origin_s = self._shapes
        slot = (end_us // US - origin_s) // INTERVAL_S % shapes.shape[1]
        wh = np.rint(shapes[self._shape_of[meter], slot] * self._scale[meter]).astype(np.int32) + extra_wh
        volts = [
            (226 + 8 * chance(self.seed, 20 + phase, meter, end_us // US)).astype(np.float32) for phase in range(3)
        ]
        amps = wh * np.float32(3600 / INTERVAL_S / POWER_FACTOR)
        share = np.where(self.three_phase[meter], np.float32(1 / 3), np.float32(1))
        out: dict[str, NDArray[Any]] = {"import_wh": wh, "import_varh": np.rint(wh * VARH_PER_WH).astype(np.int32)}
        for phase, volt in zip("abc", volts, strict=True):
            out[f"voltage_{phase}_v"] = volt
            out[f"current_{phase}_a"] = (amps * share / volt).astype(np.float32)
        return out

    def mask(self, meter: Meters) -> NDArray[np.uint32]:
        """Channels present, as ReadBatch.channel_mask."""
        one = sum(CHANNEL_BIT[name] for name in ONE_PHASE)
        three = sum(CHANNEL_BIT[name] for name in THREE_PHASE)
        return np.where(self.three_phase[meter], three, one).astype(np.uint32)

    def natural_load(self, transformer: int, end_us: Ints) -> NDArray[np.float64]:
        """Load over rating of one transformer in the intervals that end then."""
        asset = self.transformer(transformer)
        rows = np.arange(asset.first, asset.last, dtype=np.int32)
        nothing = np.zeros(len(rows), np.int32)
        wh = [self.channels(rows, np.full(len(rows), at), nothing)["import_wh"].sum() for at in end_us.tolist()]
        return np.array(wh) / self.window_wh(transformer)

    def window_wh(self, transformer: int) -> float:
        """Energy of an interval at rated load."""
        return float(self.rated_kva[transformer]) * 1000 * POWER_FACTOR * INTERVAL_S / 3600

    def registry(self, time_zone: str = "UTC") -> Iterator[tuple[str, bytes]]:
        """(kind, CSV) in the order in which they refer to each other; meters in parts of REGISTRY_ROWS_MAX."""
        zones = [f"LT-{s},{time_zone},45" for s in range(self.streams)]
        yield _csv("head_ends", "head_end,time_zone,late_window_days", zones)
        feeders = [f"F{f:05},S{f // 5:04},D{f // FEEDERS_PER_DISTRICT:03},400" for f in range(self.feeders)]
        yield _csv("feeders", "feeder,substation,district,ampacity_a", feeders)
        rows = [
            f"T{t:06},F{self.feeder_of(t):05},{kva},Yyn0,D{self.feeder_of(t) // FEEDERS_PER_DISTRICT:03}"
            for t, kva in enumerate(self.rated_kva.tolist())
        ]
        yield _csv("transformers", "transformer,feeder,rated_kva,winding,district", rows)
        yield _csv("concentrators", "concentrator,head_end,comm_mode", list(self._concentrators()))
        for stream in range(self.streams):
            own = self.meters_of_stream(stream)
            for low in range(own.start, own.stop, REGISTRY_ROWS_MAX):
                part = range(low, min(low + REGISTRY_ROWS_MAX, own.stop))
                yield _csv("meters", _METER_COLUMNS, self._meter_rows(part, stream))

    def _concentrators(self) -> Iterator[str]:
        wired = np.flatnonzero((self.mode == PLC) | (self.mode == RF))
        transformer, mode = self.transformer_of[wired], self.mode[wired]
        key = np.where(mode == PLC, transformer, self.transformers + transformer // TRANSFORMERS_PER_RF)
        first = wired[np.unique(key, return_index=True)[1]]
        starts = np.array([self.meters_of_stream(s).start for s in range(self.streams)])
        stream = np.searchsorted(starts, first, side="right") - 1
        for meter, number in zip(first.tolist(), stream.tolist(), strict=True):
            yield f"{self.concentrator_of(meter)},LT-{number},{MODES[int(self.mode[meter])].name}"

    def _meter_rows(self, part: range, stream: int) -> list[str]:
        rows = slice(part.start, part.stop)
        columns = zip(
            part, self.transformer_of[rows].tolist(), self.mode[rows].tolist(), self.three_phase[rows].tolist(),
            strict=True,
        )  # fmt: skip
        return [
            f"{self.name(meter)},T{transformer:06},{'ABC' if three else 'ABC'[meter % 3]},230,100,,1,{INTERVAL_S},"
            f"2020-01-01,residential,{MODES[mode].name},{_concentrator(transformer, mode)},LT-{stream}"
            for meter, transformer, mode, three in columns
        ]


def _concentrator(transformer: int, mode: int) -> str:
    if mode == PLC:
        return f"PLC-{transformer:06}"
    return f"RF-{transformer // TRANSFORMERS_PER_RF:06}" if mode == RF else ""


_METER_COLUMNS: Final = (
    "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
    "concentrator,head_end"
)


def _csv(kind: str, header: str, rows: list[str]) -> tuple[str, bytes]:
    text = io.StringIO()
    text.write(header + "\n")
    text.writelines(row + "\n" for row in rows)
    return kind, text.getvalue().encode()
