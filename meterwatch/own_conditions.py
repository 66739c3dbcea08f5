"""What operators are told of about the service itself: the table of conditions, and what is said of each.

Pure functions of a few figures; `conditions` binds them to the parts of a service. Only what can still be told is here:
of a database that is away, or a process that has ended, the watchdog of a console and Prometheus tell
(docs/operations.md). Marks: (ours) our choice. What an operator does: docs/alarms.md, The service itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from meterwatch.access.gate import Gate
from meterwatch.clock import US
from meterwatch.disk_watch import MIB, DiskWatch, Room, room_of
from meterwatch.episodes import Severity
from meterwatch.jobs import Failing
from meterwatch.own_alarms import UNKNOWN, Condition, Ill
from meterwatch.own_parts import Part, part_of_rule
from meterwatch.parts import Parts
from meterwatch.steady_time import STEP_US
from meterwatch.transport.rotation import Rotation

BEHIND_S: Final = 30.0
"""So long a batch may wait for the rules: then its sender gives up waiting (server.batch_deadline_s)."""
CAUGHT_UP_S: Final = 10.0
"""Below it they have caught up. (ours)"""
ENDS_SOON_S: Final = 14 * 86_400
"""Before its end a certificate is told of, as the alert MeterwatchCertificateEnds does, or for the last ENDS_SHARE of
its life, if that is shorter."""
ENDS_SHARE: Final = 1 / 3
"""Who lives for a day is renewed after two thirds of it by the usual programs."""
ENDS_VERY_SOON: Final = 1 / 4
"""Of that time: then it is urgent: 3.5 days. (ours)"""
CALM_S: Final = 60.0
"""For so long a figure is on the other side of its limit before that is told. (ours)"""
SETTLES_S: Final = 10.0
"""A file that is written in two steps, or mended at once, is not told of. (ours)"""
FETCHED_S: Final = 900.0
"""Keys that come from a URL: three looks in vain. (ours)"""
CLOCK_SAID_S: Final = 3600.0
"""So long after the clock was set that is told. (ours)"""
GONE_S: Final = 1800.0
"""As head_end_gone_s of COMM_LOSS."""
PROBLEMS_SHOWN: Final = 5
PROBLEM_CHARS_MAX: Final = 300


class Suspended(Protocol):
    """A rule that stands aside. asset_kind empty: it judges several kinds. error: one line."""

    @property
    def rule(self) -> str: ...

    @property
    def asset_kind(self) -> str: ...

    @property
    def since_us(self) -> int: ...

    @property
    def error(self) -> str: ...


def disk_low(free_bytes: float, least_bytes: int, room: Room, told: Severity | None) -> Ill | None:
    """Little room, or none for reads. free_bytes NaN: not looked at yet."""
    if math.isnan(free_bytes):
        return UNKNOWN
    room = min(room, room_of(free_bytes, least_bytes, Room.ENOUGH if told is None else Room.LITTLE))
    free_mib, least_mib = round(free_bytes / MIB), least_bytes // MIB
    evidence = {"free_mib": free_mib, "disk_free_min_mib": least_mib}
    if room is Room.NONE:
        text = f"The disk of the database has {free_mib} MiB left: reads are refused until there is room"
        return Ill(Severity.CRITICAL, text, evidence)
    if room is Room.LITTLE:
        text = f"The disk of the database has {free_mib} MiB left; below {least_mib} MiB reads are refused"
        return Ill(Severity.MEDIUM, text, evidence)
    return None


def rules_behind(behind_s: float, told: Severity | None) -> Ill | None:
    """The oldest batch before the rules has waited too long."""
    if behind_s <= (BEHIND_S if told is None else CAUGHT_UP_S):
        return None
    text = f"Batches wait {behind_s:.0f} s for the rules: alarms come so much later, and senders send again"
    return Ill(Severity.HIGH, text, {"behind_s": round(behind_s), "limit_s": BEHIND_S})


def ingest_silent(visited: bool, heard_before: Callable[[], int], told: Severity | None) -> Ill | None:
    """No head-end has come since the start, though meters were heard before it. Who came and left is COMM_LOSS."""
    if visited:
        return None
    meters = heard_before()
    if told is None and not meters:
        return None
    text = f"No head-end has come since the service started; {meters} meters were heard before"
    return Ill(Severity.HIGH, text, {"meters_heard_before": meters})


def config_refused(what: str, problems: Sequence[str], _: Severity | None = None) -> Ill | None:
    """What was read anew is not sound, and what was there before stays in force."""
    if not problems:
        return None
    first, more = problems[0][:PROBLEM_CHARS_MAX], len(problems) - 1
    text = f"{what} refused, the older stay in force: {first}" + (f" (and {more} more)" if more else "")
    shown = [problem[:PROBLEM_CHARS_MAX] for problem in problems[:PROBLEMS_SHOWN]]
    return Ill(Severity.MEDIUM, text, {"problems": shown}, stage=first)


def certificate_ends(left_s: float, life_s: float, subject: str, _: Severity | None = None) -> Ill | None:
    """The certificate of the service ends soon, or has ended."""
    soon_s = min(ENDS_SOON_S, life_s * ENDS_SHARE)
    if left_s > soon_s:
        return None
    evidence = {"subject": subject, "warned_s_before": round(soon_s)}
    if left_s <= 0:
        return Ill(Severity.CRITICAL, f"The certificate of the service ({subject}) has ended: nobody gets in", evidence)
    severity = Severity.HIGH if left_s <= soon_s * ENDS_VERY_SOON else Severity.MEDIUM
    left = f"{left_s / 86_400:.0f} days" if left_s >= 2 * 86_400 else f"{left_s / 3600:.0f} h"
    return Ill(severity, f"The certificate of the service ({subject}) ends in {left}; then nobody gets in", evidence)


def rule_suspended(part: Part, suspended: Callable[[], Iterable[Suspended]], _: Severity | None = None) -> Ill | None:
    """A rule has raised an error and judges nothing until it is mended."""
    mine = sorted((one for one in suspended() if part_of_rule(one.rule) is part), key=lambda one: one.since_us)
    if not mine:
        return None
    names, error = [f"{one.rule} {one.asset_kind}".strip() for one in mine], mine[0].error[:PROBLEM_CHARS_MAX]
    text = f"Suspended, raises no alarms: {', '.join(names)}: {error}"
    evidence = {"rules_suspended": names, "since_us": mine[0].since_us, "error": error}
    return Ill(Severity.CRITICAL, text, evidence, stage=", ".join(names))


def jobs_fail(failing: Sequence[Failing], _: Severity | None = None) -> Ill | None:
    """Jobs beside the rules have raised an error of ours."""
    if not failing:
        return None
    names, error = [one.job for one in failing], failing[0].error[:PROBLEM_CHARS_MAX]
    text = f"Raise errors, and are behind with what they do: {', '.join(names)}: {error}"
    return Ill(Severity.HIGH, text, {"jobs": names, "error": error}, stage=", ".join(names))


def clock_set(step_us: int, ago_s: float | None, _: Severity | None = None) -> Ill | None:
    """The machine's clock was set lately, by step_us."""
    if ago_s is None or ago_s > CLOCK_SAID_S:
        return None
    step_s = round(step_us / US)
    text = (
        f"The clock was set {step_s} s forward, or the machine slept: what is on its way may look old"
        if step_s > 0
        else f"The clock was set {-step_s} s back: no silence is told until it has come to where it was"
    )
    return Ill(Severity.MEDIUM, text, {"step_s": step_s}, stage=str(step_s))


