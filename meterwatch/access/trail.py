"""The audit trail: who did what, and what was refused, on its way to an append-only table.

Three ways in. `changed` is for a call that alters something: it returns when the row is committed, together with those
of all who wait at that moment. A change has two rows of one call_id: BEGUN, committed before anything is done, so that
nothing is altered without a row whenever the service dies; and its outcome, committed before it is answered. `outcome`
notes one that nobody waits for: of what failed or was left. `counted` never waits: denials and the head-ends' own work.
The first of a kind is written at once, all others of that kind within WINDOW_S are one row with their number, and kinds
beyond KINDS_MAX, or beyond OWN_KINDS_MAX of one caller, are one row together: a hostile client can move a number, and
neither fill a disk nor hide what is refused to others.
Nothing here touches ingestion but a dictionary look-up for a call of a head-end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import structlog

from meterwatch.access.identity import Identity
from meterwatch.access.methods import PACKAGE
from meterwatch.errors import MeterwatchError, Overloaded, StorageUnavailable

WINDOW_S: Final = 60.0
KINDS_MAX: Final = 100
"""Kinds of what is counted, in a window."""
OWN_KINDS_MAX: Final = 30
"""Of one caller; strangers are one: by all methods and refusals nobody hides what is refused to others. (ours)"""
WAITING_MAX: Final = 1000
"""Calls that wait for their row; more are answered with Overloaded."""
BATCH_MAX: Final = 500
"""Rows written in one transaction."""
KEPT_MAX: Final = 1000
"""Rows nobody waits for kept while the database is away; more are dropped and counted."""
AGAIN_S: Final = 5.0
WRITE_S: Final = 10.0
BEGUN: Final = "BEGUN"
"""Outcome of a change that is under way, or whose outcome nobody knows yet."""
INTERRUPTED: Final = "INTERRUPTED"
"""Outcome of a change during which the service died: whether it was done, what it changed says."""
OTHERS: Final = "*"
OBJECT_CHARS_MAX: Final = 300

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing done or refused, or `calls` of a kind."""

    who: str
    how: str
    method: str
    object: str
    outcome: str
    """BEGUN, OK, INTERRUPTED, or the code and the reason of the refusal."""
    peer: str
    """Address of the caller without its port."""
    at_us: int = 0
    """Of the last of them; machine's clock, whatever the service's clock says."""
    calls: int = 1
    call_id: int = 0
    """The same in the two rows of a change; 0: this row stands for itself."""


@dataclass(frozen=True, slots=True)
class AuditWanted:
    """Which rows somebody wants; an empty text and 0 mean any. Newest first, those before the row `before_no`."""

    who: str = ""
    method: str = ""
    """As Alarms/Act, or the whole service, as Alarms."""
    object: str = ""
    """Part of it."""
    refused: bool = False
    """Only what was not done."""
    from_us: int = 0
    to_us: int = 0
    before_no: int = 0
    limit: int = 100


Kind = tuple[str, str, str, str, str]


class _Owed(NamedTuple):
    row: AuditRow
    written: asyncio.Future[None]


