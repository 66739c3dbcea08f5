"""The process of the service: until a signal, or until its core ends. It does not know what the service is made of."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from meterwatch import logs
from meterwatch.app import Service, running
from meterwatch.config import Config
from meterwatch.core import DatabaseGone
from meterwatch.errors import MeterwatchError

EX_FAILED: Final = 1
DESCRIPTORS: Final = 65_536
"""As LimitNOFILE in docs/operations/meterwatch.service."""
_log = structlog.get_logger(__name__)


def serve(config: Config) -> None:
    """Run the service until SIGINT or SIGTERM. Raises ConfigError before anything listens.

    When its embedded PostgreSQL dies, the process becomes a new service: a start recovers all, and PostgreSQL cannot
    be started beside the threads of gRPC, where a fork may abort.
    An error ends the process also when nobody reads what it says: an end that waits to be told of would be none.
    """

    async def main() -> None:
        async with running(config, _log.info) as service:
            meters = len(service.pipeline.topology().slot_of)
            logs.say(f"meterwatch serves on {service.address}: {meters} meters, {service.database}")
            await _until_signal(service)
        _log.info("stopped")

    more_descriptors()
    try:
        _run(main())
    except DatabaseGone as gone:
        _log.error(f"{gone}; starting anew")
        logs.written()
        os.execv(sys.executable, sys.orig_argv)
    except Exception:
        if not logs.written():
            os._exit(EX_FAILED)
        raise


def more_descriptors() -> None:
    """Take as many as are given: each connection is one, and when they are out gRPC lets newcomers hang."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _until_signal(service: Service) -> None:
    """Return at the first SIGINT or SIGTERM; a second one ends the process at once, which loses nothing."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[Any]] = set()
    if (routes := service.routes) is not None:

        def reload() -> None:
            task = asyncio.create_task(routes.reload())
            reloads.add(task)  # the loop itself keeps no task alive
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({waiter, service.core}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    if service.core.done():
        error = _named(service.core.exception())
        if not isinstance(error, MeterwatchError):
            _log.critical("the core has ended by an error of ours", error=repr(error))
        raise error  # better dead than deaf: the error ends the process


def _named(error: BaseException | None) -> BaseException:
    """The error of the service in a group of errors, if there is one: it has a sentence and an exit code."""
    named = error
    while isinstance(named, BaseExceptionGroup):
        named = (named.subgroup(MeterwatchError) or named).exceptions[0]
    if isinstance(named, MeterwatchError):
        return named
    return error or RuntimeError("the core ended by itself")


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