def clock_behind(behind_us: int, _: Severity | None = None) -> Ill | None:
    """The machine's clock is earlier than what was stored when the rules began."""
    if behind_us <= STEP_US:
        return None
    behind_s = round(behind_us / US)
    text = f"The clock is {behind_s} s behind what is stored: what is newer than the clock is refused (FUTURE). Set it"
    return Ill(Severity.HIGH, text, {"behind_s": behind_s})


def conditions(
    parts: Parts,
    disk: DiskWatch | None,
    rotation: Rotation | None,
    gate: Gate,
    suspended: Callable[[], Iterable[Suspended]] = tuple,
) -> list[Condition]:
    """The table, over the parts of a service. What a service has not is well: so ends what was told when it had it."""

    def heard_before() -> int:
        return len(parts.in_force.rules.engine.silence.last_heard()[0])

    def on_ingest(told: Severity | None) -> Ill | None:
        return ingest_silent(pipeline.visited, heard_before, told)

    def on_disk(told: Severity | None) -> Ill | None:
        return None if disk is None else disk_low(disk.free_bytes, disk.least_bytes, disk.room, told)

    def on_certificate(told: Severity | None) -> Ill | None:
        if rotation is None:
            return None
        material = rotation.material
        return certificate_ends(rotation.expires_in_s, material.life_s, material.subject, told)

    def on_clock(told: Severity | None) -> Ill | None:
        return clock_set(pipeline.steady.step_us, pipeline.steady.set_ago_s, told)

    def on_time(told: Severity | None) -> Ill | None:
        return clock_behind(pipeline.steady.behind_us, told)

    def refused(part: Part, what: str, problems: Callable[[], Sequence[str]], begins_s: float = SETTLES_S) -> Condition:
        return Condition(
            part, "CONFIG_REFUSED", lambda told: config_refused(what, problems(), told), begins_s, SETTLES_S
        )

    pipeline, routes, user = parts.pipeline, parts.routes, parts.recipe.user
    rules = [part for part in Part if part.name.startswith("RULE_")]
    return [
        Condition(Part.DISK, "DISK_LOW", on_disk, 0, CALM_S),
        Condition(Part.RULES, "RULES_BEHIND", lambda told: rules_behind(pipeline.behind_s, told), CALM_S, CALM_S),
        Condition(Part.INGEST, "INGEST_SILENT", on_ingest, GONE_S, 0),
        Condition(Part.CERTIFICATE, "CERTIFICATE_ENDS", on_certificate, CALM_S, 0),
        refused(Part.TLS_FILES, "Certificate files", lambda: () if rotation is None else rotation.problems),
        refused(Part.ROUTES_FILE, "Routes file", lambda: () if routes is None else routes.file.problems),
        refused(Part.USER_RULES, "Files of user rules", lambda: () if user is None else user.status.refused),
        refused(Part.TOKEN_KEYS, "Keys for tokens", lambda: _one(gate.keys_problem), FETCHED_S),
        refused(Part.DENIED_SERIALS, "Denied serials", lambda: _one(gate.serials_problem)),
        Condition(Part.JOBS, "JOB_FAILS", lambda told: jobs_fail(parts.metrics.jobs.failing, told), 0, SETTLES_S),
        Condition(Part.CLOCK, "CLOCK_SET", on_clock, 0, 0),
        Condition(Part.TIME, "CLOCK_BEHIND", on_time, 0, 0),
        *(Condition(part, "RULE_SUSPENDED", partial(rule_suspended, part, suspended), 0, SETTLES_S) for part in rules),
    ]


def _one(problem: str) -> Sequence[str]:
    return (problem,) if problem else ()
