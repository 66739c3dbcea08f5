"""Who is calling: a name, roles, districts, and how that is known.

An identity comes from the client's certificate or from a signed token, never from a field of a message. Where neither
is asked for (plain text on the loopback address), everybody is LOCAL: all roles, the whole grid, and the name a request
gives. Services ask `caller(context)`; without the gate, as in a test of one service, that is LOCAL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from meterwatch.alarms import AlarmFilter
from meterwatch.errors import Denied

NAME_CHARS_MAX: Final = 64
DISTRICTS_MAX: Final = 1000
"""Of one identity; as many as a filter over alarms may name."""


class Role(StrEnum):
    """What somebody is to the service. As the OU of a certificate and in the roles of a token."""

    HEAD_END = "head-end"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ENGINEER = "engineer"
    ADMIN = "admin"


PEOPLE: Final = frozenset(Role) - {Role.HEAD_END}
"""Roles that look at the grid; a head-end looks at nothing but what it owes."""


class How(StrEnum):
    """How an identity is known."""

    LOCAL = "local"
    CERTIFICATE = "certificate"
    TOKEN = "token"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. districts: all it may see; none named: the whole grid. expires_s: seconds since 1970."""

    name: str
    roles: frozenset[Role]
    districts: frozenset[str] = frozenset()
    how: How = How.CERTIFICATE
    expires_s: float | None = None
    serial: str = ""
    """Of the certificate, hexadecimal digits."""

    @property
    def local(self) -> bool:
        return self.how is How.LOCAL

    @property
    def only_head_end(self) -> bool:
        """True: it may see nothing of the grid but what is its own."""
        return not self.roles & PEOPLE

    def sees(self, district: str) -> bool:
        """True: what belongs to this district is its concern. What belongs to none is that of the whole grid."""
        return not self.districts or district in self.districts

    def signs(self, asked: str) -> str:
        """The name under which an action is recorded: its own, whatever a request says; of LOCAL what it says."""
        return asked if self.local else self.name


LOCAL: Final = Identity("", frozenset(Role), how=How.LOCAL)
NOBODY: Final = Identity("", frozenset(), how=How.NOBODY)
"""Before it is known who calls, and for what asks nobody."""


def caller(context: Any) -> Identity:
    """Who calls, as the gate has found; LOCAL without a gate."""
    found = getattr(context, "identity", LOCAL)
    assert isinstance(found, Identity)
    return found


def roles_in(names: Iterable[str]) -> frozenset[Role]:
    """The roles among these names; what else a certificate or a token lists is somebody else's."""
    known = {role.value: role for role in Role}
    written = (name.strip().lower().replace("_", "-") for name in names)
    return frozenset(known[name] for name in written if name in known)


def sound_name(name: str) -> bool:
    """True: it can be shown and stored as it is, and cannot pass for another one on a screen."""
    return 0 < len(name) <= NAME_CHARS_MAX and name.isprintable() and name == name.strip()


def within(wanted: AlarmFilter, identity: Identity) -> AlarmFilter:
    """The filter, of the caller's districts only. An empty filter of somebody with districts is not empty."""
    if not identity.districts:
        return wanted
    return AlarmFilter(wanted.rules, identity.districts, any_of=(wanted,), paging_only=wanted.paging_only)


def check_sees(identity: Identity, district: str, what: str) -> None:
    """Denied OUT_OF_SCOPE unless what belongs to this district is the caller's concern."""
    if not identity.sees(district):
        raise Denied(
            "OUT_OF_SCOPE",
            f"{what} is outside the districts of {identity.name!r} ({shown(identity.districts)}); ask somebody who has "
            "that district",
        )


def check_head_end(identity: Identity, head_end: str) -> None:
    """Denied OTHER_HEAD_END unless the caller is the head-end it says."""
    if not identity.local and identity.name != head_end:
        raise Denied(
            "OTHER_HEAD_END",
            f"head-end {head_end[:64]!r} arrived from {identity.name!r}; expected the caller's own name; give it, or "
            "use the certificate of that head-end",
        )


def subscriber_of(identity: Identity, name: str) -> str:
    """Under which a subscriber's receipts are kept: nobody confirms in another's name.

    A slash in the name of somebody is written %2F: anna with x/y and anna/x with y are two.
    """
    if identity.local or not name:
        return name
    who = identity.name.replace("%", "%25").replace("/", "%2F")
    return f"{who}/{name}"


def owner_of(subscriber: str) -> str:
    """Whose subscriber this is: what stands before the slash; of LOCAL the name itself."""
    return subscriber.partition("/")[0]


def shown(districts: Collection[str]) -> str:
    """Districts in a sentence."""
    first = sorted(districts)[:5]
    return ", ".join(first) + (f" and {len(districts) - 5} more" if len(districts) > 5 else "")
