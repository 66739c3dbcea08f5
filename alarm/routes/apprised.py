"""Messages through apprise (optional) to mail, SMS and chat services.

apprise blocks, so each try has a thread of its own. A thread cannot be stopped: one that outlives its time is left to
itself, and while it does there is no other, so a service that hangs costs one thread. The message may then come twice.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from alarm.routes.outcome import Outcome, failed, sent

Notify = Callable[[str, str], bool]
"""title, body -> the service took it."""


def apprise_problem(url: str) -> str | None:
    """What is wrong with an address, without showing it; None: nothing."""
    if find_spec("apprise") is None:
        return "apprise is not installed; install meterwatch[apprise]."
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would log the address
    if not url or not import_module("apprise").Apprise().add(url):
        return "it is no address apprise knows; expected e.g. mailtos://user:password@host?to=... by env or file."
    return None


def apprise_notify(url: str) -> Notify:
    """Sends through apprise."""

    def notify(title: str, body: str) -> bool:
        service: Any = import_module("apprise").Apprise()
        return bool(service.add(url) and service.notify(title=title, body=body))

    return notify


class Threaded:
    """Runs `notify`, which blocks, for at most timeout_s."""

    def __init__(self, notify: Notify, timeout_s: float) -> None:
        self._notify = notify
        self._timeout_s = timeout_s
        self._busy = False
        """A try has not ended, whether anybody still waits for it or not."""

    async def send(self, title: str, body: str) -> Outcome:
        """One try. Never raises."""
        if self._busy:
            return failed("the try before hangs still; it goes on when that one ends")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def finish(took: bool, error: Exception | None) -> None:
            self._busy = False
            if done.done():
                return
            if error is None:
                done.set_result(took)
            else:
                done.set_exception(error)

        def work() -> None:
            took, error = False, None
            try:
                took = self._notify(title, body)
            except Exception as raised:  # whatever a service's plugin raises is a failed try
                error = raised
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(finish, took, error)

        self._busy = True
        threading.Thread(target=work, name="apprise", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout_s):
                took = await done
        except TimeoutError:
            return failed(f"no answer within {self._timeout_s:g} s")
        except Exception as error:
            return failed(f"apprise failed with {type(error).__name__}")
        return sent() if took else failed("the service did not take it")
