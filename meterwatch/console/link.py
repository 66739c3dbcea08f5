"""The console's link to the service: the feed on a thread of its own, and the calls an operator makes.

Promises: everything the service told comes out of `take` once, in its order; after a break it goes on from the last
cursor, and begins with a snapshot anew where the service no longer has that cursor. At most WAITING_MAX alarms wait to
be taken: then the feed is not read, and the service folds what comes meanwhile. How old the news is can be asked at
any time and never waits. Knows no terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc

from meterwatch.cli import calls
from meterwatch.client import AlarmFeed, Backoff, Refused, Unreachable
from meterwatch.client.retry import failure_of
from meterwatch.console.rows import Row
from meterwatch.errors import MeterwatchError
from meterwatch.v1 import alarms_pb2 as pb

WAITING_MAX: Final = 20_000
BLIND_S: Final = 15.0
"""A bookmark comes every 5 s; without any message for so long what is shown may be wrong."""
WATCHDOG_S: Final = 90.0
"""Nor is it to be trusted when nothing has come through the service for so long: its own batches go every 30 s."""
AGAIN_S: Final = 1.0
"""Between two beginnings with a snapshot."""


@dataclass(slots=True)
class News:
    """What came since the last `take`."""

    begun: bool = False
    """A complete snapshot came: what was known before is not known any more, `rows` begin with it."""
    rows: list[Row] = field(default_factory=list)
    changes: int = 0
    folded: int = 0
    """Changes the service folded into newer ones because we were slow."""
    upto: int = 0
    """Cursor of the newest of them; 0: there is none."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the link does."""

    age_s: float
    """Since the last message."""
    begun: bool
    """There has been a complete snapshot."""
    reconnects: int
    rules_ready: bool
    trouble: str
    """Why there is no feed; empty if there is one."""
    watchdog_age_s: float = 0.0
    """Since something last came through all of the service, as it said last."""

    @property
    def blind(self) -> str:
        """Why what is shown may be wrong; empty: it may be trusted."""
        if not self.begun:
            return "no list yet"
        if self.age_s > BLIND_S:
            return f"nothing heard for {self.age_s:.0f} s"
        if self.watchdog_age_s > WATCHDOG_S:
            return f"nothing comes through the service for {self.watchdog_age_s:.0f} s"
        return ""


class Link(Protocol):
    """What the console needs of a service. The calls wait and raise MeterwatchError with a sentence."""

    address: str

    def start(self) -> None: ...
    def close(self) -> None: ...
    def take(self) -> News: ...
    def shown(self, seq: int) -> None: ...
    def health(self) -> Health: ...
    def act(self, what: pb.ActRequest, alarm_id: str, version: int) -> str: ...
    def explain(self, alarm_id: str) -> pb.ExplainResponse: ...
    def kpis(self, operators: int) -> pb.GetKpisResponse: ...


class ServiceLink:
    """A Link to the service at an address."""

    def __init__(
        self,
        address: str,
        wanted: pb.AlarmFilter | None = None,
        backoff: Backoff | None = None,
        subscriber: str = "",
    ) -> None:
        self.address = address
        self._wanted = wanted
        self._subscriber = subscriber
        self._backoff = backoff
        self._news = News()
        self._room = threading.Condition()
        self._closed = False
        self._heard_s = time.monotonic()
        self._begun = False
        self._reconnects = 0
        self._rules_ready = True
        self._watchdog_age_s = 0.0
        self._trouble = ""
        self._feed: AlarmFeed | None = None
        self._thread = threading.Thread(target=self._run, name="alarm feed", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        if self._feed is not None:
            self._feed.close()

    def take(self) -> News:
        """What came since the last call; never waits for the service."""
        with self._room:
            news, self._news = self._news, News()
            self._room.notify_all()
        return news

    def shown(self, seq: int) -> None:
        """Everything up to a cursor was drawn; never waits for the service."""
        if self._feed is not None:
            self._feed.shown(seq)

    def health(self) -> Health:
        """How the link does now."""
        reconnects = self._reconnects + (self._feed.reconnects if self._feed is not None else 0)
        age_s = time.monotonic() - self._heard_s
        return Health(age_s, self._begun, reconnects, self._rules_ready, self._trouble, self._watchdog_age_s)

    def act(self, what: pb.ActRequest, alarm_id: str, version: int) -> str:
        """Do what an operator wants on an alarm as he saw it; why not, or empty if it is done."""
        target = pb.ActTarget(alarm_id=alarm_id, expected_version=version)
        with _sentences():
            [result] = calls.act(self.address, what, [target], None)
        return str(result.message) if result.reason else ""

    def explain(self, alarm_id: str) -> pb.ExplainResponse:
        """All that can be said about an alarm."""
        with _sentences():
            found: pb.ExplainResponse = calls.explain_alarm(self.address, alarm_id)
        return found

    def kpis(self, operators: int) -> pb.GetKpisResponse:
        """Figures of the last hour."""
        with _sentences():
            found: pb.GetKpisResponse = calls.alarm_kpis(self.address, 1, operators)
        return found

    # The feed's thread

    def _run(self) -> None:
        while not self._closed:
            self._feed = AlarmFeed(
                self.address, filter=self._wanted, backoff=self._backoff, subscriber=self._subscriber, shows=False
            )
            try:
                self._follow(self._feed)
            except (Refused, Unreachable) as error:  # no such cursor any more, or a refusal an operator must see
                self._trouble = str(error)
            except Exception as error:  # the thread's boundary: the screen must say that nobody listens
                self._trouble = f"{type(error).__name__}: {error}"
            self._reconnects += self._feed.reconnects + 1
            with self._room:
                self._room.wait_for(lambda: self._closed, AGAIN_S)

    def _follow(self, feed: AlarmFeed) -> None:
        snapshot: list[Row] = []
        reconnects = 0
        for message in feed:
            self._heard_s = time.monotonic()
            self._trouble = ""
            if feed.reconnects > reconnects:  # a snapshot that broke comes anew
                snapshot, reconnects = [], feed.reconnects
            match message.WhichOneof("message"):
                case "snapshot":
                    snapshot += map(Row.of, message.snapshot.alarm)
                    if message.snapshot.complete:
                        with self._room:
                            self._news = News(begun=True, rows=snapshot, upto=message.snapshot.seq)
                            self._begun = True
                        snapshot = []
                case "transition":
                    self._offer(Row.of(message.transition.alarm), message.transition.seq)
                case "bookmark":
                    self._rules_ready = message.bookmark.rules_ready
                    self._watchdog_age_s = message.bookmark.watchdog_age_s
                case "coalesced":
                    with self._room:
                        self._news.folded += message.coalesced.merged
            if self._closed:
                return

    def _offer(self, row: Row, seq: int) -> None:
        with self._room:
            self._room.wait_for(lambda: self._closed or self._news.changes < WAITING_MAX)
            self._news.rows.append(row)
            self._news.changes += 1
            self._news.upto = seq


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of grpc inside as MeterwatchError, with the service's own sentence."""
    try:
        yield
    except grpc.RpcError as error:
        raise MeterwatchError(failure_of(error).message) from error
