"""The rules over stored history: which alarms a profile would have raised, and how they differ from those that were.

Promises: the kernel is that of the running service (rules.engine, alarm.book); nothing is written; memory holds one
page of reads, the ring of loads and the votes of groups in trouble, however long the span. By the law of event time a
slice may be read meter by meter and judged once at its end. Refuses COMM_LOSS,
FORECAST_OVERLOAD and SYSTEM, which follow the clock, not the reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from psycopg_pool import AsyncConnectionPool

from alarm.book import Book
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.clock import US, ReplayClock
from meterwatch.weather import Weather
from meterwatch.wired_rules import WiredRules
from rules.engine import Engine
from rules.profile import RuleProfile
from storage.alarms import AlarmStore
from storage.ambient import AmbientStore
from storage.delivery import DeliveryStore
from storage.history import History
from storage.planned import PlannedStore
from storage.registry import RegistryStore

SLICE_US: Final = 12 * 3600 * US
"""Judged once in so much event time: within the day that votes are kept, and half of what the ring holds twice over."""
WARM_UP_US: Final = 48 * 3600 * US
"""Read before the span, so that what lasted into it is known."""
WINDOW_US: Final = 900 * US


class Difference(NamedTuple):
    """One alarm as it was raised and as the profile would have it; None: not at all."""

    kind: str
    """same, changed, new (only the replay has it), gone (only the table has it)."""
    stored: Alarm | None
    replayed: Alarm | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it."""

    differences: list[Difference]
    reads: int
    seconds: float


async def replay(
    pool: AsyncConnectionPool[Any],
    from_us: int,
    to_us: int,
    profile: RuleProfile,
    progress: Callable[[int, int, int], None] = lambda done, slices, reads: None,
) -> Replay:
    """Judge the reads and events of a span anew; alarms whose onset is in it are compared.

    progress is told (slices done, slices, reads so far) after every page. Membership is that of the registry at to_us.
    Raises StorageUnavailable.
    """
    began_s, read = time.monotonic(), 0
    history = History(pool)
    topology = await RegistryStore(pool).load_topology(to_us)
    rules = WiredRules(Engine(topology, profile), history, ReplayClock(to_us))
    rules.engine.learn(await DeliveryStore(pool).learnt())
    rules.engine.hot_spot.reweather(Weather(await AmbientStore(pool).readings(from_us - WARM_UP_US, to_us)))
    rules.engine.replan(await PlannedStore(pool).works(from_us - WARM_UP_US))
    book = Book([], topology)
    kept: dict[str, Alarm] = {}
    starts = range(from_us - WARM_UP_US, to_us, SLICE_US)
    for done, start_us in enumerate(starts, 1):
        end_us = min(start_us + SLICE_US, to_us)
        async for change in history.reads_between(start_us + 1, end_us + 1, None):
            rules.engine.observe_reads(change, end_us)
            read += len(change.slot)
            rules.engine.overload.saved()
            progress(done - 1, len(starts), read)
        rules.engine.observe_events(await history.events_between(start_us + 1, end_us + 1, None), end_us)
        said = await rules.evaluate(end_us)
        past = [one for one in said if one.until_us is not None]
        for verdicts in (past, [one for one in said if one.until_us is None]):
            drafts = book.reconcile(verdicts, end_us)
            book.apply([draft.alarm for draft in drafts])
            kept |= {draft.alarm.alarm_id: draft.alarm for draft in drafts}
        progress(done, len(starts), read)
    found = [alarm for alarm in kept.values() if _counts(alarm, from_us, to_us)]
    stored = [alarm for alarm in await AlarmStore(pool).began_between(from_us, to_us) if _counts(alarm, from_us, to_us)]
    return Replay(compared(stored, found, to_us), read, time.monotonic() - began_s)


def _counts(alarm: Alarm, from_us: int, to_us: int) -> bool:
    """An alarm of the reads that stands by itself, began in the span and could be told in it."""
    return (
        alarm.rule not in ("COMM_LOSS", "FORECAST_OVERLOAD", "SYSTEM")
        and alarm.state is not AlarmState.RETRACTED
        and alarm.parent_id is None
        and from_us <= alarm.onset_us < to_us
        and alarm.raised_us <= to_us
    )


def compared(stored: Iterable[Alarm], replayed: Iterable[Alarm], to_us: int) -> list[Difference]:
    """Alarms of the same asset that overlap, in pairs, the rest alone; by onset. What ends after to_us is open."""
    left = sorted(replayed, key=_place)
    found: list[Difference] = []
    for old in sorted(stored, key=_place):
        near = [new for new in left if _same_asset(old, new) and _overlap(old, new, to_us)]
        new = min(near, key=lambda one: _apart(old, one), default=None)
        if new is None:
            found.append(Difference("gone", old, None))
            continue
        left.remove(new)
        found.append(Difference("same" if _as_told(old, to_us) == _as_told(new, to_us) else "changed", old, new))
    found += [Difference("new", None, new) for new in left]
    return sorted(found, key=lambda one: _place(one.stored or one.replayed))  # type: ignore[arg-type]


def _place(alarm: Alarm) -> tuple[int, int, str, str]:
    return alarm.onset_us, alarm.raised_us, alarm.rule, alarm.asset


def _apart(one: Alarm, other: Alarm) -> tuple[int, int]:
    return abs(one.onset_us - other.onset_us), abs(one.raised_us - other.raised_us)


def _same_asset(one: Alarm, other: Alarm) -> bool:
    return (one.rule, one.asset_kind, one.asset_id) == (other.rule, other.asset_kind, other.asset_id)


def _end_us(alarm: Alarm, to_us: int) -> int:
    return to_us if alarm.cleared_us is None else min(alarm.cleared_us, to_us)


def _overlap(one: Alarm, other: Alarm, to_us: int) -> bool:
    return max(one.onset_us, other.onset_us) <= min(_end_us(one, to_us), _end_us(other, to_us))


def _as_told(alarm: Alarm, to_us: int) -> tuple[Any, ...]:
    """What makes two alarms the same; of one that is still open at to_us the level moves on, so it is left out."""
    if alarm.cleared_us is None or alarm.cleared_us > to_us:
        return alarm.onset_us, alarm.raised_us, None
    return alarm.onset_us, alarm.raised_us, alarm.cleared_us, alarm.severity, alarm.level
