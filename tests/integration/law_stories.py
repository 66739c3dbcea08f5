"""Stories for the law of event time: reads and events of a simulated town with faults, or of real households."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.plan import Plan
from loadtest.scenarios import Knobs
from loadtest.world import INTERVAL_S, World
from meterwatch.batch import EventCode
from meterwatch.channels import CHANNEL_BIT, CHANNEL_NAMES
from meterwatch.client import RegistryFile
from meterwatch.clock import US
from meterwatch.topology import PHASE_B
from meterwatch.v1.ingest_pb2 import IngestRequest, SendEventsRequest

Stamps = NDArray[np.int64]
HEAD_ENDS = ("H-0", "H-1", "H-2", "H-3")


@dataclass(frozen=True)
class Story:
    """Reads, each (meter, end_us) once, and events. No meter belongs to a head-end."""

    name: str
    registry: list[RegistryFile]
    meter: list[str]
    meter_index: NDArray[np.uint32]
    end_us: Stamps
    channels: dict[str, NDArray[Any]]
    mask: NDArray[np.uint32]
    event_meter: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    event_us: Stamps = field(default_factory=lambda: np.zeros(0, np.int64))
    event_code: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    event_phases: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))

    @property
    def start_us(self) -> int:
        return int(self.end_us.min()) - INTERVAL_S * US


METER_COLUMNS = (
    "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
    "concentrator,head_end"
)

CONTRACT_KW, HOUSEHOLD_KW = 1.5, 6
"""Contracts of the meters of a town and of real households: some draw more in the evening."""


def head_ends() -> RegistryFile:
    rows = ["head_end,time_zone,late_window_days", *(f"{name},UTC,60" for name in HEAD_ENDS)]
    return RegistryFile("head_ends", "head_ends.csv", "\n".join(rows).encode())


PER_STATION = 20
UPWARDS = 3
"""Of so many stations one delivers what its households would draw, and half as much again."""
FEEDER_SHARE = 0.5
"""Rating of a feeder over those of its transformers."""


def households(meter: list[str], meter_index: NDArray[np.uint32], end_s: Stamps, wh: Stamps, rated_kva: int) -> Story:
    """Real reads of households, so that every rule of load has something to say.

    Twenty to a transformer so small that some are overloaded in the evening, most of them on one phase; those that
    deliver upwards have a feeder of their own.
    """
    stations = np.arange((len(meter) + PER_STATION - 1) // PER_STATION)
    upwards = stations % UPWARDS == 1
    ampacity_a = [FEEDER_SHARE * rated_kva * int(count) / (10 * 3**0.5) for count in np.bincount(upwards + 0)]
    phases = ["ABC" if i % 4 == 3 else "ABC"[i % 3] for i in range(len(meter))]
    files = {
        "feeders": [
            "feeder,substation,district,ampacity_a",
            *(f"F{number},S1,CH,{ampere:.1f}" for number, ampere in enumerate(ampacity_a)),
        ],
        "transformers": [
            "transformer,feeder,rated_kva,winding,district",
            *(f"T{i},F{up:d},{rated_kva},Dyn11,CH" for i, up in zip(stations, upwards, strict=True)),
        ],
        "meters": [
            METER_COLUMNS,
            *(
                f"{name},T{i // PER_STATION},{phases[i]},230,80,{HOUSEHOLD_KW},1,900,2018-01-01,,,,"
                for i, name in enumerate(meter)
            ),
        ],
    }
    registry = [RegistryFile(kind, f"{kind}.csv", "\n".join(lines).encode()) for kind, lines in files.items()]
    order = np.lexsort((meter_index, end_s))
    index, wh = meter_index[order], wh[order].astype(np.int32)
    up = upwards[index // PER_STATION]
    mask = np.where(up, CHANNEL_BIT["export_wh"], CHANNEL_BIT["import_wh"]).astype(np.uint32)
    channels = {"import_wh": np.where(up, np.int32(0), wh), "export_wh": np.where(up, wh * 3 // 2, np.int32(0))}
    return Story("households", [head_ends(), *registry], meter, index, end_s[order] * US, channels, mask)


def town_day(meters: int, intervals: int, seed: int = 5, start_us: int = 1_770_076_800_000_000) -> Story:
    """A day of a simulated town: a feeder, transformers and meters cut, a lost phase, overloads, lost reads, spurious
    last gasps."""
    knobs = Knobs(
        intervals=intervals, streams=1, paced=False, gasp_probability=0.6, feeders_out_share=0.1, transformers_out=2,
        meters_out=3, momentary_transformers=2, flapping_meters=2, hot_transformers_share=0.1,
        spurious_events_per_1000_meters=2, late_gasp_share=0.05,
    )  # fmt: skip
    plan = Plan(World(meters, 1, seed, knobs.three_phase_share, knobs.meters_per_transformer), knobs, start_us)
    names = plan.dictionary(0)[:-1]
    index_of = {name: i for i, name in enumerate(names)}
    reads: list[dict[str, NDArray[Any]]] = []
    events: list[NDArray[np.int64]] = []
    for message in plan.messages(0):
        if message.kind == "events":
            told = SendEventsRequest.FromString(message.request)
            slot = np.array([index_of[told.meter[i]] for i in told.meter_index])
            at_us, code = np.array(told.at_us, np.int64), np.array(told.code, np.int64)
            events.append(np.stack([slot, at_us, code, np.zeros(len(slot), np.int64)]))
            continue
        batch = IngestRequest.FromString(message.request).batch
        columns = {
            "meter": np.array(batch.meter_index),
            "end": np.array(batch.stamp_us),
            "mask": np.array(batch.channel_mask),
        }
        for name in CHANNEL_NAMES:
            if len(getattr(batch, name)):
                columns[name] = np.array(getattr(batch, name))
        reads.append(columns)
    column = {name: np.concatenate([one[name] for one in reads]) for name in reads[0]}
    lost = lost_phase(plan)
    dark = np.isin(column["meter"], lost.dark) & (column["end"] > lost.from_us) & (column["end"] <= lost.to_us)
    column = {name: values[~dark] for name, values in column.items()}
    order = np.lexsort((column["meter"], column["end"]))
    event = np.unique(np.concatenate([*events, lost.events], axis=1), axis=1)
    event = event[:, np.argsort(event[1], kind="stable")]
    return Story(
        "town",
        [head_ends(), *_unowned(plan.world.registry())],
        names,
        column.pop("meter")[order].astype(np.uint32),
        column.pop("end")[order],
        {name: column[name][order] for name in CHANNEL_NAMES if name in column},
        column["mask"][order],
        event[0].astype(np.uint32),
        event[1],
        event[2].astype(np.uint32),
        event[3].astype(np.uint32),
    )


class LostPhase(NamedTuple):
    """Phase B of a transformer without other faults, lost for two hours."""

    events: NDArray[np.int64]
    """Rows of slot, us, code, phases."""
    dark: NDArray[np.int64]
    """Single-phase meters on it: no reads in from_us..to_us."""
    from_us: int
    to_us: int


def lost_phase(plan: Plan) -> LostPhase:
    """Told by its meters with three phases, and by the last gasps of those with this one."""
    world = plan.world
    for number in range(world.transformers):
        asset = world.transformer(number)
        slots = np.arange(asset.first, asset.last)
        touched = any(cut.first < asset.last and asset.first < cut.last for cut in plan.trouble.cuts)
        three = slots[world.three_phase[slots]]
        if len(three) >= 4 and not touched:
            break
    else:
        raise AssertionError("every transformer has a fault, or too few three-phase meters")
    single = slots[~world.three_phase[slots] & (slots % 3 == 1)]
    from_us = plan.start_us + 3 * 3600 * US + 60 * US
    to_us = from_us + 7200 * US
    rows = [
        np.stack([who, at_us + np.arange(len(who)) * US, np.full(len(who), int(code)), np.full(len(who), phases)])
        for who, phases, codes in (
            (three, PHASE_B, (EventCode.PHASE_LOSS, EventCode.PHASE_RETURN)),
            (single, 0, (EventCode.POWER_FAIL, EventCode.POWER_RESTORED)),
        )
        for at_us, code in zip((from_us, to_us), codes, strict=True)
    ]
    return LostPhase(np.concatenate(rows, axis=1), single, from_us, to_us)


def _unowned(registry: Iterable[tuple[str, bytes]]) -> Iterator[RegistryFile]:
    """The registry of a load test in which any head-end may send for any meter, and each has a contract."""
    for kind, text in registry:
        if kind == "head_ends":
            continue
        yield RegistryFile(
            kind, f"{kind}.csv", text.replace(b",LT-0", b",").replace(b",230,100,,1,", b",230,100,%g,1," % CONTRACT_KW)
        )
