"""Keeps the table of interruptions as the rules know them, a little behind the alarms.

Whenever the rules judge a group (a feeder with all below it), what they knew is kept here; a task finds the
interruptions in it and writes them. A group is marked in the database before the batch that concerns it is evaluated,
and the mark is deleted with the write; so what a crash left unwritten is judged again at the next start. Between steps
the task rests, so that a storm's alarms have the database first. Promise: when nothing is owed, the table is what the
votes within the reach of the rules say, however they came. A group whose interruptions cannot be found for an error of
ours is told of and stays marked: it is tried again when it is judged again, and at the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from meterwatch.errors import Overloaded, StorageUnavailable
from rules.engine import Engine, Group
from rules.interruptions import Heard, interruptions
from rules.profile import OutageProfile
from storage.interruptions import InterruptionStore, Known, Owed

EVERY_S: Final = 1.0
REST_SHARE: Final = 3.0
"""Rest after a step, as a share of the time it took: a quarter of one core at most."""
METERS_PER_STEP: Final = 5_000
"""Written in one transaction, unless one group has more."""
_log = structlog.get_logger(__name__)


class Interruptions:
    """See the module head. `run()` is a core task. Not thread-safe: lives on the event loop."""

    def __init__(self, store: InterruptionStore, profile: OutageProfile, raised: Callable[[Exception], None]) -> None:
        """raised: told of an error of ours with a group."""
        self._store = store
        self._raised = raised
        self._profile = profile
        self._waiting: dict[Group, list[Heard]] = {}
        """What is to be written, oldest first; a later one replaces those it covers."""
        self._aside: dict[Group, list[Heard]] = {}
        """The same of groups where an error of ours came up; none of them is in `_waiting`."""
        self._unmarked: dict[Group, int] = {}
        """Groups to be marked, and from when on."""
        self._marked: dict[Group, tuple[int, list[int]]] = {}
        """From when on, and the marks."""

    @property
    def waiting(self) -> int:
        """Groups whose interruptions are to be written."""
        return len(self._waiting) + len(self._aside)

    def judged(self, heard: Heard) -> None:
        """Take what the rules knew of a group."""
        mine = self._waiting.setdefault(heard.group, self._aside.pop(heard.group, []))
        while mine and mine[-1].topology is heard.topology and mine[-1].from_us >= heard.from_us:
            mine.pop()
        mine.append(heard)
        if heard.group not in self._marked or heard.from_us < self._marked[heard.group][0]:
            self._unmarked[heard.group] = min(heard.from_us, self._unmarked.get(heard.group, heard.from_us))

    async def owe(self) -> None:
        """Mark what waits, before it counts as evaluated; after a failure the next call does it."""
        if not self._unmarked:
            return
        taken = dict(self._unmarked)
        marks = await self._store.owe([(*group, from_us) for group, from_us in taken.items()])
        for (group, from_us), mark in zip(taken.items(), marks, strict=True):
            self._marked[group] = (from_us, [*self._marked.get(group, (0, []))[1], mark])
            del self._unmarked[group]

    async def restore(self, engine: Engine) -> list[Owed]:
        """After a start: have judged again what is owed. Before the rules are evaluated; then `adopt` the answer."""
        owed = await self._store.owed()
        for one in owed:
            engine.restore_open(one.asset_kind, one.asset_id, one.from_us)
        return owed

    async def adopt(self, owed: list[Owed]) -> None:
        """Take over the marks of `restore`. Those of groups there are no more are paid: their meters are in others."""
        gone = []
        for one in owed:
            group = (one.asset_kind, one.asset_id)
            if group in self._waiting:
                from_us, marks = self._marked.get(group, (one.from_us, []))
                self._marked[group] = (from_us, [*marks, one.mark_id])
            else:
                gone.append(one.mark_id)
        await self._store.write([], gone)

    async def run(self) -> None:
        """Write what waits until cancelled; while the database is away it waits."""
        while True:
            began_s = time.monotonic()
            try:
                await self.once()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("interruptions wait for the database", error=error.message)
            await asyncio.sleep(max(EVERY_S, (time.monotonic() - began_s) * REST_SHARE))

    async def flush(self) -> None:
        """Write all that is marked."""
        while await self.once():
            pass

    async def once(self) -> bool:
        """Write some groups; False: none waited."""
        step: dict[Group, list[Heard]] = {}
        meters = 0
        for group, heard in self._waiting.items():
            if group in self._unmarked:
                continue
            meters += len(heard[-1].slot)
            if step and meters > METERS_PER_STEP:
                break
            step[group] = heard
        if not step:
            return False
        marked = {group: self._marked.pop(group) for group in step}
        for group in step:
            del self._waiting[group]
        try:
            found = await asyncio.to_thread(self._found, step)
            known = [one for mine in found.values() for one in mine]
            await self._store.write(known, [mark for group in found for mark in marked[group][1]])
        except BaseException:
            self._put_back(step, marked)
            raise
        for group in step.keys() - found.keys():
            heard_since = group in self._waiting
            self._put_back({group: step[group]}, {group: marked[group]})
            if not heard_since:
                self._aside[group] = self._waiting.pop(group)
        return True

    def _found(self, step: dict[Group, list[Heard]]) -> dict[Group, list[Known]]:
        """Of each group, but for those where it raises."""
        found = {}
        for group, heard in step.items():
            try:
                found[group] = [Known(one.slot, one.from_us, *interruptions(one, self._profile)) for one in heard]
            except Exception as error:  # a group's boundary: the others are written
                self._raised(error)
        return found

    def _put_back(self, step: dict[Group, list[Heard]], marked: dict[Group, tuple[int, list[int]]]) -> None:
        for group, heard in step.items():
            later = self._waiting.pop(group, [])
            self._waiting[group] = [*heard, *later]
            from_us, marks = marked[group]
            since_us, more = self._marked.get(group, (from_us, []))
            self._marked[group] = (min(from_us, since_us), [*marks, *more])
