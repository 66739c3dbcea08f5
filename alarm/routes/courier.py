"""The courier of one target: its messages in order, each until it is delivered or given up.

One courier a target, so a target that fails or hangs waits for itself alone. A message is tried again after a time that
doubles, with a share of chance, so that many services do not come back at once. What a try came to is written down
before the next message; when the database is away meanwhile it is written when it is back, without sending again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from alarm.routes.model import Target
from alarm.routes.outcome import Outcome
from alarm.routes.targets import RENEWED_MAX, Alertmanager, Sender
from meterwatch.alarms import Alarm
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.notices import DeliveryState, Parcel

BACKOFF_S: Final = 1.0
BACKOFF_S_MAX: Final = 60.0
"""Of one target; an Alertmanager must be renewed within four times resend_s."""
DATABASE_S: Final = 1.0
LEAVE_S: Final = 2.0
"""A try under way when the service stops, or the target changes, may take this long to its end."""
IDLE_S: Final = 30.0
"""Look for messages at least so often, though nobody said there are."""
_log = structlog.get_logger(__name__)


class Mailbox(Protocol):
    """What a courier needs of the database."""

    async def next_parcel(self, target: str) -> Parcel | None: ...

    async def told_active(self, target: str, after: str, limit: int) -> list[Alarm]: ...


Tried = Callable[[Parcel, Outcome, int, int, int], Awaitable[None]]
"""Write down parcel, outcome, when the try began and ended, when the next one may be."""


class Courier:
    """Runs until cancelled."""

    def __init__(
        self,
        target: Target,
        sender: Sender,
        mailbox: Mailbox,
        tried: Tried,
        counted: Callable[[str, str], None],
        now_us: Callable[[], int],
        backoff_s: float = BACKOFF_S,
    ) -> None:
        self.target = target
        self.oldest_us: int | None = None
        """Since when the message that is next waits."""
        self.last_error = ""
        self._sender = sender
        self._mailbox = mailbox
        self._tried = tried
        self._counted = counted
        self._now_us = now_us
        self._backoff_s = backoff_s
        self._renew_at_s = 0.0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be a message."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver, until cancelled."""
        try:
            while True:
                try:
                    await self._next()
                except (StorageUnavailable, Overloaded):
                    await asyncio.sleep(DATABASE_S)
                except Exception:  # the other targets must not be without theirs
                    self._counted(self.target.name, "error")
                    _log.exception("a message could not be sent; it is tried again", target=self.target.name)
                    await asyncio.sleep(BACKOFF_S_MAX)
        finally:
            await self._sender.close()

    async def _next(self) -> None:
        """One try of the oldest message; or wait for one."""
        self._wake.clear()
        parcel = await self._mailbox.next_parcel(self.target.name)
        self.oldest_us = None if parcel is None else parcel.queued_us
        if parcel is None:
            self.last_error = ""
            await self._idle()
            return
        wait_s = (parcel.next_try_us - self._now_us()) / 1e6
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, BACKOFF_S_MAX))
            return
        attempt = asyncio.ensure_future(self._attempt(parcel))
        try:
            await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait({attempt}, timeout=LEAVE_S)  # what was sent and not written down would come twice
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            raise

    async def _attempt(self, parcel: Parcel) -> None:
        """One try, and its record."""
        began_us = self._now_us()
        outcome = await self._sender.send(parcel, began_us)
        ended_us = self._now_us()
        given_up = ended_us - parcel.queued_us > self.target.give_up_s * 1_000_000
        if outcome.state is DeliveryState.WAITING and given_up:
            outcome = Outcome(DeliveryState.DEAD, f"given up after {self.target.give_up_s} s; last: {outcome.text}")
        self._note(parcel, outcome)
        wait_s = max(outcome.retry_after_s, backoff_s(parcel.attempts, self._backoff_s, random.random()))
        await self._write_down(parcel, outcome, began_us, ended_us, ended_us + int(wait_s * 1e6))

    async def _write_down(self, parcel: Parcel, outcome: Outcome, began_us: int, ended_us: int, next_us: int) -> None:
        while True:
            try:
                await self._tried(parcel, outcome, began_us, ended_us, next_us)
                return
            except (StorageUnavailable, Overloaded):
                await asyncio.sleep(DATABASE_S)

    async def _idle(self) -> None:
        """Wait for a message; renew meanwhile what would end."""
        wait_s = IDLE_S
        if isinstance(self._sender, Alertmanager):
            if time.monotonic() >= self._renew_at_s:
                well = await self._renew(self._sender)
                self._renew_at_s = time.monotonic() + (self._sender.resend_s if well else BACKOFF_S)
                if not well:
                    self._counted(self.target.name, "failed")
            wait_s = min(wait_s, max(0.0, self._renew_at_s - time.monotonic()))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    async def _renew(self, sender: Alertmanager) -> bool:
        """Send what is active once more, page by page. False: a page failed."""
        after, full = "", True
        while full:
            alarms = await self._mailbox.told_active(self.target.name, after, RENEWED_MAX)
            if alarms and not await sender.renew(alarms, self._now_us()):
                return False
            after, full = alarms[-1].alarm_id if alarms else "", len(alarms) == RENEWED_MAX
        return True

    def _note(self, parcel: Parcel, outcome: Outcome) -> None:
        """Count a try, and log where it changes what is known of the target."""
        name, number = self.target.name, parcel.delivery.number
        match outcome.state:
            case DeliveryState.SENT:
                self._counted(name, "sent")
                if self.last_error:
                    _log.info("target takes messages again", target=name, number=number)
            case DeliveryState.DEAD:
                self._counted(name, "dead")
                _log.error("message given up", target=name, number=number, error=outcome.text)
            case _:
                self._counted(name, "failed")
                if not self.last_error:
                    _log.warning("target does not take messages", target=name, number=number, error=outcome.text)
        self.last_error = outcome.text


def backoff_s(attempts: int, first_s: float, chance: float) -> float:
    """How long to wait after so many failed tries: doubling to BACKOFF_S_MAX, of it a half to all. chance: 0 to 1."""
    return min(BACKOFF_S_MAX, first_s * 2.0 ** min(attempts, 20)) * (0.5 + chance / 2)
