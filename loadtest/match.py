"""Truth against alarms, one to one: which alarm told of which fault, which faults were missed, which alarms were false.

A fault is told by an alarm of the same type on the same asset whose window overlaps the fault's, with a tolerance of
one interval on either side. Only roots match: an alarm folded under a parent paged nobody, and a retracted one was
taken back. A fault that need not be told is no miss, and an alarm of it no page for nothing: both are left out of
pairs, misses and pages, in `spared`. Of all ways to pair, the one with most pairs, then with the smallest sum of onset
errors. The order of the lists in the record does not matter. Refuses to know figures: loadtest.score makes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loadtest.record import Fault, Record, Told

QUIET: Final = frozenset({"MOMENTARY", "PLANNED", "NOISE"})
"""Kinds of fault that must page nobody."""
OF_HEAT: Final = frozenset({"HOT_SPOT", "FORECAST_OVERLOAD"})
"""Types of alarm that are right where there is an overload, and need not be told."""
TOLERANCE_S: Final = 900
"""One interval: reads place an onset no finer. A longer `interval_s` of the run widens it."""
FOREVER_US: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FalsePage:
    """A page that was not the one alarm of a fault."""

    alarm: Told
    because: str
    relation: str = ""
    """`ancestor` or `descendant`: the alarm's asset is one of the asset of a true outage at that time."""
    fault: Fault | None = None
    """That outage, or the fault it repeats."""

    @property
    def false_root(self) -> bool:
        """True: it says that an asset lost supply which did not, as a whole."""
        return self.alarm.type == "OUTAGE" and (self.fault is None or self.relation == "ancestor")


@dataclass(slots=True)
class Match:
    """The outcome; every true fault that must be told is in `pairs` or `missed`, every page in `pairs`, `spared` or
    `false`. Sorted by onset."""

    tolerance_us: int
    pairs: list[tuple[Fault, Told]] = field(default_factory=list)
    missed: list[Fault] = field(default_factory=list)
    false: list[FalsePage] = field(default_factory=list)
    spared: list[tuple[Fault, Told]] = field(default_factory=list)
    """Faults that need not be told, and were."""

    @property
    def pages(self) -> list[Told]:
        """All that paged, false ones included."""
        return [told for _, told in self.pairs] + [one.alarm for one in self.false]


def tolerance_us(inputs: Mapping[str, Any]) -> int:
    """Microseconds by which two windows may miss each other and still be of one fault."""
    return round(max(TOLERANCE_S, float(inputs.get("interval_s") or 0)) * 1_000_000)


def overlaps(fault: Fault, told: Told, tolerance: int) -> bool:
    """True: the windows touch or overlap once each end is moved out by the tolerance. No end is for ever."""
    fault_end = FOREVER_US if fault.end_us is None else fault.end_us
    told_end = FOREVER_US if told.cleared_us is None else max(told.cleared_us, told.onset_us)
    return told.onset_us - tolerance <= fault_end and fault.onset_us - tolerance <= told_end


def match(record: Record) -> Match:
    """Pair faults and pages. Cubic in the faults and alarms of one type on one asset, linear in all else."""
    result = Match(tolerance_us(record.inputs))
    truth: dict[tuple[str, str, str], list[Fault]] = defaultdict(list)
    roots: dict[tuple[str, str, str], list[Told]] = defaultdict(list)
    rest: list[Told] = []
    for fault in sorted(record.faults, key=_fault_order):
        if fault.kind not in QUIET:
            truth[fault.kind, fault.asset_kind, fault.asset].append(fault)
    for told in sorted(record.told, key=_told_order):
        if told.paged and not told.retracted:
            roots[told.type, told.asset_kind, told.asset].append(told)
        elif told.paged:
            rest.append(told)
    for key, faults in truth.items():
        alarms = roots.pop(key, [])
        chosen = _assign(faults, alarms, result.tolerance_us)
        for i, j in chosen.items():
            (result.pairs if faults[i].expected else result.spared).append((faults[i], alarms[j]))
        result.missed += [fault for i, fault in enumerate(faults) if i not in chosen and fault.expected]
        taken = set(chosen.values())
        rest += [told for j, told in enumerate(alarms) if j not in taken]
    rest += [told for alarms in roots.values() for told in alarms]
    rest = [told for told in rest if not _told_of_heat(told, truth, result)]
    why = _Reasons(record, result.tolerance_us)
    result.false = [why.of(told) for told in sorted(rest, key=_told_order)]
    result.pairs.sort(key=lambda pair: _fault_order(pair[0]))
    result.spared.sort(key=lambda pair: _fault_order(pair[0]))
    result.missed.sort(key=_fault_order)
    return result


def _told_of_heat(told: Told, truth: Mapping[tuple[str, str, str], Sequence[Fault]], result: Match) -> bool:
    """True, and spared, for an alarm on the temperature or the forecast of a transformer that was overloaded then."""
    faults = truth.get(("OVERLOAD", told.asset_kind, told.asset), ()) if told.type in OF_HEAT else ()
    during = [fault for fault in faults if overlaps(fault, told, result.tolerance_us)]
    if told.paged and not told.retracted and during:
        result.spared.append((during[0], told))
        return True
    return False


