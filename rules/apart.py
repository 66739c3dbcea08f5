"""Rules that nothing else rests on, run apart: one that raises is suspended, and everything else goes on.

A suspended rule is asked nothing and told nothing until new rules are made: what it was in the middle of is not known.
What it misses from then on is noted (`Missed`), so that new rules can judge it. An engine by itself stands nobody aside
(`Apart(raising=True)`): the error goes to whoever drives it. Who has it otherwise must look at `suspended` and tell of
it. What is no fault of a rule is never caught (`NOT_OURS`). Refuses to know: which rules there are, the database, the
clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from meterwatch.errors import MeterwatchError
from rules.ladder import NEVER, Ints

NOT_OURS: Final = (MemoryError, MeterwatchError)
"""The machine's, the database's or the configuration's: a rule put aside would not help."""
_T = TypeVar("_T")


class Rule(NamedTuple):
    """A rule over the assets of one kind; of all kinds where it judges several together."""

    rule: str
    asset_kind: str = ""

    @property
    def family(self) -> Rule:
        """What stands aside with all rules of its kind: USER of USER/name. Else itself."""
        return Rule(self.rule.partition("/")[0], self.asset_kind)

    def __str__(self) -> str:
        return " ".join(self).strip()


class Owing(NamedTuple):
    """What a rule has not told of: all that ends after from_us, and of these assets what begins at start_us or later.

    from_us NEVER: it was never so far as to know (`Missed.begin`).
    """

    from_us: int
    asset: Ints
    start_us: Ints


class Missed:
    """What a suspended rule has not judged: all that ends after from_us, and of some assets what is older."""

    def __init__(self, assets: int, owing: Owing) -> None:
        self.from_us = owing.from_us
        self._first_us = np.full(assets, NEVER)
        self._unsaved = np.zeros(assets, np.bool_)
        self.note(owing.asset, owing.start_us)

    def begin(self, from_us: int) -> None:
        """All that ends after from_us is missed, where nothing was known of it."""
        if self.from_us == NEVER:
            self.from_us = from_us

    def note(self, asset: Ints | NDArray[np.int32], start_us: Ints) -> None:
        """Something of these assets changed that begins then; arrays of equal length."""
        older = np.flatnonzero(start_us < np.minimum(self._first_us[asset], self.from_us))
        if len(older):
            np.minimum.at(self._first_us, asset[older], start_us[older])
            self._unsaved[asset[older]] = True

    def unsaved(self) -> tuple[Ints, Ints]:
        """Assets and since when, us, of what is older than from_us; as far as it was not saved."""
        asset = np.flatnonzero(self._unsaved & (self._first_us < self.from_us))
        return asset, self._first_us[asset]

    def saved(self) -> None:
        """What `unsaved` said is stored."""
        self._unsaved[:] = False

    @property
    def is_saved(self) -> bool:
        return not self._unsaved.any()


@dataclass(slots=True)
class Suspended:
    """A rule that raised. since_us and told are for whoever tells of it."""

    error: Exception
    missed: Missed
    since_us: int = 0
    told: bool = False


class _Place(NamedTuple):
    assets: int
    owing: Callable[[], Owing]


class Apart:
    """The rules of one engine that may be suspended."""

    def __init__(self, *, raising: bool = False) -> None:
        """raising: suspend nobody."""
        self.raising = raising
        self.suspended: dict[Rule, Suspended] = {}
        self._places: dict[Rule, _Place] = {}

    def add(self, rule: Rule, assets: int, owing: Callable[[], Owing]) -> None:
        """A rule over so many assets. owing: asked when it has raised; it may look at what is plainly kept alone."""
        self._places[rule] = _Place(assets, owing)

    def missed(self, rule: Rule) -> Missed | None:
        """What a suspended rule has missed; None: it is at work."""
        suspended = self.suspended.get(rule)
        return None if suspended is None else suspended.missed

    def ask(self, rule: Rule, otherwise: _T, call: Callable[..., _T], *arguments: Any) -> _T:
        """The call's answer, or `otherwise` from a rule that is suspended, or is now because it raised."""
        if rule in self.suspended:
            return otherwise
        try:
            return call(*arguments)
        except NOT_OURS:
            raise
        except Exception as error:  # a rule's boundary: whoever drives the engine logs it and counts it
            self._suspend(rule, error)
        return otherwise

    async def wait_for(self, rule: Rule, call: Callable[[], Awaitable[None]]) -> None:
        """The same of what a rule does with what it has to wait for."""
        if rule in self.suspended:
            return
        try:
            await call()
        except NOT_OURS:
            raise
        except Exception as error:  # as above
            self._suspend(rule, error)

    def _suspend(self, rule: Rule, error: Exception) -> None:
        if self.raising:
            raise error
        place = self._places[rule]
        self.suspended[rule] = Suspended(error, Missed(place.assets, place.owing()))
