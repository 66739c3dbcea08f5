"""Alarms about the service itself: told once, held at both ends, found again after a restart; the clock is injected."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from alarm_cases import BASE_US, SinkStore, ack, names
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from alarm.desk import AlarmDesk
from alarm.profile import AlarmClass, AlarmProfile
from meterwatch.access.identity import Identity, Role, within
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, Priority, TransitionKind
from meterwatch.clock import US, ReplayClock
from meterwatch.episodes import Severity
from meterwatch.errors import StorageUnavailable
from meterwatch.own_alarms import UNKNOWN, Condition, Ill, Moment, OwnAlarms, Standing
from meterwatch.own_parts import Part

LITTLE = Ill(Severity.MEDIUM, "900 MiB left")
NONE_LEFT = Ill(Severity.CRITICAL, "90 MiB left")
BEGINS_S, ENDS_S = 10.0, 30.0


class Service:
    """A service of one condition, over a store that outlives it. Its clock runs with the monotonic one."""

    def __init__(self, store: SinkStore, profile: AlarmProfile | None = None, begins_s: float = BEGINS_S) -> None:
        self.store, self.profile, self.begins_s = store, profile, begins_s
        self.clock = ReplayClock(BASE_US)
        self.ill: Ill | None = None
        self.told: list[Severity | None] = []
        """What the condition was told of itself."""

    async def start(self) -> None:
        self.desk = await AlarmDesk.open(self.store, names(), self.clock, profile=self.profile)
        condition = Condition(Part.DISK, "DISK_LOW", self.look, self.begins_s, ENDS_S)
        self.own = OwnAlarms(self.desk, self.clock, [condition], lambda: self.clock.now_us() / US)

    def look(self, told: Severity | None) -> Ill | None:
        self.told.append(told)
        return self.ill

    async def at(self, second: float, ill: Ill | None) -> None:
        """Look at that time; so it is then."""
        self.ill = ill
        self.clock.saw(BASE_US + round(second * US))
        await self.own.look()
        await self.desk.end_delays()

    @property
    def kinds(self) -> list[TransitionKind]:
        return [transition.kind for transition in self.store.log]

    @property
    def alarm(self) -> Alarm:
        (alarm,) = self.store.alarms()
        return alarm


async def served(**more: float) -> Service:
    service = Service(SinkStore(), **more)
    await service.start()
    return service


async def test_it_is_told_once_when_it_has_lasted_and_is_over_when_it_has_been_over() -> None:
    service = await served()
    for second, ill in ((0, None), (4, LITTLE), (13.9, LITTLE)):
        await service.at(second, ill)
    assert service.kinds == []
    await service.at(14, LITTLE)
    for second, ill in ((20, LITTLE), (40, None), (69, None)):
        await service.at(second, ill)
    assert service.kinds == [TransitionKind.RAISED]
    alarm = service.alarm
    assert (alarm.rule, alarm.asset_kind, alarm.asset, alarm.level) == ("SYSTEM", "service", "disk", "DISK_LOW")
    assert (alarm.feeder, alarm.district, alarm.priority) == ("", "", Priority.MEDIUM)
    assert (alarm.onset_us - BASE_US, alarm.raised_us - BASE_US) == (4 * US, 14 * US)
    await service.at(70, None)
    assert service.kinds == [TransitionKind.RAISED, TransitionKind.CLEARED]
    assert service.alarm.cleared_us == BASE_US + 40 * US
    await service.at(80, LITTLE)
    await service.at(90, LITTLE)
    assert service.kinds.count(TransitionKind.RAISED) == 2


async def test_worse_is_told_at_once_and_asks_again_and_figures_alone_are_not_told() -> None:
    service = await served()
    await service.at(0, LITTLE)
    await service.at(10, LITTLE)
    await service.desk.act(ack(service.alarm.alarm_id), 0)
    await service.at(12, Ill(Severity.MEDIUM, "800 MiB left"))
    assert service.alarm.state is AlarmState.ACK_ACTIVE
    await service.at(14, NONE_LEFT)
    assert (service.alarm.state, service.alarm.summary) == (AlarmState.UNACK_ACTIVE, NONE_LEFT.summary)
    await service.at(16, LITTLE)
    kinds = [TransitionKind.RAISED, TransitionKind.ACKNOWLEDGED, TransitionKind.SEVERITY, TransitionKind.SEVERITY]
    assert service.kinds == kinds
    assert service.told[-3:] == [Severity.MEDIUM, Severity.MEDIUM, Severity.CRITICAL]


async def test_another_stage_is_told_and_the_same_one_is_not() -> None:
    service = await served(begins_s=0.0)
    for second, line in enumerate(("line 3", "line 3", "line 7", "line 7")):
        await service.at(second, Ill(Severity.MEDIUM, f"refused: {line}", stage=line))
    assert service.kinds == [TransitionKind.RAISED, TransitionKind.AMENDED]
    assert service.alarm.summary == "refused: line 7"


@pytest.mark.parametrize("profile", [None, AlarmProfile(classes=(AlarmClass("SYSTEM", on_delay_s=20),))])
async def test_after_a_restart_it_stands_still_and_is_over_when_it_is_over(profile: AlarmProfile | None) -> None:
    service = Service(SinkStore(), profile)
    await service.start()
    for second in (0, 10, 35):
        await service.at(second, LITTLE)
    before = service.alarm
    await service.start()
    await service.at(40, UNKNOWN)
    await service.at(80, UNKNOWN)
    await service.at(82, LITTLE)
    assert (service.kinds, service.alarm) == ([TransitionKind.RAISED], before)
    await service.start()
    for second in (90, 110, 120):
        await service.at(second, None)
    assert service.kinds == [TransitionKind.RAISED, TransitionKind.CLEARED]
    assert (service.alarm.raised_us, service.alarm.cleared_us) == (before.raised_us, BASE_US + 90 * US)
    await service.start()
    await service.at(200, None)
    assert len(service.kinds) == 2


async def test_what_the_database_does_not_take_is_told_when_it_is_back_and_once() -> None:
    service = await served()
    await service.at(0, LITTLE)
    service.store.fail = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await service.at(10, LITTLE)
    assert service.kinds == []
    service.store.fail, service.store.fail_after = StorageUnavailable("outcome not seen"), True
    with pytest.raises(StorageUnavailable):
        await service.at(12, LITTLE)
    await service.at(14, LITTLE)
    assert service.kinds == [TransitionKind.RAISED]
    assert service.alarm.raised_us == BASE_US + 10 * US
    service.store.fail = StorageUnavailable("nobody asks it while there is nothing new")
    await service.at(16, LITTLE)


def test_a_clock_that_runs_fast_does_not_shorten_a_hold() -> None:
    standing = Standing(Condition(Part.DISK, "DISK_LOW", lambda _: LITTLE, BEGINS_S, ENDS_S))
    assert standing.look(Moment(0, 0.0)) is None
    assert standing.look(Moment(10**12, 9.0)) is None
    assert standing.look(Moment(2 * 10**12, 10.0)) is not None


looks = st.lists(st.tuples(st.integers(1, 15), st.booleans()), max_size=60)


def episodes_by_hand(states: Sequence[tuple[int, bool]]) -> list[tuple[int, int, int | None]]:
    """Onset, raised and cleared, second by second of the looks."""
    found: list[tuple[int, int, int | None]] = []
    other_since: int | None = None
    for second, ill in states:
        stands = bool(found) and found[-1][2] is None
        if ill is stands:
            other_since = None
            continue
        other_since = second if other_since is None else other_since
        if stands and second - other_since >= ENDS_S:
            found[-1] = (*found[-1][:2], other_since)
            other_since = None
        elif not stands and second - other_since >= BEGINS_S:
            found.append((other_since, second, None))
            other_since = None
    return found


@given(looks)
def test_episodes_are_those_found_by_hand(steps: list[tuple[int, bool]]) -> None:
    second, states = 0, []
    for step, ill in steps:
        second += step
        states.append((second, ill))
    now = [False]
    standing = Standing(Condition(Part.DISK, "DISK_LOW", lambda _: LITTLE if now[0] else None, BEGINS_S, ENDS_S))
    told: dict[int, tuple[int, int, int | None]] = {}
    for at_s, ill in states:
        now[0] = ill
        if (one := standing.look(Moment(at_s, at_s))) is not None:
            told[one.onset_us] = one.onset_us, one.raised_us, one.cleared_us
    assert list(told.values()) == episodes_by_hand(states)
    for onset, raised, cleared in told.values():
        assert onset + BEGINS_S <= raised
        assert cleared is None or cleared >= raised


async def test_what_cannot_be_looked_at_stays_as_it_was_is_said_once_and_silences_no_other() -> None:
    service = await served(begins_s=0.0)
    broken = [False]

    def breaks(_: Severity | None) -> Ill | None:
        return 1 // 0 if broken[0] else LITTLE  # type: ignore[return-value]  # it never returns a number

    other = Condition(Part.RULES, "RULES_BEHIND", breaks, 0.0, 0.0)
    disk = Condition(Part.DISK, "DISK_LOW", service.look, 0.0, 0.0)
    service.own = OwnAlarms(service.desk, service.clock, [other, disk])
    await service.at(0, None)
    broken[0] = True
    with capture_logs() as said:
        await service.at(2, LITTLE)
        await service.at(4, LITTLE)
        broken[0] = False
        await service.at(6, LITTLE)
        broken[0] = True
        await service.at(8, LITTLE)
    assert {alarm.asset: alarm.cleared_us for alarm in service.store.alarms()} == {"rules": None, "disk": None}
    assert service.kinds == [TransitionKind.RAISED, TransitionKind.RAISED]
    assert [line["part"] for line in said] == ["rules", "rules"]


async def test_who_has_districts_is_not_told_and_does_not_act_and_who_has_the_whole_grid_does() -> None:
    service = await served(begins_s=0.0)
    await service.at(0, LITTLE)
    north = Identity("nora", frozenset({Role.OPERATOR}), frozenset({"North"}))
    whole = Identity("kim", frozenset({Role.OPERATOR}))
    for caller, sees in ((north, False), (whole, True)):
        assert within(AlarmFilter(), caller).matches(service.alarm) is sees
        assert within(AlarmFilter(rules=frozenset({"SYSTEM"})), caller).wants(service.store.log[0]) is sees
        assert caller.sees(service.alarm.district) is sees
    assert names().district_of("service", "disk") == ""
