"""Which reads are overdue, told within the hour: as runs for whoever asks, as counts in acks and metrics.

A read is overdue when its interval ended longer ago than the meter's communication mode takes at most (`grace_of` of
the rules' silence profile) and it has not arrived. Once a minute all meters' last RECENT_US are counted by head-end,
and the newest hour that nobody has time for any more by communication mode and terminal type, and by district. What
arrived is known to storage.arrived, which ends there are and who owed them to rules.gaps. Membership is that of today.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from meterwatch.clock import US, Clock
from meterwatch.errors import Overloaded, Rejected, StorageUnavailable
from meterwatch.metrics import Metrics
from meterwatch.topology import Topology
from rules.gaps import Counts, Mask, counted, grid, owed, runs, there
from rules.profile import SilenceProfile
from storage.arrived import Arrived

EVERY_S: Final = 60.0
HOUR_US: Final = 3600 * US
RECENT_US: Final = 6 * HOUR_US
"""Overdue reads are counted so far back: a head-end that polls again within the hour has six tries. (ours)"""
SPAN_US_MAX: Final = 8 * 24 * HOUR_US
CELLS: Final = 4_000_000
"""Meters times ends looked at together: 4 MB a mask."""
GROUPS_MAX: Final = 64
"""Different labels of a metric; the smallest groups beyond it are told together."""
OTHER: Final = "other"
Ints = NDArray[np.int64]
Slots = NDArray[np.int32]
_log = structlog.get_logger(__name__)


class Missing(NamedTuple):
    """Missing reads of meters of one interval length, arrays of equal length: ends first_us to last_us of each slot."""

    interval_s: int
    slot: Slots
    first_us: Ints
    last_us: Ints
    reads: Ints


class Overdue(NamedTuple):
    """What is overdue of a head-end."""

    reads: int = 0
    meters: int = 0


class Groups(NamedTuple):
    """Meters by what they have in common: a number per slot, and the labels of each number."""

    of: Ints
    labels: list[tuple[str, ...]]


class Looked(NamedTuple):
    """What a part of the meters owed and what of it came: bool[meters, ends]."""

    interval_s: int
    slots: Slots
    ends_us: Ints
    due: Mask
    arrived: Mask


class GapWatch:
    """See the module head. `run()` is a core task."""

    def __init__(
        self,
        arrived: Arrived,
        topology: Callable[[], Topology],
        clock: Clock,
        profile: SilenceProfile,
        metrics: Metrics,
    ) -> None:
        self._arrived = arrived
        self._topology = topology
        self._clock = clock
        self._profile = profile
        self._metrics = metrics
        self._overdue: dict[int, Overdue] = {}

    def overdue(self, head_end_id: int) -> Overdue:
        """As counted within the last minute or so."""
        return self._overdue.get(head_end_id, Overdue())

    async def run(self) -> None:
        """Count until cancelled. Raises what is an error of ours; then it may be begun anew."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.refresh()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("counting gaps put off", error=error.message)

    async def refresh(self) -> None:
        """Count what is overdue, and the newest hour whose reads have all had their time."""
        topology, now_us = self._topology(), self._clock.now_us()
        everyone = np.flatnonzero(topology.installed_us <= now_us).astype(np.int32)
        head_ends = len(topology.head_end)
        reads, meters = np.zeros(head_ends + 1, np.int64), np.zeros(head_ends + 1, np.int64)
        async for part in self._look(topology, everyone, now_us - RECENT_US, now_us, now_us):
            missing = np.count_nonzero(part.due & ~part.arrived, axis=1)
            of = topology.head_end_of[part.slots]
            reads += np.bincount(np.where(of < 0, head_ends, of), missing, head_ends + 1).astype(np.int64)
            meters += np.bincount(np.where(of < 0, head_ends, of), missing > 0, head_ends + 1).astype(np.int64)
        self._overdue = {
            number: Overdue(int(reads[number]), int(meters[number])) for number in np.flatnonzero(reads[:-1]).tolist()
        }
        names = topology.head_end
        self._metrics.overdue(largest([(names[number], told.reads) for number, told in self._overdue.items()]))
        hour_us = (now_us - self.longest_grace_us()) // HOUR_US * HOUR_US - HOUR_US
        for kind, dimensions in (("link", ("comm_mode", "terminal_type")), ("district", ("district",))):
            groups = bounded(groups_of(topology, dimensions))
            counts = await self.count(groups, hour_us, hour_us + HOUR_US)
            rows = zip(groups.labels, counts.expected.sum(1).tolist(), counts.present.sum(1).tolist(), strict=True)
            self._metrics.completeness(kind, list(rows))

    async def count(self, groups: Groups, from_us: int, to_us: int, slots: Slots | None = None) -> Counts:
        """Reads owed and there with from_us < end <= to_us, by group and hour (from_us on); whoever has time yet is
        counted as if he had not. slots: of these meters; None: of all."""
        topology = self._topology()
        hours = -(-(to_us - from_us) // HOUR_US)
        shape = (len(groups.labels), hours)
        total = Counts(np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        if slots is None:
            slots = np.arange(min(topology.slots, len(groups.of)), dtype=np.int32)
        async for part in self._look(topology, slots, from_us, to_us, None):
            hour = (part.ends_us - from_us - 1) // HOUR_US
            found = await asyncio.to_thread(
                counted, part.due, part.arrived, groups.of[part.slots], shape[0], hour, hours
            )
            total = total.plus(found)
        return total

    async def missing(self, slots: Slots, from_us: int, to_us: int) -> AsyncIterator[Missing]:
        """Overdue reads of these meters with from_us < end <= to_us, by interval length and slot."""
        async for part in self._look(self._topology(), slots, from_us, to_us, self._clock.now_us()):
            found = await asyncio.to_thread(runs, part.due & ~part.arrived)
            first_us, last_us = part.ends_us[found.first], part.ends_us[found.last]
            yield Missing(part.interval_s, part.slots[found.row], first_us, last_us, found.reads.astype(np.int64))

    async def _look(
        self, topology: Topology, slots: Slots, from_us: int, to_us: int, now_us: int | None
    ) -> AsyncIterator[Looked]:
        """Meters of one interval length after the other, some at a time. now_us: only what is overdue then is owed."""
        grace_us = self._grace_us(topology)
        for interval_s in np.unique(topology.interval_s[slots]).tolist():
            ends_us = grid(from_us, to_us, interval_s)
            room = self._arrived.room(topology.slots)
            if len(ends_us) > room:
                raise Rejected(
                    "SPAN_TOO_LONG",
                    f"{len(ends_us)} intervals of {interval_s} s arrived; at most {room} at a time were expected; ask "
                    "in parts",
                )
            if not len(ends_us):
                continue
            bits = await self._arrived.ask(ends_us, topology.slots)
            mine = slots[topology.interval_s[slots] == interval_s]
            together = max(1, CELLS // len(ends_us))
            for at in range(0, len(mine), together):
                some = mine[at : at + together]
                late_us = None if now_us is None else now_us - grace_us[some]
                due = await asyncio.to_thread(_due, topology, some, ends_us, interval_s, late_us)
                yield Looked(interval_s, some, ends_us, due, await asyncio.to_thread(there, bits, some))

    def longest_grace_us(self) -> int:
        """How long after its end any read may come."""
        return int(self._grace_us(self._topology()).max())

    def _grace_us(self, topology: Topology) -> Ints:
        """Per slot how long after its end a read may come."""
        grace = np.array([self._profile.grace_of(mode) for mode in topology.comm_modes] + [self._profile.grace_s])
        return grace.astype(np.int64)[topology.comm_mode] * US if topology.slots else grace.astype(np.int64) * US


def _due(topology: Topology, slots: Slots, ends_us: Ints, interval_s: int, late_us: Ints | None) -> Mask:
    due = owed(ends_us, interval_s, topology.installed_us[slots], topology.retired_us[slots])
    if late_us is not None:
        due &= ends_us <= late_us[:, None]
    return due


DIMENSIONS: Final = ("comm_mode", "terminal_type", "district")


def groups_of(topology: Topology, dimensions: Sequence[str]) -> Groups:
    """Meters by some of DIMENSIONS; a meter's district is that of its feeder, else of its transformer."""
    label_lists: list[list[str]] = []
    key = np.zeros(topology.slots, np.int64)
    for dimension in dimensions:
        code, labels = _coded(topology, dimension)
        key = key * len(labels) + code
        label_lists.append(labels)
    found, of = np.unique(key, return_inverse=True)
    names: list[tuple[str, ...]] = []
    for number in found.tolist():
        name: list[str] = []
        for labels in reversed(label_lists):
            number, at = divmod(number, len(labels))
            name.insert(0, labels[at])
        names.append(tuple(name))
    return Groups(of.astype(np.int64), names)


def _coded(topology: Topology, dimension: str) -> tuple[Ints, list[str]]:
    match dimension:
        case "comm_mode":
            return topology.comm_mode.astype(np.int64), topology.comm_modes
        case "terminal_type":
            code = topology.terminal_type if len(topology.terminal_type) else np.zeros(topology.slots, np.int16)
            return code.astype(np.int64), topology.terminal_types
        case _:
            return _districts(topology)


def _districts(topology: Topology) -> tuple[Ints, list[str]]:
    labels = sorted({"", *topology.feeder_district, *topology.transformer_district})
    number = {label: at for at, label in enumerate(labels)}
    feeder = np.array([number[name] for name in topology.feeder_district] + [0], np.int64)
    transformer = np.array([number[name] for name in topology.transformer_district] + [0], np.int64)
    of_transformer = np.append(topology.feeder_of, -1).astype(np.int64)
    of = np.where(of_transformer >= 0, feeder[of_transformer], 0)
    of = np.where(of == 0, transformer, of)
    return of[topology.transformer_of], labels


def bounded(groups: Groups, most: int = GROUPS_MAX) -> Groups:
    """The same with at most so many groups: the largest, and all others as one."""
    if len(groups.labels) <= most:
        return groups
    size = np.bincount(groups.of, minlength=len(groups.labels))
    kept = np.sort(np.argsort(-size, kind="stable")[: most - 1])
    number = np.full(len(groups.labels), most - 1, np.int64)
    number[kept] = np.arange(most - 1)
    labels = [groups.labels[at] for at in kept.tolist()]
    return Groups(number[groups.of], [*labels, (OTHER,) * len(labels[0])])


def largest(counts: list[tuple[str, int]], most: int = GROUPS_MAX) -> list[tuple[str, int]]:
    """The same with at most so many labels: the greatest counts, by label, and the sum of all others as one."""
    if len(counts) <= most:
        return counts
    ranked = sorted(counts, key=lambda one: (-one[1], one[0]))
    kept = sorted(one for one in ranked[: most - 1] if one[0] != OTHER)
    return [*kept, (OTHER, sum(count for _, count in counts) - sum(count for _, count in kept))]