class Trail:
    """See the module head. write: rows to the table, all or nothing."""

    def __init__(
        self,
        write: Callable[[Sequence[AuditRow]], Awaitable[None]],
        window_s: float = WINDOW_S,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._write = write
        self._window_s = window_s
        self._now_us = now_us
        self._owed: list[_Owed] = []
        self._kept: list[AuditRow] = []
        self._kinds: dict[Kind, AuditRow] = {}
        self._writing: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.dropped = 0
        """Rows that nobody waits for and that found no room."""

    async def changed(self, row: AuditRow) -> None:
        """Have a row committed. Overloaded, StorageUnavailable: it is not, or nobody knows."""
        if len(self._owed) >= WAITING_MAX and not _is_outcome(row):  # of what is begun there are not more than that
            raise Overloaded("AUDIT_FULL", f"{WAITING_MAX} calls wait for the audit log; try again", 1.0)
        owed = _Owed(self._stamped(row), asyncio.get_running_loop().create_future())
        self._owed.append(owed)
        self._start()
        try:
            async with asyncio.timeout(WRITE_S):
                await owed.written
        except TimeoutError:
            raise StorageUnavailable("the audit log did not take its row within 10 s; send it again") from None

    def outcome(self, row: AuditRow) -> None:
        """Note what came of a change; never waits."""
        self._keep(self._stamped(row))

    def counted(self, row: AuditRow) -> None:
        """Note something of which there may be very many; never waits."""
        row = self._stamped(row)
        kind = (row.who, row.how, row.method, row.outcome, row.peer)
        if kind not in self._kinds and sum(other[:2] == kind[:2] for other in self._kinds) >= OWN_KINDS_MAX:
            row = replace(row, method=OTHERS, object="", outcome=OTHERS, peer=OTHERS)
            kind = (row.who, row.how, OTHERS, OTHERS, OTHERS)
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            row = replace(row, who=OTHERS, how=OTHERS, method=OTHERS, object="", outcome=OTHERS, peer=OTHERS)
            kind = (OTHERS,) * 5
        told = self._kinds.get(kind)
        if told is None:
            self._kinds[kind] = replace(row, object="", calls=0)
            self._keep(row)
            self._later("window", self._window_s, self._close_window)
        else:
            self._kinds[kind] = replace(told, at_us=row.at_us, calls=told.calls + row.calls)

    async def flush(self) -> None:
        """Write what is still here, if the database takes it."""
        self._close_window()
        for timer in self._timers.values():
            timer.cancel()
        if self._writing is not None:
            await self._writing

    def _stamped(self, row: AuditRow) -> AuditRow:
        return replace(row, at_us=self._now_us(), object=row.object[:OBJECT_CHARS_MAX])

    def _close_window(self) -> None:
        """The numbers of the window that is over become rows."""
        kinds, self._kinds = self._kinds, {}
        self._timers.pop("window", None)
        for row in kinds.values():
            if row.calls:
                self._keep(row)

    def _keep(self, row: AuditRow) -> None:
        if len(self._kept) >= KEPT_MAX:
            self.dropped += row.calls
            return
        self._kept.append(row)
        self._start()

    def _start(self) -> None:
        if self._writing is None and "again" not in self._timers:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())
        elif self._writing is None and self._owed:  # somebody waits: do not wait for the next try
            self._timers.pop("again").cancel()
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    def _later(self, name: str, after_s: float, what: Callable[[], None]) -> None:
        if name not in self._timers:
            self._timers[name] = asyncio.get_running_loop().call_later(after_s, what)

    async def _write_all(self) -> None:
        """Write until nothing is left, or the database does not take it."""
        try:
            while self._owed or self._kept:
                owed, self._owed = self._owed[:BATCH_MAX], self._owed[BATCH_MAX:]
                kept, self._kept = self._kept[:BATCH_MAX], self._kept[BATCH_MAX:]
                try:
                    await self._write([*kept, *(one.row for one in owed)])
                except Exception as error:
                    self._kept = kept + self._kept
                    for one in owed:
                        if _is_outcome(one.row):  # of what is done, whoever is told that nobody knows
                            self._keep(one.row)
                    _fail(owed, error)
                    _log.warning("audit rows not written yet", error=type(error).__name__, rows=len(kept) + len(owed))
                    self._later("again", AGAIN_S, self._try_again)
                    return
                for one in owed:
                    if not one.written.done():  # else its caller has left
                        one.written.set_result(None)
        finally:
            self._writing = None
            if self._owed and "again" not in self._timers:
                self._start()

    def _try_again(self) -> None:
        self._timers.pop("again", None)
        if self._owed or self._kept:
            self._start()


def _is_outcome(row: AuditRow) -> bool:
    return row.call_id != 0 and row.outcome != BEGUN


def row_of(identity: Identity, method: str, what: str, outcome: str, peer: str) -> AuditRow:
    """A row about a call."""
    short = method.removeprefix(f"{PACKAGE}.")
    return AuditRow(identity.name, identity.how.value, short, what, outcome, host_of(peer))


def host_of(peer: str) -> str:
    """The address in what gRPC calls a peer, as ipv4:127.0.0.1:50000 or ipv6:%5B::1%5D:50000; without the port."""
    scheme, _, rest = peer.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return peer[:64]
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")[:64]


def _fail(owed: Sequence[_Owed], error: Exception) -> None:
    known = (
        error if isinstance(error, MeterwatchError) else StorageUnavailable("the audit log was not written; try again")
    )
    for one in owed:
        if not one.written.done():
            one.written.set_exception(known)
