"""The witness: asks what is stored around an alarm, and lets the rules' pure functions account for it.

Promise: bounded whatever the alarm is: MEMBERS_MAX meters, READS_MAX reads or two hours each side, two stretches of
time, one round of queries. The account is of what is stored now, with the limits in force now; what the rules said
then is in the alarm's evidence. Membership is today's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.alarms import Alarm, AlarmType, type_of
from meterwatch.batch import Events
from meterwatch.clock import US, Clock
from meterwatch.contract_seen import demand_seen, seen_of
from meterwatch.explained import METERS_SHOWN, WINDOWS_SHOWN, Delivery, LoadSeen, MeterSeen, MetersSeen, Seen
from meterwatch.topology import Topology
from rules.account import Account, Heard, Said, Span, account, load_account
from rules.feeders import feeder_kva
from rules.forecast_overload import ForecastLimits
from rules.ladder import OverloadProfile
from rules.phase_votes import heard_of, on_phase
from rules.plates import DAY_US, Plates
from rules.profile import RuleProfile
from rules.supply import NEVER, Evidence, evidence_of_reads, join
from rules.twin import HotSpotProfile
from storage.arrivals import Arrivals
from storage.history import History
from storage.outbox import Outbox

DELIVERIES_MAX: Final = 200
MEMBERS_MAX: Final = 20_000
READS_MAX: Final = 100_000
HOUR_US: Final = 3600 * US
LOOK_BACK_US: Final = 48 * HOUR_US
"""Longest: a meter not heard for two days was not heard."""
LOOK_BACK_MIN_US: Final = 2 * HOUR_US
AFTER_US: Final = 6 * HOUR_US
LADDER_US: Final = 24 * HOUR_US
"""Loads from so long before the onset: longer than any hold."""
LOADS_MAX_US: Final = 31 * 24 * HOUR_US
_ORDER: Final = np.array([9, 0, 3, 2, 1, 4, 5])
"""Place of each Said among the meters shown."""


def rules_version(profile: RuleProfile, service: str) -> str:
    """Name of the profile, a digest of its numbers, version of the service: changes with whatever changes an answer."""
    digest = hashlib.sha256(repr(asdict(profile)).encode()).hexdigest()[:8]
    return f"{profile.name} {digest}, meterwatch {service}"


def limits_of(alarm: Alarm, profile: RuleProfile, topology: Topology | None = None, day: int = 0) -> dict[str, Any]:
    """The limits of the profile that concern such an alarm, by the names its evidence has.

    topology, day: of whose transformers the thermal numbers are said, and of which UTC day.
    """
    match alarm.rule:
        case AlarmType.OUTAGE:
            return profile.outage.thresholds(alarm.asset_kind)
        case AlarmType.COMM_LOSS:
            return asdict(profile.silence)
        case AlarmType.SYSTEM:
            return {}  # its limits are in the evidence
        case rule if type_of(rule) == AlarmType.USER:
            return {}  # its thresholds are those of its file, in the evidence
        case AlarmType.FORECAST_OVERLOAD:
            return asdict(ForecastLimits())
        case AlarmType.HOT_SPOT:
            plate = {} if topology is None else plate_of(alarm, profile.hot_spot, topology, day)
            return profile.hot_spot.thresholds() | plate
        case AlarmType.CONTRACT:
            return profile.contract.thresholds(alarm.level)
        case _:
            mine = ladder_of(alarm, profile.overload)
            level = next((asdict(one) for one in mine.levels if one.name == alarm.level), {})
            return level | {"coverage_min": mine.coverage_min}


def plate_of(alarm: Alarm, profile: HotSpotProfile, topology: Topology, day: int) -> dict[str, Any]:
    """The thermal numbers of a transformer on a UTC day, days since 1970."""
    if not 0 <= alarm.asset_id < len(topology.rated_kva):
        return {}
    return Plates.of(profile.thermal, profile.types, topology, np.array([alarm.asset_id])).shown(0, day)


def ladder_of(alarm: Alarm, profile: OverloadProfile) -> OverloadProfile:
    """The ladder such an alarm of load was judged by."""
    if alarm.rule == AlarmType.REVERSE:
        return profile.of_reverse
    if alarm.rule == AlarmType.PHASE and profile.phase_levels:
        return profile.of_phases
    if alarm.rule == AlarmType.UNBALANCE and profile.unbalance_levels:
        return profile.of_unbalance
    return profile.of_feeders if alarm.asset_kind == "feeder" else profile


LOADED: Final = (AlarmType.OVERLOAD, AlarmType.REVERSE, AlarmType.HOT_SPOT)
"""Rules that rest on the stored sums of transformers."""
Stamps = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]
"""Slot, stamp, arrival and "it is an event" of reads and events."""


class _Stretch(NamedTuple):
    """One stretch of time as it is stored."""

    votes: Evidence
    stamps: Stamps


class Witness:
    """What is stored around an alarm."""

    def __init__(
        self,
        history: History,
        arrivals: Arrivals,
        topology: Callable[[], Topology],
        profile: RuleProfile,
        clock: Clock,
        version: str,
        deliveries: Callable[[str], Awaitable[Sequence[Delivery]]] | None = None,
    ) -> None:
        self._history = history
        self._arrivals = arrivals
        self._topology = topology
        self._profile = profile
        self._clock = clock
        self._version = version
        self._deliveries = deliveries

    async def see(self, alarm: Alarm, districts: Collection[str] = ()) -> Seen:
        """What is known of it beyond its record. May raise as storage_faults says.

        districts: only meters of these; none: of all. A concentrator around an alarm may reach into others.
        """
        deliveries = () if self._deliveries is None else await self._deliveries(alarm.alarm_id)
        return Seen(
            self._version,
            limits_of(alarm, self._profile, self._topology(), self._clock.now_us() // DAY_US),
            meters=await self._meters(alarm, districts),
            load=await self._curve(alarm),
            deliveries=tuple(deliveries),
        )

    async def _meters(self, alarm: Alarm, districts: Collection[str]) -> MetersSeen | None:
        if alarm.asset_kind in ("head_end", "service"):
            return None
        topology = self._topology()
        every = members_of(topology, *surroundings(topology, alarm), alarm.raised_us)
        if districts:
            every = every[topology.in_districts(districts)[every]]
        slots = every[:MEMBERS_MAX]
        interval_us = topology.interval_s[slots].astype(np.int64) * US
        reach_us = READS_MAX // max(len(slots), 1) * int(interval_us.min(initial=900 * US))
        back_us = min(max(reach_us, LOOK_BACK_MIN_US), LOOK_BACK_US)
        after_us = min(max(reach_us, LOOK_BACK_MIN_US), AFTER_US)
        end_us = self._clock.now_us() + 1 if alarm.cleared_us is None else alarm.cleared_us + HOUR_US
        first = alarm.onset_us - back_us, min(end_us, alarm.raised_us + after_us)
        last = max(first[1], end_us - after_us), end_us
        stretches = [await self._stretch(slots, from_us, to_us) for from_us, to_us in (first, last) if from_us < to_us]
        grace = np.array([self._profile.silence.grace_of(mode) for mode in topology.comm_modes] or [0], np.int64) * US
        due_us = interval_us + grace[topology.comm_mode[slots]]
        outage, is_outage = self._profile.outage, alarm.rule == AlarmType.OUTAGE
        span = Span(
            alarm.onset_us,
            alarm.raised_us,
            NEVER if alarm.cleared_us is None else alarm.cleared_us,
            alarm.recorded_us,
            early_us=outage.onset_window_s * US,
            slack_us=outage.clock_slack_s * US,
        )
        votes = join([one.votes for one in stretches] if is_outage else [])
        if "phase" in alarm.evidence:
            votes = on_phase(votes, str(alarm.evidence["phase"]))
        slot, at_us, arrived_us, event = (
            np.concatenate(parts) for parts in zip(*(s.stamps for s in stretches), strict=True)
        )
        stamps = Heard(slot, at_us, arrived_us)
        found = await asyncio.to_thread(account, slots, votes, stamps, due_us, span)
        return _shown(topology, slots, len(every), found, due_us, (slot, at_us, arrived_us, event))

    async def _stretch(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> _Stretch:
        changes = [change async for change in self._history.reads_between(from_us, to_us, slots)]
        ends_us = np.unique(np.concatenate([np.zeros(0, np.int64), *(change.end_us for change in changes)]))
        slot, end_us, read_came = await self._arrivals.reads(slots, ends_us)
        at, at_us, event_came, code, phases = await self._arrivals.events(slots, from_us, to_us)
        events = Events(at.astype(np.int32), at_us, code.astype(np.int16), phases.astype(np.uint8))
        told = heard_of(events, self._topology().phases)
        return _Stretch(
            join([told, *(evidence_of_reads(change) for change in changes)]),
            (
                np.concatenate([slot, at]).astype(np.int32),
                np.concatenate([end_us, at_us]),
                np.concatenate([read_came, event_came]),
                np.arange(len(slot) + len(at)) >= len(slot),
            ),
        )

    async def _curve(self, alarm: Alarm) -> tuple[LoadSeen, ...]:
        if alarm.rule == AlarmType.CONTRACT:
            topology, span = self._topology(), self._look(alarm)
            seen = await demand_seen(self._history, topology, self._profile.contract, alarm, *span)
            return _around(alarm, seen)
        return await self._load(alarm) if alarm.rule in LOADED else ()

    def _look(self, alarm: Alarm) -> tuple[int, int]:
        """From when to when loads are looked at."""
        end_us = self._clock.now_us() if alarm.cleared_us is None else alarm.cleared_us + HOUR_US
        return alarm.onset_us - LADDER_US, min(end_us, alarm.onset_us + LOADS_MAX_US)

    async def _load(self, alarm: Alarm) -> tuple[LoadSeen, ...]:
        profile, topology = ladder_of(alarm, self._profile.overload), self._topology()
        mine = np.array([alarm.asset_id], np.int32)
        if alarm.asset_kind == "feeder":
            mine = np.flatnonzero(topology.feeder_of == alarm.asset_id).astype(np.int32)
            rated = float(feeder_kva(topology, profile)[alarm.asset_id])
        else:
            rated = float(topology.rated_kva[alarm.asset_id])
        ends, wh, varh, covered, expected = await self._arrivals.loads(mine, *self._look(alarm))
        if alarm.rule == AlarmType.REVERSE:
            wh, varh = np.minimum(wh, 0), np.where(wh < 0, varh, 0)
        windows = ends // (profile.window_s * US) - 1
        account = load_account(profile, rated, windows, wh, varh, covered, expected)
        return _around(alarm, seen_of(account, profile))


def _around(alarm: Alarm, curve: Sequence[LoadSeen]) -> tuple[LoadSeen, ...]:
    """The windows to show: from an hour before the onset on, of many the first and the last."""
    shown = [one for one in curve if one.end_us > alarm.onset_us - HOUR_US]
    if len(shown) > WINDOWS_SHOWN:
        shown = shown[: WINDOWS_SHOWN // 2] + shown[-WINDOWS_SHOWN // 2 :]
    return tuple(shown)


def deliveries_of(outbox: Outbox) -> Callable[[str], Awaitable[Sequence[Delivery]]]:
    """What the routes told of an alarm, oldest first; of many the newest DELIVERIES_MAX."""

    async def deliveries(alarm_id: str) -> list[Delivery]:
        receipts = await outbox.receipts(alarm_id=alarm_id, limit=DELIVERIES_MAX)
        return [
            Delivery(
                r.seq, r.change.value, r.department, r.route, r.target, r.step, r.state.value, r.made_us,
                r.ended_us or 0, r.attempts, r.last_error,
            )
            for r in reversed(receipts)
        ]  # fmt: skip

    return deliveries


def surroundings(topology: Topology, alarm: Alarm) -> tuple[str, int]:
    """The asset whose meters tell of an alarm. Of a single meter what it hangs below: was it alone?

    A contract is the meter's own matter.
    """
    if alarm.asset_kind == "meter" and alarm.rule != AlarmType.CONTRACT:
        outage = alarm.rule == AlarmType.OUTAGE
        above = int((topology.transformer_of if outage else topology.concentrator_of)[alarm.asset_id])
        if above >= 0:
            return ("transformer" if outage else "concentrator"), above
    return alarm.asset_kind, alarm.asset_id


def members_of(topology: Topology, kind: str, asset_id: int, at_us: int) -> NDArray[np.int32]:
    """Ascending slots of the meters in service under an asset at a time, by today's tree."""
    match kind:
        case "meter":
            return np.array([asset_id], np.int32)
        case "transformer":
            mine = topology.transformer_of == asset_id
        case "concentrator":
            mine = topology.concentrator_of == asset_id
        case _:
            below = np.append(topology.feeder_of == asset_id, False)  # the last one stands for none (-1)
            mine = below[topology.transformer_of]
    return np.flatnonzero(mine & (topology.installed_us <= at_us) & (topology.retired_us > at_us)).astype(np.int32)


