"""One place where errors become gRPC statuses.

Promise: every status that is not OK carries google.rpc.Status details with ErrorInfo{reason, domain "meterwatch"}, and
RetryInfo exactly when the same call may succeed later. What the tree of meterwatch.errors does not know is our bug: the
caller then gets an incident id and nothing else, the log gets the rest. A status that grpc itself sends has no
ErrorInfo, so the two can be told apart.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from meterwatch.errors import (
    Denied,
    Draining,
    MeterwatchError,
    Missing,
    Overloaded,
    Rejected,
    Stale,
    StorageBroken,
    StorageUnavailable,
    Unauthenticated,
)

DOMAIN: Final = "meterwatch"
MESSAGE_CHARS_MAX: Final = 1000
"""The message travels twice in the trailers, and clients limit those to 8 KiB by default."""

_log = structlog.get_logger(__name__)


def rich_status(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    retry_after_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    """Make a google.rpc.Status with ErrorInfo, and with RetryInfo if retry_after_s is given."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata or {})))]
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(0, round(retry_after_s * 1000)))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code.value[0], message=message[:MESSAGE_CHARS_MAX], details=details)


async def abort_with(
    context: Any,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    retry_after_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> NoReturn:
    """End the call with this status. `context` is a grpc.aio servicer context."""
    status = rpc_status.to_status(rich_status(code, reason, message, retry_after_s, metadata))
    try:
        await context.abort(status.code, status.details, status.trailing_metadata)
    except grpc.aio.InternalError:  # the caller has left: nobody is there to be told, and nothing is to be logged
        raise asyncio.CancelledError from None
    raise AssertionError("abort() returned")


async def abort_in_time(
    context: Any,
    seconds: float,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    retry_after_s: float | None = None,
) -> NoReturn:
    """End a call with this status, and wait no longer for it: gRPC takes no status past a message under way.

    Whoever reads on later gets what is on its way, and then the status.
    """
    try:
        async with asyncio.timeout(seconds):
            await abort_with(context, code, reason, message, retry_after_s)
    except (TimeoutError, grpc.aio.InternalError):  # not in time, or the other side has left
        _log.warning("stream ended, and nobody read that", reason=reason, peer=context.peer())
        raise asyncio.CancelledError from None  # the one end gRPC takes from a handler that adds no status


async def abort(context: Any, error: Exception) -> NoReturn:
    """End the call with the status that belongs to `error`. An abort already under way goes on as it is."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.InternalError):  # as in abort_with: no message reaches a caller who has left
        raise asyncio.CancelledError from None
    code, reason, message, retry_after_s = status_of(error)
    await abort_with(context, code, reason, message, retry_after_s)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, str, float | None]:
    """Code, reason, message and seconds to wait (None: do not retry unchanged). Logs what only an operator can mend."""
    match error:
        case Rejected():
            return grpc.StatusCode.INVALID_ARGUMENT, error.reason, error.message, None
        case Denied():
            return grpc.StatusCode.PERMISSION_DENIED, error.reason, error.message, None
        case Unauthenticated():
            return grpc.StatusCode.UNAUTHENTICATED, error.reason, error.message, error.retry_after_s
        case Missing():
            return grpc.StatusCode.NOT_FOUND, error.reason, error.message, None
        case Stale():
            return grpc.StatusCode.ABORTED, error.reason, error.message, None
        case Overloaded():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, error.reason, error.message, error.retry_after_s
        case Draining():
            return grpc.StatusCode.UNAVAILABLE, "DRAINING", error.message, error.retry_after_s
        case StorageUnavailable():
            return grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", error.message, error.retry_after_s
        case StorageBroken():
            incident = _incident("stored data broken", error)
            text = f"an operator must look at the stored data: incident {incident}"
            return grpc.StatusCode.DATA_LOSS, "STORAGE_BROKEN", text, None
        case _:
            kind = "error without a status" if isinstance(error, MeterwatchError) else "unexpected error"
            return grpc.StatusCode.INTERNAL, "INTERNAL", f"incident {_incident(kind, error)}", None


def _incident(event: str, error: Exception) -> str:
    incident = uuid.uuid4().hex[:12]
    _log.error(event, incident=incident, exc_info=error)
    return incident


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
