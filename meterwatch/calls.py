"""Every call of the service, watched from outside its handler: what was refused is counted, what broke is logged.

A handler that raises what no status is known for must not answer with a Python exception's text (grpc would), nor be
silent: the caller gets INTERNAL with an incident id, the log gets the rest. Refuses to know any method.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from meterwatch.errors import Rejected
from meterwatch.metrics import Metrics
from meterwatch.status import abort

_DETAILS = "grpc-status-details-bin"


class Watch(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Interceptor for grpc.aio.server(interceptors=[...])."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
                read = partial(_parsed if kind.startswith("unary") else _parsed_each, handler.request_deserializer)
                watched = self._watched(details.method, behaviour, read)
                return make(watched, None, handler.response_serializer)
        return handler

    def _watched(self, method: str, behaviour: Any, parsed: Callable[[Any], Any]) -> Any:
        """The behaviour with its request parsed here, because grpc answers UNKNOWN to bytes that are no message."""
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                watched = _Context(context, method, self._metrics)
                try:
                    async with aclosing(behaviour(parsed(request), watched)) as responses:
                        async for response in responses:
                            yield response
                except Exception as error:
                    await abort(watched, error)

            return stream
        if inspect.iscoroutinefunction(behaviour):

            async def call(request: Any, context: Any) -> Any:
                watched = _Context(context, method, self._metrics)
                try:
                    return await behaviour(parsed(request), watched)
                except Exception as error:
                    await abort(watched, error)

            return call
        return behaviour


class _Context:
    """The call's context; an abort is counted on its way."""

    def __init__(self, context: Any, method: str, metrics: Metrics) -> None:
        self._context, self._method, self._metrics = context, method, metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        reason = reason_of(trailing_metadata)
        self._metrics.calls_refused.labels(self._method.rpartition("/")[2], code.name, reason).inc()
        await self._context.abort(code, details, trailing_metadata)
        raise AssertionError("abort() returned")


def _parsed(parse: Callable[[bytes], Any] | None, request: Any) -> Any:
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError as error:
        raise Rejected(
            "MALFORMED",
            f"{len(request)} bytes that are no request of this call ({error}); expected a serialised one; "
            "send one generated from the .proto files",
        ) from None


def _parsed_each(parse: Callable[[bytes], Any] | None, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    return requests if parse is None else (_parsed(parse, request) async for request in requests)


def reason_of(trailing_metadata: Any) -> str:
    """Reason of the ErrorInfo in the trailers; empty if there is none."""
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    for key, value in trailing_metadata:
        if key == _DETAILS:
            status.ParseFromString(value)
            if any(detail.Unpack(info) for detail in status.details):
                return str(info.reason)
    return ""