def _shown(
    topology: Topology,
    slots: NDArray[np.int32],
    members: int,
    found: Account,
    due_us: NDArray[np.int64],
    stamps: Stamps,
) -> MetersSeen:
    """Counts, and METERS_SHOWN meters: OFF by time, the silent, the rest."""
    order = np.lexsort((slots, found.said_us, _ORDER[found.said]))[:METERS_SHOWN]
    of_shown = np.isin(stamps[0], slots[order])
    arrived = {
        (slot, at_us): ("EVENT" if event else "READ", came)
        for slot, at_us, came, event in zip(*(column[of_shown].tolist() for column in stamps), strict=True)
    }
    shown = []
    for i in order.tolist():
        slot, said_us, back_us, heard_us = (
            int(slots[i]),
            *(max(int(column[i]), 0) for column in (found.said_us, found.back_us, found.heard_us)),
        )
        transformer = int(topology.transformer_of[slot])
        by, came = arrived.get((slot, said_us), ("", 0))
        back_by, back_came = arrived.get((slot, back_us), ("", 0))
        shown.append(
            MeterSeen(
                topology.meter[slot],
                topology.transformer[transformer] if transformer >= 0 else "",
                Said(int(found.said[i])).name,
                said_us, by, came,
                back_us, back_by, back_came,
                heard_us, heard_us + int(due_us[i]) if heard_us else 0,
            )
        )  # fmt: skip
    counts = np.bincount(found.said, minlength=len(_ORDER))
    return MetersSeen(
        members, len(slots), int(counts[Said.OFF]), int(counts[Said.ON]), int(counts[Said.SILENT]), tuple(shown)
    )
