"""What must hold of a run, whatever the day and the way of delivery; each breach is a sentence.

Equal alarms (`differing`): every alarm that stands by itself, with rule, asset, onset, raised, end, severity and level.
Outside it, because they say how the day was told: alarms taken back or folded into a parent, states, COMM_LOSS, which
follows the clock, and identities, which keep the onset told first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import numpy as np

from meterwatch.alarms import Alarm, AlarmState, AssetShelf, Transition, TransitionKind
from meterwatch.clock import US
from meterwatch.devtools.simulation.kept_in_memory import Memory
from meterwatch.devtools.simulation.small_grid import FAR_US, INTERVAL_US, START_US, Grid
from meterwatch.devtools.simulation.told_day import MINUTE_US, WORK_AFTER_US, Day, Fault
from rules.profile import OutageProfile

Face = tuple[str, str, str, int, int, int, int, str]
EARLY_US: Final = MINUTE_US
LATE_US: Final = 20 * MINUTE_US
"""What a fault is told by begins and ends so near to it."""
PLANNED_LATE_US: Final = OutageProfile().planned_late_s * US
GONE_FOR_SURE_US: Final = 55 * MINUTE_US
"""A head-end that was away for so long is told."""


def standing(alarms: Iterable[Alarm]) -> list[Alarm]:
    """Those that were not taken back and stand by themselves."""
    return [a for a in alarms if a.state is not AlarmState.RETRACTED and a.parent_id is None]


def faces(alarms: Iterable[Alarm]) -> Counter[Face]:
    """What must be equal, of the alarms under the law."""
    return Counter(
        (a.rule, a.asset_kind, a.asset, a.onset_us, a.raised_us, a.cleared_us or FAR_US, int(a.severity), a.level)
        for a in standing(alarms)
        if a.rule != "COMM_LOSS"
    )


def differing(plain: Counter[Face], told: Counter[Face]) -> list[str]:
    """What the delivery changed."""
    only = [f"only in the plain delivery: {_face(face)}" for face in sorted((plain - told).elements())]
    return only + [f"only in this delivery: {_face(face)}" for face in sorted((told - plain).elements())]


def _face(face: Face) -> str:
    rule, kind, asset, onset_us, raised_us, cleared_us, severity, level = face
    until = "lasts" if cleared_us == FAR_US else f"until {_time(cleared_us)}"
    return (
        f"{rule} {level} of {kind} {asset}, since {_time(onset_us)}, told {_time(raised_us)}, {until}, sev. {severity}"
    )


def _time(stamp_us: int) -> str:
    return f"{datetime.fromtimestamp(stamp_us / US, UTC):%d %H:%M:%S}"


def _named(alarm: Alarm) -> str:
    until = "lasts" if alarm.cleared_us is None else f"until {_time(alarm.cleared_us)}"
    return f"{alarm.rule} {alarm.level} of {alarm.asset_kind} {alarm.asset}, since {_time(alarm.onset_us)}, {until}"


def of_log(log: Sequence[Transition]) -> Iterator[str]:
    """Cursors without a gap, versions that rise by one, parents that exist."""
    version: Counter[str] = Counter()
    for number, transition in enumerate(log, 1):
        alarm = transition.alarm
        version[alarm.alarm_id] += 1
        if transition.seq != number or alarm.seq != number:
            yield f"transition {number} has cursor {transition.seq}, its alarm {alarm.seq}"
        if alarm.version != version[alarm.alarm_id]:
            yield f"{alarm.alarm_id}: version {alarm.version} is its transition {version[alarm.alarm_id]}"
        if alarm.parent_id is not None and alarm.parent_id not in version:
            yield f"{alarm.alarm_id} has the parent {alarm.parent_id}, which was never told"


def of_alarms(alarms: Iterable[Alarm]) -> Iterator[str]:
    """One alarm for an episode; what is folded is folded into something that stands."""
    known = {alarm.alarm_id: alarm for alarm in alarms}
    by_asset: dict[tuple[str, str, int], list[Alarm]] = {}
    for alarm in known.values():
        if alarm.state is AlarmState.RETRACTED:
            continue
        by_asset.setdefault((alarm.rule, alarm.asset_kind, alarm.asset_id), []).append(alarm)
        parent = None if alarm.parent_id is None else known.get(alarm.parent_id)
        if parent is not None and parent.state is AlarmState.RETRACTED:
            yield f"{_named(alarm)} is folded into what was taken back: {_named(parent)}"
    for mine in by_asset.values():
        mine.sort(key=lambda one: one.onset_us)
        for before, after in pairwise(mine):
            if (before.cleared_us or FAR_US) > after.onset_us:
                yield f"two alarms for one episode: {_named(before)}; {_named(after)}"


def of_truth(grid: Grid, day: Day, alarms: Iterable[Alarm]) -> Iterator[str]:
    """One root for each fault that everybody told, none for what did not happen."""
    roots = standing(alarms)
    outages = [alarm for alarm in roots if alarm.rule == "OUTAGE"]
    explained: set[str] = set()
    for fault in day.faults:
        mine = [alarm for alarm in outages if _reaches(grid, fault, alarm)]
        explained.update(alarm.alarm_id for alarm in mine)
        own = [a for a in mine if (a.asset_kind, a.asset_id) == (fault.kind, fault.asset_id)]
        others = [a for a in mine if a not in own and (day.all_told or a.level != "NESTED")]
        if fault.certain and (len(own) != 1 or others):
            told = "; ".join(map(_named, mine)) or "nothing"
            yield f"{fault.kind} {fault.asset_id} off since {_time(fault.from_us)} has not one root: {told}"
    yield from (f"false root: {_named(alarm)}" for alarm in outages if alarm.alarm_id not in explained)
    overloads = [a for a in roots if a.rule == "OVERLOAD" and a.asset_kind == "transformer"]
    for one in day.overloads:
        mine = [
            a
            for a in overloads
            if a.asset_id == one.transformer and a.onset_us < one.to_us and (a.cleared_us or FAR_US) > one.from_us
        ]
        if not mine:  # several where a grave level ends before the hold of a milder one
            yield f"transformer {one.transformer} overloaded since {_time(one.from_us)} has no alarm"
    yield from (f"false overload: {_named(alarm)}" for alarm in overloads if alarm.asset_id not in day.may_load)


def _reaches(grid: Grid, fault: Fault, alarm: Alarm) -> bool:
    to_us = fault.to_us if fault.to_us == FAR_US else fault.to_us + LATE_US
    if not fault.from_us - EARLY_US <= alarm.onset_us <= to_us:
        return False
    below = grid.members(alarm.asset_kind, alarm.asset_id)
    return bool(np.isin(below, grid.members(fault.kind, fault.asset_id)).all()) and not (
        alarm.asset_kind == "feeder" and fault.kind != "feeder"
    )


def of_loads(grid: Grid, memory: Memory) -> Iterator[str]:
    """The stored loads are the sums of the stored reads, each of which fills one window."""
    day, rows = memory.day, memory.current(None, 0, FAR_US)
    wh = np.zeros(memory.load_is.shape, np.int64)
    np.add.at(wh, (day.interval[rows], grid.topology.transformer_of[day.slot[rows]]), day.wh[rows])
    for interval, transformer in np.argwhere(memory.loads[:, :, 0] != wh).tolist():
        stored = int(memory.loads[interval, transformer, 0])
        since = _time(START_US + interval * INTERVAL_US)
        summed = int(wh[interval, transformer])
        yield f"load of transformer {transformer} since {since}: {stored} Wh are stored, its reads add up to {summed}"


def of_silence(day: Day, alarms: Iterable[Alarm]) -> Iterator[str]:
    """In the plain delivery: one alarm for a head-end that was gone, and nobody else is silent."""
    silent = [alarm for alarm in standing(alarms) if alarm.rule == "COMM_LOSS"]
    for one in day.silences:
        mine = [a for a in silent if (a.asset_kind, a.asset_id) == ("head_end", one.head_end)]
        if one.to_us - one.from_us >= GONE_FOR_SURE_US and len(mine) != 1:
            yield f"head-end {one.head_end} gone since {_time(one.from_us)} has {len(mine)} alarms"
    gone = {one.head_end for one in day.silences}
    if day.all_told:
        for alarm in silent:
            if alarm.raised_us < day.quiet_us and (alarm.asset_kind != "head_end" or alarm.asset_id not in gone):
                yield f"nobody was silent: {_named(alarm)}"


def of_calls(
    grid: Grid, day: Day, log: Sequence[Transition], shelved: Sequence[tuple[AssetShelf, int]]
) -> Iterator[str]:
    """Planned work calls nobody as long as it lasts; what begins to stand under a shelf is born shelved."""
    for fault in day.faults:
        until_us = fault.to_us + WORK_AFTER_US + PLANNED_LATE_US
        for transition in log if fault.planned else ():
            alarm = transition.alarm
            explained = alarm.rule == "OUTAGE" and transition.recorded_us < until_us and _reaches(grid, fault, alarm)
            if explained and alarm.pages:
                yield f"cursor {transition.seq} calls for planned work: {_named(alarm)}"
    for i, (shelf, since_seq) in enumerate(shelved):
        lifted = min((seq for later, seq in shelved[i + 1 :] if later.over == shelf.over), default=len(log))
        for transition in log[since_seq:lifted]:
            raised = transition.kind is TransitionKind.RAISED and shelf.covers(transition.alarm)
            if raised and transition.recorded_us < shelf.until_us and transition.alarm.stands:
                yield f"cursor {transition.seq} is not shelved: {_named(transition.alarm)}"
