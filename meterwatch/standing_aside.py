"""Rules that have raised and stand aside: who they are, and that they make good what they missed.

A rule that raises (rules.apart) is logged once with its traceback, counted, and written down before the batch it raised
in is acknowledged, and so is what it misses of batches after that. Whenever new rules are made (a start, a change of
the registry, `rules resume`) all are at work again, and those that stood aside are owed what they missed; what is
written is gone once that is judged and recorded. Refuses to know what a rule is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from meterwatch.errors import said
from rules.apart import Apart, Owing, Rule, Suspended
from storage.arrays import moment
from storage.suspended import Kept, SuspendedStore

_log = structlog.get_logger(__name__)


class SuspendedRule(NamedTuple):
    """A rule that stands aside, for people. asset_kind empty: it judges several kinds."""

    rule: str
    asset_kind: str
    since_us: int
    error: str
    """In one line."""

    def __str__(self) -> str:
        return str(Rule(self.rule, self.asset_kind))


class StandingAside:
    """Of one service, whichever rules are in force."""

    def __init__(self, store: SuspendedStore, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us
        self._kept: dict[Rule, int] = {}
        """Since when those stand aside that are written down, us."""
        self.raised = 0
        """So often a rule raised and was suspended, since the service began."""

    async def owed(self, owe: Callable[[Rule, Owing], None]) -> None:
        """Have new rules judge what those before missed. Once they know what is stored. Raises StorageUnavailable."""
        kept = await self._store.kept()
        self._kept = {Rule(one.rule, one.asset_kind): one.since_us for one in kept}
        for one in kept:
            owe(Rule(one.rule, one.asset_kind), Owing(one.from_us, one.asset, one.first_us))

    def notice(self, apart: Apart) -> None:
        """Log and count who has raised since it was asked last."""
        for rule, one in apart.suspended.items():
            if not one.told:
                one.told, one.since_us = True, self._kept.get(rule, self._now_us())
                self.raised += 1
                _log.error("a rule has raised and stands aside", rule=str(rule), exc_info=one.error)

    def unwritten(self, apart: Apart) -> bool:
        """Something of them is to be written down."""
        return any(rule not in self._kept or not one.missed.is_saved for rule, one in apart.suspended.items())

    async def write(self, apart: Apart, from_us: int) -> None:
        """Write down who stands aside and what it missed; before what was judged without it is recorded.

        from_us: from then on a rule has missed all that never knew where it was. Raises StorageUnavailable.
        """
        for rule, one in apart.suspended.items():
            if rule in self._kept and one.missed.is_saved:
                continue
            one.missed.begin(from_us)
            missed = one.missed.unsaved()
            await self._store.keep(Kept(*rule, one.since_us, one.missed.from_us, said(one.error), *missed))
            one.missed.saved()
            self._kept[rule] = one.since_us

    async def paid(self, apart: Apart) -> None:
        """What the rules found is recorded: of those at work nothing is owed any more. Raises StorageUnavailable."""
        for rule in [rule for rule in self._kept if not {rule, rule.family} & apart.suspended.keys()]:
            await self._store.paid(*rule)
            del self._kept[rule]
            _log.info("a rule that stood aside is at work again", rule=str(rule))


def listed(suspended: dict[Rule, Suspended]) -> tuple[SuspendedRule, ...]:
    """Those that stand aside, for people; also while another thread changes it."""
    return tuple(SuspendedRule(*rule, one.since_us, said(one.error)) for rule, one in list(suspended.items()))


def remark(rules: Sequence[SuspendedRule]) -> str:
    """Who stands aside, for /readyz; empty: nobody."""
    each = [f"{one} since {moment(one.since_us):%Y-%m-%dT%H:%M:%SZ} ({one.error})" for one in rules]
    return "" if not each else "standing aside: " + ", ".join(each)
