"""Watches for storms: counts what is off in each district by the open outages, and asks whether alarms are a flood.

Every EVERY_S. What is below an open outage that calls for somebody counts as off: not what is folded, planned or over.
Storms are kept in the database, so that a start goes on where the service stopped; while it is away they stay as they
are. What a storm changes stands in alarm.storm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from alarm.desk import AlarmDesk
from alarm.profile import StormLimits
from alarm.service import Reader, read_kpis
from alarm.storm import Storms
from meterwatch.alarms import Alarm, AlarmState, AlarmType
from meterwatch.clock import Clock
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.gap_watch import groups_of
from meterwatch.metrics import Metrics
from meterwatch.storms import Census, Storm, StormReason
from meterwatch.topology import PHASE_NAMES, Topology
from rules.groups import Tree

EVERY_S: Final = 5.0
FLOOD_SPAN_US: Final = 3600 * 1_000_000
"""Windows of pages looked at: whether a flood goes on depends on how it began."""
_BIT: Final = {name: bit for bit, name in PHASE_NAMES.items()}
_log = structlog.get_logger(__name__)


class Kept(Protocol):
    """storage.storms.StormStore."""

    async def lasting(self) -> list[Storm]: ...

    async def keep(self, storms: Sequence[Storm]) -> None: ...


class Districts:
    """The meters of a registry by district. Cost: once a registry some 0.3 s a million meters."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._tree = Tree(topology)
        groups = groups_of(topology, ("district",))
        self._of, self._names = groups.of, [name for (name,) in groups.labels]

    def census(self, outages: Sequence[Alarm], now_us: int) -> dict[str, Census]:
        """What is off below these outages, by district; meters without a district are none's."""
        topology, most = self.topology, len(self._names)
        serving = (topology.installed_us <= now_us) & (topology.retired_us > now_us)
        off = np.zeros(topology.slots, np.bool_)
        roots = dict.fromkeys(self._names, 0)
        for alarm in outages:
            off[self._below(alarm)] = True
            if alarm.district in roots:
                roots[alarm.district] += 1
        meters = np.bincount(self._of[serving], minlength=most).tolist()
        dark = np.bincount(self._of[serving & off], minlength=most).tolist()
        rows = zip(self._names, meters, dark, strict=True)
        return {name: Census(total, some, roots[name]) for name, total, some in rows if name}

    def _below(self, alarm: Alarm) -> NDArray[np.int32]:
        slots = self._tree.members(alarm.asset_kind, alarm.asset_id).slot
        phase = _BIT.get(str(alarm.evidence.get("phase", "")))
        return slots if phase is None else slots[self.topology.phases[slots] == phase]


def open_outages(alarms: Sequence[Alarm]) -> list[Alarm]:
    """Those that stand for what is off: not folded, not by design, not over."""
    active = (AlarmState.UNACK_ACTIVE, AlarmState.ACK_ACTIVE)
    return [alarm for alarm in alarms if alarm.rule == AlarmType.OUTAGE and alarm.lasts and alarm.state in active]


class StormWatch:
    """The storms of one service."""

    def __init__(
        self,
        store: Kept,
        reader: Reader,
        desk: AlarmDesk,
        topology: Callable[[], Topology],
        clock: Clock,
        operators: int,
        limits: StormLimits,
    ) -> None:
        self._store, self._reader, self._desk, self._topology = store, reader, desk, topology
        self._clock, self._operators, self._limits = clock, operators, limits
        self._districts: Districts | None = None
        self._unkept: dict[tuple[StormReason, str, int], Storm] = {}
        """What the database has not taken yet, by storm: as many as storms began meanwhile, however long it is away."""
        self.storms = Storms(limits)
        self.off_share_max = 0.0
        """Of the district with most of its meters off."""

    async def start(self) -> None:
        """Go on with the storms that lasted."""
        self.storms = Storms(self._limits, await self._store.lasting())

    def stands_aside(self, alarm: Alarm) -> bool:
        """Storms.stands_aside, as the storms are now."""
        return self.storms.stands_aside(alarm)

    def watch(self, metrics: Metrics) -> None:
        """Declare the metrics."""
        metrics.watch(
            gauges={
                "storms": (
                    "Districts in a storm, and 1 more in a flood of alarms.",
                    lambda: len(self.storms.lasting()),
                ),
                "storm_meters_off": (
                    "Meters below open outages in districts in a storm.",
                    lambda: sum(one.now.off for one in self.storms.lasting() if one.district),
                ),
                "district_off_share_max": (
                    "Share of meters below open outages in the district with most of them off.",
                    lambda: self.off_share_max,
                ),
            },
            counters={},
        )

    async def run(self) -> None:
        """Look again and again until cancelled. Raises what is an error of ours; then it may be begun anew."""
        while True:
            try:
                await self.refresh()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("storms not looked for", error=error.message)
            await asyncio.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Look once."""
        topology, now_us = self._topology(), self._clock.now_us()
        if self._districts is None or self._districts.topology is not topology:
            self._districts = await asyncio.to_thread(Districts, topology)
        outages = open_outages(list(self._desk.book))
        census = await asyncio.to_thread(self._districts.census, outages, now_us)
        found = await read_kpis(self._reader, now_us - FLOOD_SPAN_US, now_us, self._operators)
        changed = self.storms.step(census, found.flood_now, now_us)
        self.off_share_max = max((one.off / one.meters for one in census.values() if one.meters), default=0.0)
        for storm in changed:
            if storm.until_us is not None:
                _log.info("storm over", reason=storm.reason.value, district=storm.district, off_max=storm.off_max)
            elif storm.since_us == now_us:
                _log.warning(
                    "STORM", reason=storm.reason.value, district=storm.district, off=storm.now.off,
                    meters=storm.now.meters, roots=storm.now.roots,
                )  # fmt: skip
        self._unkept |= {(*storm.key, storm.since_us): storm for storm in changed}
        await self._store.keep(list(self._unkept.values()))
        self._unkept = {}
