"""What one measured run of the bench sends: which intervals, in which order, cut into which batches.

Promises: batches are complete messages before the clock starts. Late and repeated reads are mixed into every batch,
which is the dearest way they can come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.fleet import INTERVAL_S, METERS_PER_TRANSFORMER, ONE_PHASE, Fleet
from meterwatch.client.encode import checked_columns

OVERLOAD_WH: Final = 2_500
"""Of a meter in an interval: 100 meters of 10 kW on RATED_KVA."""


@dataclass(frozen=True, slots=True)
class Load:
    """Intervals first..first+intervals-1 of every meter."""

    first: int
    intervals: int
    batch_rows: int = 10_000
    shuffled: bool = False
    """Meters of an interval in random order instead of theirs."""
    channels: tuple[str, ...] = ONE_PHASE
    late_share: float = 0.0
    """Half of it: reads that come one interval late; the other half: repeats of the interval before."""
    overloaded: bool = False
    """In every batch one transformer carries OVERLOAD_WH a meter: 2.5 times its rating, an alarm at once."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The same intervals of a part of the meters of each stream, long after they ended."""

    first: int
    intervals: int
    part: tuple[float, float]
    """From which share of a stream's meters to which."""
    by_meter: bool
    """Each meter's intervals in one run, as a head-end that reads meter by meter sends them; else by interval."""
    batch_rows: int = 10_000


@dataclass(frozen=True, slots=True)
class Sent:
    """One batch as bytes."""

    seq: int
    request: bytes
    rows: int


def batches(fleet: Fleet, load: Load | Backlog, stream: int, first_seq: int) -> Iterator[Sent]:
    """The messages of one stream, numbered from first_seq."""
    if isinstance(load, Backlog):
        yield from _backlog(fleet, load, stream, first_seq)
        return
    own = fleet.meters_of(stream)
    names = [fleet.name(meter) for meter in own]
    index = np.arange(len(own), dtype=np.uint32)
    seq = first_seq
    before: NDArray[np.uint32] | None = None
    for interval in range(load.first, load.first + load.intervals):
        last = interval == load.first + load.intervals - 1
        now, earlier, withheld = _rows(fleet, load, interval, index, before, last)
        columns = {}
        here = fleet.values(interval, load.channels)
        if load.overloaded:
            for transformer in overloads(fleet, load, stream, interval):
                at = transformer * METERS_PER_TRANSFORMER
                here["import_wh"][at : at + METERS_PER_TRANSFORMER] = OVERLOAD_WH
        there = fleet.values(interval - 1, load.channels) if len(earlier) else here
        meter = np.concatenate((now, earlier))
        end_us = np.full(len(meter), fleet.end_us(interval))
        end_us[len(now) :] -= INTERVAL_S * 1_000_000
        order = np.random.default_rng((fleet.seed, interval, 2)).permutation(len(meter)) if load.shuffled else None
        if order is None and len(earlier):
            order = np.argsort(meter, kind="stable")
        for name in load.channels:
            values = np.concatenate((here[name][own.start : own.stop][now], there[name][own.start : own.stop][earlier]))
            columns[name] = values if order is None else values[order]
        if order is not None:
            meter, end_us = meter[order], end_us[order]
        checked = checked_columns(names, meter, end_us, INTERVAL_S, columns, None, None)
        for interval_s, rows in checked.parts(load.batch_rows):
            request, count = checked.encode(seq, interval_s, rows, index)
            yield Sent(seq, request, count)
            seq += 1
        before = withheld


def overloads(fleet: Fleet, load: Load, stream: int, interval: int) -> list[int]:
    """The transformer overloaded in each batch of an interval; in the next interval the one after it."""
    own = fleet.meters_of(stream)
    found = []
    for at in range(own.start, own.stop, load.batch_rows):
        transformers = min(load.batch_rows, own.stop - at) // METERS_PER_TRANSFORMER
        found.append(at // METERS_PER_TRANSFORMER + interval % transformers)
    return found


def _backlog(fleet: Fleet, load: Backlog, stream: int, first_seq: int) -> Iterator[Sent]:
    own = fleet.meters_of(stream)
    chosen = range(*(own.start + int(share * len(own)) for share in load.part))
    names = [fleet.name(meter) for meter in own]
    intervals = range(load.first, load.first + load.intervals)
    meter = np.repeat(np.arange(chosen.start, chosen.stop) - own.start, len(intervals))
    end_us = np.tile(np.array([fleet.end_us(interval) for interval in intervals]), len(chosen))
    values = [fleet.values(interval, ONE_PHASE) for interval in intervals]
    columns = {
        name: np.stack([one[name][chosen.start : chosen.stop] for one in values], axis=1).ravel() for name in ONE_PHASE
    }
    if not load.by_meter:
        order = np.argsort(end_us, kind="stable")
        meter, end_us, columns = meter[order], end_us[order], {name: one[order] for name, one in columns.items()}
    checked = checked_columns(names, meter, end_us, INTERVAL_S, columns, None, None)
    index = np.arange(len(own), dtype=np.uint32)
    for seq, (interval_s, rows) in enumerate(checked.parts(load.batch_rows), first_seq):
        yield Sent(seq, *checked.encode(seq, interval_s, rows, index))


def _rows(
    fleet: Fleet, load: Load, interval: int, index: NDArray[np.uint32], before: NDArray[np.uint32] | None, last: bool
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    """(meters read now, meters of the interval before sent now, meters withheld for the next)."""
    none = index[:0]
    if load.late_share == 0:
        return index, none, none
    dealt = np.random.default_rng((fleet.seed, interval, 1)).permutation(index)
    half = int(len(index) * load.late_share / 2)
    withheld = none if last else dealt[:half]
    now = np.setdiff1d(index, withheld, assume_unique=True)
    if before is None:
        return now, none, withheld
    repeats = np.setdiff1d(dealt[half : 3 * half], before, assume_unique=True)[:half]
    return now, np.concatenate((before, repeats)), withheld
