"""Delays, chattering, priority and repeated announcements: the pure function, and the desk that keeps its time."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from alarm_cases import BASE_US, MINUTE_US, SinkStore, ack, act, at, clock, episode, names, verdict
from hypothesis import given
from hypothesis import strategies as st

from alarm.desk import AlarmDesk
from alarm.profile import ALARM_PROFILES, AlarmClass, AlarmProfile
from alarm.shaping import CHATTERING, REPEATS, shaped
from meterwatch.alarms import Alarm, AlarmState, Priority, TransitionKind
from meterwatch.episodes import Episode, Severity
from meterwatch.errors import StorageUnavailable

NOW = at(1_000)
Times = list[tuple[int, int | None]]
"""raised, cleared in minutes"""


@st.composite
def faults(draw: st.DrawFn) -> list[Episode]:
    """Faults of one asset after each other; the last one may last."""
    out, minute = [], 0
    for _ in range(draw(st.integers(0, 8))):
        onset = minute + draw(st.integers(0, 15))
        minute = onset + 1 + draw(st.integers(1, 15))
        out.append(episode(onset, minute))
    if out and draw(st.booleans()):
        out[-1] = replace(out[-1], cleared_us=None)
    return out


limits = st.builds(
    AlarmClass,
    on_delay_s=st.sampled_from([0, 120, 600]),
    off_delay_s=st.sampled_from([0, 120, 600]),
    chatter_raises=st.sampled_from([0, 2, 3]),
    chatter_s=st.sampled_from([300, 1800]),
)


def times(episodes: list[Episode]) -> Times:
    def minute(us: int) -> int:
        return (us - BASE_US) // MINUTE_US

    return [(minute(e.raised_us), None if e.cleared_us is None else minute(e.cleared_us)) for e in episodes]


def test_nothing_asked_for_changes_nothing() -> None:
    told = [episode(10, 12), episode(13, 14), episode(15)]
    assert shaped(told, AlarmClass(), NOW) == (told, None)


@pytest.mark.parametrize(
    ("limits", "now", "expected"),
    [
        (AlarmClass(on_delay_s=300), 40, [(16, 22)]),
        (AlarmClass(on_delay_s=300), 15, []),
        (AlarmClass(on_delay_s=300), 16, [(16, None)]),
        (AlarmClass(off_delay_s=300), 40, [(11, 35)]),
        (AlarmClass(off_delay_s=300), 34, [(11, None)]),
        (AlarmClass(off_delay_s=120), 40, [(11, 24), (26, 32)]),
        (AlarmClass(chatter_raises=2, chatter_s=1200), 49, [(11, 22), (26, None)]),
        (AlarmClass(chatter_raises=2, chatter_s=1200), 50, [(11, 22), (26, 50)]),
        (AlarmClass(chatter_raises=2, chatter_s=900), 50, [(11, 22), (26, 30)]),
    ],
)
def test_delays_by_the_minute(limits: AlarmClass, now: int, expected: Times) -> None:
    """Raised at 11 and over at 22, raised at 26 and over at 30."""
    heard = [e for e in (episode(10, 22), episode(25, 30)) if e.onset_us <= at(now)]
    heard = [replace(e, cleared_us=None) if (e.cleared_us or 0) > at(now) else e for e in heard]
    assert times(shaped(heard, limits, at(now))[0]) == expected


@given(faults(), limits, st.integers(0, 9))
def test_the_order_of_episodes_does_not_matter(told: list[Episode], limits: AlarmClass, seed: int) -> None:
    other = list(told)
    random.Random(seed).shuffle(other)
    assert shaped(other, limits, NOW) == shaped(told, limits, NOW)


@given(faults(), limits, st.integers(0, 300))
def test_what_is_told_changes_when_it_was_said_to_and_not_before(
    told: list[Episode], limits: AlarmClass, minute: int
) -> None:
    heard = [e for e in told if e.raised_us <= at(minute) and (e.cleared_us or 0) <= at(minute)]
    before, due_us = shaped(heard, limits, at(minute))
    until_us = at(2_000) if due_us is None else due_us
    assert until_us > at(minute)
    assert shaped(heard, limits, until_us - 1)[0] == before
    if due_us is not None:
        assert shaped(heard, limits, due_us)[0] != before


@given(faults(), limits)
def test_every_fault_is_in_one_alarm_that_lasts_at_least_as_long(told: list[Episode], limits: AlarmClass) -> None:
    found, _ = shaped(told, limits, NOW)
    assert all(a.cleared_us is not None and a.cleared_us < b.raised_us for a, b in itertools.pairwise(found))
    for fault in told:
        starts_us = fault.raised_us + limits.on_delay_s * 1_000_000
        if fault.cleared_us is not None and fault.cleared_us <= starts_us:
            continue
        mine = [a for a in found if a.raised_us <= starts_us and starts_us < (a.cleared_us or NOW)]
        assert len(mine) == 1
        assert mine[0].cleared_us is None or mine[0].cleared_us >= (fault.cleared_us or NOW)
    assert sum(1 + a.evidence.get(REPEATS, 0) for a in found) <= len(told)


def test_what_a_wider_fault_explains_is_left_alone() -> None:
    told = [episode(i, i + 1.5, parent=("feeder", 0)) for i in range(0, 20, 2)]
    assert shaped(told, AlarmClass(off_delay_s=600, chatter_raises=2), NOW)[0] == told


FLAPS = [episode(2 * i, 2 * i + 1.5) for i in range(8)]
CHATTER = AlarmProfile("test", (AlarmClass("OUTAGE", chatter_raises=3, chatter_s=600),))


def standing(store: SinkStore) -> list[Alarm]:
    return [a for a in store.alarms() if a.state is not AlarmState.RETRACTED]


async def test_a_source_that_chatters_has_one_alarm_with_a_count() -> None:
    store, time = SinkStore(), clock(0)
    desk = await AlarmDesk.open(store, names(), time, profile=CHATTER)
    for count in range(1, len(FLAPS) + 1):
        time.saw(FLAPS[count - 1].cleared_us or 0)
        await desk.record([verdict(*FLAPS[:count])], [])
    *before, alarm = standing(store)
    assert len(before) == 2
    assert (alarm.cleared_us, alarm.evidence[REPEATS], alarm.evidence[CHATTERING]) == (None, 5, True)
    assert sum(t.kind is TransitionKind.RAISED for t in store.log) == 3
    time.saw(at(15.5 + 10) - 1)
    assert await desk.end_delays() == []
    time.saw(at(15.5 + 10))
    (over,) = await desk.end_delays()
    assert (over.kind, over.alarm.cleared_us) == (TransitionKind.CLEARED, at(25.5))
    assert await desk.end_delays() == []


@pytest.mark.parametrize("seed", range(8))
async def test_the_same_flaps_in_any_order_and_over_restarts_leave_the_same_alarms(seed: int) -> None:
    draw = random.Random(seed)
    store, time = SinkStore(), clock(0)
    time.saw(at(40))
    told = list(FLAPS)
    draw.shuffle(told)
    desk = await AlarmDesk.open(store, names(), time, profile=CHATTER)
    for count in range(1, len(told) + 1):
        await desk.record([verdict(*sorted(told[:count], key=lambda e: e.onset_us))], [])
        if draw.random() < 0.3:
            desk = await AlarmDesk.open(store, names(), time, profile=CHATTER)
    found = {(a.onset_us, a.cleared_us, a.evidence.get(REPEATS, 0)) for a in standing(store)}
    assert found == {(at(0), at(1.5), 0), (at(2), at(3.5), 0), (at(4), at(25.5), 5)}


async def test_the_end_of_a_delay_survives_a_failed_commit_and_a_restart() -> None:
    store, time = SinkStore(), clock(0)
    profile = AlarmProfile("test", (AlarmClass(off_delay_s=600),))
    desk = await AlarmDesk.open(store, names(), time, profile=profile)
    time.saw(at(6))
    await desk.record([verdict(episode(0, 5))], [])
    time.saw(at(20))
    store.fail = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await desk.end_delays()
    assert store.alarms()[0].cleared_us is None
    later = await AlarmDesk.open(store, names(), time, profile=profile)
    (again,) = await later.record([verdict(episode(0, 5))], [])
    assert again.alarm.cleared_us == at(15)
    assert await desk.end_delays() == []  # the first desk heard of it from the log


async def test_an_alarm_that_ended_by_its_delay_is_left_alone_by_a_verdict_that_looks_back_less() -> None:
    store, time = SinkStore(), clock(0)
    desk = await AlarmDesk.open(store, names(), time, profile=AlarmProfile("test", (AlarmClass(off_delay_s=600),)))
    time.saw(at(30))
    await desk.record([verdict(episode(0, 5))], [])
    assert await desk.record([verdict(since=8)], []) == []


async def test_severity_and_priority_are_those_of_the_profile() -> None:
    store, time = SinkStore(), clock(30)
    louder = AlarmClass(
        "OUTAGE",
        "transformer",
        severity={"SUSTAINED": Severity.CRITICAL},
        priority={Severity.CRITICAL: Priority.MEDIUM},
    )
    desk = await AlarmDesk.open(store, names(), time, profile=AlarmProfile("test", (louder,)))
    await desk.record([verdict(episode(10)), verdict(episode(10), kind="meter")], [])
    found = {a.asset_kind: (a.severity, a.priority) for a in store.alarms()}
    assert found == {
        "transformer": (Severity.CRITICAL, Priority.MEDIUM),
        "meter": (Severity.HIGH, Priority.HIGH),
    }
    assert all(Alarm.from_json(a.to_json()) == a for a in store.alarms())


async def test_what_stands_for_too_long_is_announced_again_once() -> None:
    store, time = SinkStore(), clock(30)
    profile = AlarmProfile("test", (AlarmClass(re_alarm_s=3600),))
    desk = await AlarmDesk.open(store, names(), time, profile=profile)
    raised, put_aside = await desk.record([verdict(episode(10)), verdict(episode(10), asset_id=1)], [])
    await desk.act(act(put_aside.alarm.alarm_id, TransitionKind.SHELVED, "a0", shelve_s=8 * 3600), 0)
    time.saw(at(60))
    await desk.act(ack(raised.alarm.alarm_id), 0)
    time.saw(at(119))
    assert await desk.announce_again() == []
    time.saw(at(120))
    (again,) = await desk.announce_again()
    assert (again.kind, again.alarm.state) == (TransitionKind.REANNOUNCED, AlarmState.UNACK_ACTIVE)
    assert (again.alarm.alarm_id, again.alarm.acknowledged_by) == (raised.alarm.alarm_id, None)
    desk = await AlarmDesk.open(store, names(), time, profile=profile)
    assert await desk.announce_again() == []
    time.saw(at(180))
    assert len(await desk.announce_again()) == 1


def test_every_profile_is_named_as_it_is_chosen() -> None:
    assert [name for name, profile in ALARM_PROFILES.items() if name != profile.name] == []


def test_what_changes_first_is_when_to_ask_again() -> None:
    """The first is over 5 minutes after minute 20, the second has lasted 10 minutes at minute 32."""
    limits = AlarmClass(on_delay_s=600, off_delay_s=300)
    assert shaped([episode(0, 20), episode(21)], limits, at(23)) == ([*shaped([episode(0)], limits, at(23))[0]], at(25))
    assert shaped([episode(0, 20), episode(21)], limits, at(25))[1] == at(32)


def test_faults_told_as_one_are_as_grave_as_the_gravest_when_over_and_as_the_last_while_it_lasts() -> None:
    limits = AlarmClass(off_delay_s=300)
    grave, mild = episode(10, 12, severity=Severity.CRITICAL), episode(14, 16, severity=Severity.LOW)
    assert [e.severity for e in shaped([grave, mild], limits, at(40))[0]] == [Severity.CRITICAL]
    assert [e.severity for e in shaped([grave, replace(mild, cleared_us=None)], limits, at(40))[0]] == [Severity.LOW]
