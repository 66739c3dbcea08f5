"""User rules in the service: their files, and the rules of those that are in force.

Promises: files with one problem change nothing, and what is in force stays in force; a reload happens between two
evaluations, whole or not at all. Knows nothing of gRPC, nor how rules judge (user_rules_at_work).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from meterwatch.alarms import Alarm
from meterwatch.metrics import Metrics
from meterwatch.topology import Topology
from meterwatch.user_rules import RuleSet, read_rules
from meterwatch.user_rules_at_work import AtWork
from rules.apart import Apart
from rules.overload import Overload
from rules.user.model import UserRule
from rules.user.running import Health
from storage.evidence import EvidenceStore

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Status:
    """Of the files, as a call and the metrics show it."""

    files: list[str]
    refused: list[str] = field(default_factory=list)
    """What is wrong with the files as they were read last; empty: they are in force."""
    reloads: int = 0
    reloads_refused: int = 0
    loaded_us: int = 0


class UserRules:
    """The files of user rules of a service, whichever rules are in force."""

    def __init__(self, files: Sequence[str], store: EvidenceStore, now_us: Callable[[], int]) -> None:
        self.status = Status(list(files))
        self._store = store
        self._now_us = now_us
        self._set = RuleSet()
        self._newest: AtWork | None = None
        """Those that began last."""

    def read(self) -> list[str]:
        """Read the files; what is wrong with them, and then the rules before stay. `begin` makes rules of new ones."""
        found = read_rules(self.status.files)
        self.status.refused = [str(problem) for problem in found.problems]
        self.status.reloads += 1
        if found.problems:
            self.status.reloads_refused += 1
            _log.warning("user rules refused", problems=len(found.problems), first=self.status.refused[0])
        else:
            self._set = found
            self.status.loaded_us = self._now_us()
            _log.info("user rules read", rules=len(found.rules))
        return self.status.refused

    def rules(self) -> list[tuple[UserRule, Health, int, str]]:
        """Those in force, as AtWork.rules."""
        return [] if self._newest is None else self._newest.rules()

    async def begin(self, topology: Topology, overload: Overload, apart: Apart, book: Iterable[Alarm]) -> AtWork:
        """Rules for this topology that know what is stored, run apart. Raises StorageUnavailable."""
        self._newest = await AtWork.begin(
            self._set, self._store, topology, overload, apart, book, self._now_us(), self._newest
        )
        return self._newest


def user_rules_figures(user: UserRules, metrics: Metrics) -> None:
    """Show how the rules fare, as metrics."""

    def total(value: Callable[[Health], float]) -> float:
        return sum(value(health) for _, health, _, _ in user.rules())

    metrics.watch(
        gauges={
            "user_rules": ("User rules in force.", lambda: len(user.rules())),
            "user_rules_aside": (
                "Of these, put aside for being slow.", lambda: total(lambda one: one.aside_rows > 0),
            ),
            "user_rules_reload_ok": (
                "1: the files of user rules as read last are in force; 0: they were refused.",
                lambda: float(not user.status.refused),
            ),
        },
        counters={
            "user_rules_reloads": ("Times the files of user rules were read.", lambda: user.status.reloads),
            "user_rules_reloads_refused": ("Of these, refused.", lambda: user.status.reloads_refused),
            "user_rules_put_aside": (
                "Times a user rule was put aside for being slow, or raised.",
                lambda: total(lambda one: one.errors),
            ),
        },
    )  # fmt: skip
