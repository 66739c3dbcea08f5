"""What each role may do: one row for each method of the service. What has no row is refused to everybody.

`reach` says how far somebody with districts gets: DISTRICTS: the method answers with what is in them; OWN: a head-end
gets what is its own; ANY: it tells nothing of the grid; GRID: it is about the whole grid: nobody with districts may.
`changes` marks what alters something: it is written to the audit log before it is answered. `sends` marks what
head-ends send all day long: the ledger has each batch, the audit log only counts them. `about`: fields of the request
that say, in the audit log, what it was done to. `takes`: what it takes of the room there is for everybody's calls
(room.py). `bytes_max`: of its request; what is longer is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from meterwatch.access.identity import PEOPLE, Role

PACKAGE: Final = "meterwatch.v1"
REQUEST_BYTES_MAX: Final = 262_144
"""A filter of 1,000 places of 256 characters. 256 subscriptions keep 64 MiB of such requests, 64 calls 16. (ours)"""
NAME_BYTES_MAX: Final = 1024
"""The name of a service whose health is asked for, by anybody, on however many streams. (ours)"""


class Reach(StrEnum):
    """See the module head."""

    DISTRICTS = "its districts"
    OWN = "its own meters"
    ANY = "no matter"
    GRID = "whole grid only"


class Takes(StrEnum):
    """Of which limits of calls under way (room.py) a method is."""

    CALL = "a call"
    SUBSCRIPTION = "a subscription"
    NOTHING = "nothing"
    """It has limits of its own, or is over at once."""


class Rule(NamedTuple):
    """Who may call a method, and how it is written down. roles empty: anybody, without credentials."""

    roles: frozenset[Role]
    reach: Reach
    changes: bool = False
    sends: bool = False
    about: tuple[str, ...] = ()
    takes: Takes = Takes.CALL
    bytes_max: int | None = REQUEST_BYTES_MAX
    """None: as long as a message may be (server.message_bytes_max), or as the method itself says."""


HEAD_END: Final = frozenset({Role.HEAD_END})
OPERATE: Final = frozenset({Role.OPERATOR, Role.ADMIN})
PLAN: Final = frozenset({Role.OPERATOR, Role.ENGINEER, Role.ADMIN})
ENGINEER: Final = frozenset({Role.ENGINEER, Role.ADMIN})
ADMIN: Final = frozenset({Role.ADMIN})
EVERYONE: Final = frozenset(Role)
ANYBODY: Final[frozenset[Role]] = frozenset()


def _sends() -> Rule:
    return Rule(HEAD_END, Reach.OWN, changes=True, sends=True, takes=Takes.NOTHING, bytes_max=None)


def _reads(reach: Reach = Reach.DISTRICTS) -> Rule:
    return Rule(PEOPLE, reach)


def _changes(roles: frozenset[Role], reach: Reach, *about: str) -> Rule:
    return Rule(roles, reach, changes=True, about=about)


def _imports(*about: str) -> Rule:
    return _changes(ENGINEER, Reach.GRID, *about)._replace(bytes_max=None)


def _health() -> Rule:
    return Rule(ANYBODY, Reach.ANY, takes=Takes.NOTHING, bytes_max=NAME_BYTES_MAX)


_OURS: Final[Mapping[str, Rule]] = {
    "Ingest/Stream": _sends(),
    "Ingest/SendEvents": _sends(),
    "Ingest/SendReads": _sends(),
    "Ingest/SendRegisters": _sends(),
    "Ingest/EditReads": _changes(ENGINEER, Reach.GRID, "action_id", "reason", "read.meter"),
    "Alarms/Subscribe": Rule(PEOPLE, Reach.DISTRICTS, takes=Takes.SUBSCRIPTION),
    "Alarms/ListAlarms": _reads(),
    "Alarms/GetAlarm": _reads(),
    "Alarms/Explain": _reads(),
    "Alarms/GetKpis": _reads(),
    "Alarms/ListShelves": _reads(),
    "Alarms/Acknowledge": _changes(OPERATE, Reach.DISTRICTS, "action_id", "alarm_id"),
    "Alarms/Act": _changes(OPERATE, Reach.DISTRICTS, "action_id", "kind", "alarm_id"),
    "Alarms/ActOnMany": _changes(OPERATE, Reach.DISTRICTS, "act.action_id", "act.kind", "target.alarm_id"),
    "Alarms/ShelveAsset": _changes(OPERATE, Reach.DISTRICTS, "action_id", "type", "asset_kind", "asset"),
    "Receipts/Confirm": Rule(PEOPLE, Reach.ANY, takes=Takes.NOTHING),
    "Registry/Import": _imports("file.name", "dry_run"),
    "Registry/ImportStream": _changes(ENGINEER, Reach.GRID),
    "Registry/ListAssets": _reads(),
    "Registry/PlanWork": _changes(PLAN, Reach.GRID, "work.work_id", "work.asset_kind", "work.asset"),
    "Registry/CancelWork": _changes(PLAN, Reach.GRID, "work_id"),
    "Registry/ListWork": _reads(),
    "Reads/Query": _reads(),
    "Gaps/List": Rule(EVERYONE, Reach.DISTRICTS),
    "Gaps/Completeness": _reads(),
    "Gaps/Estimate": _changes(ENGINEER, Reach.GRID, "head_end", "meter", "dry_run"),
    "Reliability/GetIndices": _reads(),
    "Routes/ListRoutes": _reads(Reach.ANY),
    "Routes/ListDeliveries": _reads(Reach.GRID),
    "Routes/ReloadRoutes": _changes(ENGINEER, Reach.GRID),
    "Routes/RetryDeliveries": _changes(ENGINEER, Reach.GRID, "target"),
    "Thermal/ImportAmbient": _imports(),
    "Thermal/ListAmbient": _reads(),
    "Thermal/ListTemperatures": _reads(),
    "Transformers/GetCurve": _reads(),
    "Transformers/GetForecast": _reads(),
    "Transformers/PlanLoad": _reads(),
    "Transformers/ImportFlexibility": _imports("name", "dry_run"),
    "UserRules/ListUserRules": _reads(Reach.ANY),
    "UserRules/ReloadUserRules": _changes(ENGINEER, Reach.GRID),
    "Rules/ListSuspended": _reads(Reach.ANY),
    "Rules/Resume": _changes(ENGINEER, Reach.GRID),
    "Audit/ListAudit": Rule(ADMIN, Reach.GRID),
}

METHODS: Final[Mapping[str, Rule]] = {f"{PACKAGE}.{name}": rule for name, rule in _OURS.items()} | {
    "grpc.health.v1.Health/Check": _health(),
    "grpc.health.v1.Health/Watch": _health(),
    "grpc.health.v1.Health/List": _health(),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(EVERYONE, Reach.ANY),
}
"""By full name, as package.Service/Method."""

_MARK: Final = "x"


def page() -> str:
    """The table as Markdown, for docs/access.md."""
    roles = list(Role)
    lines = [
        "| method | " + " | ".join(roles) + " | somebody with districts gets | audit log |",
        "|---" * (len(roles) + 3) + "|",
    ]
    for method, rule in METHODS.items():
        anybody = not rule.roles
        marks = [_MARK if anybody or role in rule.roles else "" for role in roles]
        written = "counted" if rule.sends else "each call" if rule.changes else "denials"
        reach = "no matter; nobody is asked who he is" if anybody else rule.reach.value
        lines.append(f"| `{method.removeprefix(PACKAGE + '.')}` | {' | '.join(marks)} | {reach} | {written} |")
    return "\n".join(lines) + "\n"
