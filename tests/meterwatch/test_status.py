"""Every error class becomes one status, and only errors that may pass carry RetryInfo."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2

from meterwatch.errors import (
    ConfigError,
    Denied,
    MeterwatchError,
    Missing,
    Overloaded,
    Rejected,
    Stale,
    StorageBroken,
    StorageUnavailable,
    Unauthenticated,
)
from meterwatch.status import MESSAGE_CHARS_MAX, abort, rich_status, status_of

CODES = [
    (Rejected("R", "m"), "INVALID_ARGUMENT", False),
    (Denied("R", "m"), "PERMISSION_DENIED", False),
    (Unauthenticated("R", "m"), "UNAUTHENTICATED", False),
    (Unauthenticated("R", "m", 0.0), "UNAUTHENTICATED", True),
    (Missing("R", "m"), "NOT_FOUND", False),
    (Stale("R", "m"), "ABORTED", False),
    (Overloaded("R", "m", 2.5), "RESOURCE_EXHAUSTED", True),
    (StorageUnavailable("m"), "UNAVAILABLE", True),
    (StorageBroken("m"), "DATA_LOSS", False),
    (ConfigError(["m"]), "INTERNAL", False),
    (ValueError("password"), "INTERNAL", False),
]


@pytest.mark.parametrize(("error", "code", "retryable"), CODES)
def test_an_error_class_has_one_code_and_retry_info_only_if_it_may_pass(
    error: Exception, code: str, retryable: bool
) -> None:
    given, reason, message, retry_after_s = status_of(error)
    status = rich_status(given, reason, message, retry_after_s)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert given.name == code
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("meterwatch", reason)
    assert len(status.details) == 1 + retryable
    if retryable:
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() == retry_after_s


def test_every_error_class_is_listed_above() -> None:
    ours = {kind for kind in MeterwatchError.__subclasses__() if kind.__module__ == MeterwatchError.__module__}
    assert {type(error) for error, _, _ in CODES} >= ours - {ConfigError}


def test_a_defect_of_ours_tells_the_caller_an_incident_and_nothing_else() -> None:
    _, _, message, _ = status_of(ValueError("password"))
    assert message.startswith("incident ")
    assert "password" not in message


def test_a_long_message_is_cut() -> None:
    assert len(rich_status(grpc.StatusCode.INTERNAL, "R", "x" * 5000).message) == MESSAGE_CHARS_MAX


async def test_an_abort_under_way_goes_on_unchanged() -> None:
    error = grpc.aio.AbortError()
    with pytest.raises(grpc.aio.AbortError) as raised:
        await abort(None, error)
    assert raised.value is error


async def test_a_caller_who_has_left_is_told_nothing_and_nothing_is_logged() -> None:
    with structlog.testing.capture_logs() as said, pytest.raises(asyncio.CancelledError):
        await abort(None, grpc.aio.InternalError("Failed execute_batch"))
    assert said == []
