"""When a broken call is tried again, and after how long: one place for streams, events and feeds."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from meterwatch.client.errors import Refused, Superseded
from meterwatch.client.secure import PlainToken, Security

_RETRIED: Final = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
_OUR_BUGS: Final = {"INTERNAL", "UNKNOWN"}
BUGS_MAX: Final = 5
"""Failures of the service's own code that are retried before they count as an answer."""

CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # the older name of the same; the version of grpc decides which one counts
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.enable_retries", 0),  # we retry, and know what may be
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
)


class Failure(NamedTuple):
    """How a call ended."""

    code: str
    reason: str
    message: str
    retry_after_s: float | None

    @property
    def is_bug(self) -> bool:
        return self.code in _OUR_BUGS

    @property
    def retried(self) -> bool:
        """True if the same call may succeed later."""
        if self.code in ("RESOURCE_EXHAUSTED", "UNAUTHENTICATED"):  # the latter when a credential ended during a stream
            return self.retry_after_s is not None
        return self.code in _RETRIED or self.is_bug

    def error(self) -> Refused:
        kind = Superseded if self.reason == "SUPERSEDED" else Refused
        return kind(self.code, self.reason, self.message)


def failure_of(error: grpc.RpcError) -> Failure:
    """Read the status of a failed call with its ErrorInfo and RetryInfo."""
    reason, delay = "", None
    try:
        status = rpc_status.from_call(error)
    except (ValueError, AttributeError):  # details that contradict the status, or none at all
        status = None
    for packed in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return Failure(error.code().name, reason, error.details() or "", delay)


@dataclass
class Backoff:
    """Full jitter: each wait is drawn from 0 to a limit that doubles from first_s to max_s."""

    first_s: float = 0.5
    max_s: float = 30.0
    rng: random.Random = field(default_factory=random.Random)
    tries: int = 0

    def reset(self) -> None:
        self.tries = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Seconds to wait; at_least_s is what the service asked for, and the jitter comes on top."""
        limit = min(self.max_s, self.first_s * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return (at_least_s or 0.0) + self.rng.uniform(0.0, limit)


def open_channel(address: str, credentials: Any = None) -> Any:
    """A new channel; credentials None: as the environment says (meterwatch.client.secure), plain text if it does not.

    ConfigError if the environment contradicts itself or names files that cannot be read.
    """
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
    security = Security.of(os.environ).checked(address)
    credentials = security.credentials()
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
    channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    if security.token_file is None:
        return channel
    return grpc.intercept_channel(channel, PlainToken(security.token_file))


def why_silent(address: str, credentials: Any = None) -> str:
    """What is wrong with the certificates, where that is why nobody answers; else, and for given credentials, empty."""
    if credentials is not None:
        return ""
    from meterwatch.client.refusal import refusal  # brings the library for certificates, which few commands need

    return refusal(address, Security.of(os.environ))
