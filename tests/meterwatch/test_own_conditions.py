"""What is said of the service: each condition at its limits, and the table over a service that has nothing or all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_world import batch, event_batch, piped, until

from meterwatch.clock import US
from meterwatch.disk_watch import AGAIN, MIB, WARN_TIMES, DiskWatch, Room
from meterwatch.episodes import Severity
from meterwatch.jobs import Jobs
from meterwatch.own_alarms import UNKNOWN, Ill
from meterwatch.own_conditions import (
    BEHIND_S,
    CAUGHT_UP_S,
    CLOCK_SAID_S,
    ENDS_SOON_S,
    certificate_ends,
    clock_behind,
    clock_set,
    conditions,
    config_refused,
    disk_low,
    ingest_silent,
    rule_suspended,
    rules_behind,
)
from meterwatch.own_parts import Part, part_of_rule

LEAST = 1024 * MIB
DAY = 86_400.0


class Aside(NamedTuple):
    """A rule that stands aside."""

    rule: str
    asset_kind: str
    since_us: int
    error: str


def severity(ill: Ill | None) -> Severity | None:
    assert ill is not UNKNOWN
    return None if ill is None else ill.severity


def test_before_the_first_look_nothing_is_known_of_the_disk() -> None:
    watch = DiskWatch([], LEAST, lambda _: None)
    for told in (None, Severity.MEDIUM):
        assert disk_low(watch.free_bytes, LEAST, watch.room, told) is UNKNOWN


@given(st.lists(st.integers(0, 15 * LEAST), min_size=1, max_size=20))
def test_what_is_said_of_the_disk_is_what_its_watch_does(free: list[int]) -> None:
    watch = DiskWatch([], LEAST, lambda _: None)
    told: Severity | None = None
    for size in free:
        watch.judge(size)
        told = severity(disk_low(watch.free_bytes, LEAST, watch.room, told))
        said = {Room.NONE: Severity.CRITICAL, Room.LITTLE: Severity.MEDIUM, Room.ENOUGH: None}
        assert told is said[watch.room]


def test_a_watch_that_begins_anew_does_not_end_what_was_told_before_there_is_room() -> None:
    watch = DiskWatch([], LEAST, lambda _: None)
    watch.judge(round(WARN_TIMES * LEAST * AGAIN) - 1)
    assert watch.room is Room.ENOUGH
    assert severity(disk_low(watch.free_bytes, LEAST, watch.room, Severity.MEDIUM)) is Severity.MEDIUM
    assert disk_low(watch.free_bytes, LEAST, watch.room, None) is None
    watch.judge(round(WARN_TIMES * LEAST * AGAIN))
    assert disk_low(watch.free_bytes, LEAST, watch.room, Severity.MEDIUM) is None


@pytest.mark.parametrize(
    ("behind_s", "told", "ill"),
    [
        (BEHIND_S, None, False),
        (BEHIND_S + 1, None, True),
        (BEHIND_S, Severity.HIGH, True),
        (CAUGHT_UP_S + 1, Severity.HIGH, True),
        (CAUGHT_UP_S, Severity.HIGH, False),
    ],
)
def test_rules_are_behind_from_one_limit_on_and_have_caught_up_at_another(
    behind_s: float, told: Severity | None, ill: bool
) -> None:
    assert (rules_behind(behind_s, told) is not None) is ill


@pytest.mark.parametrize(
    ("visited", "meters", "told", "ill"),
    [
        (True, 7, Severity.HIGH, False),
        (False, 7, None, True),
        (False, 0, None, False),
        (False, 0, Severity.HIGH, True),
    ],
)
def test_nobody_is_missed_who_was_never_heard(visited: bool, meters: int, told: Severity | None, ill: bool) -> None:
    assert (ingest_silent(visited, lambda: meters, told) is not None) is ill


@pytest.mark.parametrize(
    ("left_s", "life_s", "expected"),
    [
        (ENDS_SOON_S + 1, 365 * DAY, None),
        (ENDS_SOON_S, 365 * DAY, Severity.MEDIUM),
        (3.6 * DAY, 365 * DAY, Severity.MEDIUM),
        (3.5 * DAY, 365 * DAY, Severity.HIGH),
        (1, 365 * DAY, Severity.HIGH),
        (0, 365 * DAY, Severity.CRITICAL),
        (0.34 * DAY, DAY, None),
        (0.33 * DAY, DAY, Severity.MEDIUM),
        (0.08 * DAY, DAY, Severity.HIGH),
    ],
)
def test_a_certificate_is_spoken_of_by_what_is_left_of_its_life(
    left_s: float, life_s: float, expected: Severity | None
) -> None:
    assert severity(certificate_ends(left_s, life_s, "meters.example")) is expected


@pytest.mark.parametrize(
    ("step_s", "ago_s", "says"),
    [
        (0, None, None),
        (3600, 0.0, "set 3600 s forward"),
        (-3600, CLOCK_SAID_S, "set 3600 s back"),
        (-3600, CLOCK_SAID_S + 1, None),
    ],
)
def test_a_clock_that_was_set_is_spoken_of_for_an_hour(step_s: int, ago_s: float | None, says: str | None) -> None:
    ill = clock_set(step_s * US, ago_s)
    assert (ill is None) is (says is None)
    assert ill is None or says in ill.summary


def test_a_clock_behind_what_is_stored_is_told_and_what_it_does_to_ingest() -> None:
    assert clock_behind(0) is None
    assert clock_behind(30 * US) is None
    ill = clock_behind(7200 * US)
    assert ill is not None
    assert (ill.severity, ill.evidence) == (Severity.HIGH, {"behind_s": 7200})
    assert "7200 s behind what is stored" in ill.summary
    assert "refused" in ill.summary


def test_a_refused_file_is_told_with_its_first_problem_and_not_at_length() -> None:
    assert config_refused("Routes file", []) is None
    ill = config_refused("Routes file", [f"routes.yaml:{n}: wrong{'!' * 1000}" for n in range(1, 9)])
    assert ill is not None
    assert ill.summary.startswith("Routes file refused, the older stay in force: routes.yaml:1: wrong!")
    assert ill.summary.endswith("(and 7 more)")
    assert len(ill.summary) < 400
    assert len(ill.evidence["problems"]) == 5
    assert ill.stage.startswith("routes.yaml:1: wrong")


def test_each_suspended_rule_is_an_alarm_of_its_own() -> None:
    found = [
        Aside("OVERLOAD", "transformer", 6, "KeyError: yes"), Aside("OVERLOAD", "feeder", 5, "ValueError: no"),
        Aside("USER/heavy", "", 6, "KeyError"), Aside("NEW", "", 7, "?"),
    ]  # fmt: skip
    said = {part: rule_suspended(part, lambda: found) for part in Part}
    ill = {part: one for part, one in said.items() if one is not None}
    assert set(ill) == {Part.RULE_OVERLOAD, Part.RULE_USER, Part.RULE_OTHER}
    text = "Suspended, raises no alarms: OVERLOAD feeder, OVERLOAD transformer: ValueError: no"
    assert ill[Part.RULE_OVERLOAD].summary == text
    assert [one.stage for one in ill.values()] == ["NEW", "OVERLOAD feeder, OVERLOAD transformer", "USER/heavy"]
    assert part_of_rule("OUTAGE") is Part.RULE_OUTAGE


def test_the_number_of_a_part_is_in_the_database_and_stays() -> None:
    told = {part.asset: int(part) for part in Part if not part.name.startswith("RULE_")}
    assert told == {
        "disk": 0, "rules": 1, "ingest": 2, "certificate": 3, "tls-files": 4, "routes-file": 5, "user-rules": 6,
        "token-keys": 7, "denied-serials": 8, "jobs": 9, "clock": 10, "time": 11,
    }  # fmt: skip
    rules = [part.asset for part in Part if part.name.startswith("RULE_")]
    assert rules == [
        "rule-other", "rule-outage", "rule-overload", "rule-reverse", "rule-phase", "rule-unbalance", "rule-contract",
        "rule-comm-loss", "rule-hot-spot", "rule-forecast-overload", "rule-user",
    ]  # fmt: skip


def steady(step_us: int = 0, ago_s: float | None = None, behind_us: int = 0) -> Any:
    return SimpleNamespace(step_us=step_us, set_ago_s=ago_s, behind_us=behind_us)


def parts(*, heard: int = 0, **pipeline: Any) -> Any:
    silence = SimpleNamespace(last_heard=lambda: (np.arange(heard), np.arange(heard)))
    return SimpleNamespace(
        pipeline=SimpleNamespace(**{"behind_s": 0.0, "visited": False, "steady": steady()} | pipeline),
        routes=None,
        metrics=SimpleNamespace(jobs=Jobs()),
        recipe=SimpleNamespace(user=None),
        in_force=SimpleNamespace(rules=SimpleNamespace(engine=SimpleNamespace(silence=silence))),
    )


def ill_of(*service: Any, told: Severity | None = None, **more: Any) -> dict[Part, Ill]:
    found = {one.part: one.look(told) for one in conditions(*service, **more)}
    assert set(found) == set(Part), "every part has its condition"
    return {part: ill for part, ill in found.items() if ill is not None}


SOUND: Any = SimpleNamespace(keys_problem="", serials_problem="")


def test_what_a_service_has_not_is_well_also_if_it_was_told_of_before() -> None:
    assert ill_of(parts(), None, None, SOUND) == {}
    assert set(ill_of(parts(visited=True), None, None, SOUND, told=Severity.HIGH)) == set()


def test_every_part_can_be_ill() -> None:
    made = parts(heard=3, behind_s=31.0, steady=steady(-3600 * US, 1.0, 7200 * US))
    made.routes = SimpleNamespace(file=SimpleNamespace(problems=("routes.yaml:1: no",)))
    made.recipe.user = SimpleNamespace(status=SimpleNamespace(refused=["rules.yaml:1: no"]))
    made.metrics.jobs.raised("judging days", ValueError("no"))
    made.metrics.jobs.raised("forecasting", KeyError("no"))
    disk: Any = SimpleNamespace(free_bytes=0.0, least_bytes=LEAST, room=Room.NONE)
    material = SimpleNamespace(life_s=365 * DAY, subject="server")
    rotation: Any = SimpleNamespace(problems=["server.pem: no"], material=material, expires_in_s=-1.0)
    gate: Any = SimpleNamespace(keys_problem="ConnectError", serials_problem="line 3")
    every = [Aside(part.name.removeprefix("RULE_"), "", 0, "no") for part in Part if part.name.startswith("RULE_")]
    ill = ill_of(made, disk, rotation, gate, suspended=lambda: every)
    assert set(ill) == set(Part)
    assert ill[Part.INGEST].evidence == {"meters_heard_before": 3}
    assert ill[Part.ROUTES_FILE].stage == "routes.yaml:1: no"
    assert ill[Part.TOKEN_KEYS].stage == "ConnectError"
    text = "Raise errors, and are behind with what they do: forecasting, judging days: KeyError: 'no'"
    assert (ill[Part.JOBS].summary, ill[Part.JOBS].stage) == (text, "forecasting, judging days")


async def test_the_pipeline_says_how_long_the_oldest_batch_is_here_and_whether_anybody_came() -> None:
    async with piped() as p:
        assert (p.pipeline.behind_s, p.pipeline.visited) == (0.0, False)
        async with p.pipeline.paused():
            work = asyncio.create_task(p.pipeline.submit(batch(1)))
            await until(lambda: p.pipeline.behind_s > 0)
            first = p.pipeline.behind_s
            await until(lambda: p.pipeline.behind_s > first)
        await work
        await until(lambda: p.pipeline.behind_s == 0)
        assert p.pipeline.visited
    async with piped() as p:
        await p.pipeline.submit_events(event_batch(1))
        assert p.pipeline.visited
    async with piped() as p:
        p.pipeline.connected(1)
        assert p.pipeline.visited