def ancestors(tree: Mapping[str, str], asset: str) -> Iterator[str]:
    """Parents of an asset, nearest first; a ring ends where it closes."""
    seen = {asset}
    while (parent := tree.get(asset)) is not None and parent not in seen:
        yield parent
        seen.add(parent)
        asset = parent


class _Reasons:
    """Why a page is false, from what truly went on at its asset and around it."""

    def __init__(self, record: Record, tolerance: int) -> None:
        self._tree = record.tree
        self._tolerance = tolerance
        self._at: dict[str, list[Fault]] = defaultdict(list)
        self._below: dict[str, list[Fault]] = defaultdict(list)
        for fault in sorted(record.faults, key=_fault_order):
            self._at[fault.asset].append(fault)
            if fault.kind == "OUTAGE":
                for above in ancestors(self._tree, fault.asset):
                    self._below[above].append(fault)

    def of(self, told: Told) -> FalsePage:
        """The first reason that applies."""
        found = self._reason(told)
        if told.retracted:
            return replace(found, because=f"paged and later retracted; {found.because}")
        return found

    def _reason(self, told: Told) -> FalsePage:
        here = self._during(told, [one for one in self._at.get(told.asset, ()) if one.asset_kind == told.asset_kind])
        same = next((one for one in here if one.kind == told.type), None)
        if same is not None:
            return FalsePage(told, "one more alarm of the fault here", fault=same)
        above = [one for up in ancestors(self._tree, told.asset) for one in self._at.get(up, ())]
        if told.type == "OUTAGE":
            if found := self._during(told, [one for one in above if one.kind == "OUTAGE"]):
                because = f"not the root: {found[0].asset_kind} {found[0].asset} is out"
                return FalsePage(told, because, "descendant", found[0])
            if found := self._during(told, self._below.get(told.asset, ())):
                because = f"too high: only {found[0].asset_kind} {found[0].asset} is out"
                if len(found) > 1:
                    because = f"too high: only {len(found)} assets below it are out, not all"
                return FalsePage(told, because, "ancestor", found[0])
        if here:
            return FalsePage(told, f"the fault here is {here[0].kind}")
        if found := self._during(told, above):
            return FalsePage(told, f"there is only {found[0].kind} of {found[0].asset_kind} {found[0].asset}")
        return FalsePage(told, "no fault here at that time")

    def _during(self, told: Told, faults: Sequence[Fault]) -> list[Fault]:
        return [one for one in faults if overlaps(one, told, self._tolerance)]


def _assign(faults: Sequence[Fault], alarms: Sequence[Told], tolerance: int) -> dict[int, int]:
    """Fault index -> alarm index: most pairs first, then the least sum of |onset error|. The Hungarian method."""
    if not faults or not alarms:
        return {}
    cost = [
        [abs(one.onset_us - told.onset_us) if overlaps(one, told, tolerance) else -1 for told in alarms]
        for one in faults
    ]
    never = 1 + sum(max(0, *row) for row in cost)  # dearer than all that is allowed together
    grid = [[never if value < 0 else value for value in row] for row in cost]
    if turned := len(grid) > len(grid[0]):
        grid = [list(column) for column in zip(*grid, strict=True)]
    chosen = _hungarian(grid)
    pairs = {row: column for row, column in enumerate(chosen) if grid[row][column] < never}
    return dict(sorted((column, row) for row, column in pairs.items())) if turned else pairs


def _hungarian(cost: Sequence[Sequence[int]]) -> list[int]:
    """Column of each row at the least total cost; rows <= columns. Prices and shortest augmenting paths, O(n^2 m)."""
    rows, columns = len(cost), len(cost[0])
    row_price, column_price = [0] * (rows + 1), [0] * (columns + 1)
    owner, came_from = [0] * (columns + 1), [0] * (columns + 1)  # 1-based; column 0 stands for "not yet placed"
    for row in range(1, rows + 1):
        owner[0] = row
        column = 0
        least: list[int] = [FOREVER_US * rows] * (columns + 1)
        done = [False] * (columns + 1)
        while owner[column]:
            done[column] = True
            here, step, following = owner[column], -1, 0
            for other in range(1, columns + 1):
                if done[other]:
                    continue
                reduced = cost[here - 1][other - 1] - row_price[here] - column_price[other]
                if reduced < least[other]:
                    least[other], came_from[other] = reduced, column
                if step < 0 or least[other] < step:
                    step, following = least[other], other
            for other in range(columns + 1):
                if done[other]:
                    row_price[owner[other]] += step
                    column_price[other] -= step
                else:
                    least[other] -= step
            column = following
        while column:
            owner[column] = owner[came_from[column]]
            column = came_from[column]
    chosen = [0] * rows
    for column in range(1, columns + 1):
        if owner[column]:
            chosen[owner[column] - 1] = column - 1
    return chosen


def _fault_order(fault: Fault) -> tuple[Any, ...]:
    end = FOREVER_US if fault.end_us is None else fault.end_us
    return fault.onset_us, end, fault.kind, fault.asset_kind, fault.asset, fault.meters


def _told_order(told: Told) -> tuple[Any, ...]:
    end = FOREVER_US if told.cleared_us is None else told.cleared_us
    return (told.onset_us, told.recorded_us, end, told.type, told.asset_kind, told.asset, told.alarm_id, told.retracted)
