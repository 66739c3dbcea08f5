"""The parts of the service that its own alarms are about: assets of kind `service`, under numbers that stay.

The number is the `asset_id` of an alarm in the database: a part that goes keeps its number, a new one takes the next.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

KIND: Final = "service"
"""Kind of asset."""


class Part(IntEnum):
    """What can be the matter with. RULE_OTHER: a rule that has no number here."""

    DISK = 0
    RULES = 1
    INGEST = 2
    CERTIFICATE = 3
    TLS_FILES = 4
    ROUTES_FILE = 5
    USER_RULES = 6
    TOKEN_KEYS = 7
    DENIED_SERIALS = 8
    JOBS = 9
    CLOCK = 10
    TIME = 11
    RULE_OTHER = 20
    RULE_OUTAGE = 21
    RULE_OVERLOAD = 22
    RULE_REVERSE = 23
    RULE_PHASE = 24
    RULE_UNBALANCE = 25
    RULE_CONTRACT = 26
    RULE_COMM_LOSS = 27
    RULE_HOT_SPOT = 28
    RULE_FORECAST_OVERLOAD = 29
    RULE_USER = 30

    @property
    def asset(self) -> str:
        """Its name, as in an alarm: `routes-file`."""
        return self.name.lower().replace("_", "-")


def part_of_rule(rule: str) -> Part:
    """The part that a rule is, by its type (OUTAGE, USER/NAME)."""
    return Part.__members__.get(f"RULE_{rule.partition('/')[0]}", Part.RULE_OTHER)
