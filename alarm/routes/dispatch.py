"""The routes at work: the alarm log in, messages out, the file watched.

Promise: nothing here makes ingest, the rules or a subscriber wait. The log is read page by page behind a cursor kept in
the database; each step is committed before anything is sent, so that a kill at any moment loses no message and makes
none anew. A start, a changed file and a commit of unknown outcome are the same: the plan is made anew from what is
kept, and looks at the alarms there are. A file that is not sound changes nothing and is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from alarm.routes.courier import BACKOFF_S, Courier, Mailbox
from alarm.routes.file import read_routes
from alarm.routes.model import Routes, Target
from alarm.routes.outcome import Outcome
from alarm.routes.plan import TIMERS_MAX, Planner, none_stands_aside
from alarm.routes.targets import Sender, sender_of
from meterwatch.alarms import Alarm, AlarmFilter, Transition
from meterwatch.clock import Clock
from meterwatch.errors import ConfigError, Overloaded, Rejected, StorageUnavailable
from meterwatch.notices import Changes, DeliveryState, Kept, Parcel
from meterwatch.one_call import OneCall

TICK_S: Final = 0.5
"""How late a message may be made."""
MERGE_S: Final = 0.05
"""Transitions of this long are seen together: a commit for each batch of a storm would cost the database more."""
LOOK_S: Final = 2.0
"""How often the file is looked at."""
PAGE_MAX: Final = 200
MATCHES_MAX: Final = 4000
"""Alarms looked at times routes, before others have their turn: some 10 ms."""
AGAIN_S: Final = 2.0
_log = structlog.get_logger(__name__)


class Outbox(Mailbox, Protocol):
    """What the routes need of the database."""

    async def load(self, made_since_us: int) -> Kept: ...

    async def commit(self, changes: Changes, queued_us: int) -> None: ...

    async def tried(
        self, number: int, state: DeliveryState, tried_us: int, ended_us: int, next_try_us: int, error: str
    ) -> None: ...

    async def retry(self, target: str, now_us: int) -> int: ...


class Log(Protocol):
    """The alarms, as far as the routes need them: what is there now, and every transition in the database."""

    def newest_seq(self) -> int: ...

    def standing(self) -> list[Alarm]: ...

    async def log_after(self, seq: int, limit: int) -> list[Transition]: ...


@dataclass(frozen=True, slots=True)
class FileState:
    """The routes file as it was last looked at."""

    path: Path
    loaded_us: int
    """Machine clock, when the routes in force were read."""
    problems: tuple[str, ...] = ()
    """Of a newer file that is not in force."""


@dataclass(slots=True)
class _Employed:
    courier: Courier
    task: asyncio.Task[None]
    link: str


class Dispatch:
    """The routes of one service. ConfigError when the file is not sound at the start."""

    def __init__(
        self,
        path: Path,
        outbox: Outbox,
        log_id: str,
        log: Log,
        clock: Clock,
        counted: Callable[[str, str], None] = lambda target, outcome: None,
        known: Callable[[Iterable[str]], None] = lambda targets: None,
        make_sender: Callable[[Target, str, str], Sender] = sender_of,
        machine_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        backoff_s: float = BACKOFF_S,
        aside: Callable[[Alarm], bool] = none_stands_aside,
        one_call: OneCall | None = None,
    ) -> None:
        """counted is told of (target, what happened), known of all targets before anything happens to them.

        aside: who stands aside in a storm (alarm.storm). one_call: which alarms call once (meterwatch.one_call); None:
        each by itself.
        """
        self.routes = read_routes(path)
        self.file = FileState(path, machine_us())
        self._stamp = _stamp(path)
        self._outbox = outbox
        self._log_id = log_id
        self._log = log
        self._clock = clock
        self._counted, self._known = counted, known
        self._make_sender = make_sender
        self._machine_us = machine_us
        self._backoff_s = backoff_s
        self._aside, self._one_call = aside, one_call
        self._planner: Planner | None = None
        self._employed: dict[str, _Employed] = {}
        self._books = asyncio.Lock()
        """What waits in the tables and in the plan changes together."""
        self._wake = asyncio.Event()
        known(self.routes.targets)

    def wake(self) -> None:
        """There are new transitions."""
        self._wake.set()

    def concerns(self, departments: Sequence[str]) -> tuple[AlarmFilter, ...]:
        """The alarms of these departments, by the routes in force. Rejected when one does not exist."""
        for name in departments:
            if name not in self.routes.departments:
                known = ", ".join(sorted(self.routes.departments)[:20])
                raise Rejected(
                    "FILTER_INVALID",
                    f"filter.department has {name[:40]!r}; the routes file has {known}; use one of them",
                )
        return tuple(self.routes.concerns(name) for name in departments)

    def waiting(self) -> dict[str, float]:
        """Target -> messages made and not delivered."""
        planner = self._planner
        return {name: 0.0 if planner is None else float(planner.waiting(name)) for name in self.routes.targets}

    def oldest_s(self) -> dict[str, float]:
        """Target -> for how long its oldest message waits; 0: none does."""
        found = dict.fromkeys(self.routes.targets, 0.0)
        for name, employed in list(self._employed.items()):
            if employed.courier.oldest_us is not None and name in found:
                found[name] = max(0.0, (self._machine_us() - employed.courier.oldest_us) / 1e6)
        return found

    def refused(self) -> float:
        """1: the file as it is now is not in force."""
        return float(bool(self.file.problems))

    async def reload(self) -> FileState:
        """Read the file again; what it says is in force at once, or, when it is not sound, nothing changes."""
        path = self.file.path
        self._stamp = await asyncio.to_thread(_stamp, path)
        try:
            routes = await asyncio.to_thread(read_routes, path)
        except ConfigError as error:
            self.file = FileState(path, self.file.loaded_us, tuple(error.problems))
            self._counted("", "file_refused")
            _log.error(
                "routes file refused; the routes before it stay in force", path=str(path), problems=error.problems
            )
        else:
            self.routes = routes
            self._known(routes.targets)
            self.file = FileState(path, self._machine_us())
            _log.info("routes file loaded", path=str(path), routes=len(routes.routes), targets=len(routes.targets))
            self._wake.set()
        return self.file

    async def retry(self, target: str) -> int:
        """Let the dead messages of a target wait again; how many. Rejected when there is no such target."""
        if target not in self.routes.targets:
            raise Rejected("TARGET_UNKNOWN", f"there is no target {target[:64]!r} in the routes file; use one of it")
        async with self._books:
            messages = await self._outbox.retry(target, self._machine_us())
            if self._planner is not None:
                self._planner.requeued(target, messages)
        if target in self._employed:
            self._employed[target].courier.wake()
        return messages

    async def run(self) -> None:
        """Until cancelled. What fails is logged and begun anew from what is kept."""
        watcher = asyncio.create_task(self._watch_file())
        try:
            while True:
                try:
                    await self._live()
                except (StorageUnavailable, Overloaded) as error:
                    _log.warning("routes wait for the database", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                except Exception:  # a defect here must not end the service
                    self._counted("", "error")
                    _log.exception("routes failed; they begin anew from what is kept")
                    await asyncio.sleep(AGAIN_S)
        finally:
            watcher.cancel()
            tasks = [employed.task for employed in self._employed.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(watcher, *tasks, return_exceptions=True)

    async def _live(self) -> None:
        """Work by the routes now in force, until there are others."""
        routes = self.routes
        await self._employ(routes)
        longest_us = max((target.per_s for target in routes.targets.values()), default=0) * 1_000_000
        async with self._books:
            kept = await self._outbox.load(self._clock.now_us() - longest_us)
            planner = self._planner = Planner(routes, kept, self._aside, self._one_call)
        seq, alarms = self._log.newest_seq(), self._log.standing()
        planner.replace(routes, self._clock.now_us())
        planner.begin(seq)
        page = max(1, min(PAGE_MAX, MATCHES_MAX // max(1, len(routes.routes))))
        for at in range(0, len(alarms), page):
            planner.adopt(alarms[at : at + page], self._clock.now_us())
            await asyncio.sleep(0)
        await self._commit(planner)
        for employed in self._employed.values():
            employed.courier.wake()
        while self.routes is routes:
            self._wake.clear()
            await self._catch_up(planner, page)
            await self._do_what_is_due(planner)
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):  # wait_for of Python 3.11 may swallow a cancel
                    await self._wake.wait()
            await asyncio.sleep(MERGE_S)

    async def _catch_up(self, planner: Planner, page: int) -> None:
        while planner.cursor is not None and self._log.newest_seq() > planner.cursor:
            transitions = await self._log.log_after(planner.cursor, page)
            if not transitions:
                return
            planner.take(transitions, self._clock.now_us())
            await self._commit(planner)

    async def _do_what_is_due(self, planner: Planner) -> None:
        """In pieces: ingest and subscribers have their turn between them."""
        now_us = self._clock.now_us()
        more = True
        while more:
            more = planner.tick(now_us, TIMERS_MAX)
            await asyncio.sleep(0)
        for target in planner.ready():
            planner.make(target, now_us)
            await asyncio.sleep(0)
        await self._commit(planner)

    async def _commit(self, planner: Planner) -> None:
        changes = planner.drain()
        if not changes:
            return
        await self._outbox.commit(changes, self._machine_us())
        for delivery in changes.deliveries:
            self._counted(delivery.target, "made")
            if delivery.target in self._employed:
                self._employed[delivery.target].courier.wake()

    async def _employ(self, routes: Routes) -> None:
        """A courier for each target; one whose target has not changed goes on with what it does."""
        leaving = [
            name
            for name, employed in self._employed.items()
            if routes.targets.get(name) != employed.courier.target or employed.link != routes.link
        ]
        tasks = [self._employed.pop(name).task for name in leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name, target in routes.targets.items():
            if name not in self._employed:
                sender = self._make_sender(target, self._log_id, routes.link)
                courier = Courier(
                    target, sender, self._outbox, self._tried, self._counted, self._machine_us, self._backoff_s
                )
                self._employed[name] = _Employed(courier, asyncio.create_task(courier.run()), routes.link)

    async def _tried(self, parcel: Parcel, outcome: Outcome, began_us: int, ended_us: int, next_us: int) -> None:
        async with self._books:
            await self._outbox.tried(parcel.delivery.number, outcome.state, began_us, ended_us, next_us, outcome.text)
            if outcome.state is not DeliveryState.WAITING and self._planner is not None:
                self._planner.settled(parcel.delivery.target)
                if outcome.state is DeliveryState.DEAD:
                    self._planner.lost(parcel.delivery.target, parcel.delivery.number, self._clock.now_us())
                self._wake.set()

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if await asyncio.to_thread(_stamp, self.file.path) != self._stamp:
                await self.reload()


def _stamp(path: Path) -> tuple[int, int, int]:
    """What tells one content of a file from another, without reading it; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
