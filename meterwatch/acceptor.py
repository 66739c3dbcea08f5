"""A grpc.aio server that no path of a call ends.

grpc.aio (1.85) takes calls in one loop and decodes the path of whatever is of no registered method there. A path that
is no UTF-8 raises in it: the server stops listening for good, and the process lives on, deaf. Here every method is
registered with gRPC's core, which compares bytes; what else comes is answered with UNIMPLEMENTED, its path unread.

Promises: each method takes its calls by itself; a server that takes none any more ends `run` with the reason, so the
process can end too. Beside its public interface this uses what grpc.aio keeps to itself (marked below): the tests of
tests/integration/test_bad_paths.py see whether a new version still has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server as aio

NO_METHOD: Final = ""
"""The name under which a call of no method of ours passes the interceptors: nobody serves it."""


class _Details(NamedTuple):
    """Of a call, as a generic handler is asked for its method."""

    method: str
    invocation_metadata: tuple[Any, ...] = ()


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls from gRPC's core. `handlers`: by path; they are what `resolve_handler` looks at."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interceptors: Sequence[Any], options: Any) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self.handlers: dict[str, Any] = {}
        self.broken: asyncio.Future[BaseException] = loop.create_future()
        self._own_loop, self._own_interceptors = loop, tuple(interceptors)
        self._calls: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, method_handlers: dict[str, Any]) -> None:
        new = {path: handler for path, handler in method_handlers.items() if path not in self.handlers}
        self.handlers |= new
        super().add_registered_method_handlers(new)

    def resolve_handler(self, details: Any) -> Any:
        """The handler of a call, which interceptors wrap; None: there is no such method."""
        return self.handlers.get(details.method)

    def _make_request_call_future(self, method_bytes: bytes | None) -> asyncio.Task[None]:
        """grpc.aio waits for the next call of a method, None for any other; here the task takes them all."""
        return self._own_loop.create_task(self._take(method_bytes))

    async def _take(self, path: bytes | None) -> None:
        """Take the calls of a path, None: of no method of ours, until the server stops, which ends it with an error."""
        name = NO_METHOD if path is None else path.decode()
        while True:
            call = await (self._request_call() if path is None else self._request_registered_call(path))
            handled = cygrpc._handle_rpc(name, self, self._own_interceptors, call, self._own_loop, False)
            task = self._own_loop.create_task(cygrpc._schedule_rpc_coro(handled, call, self._own_loop, name))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _serving_task_crash_handler(self, task: asyncio.Task[None]) -> None:
        """grpc.aio calls this when the loop that takes calls has ended."""
        super()._serving_task_crash_handler(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.broken.done():
            self.broken.set_result(error)


class Acceptor(aio.Server):  # type: ignore[misc]
    """grpc.aio.Server for the methods of these paths (without the first slash) and for those added as registered."""

    def __init__(self, options: Sequence[tuple[str, Any]], interceptors: Sequence[Any], methods: Iterable[str]) -> None:
        self._paths = [f"/{method}" for method in methods]
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, interceptors, aio._augment_channel_arguments(options, None))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Register what these handlers serve of the paths."""
        for handler in generic_rpc_handlers:
            found = {path: handler.service(_Details(path)) for path in self._paths}
            self._server.add_registered_method_handlers({path: one for path, one in found.items() if one is not None})

    async def run(self) -> None:
        """Wait for the end of a server that takes no calls any more although nobody stopped it, and raise why."""
        raise await self._server.broken
