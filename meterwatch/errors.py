"""The errors of the service, by whose fault they are. meterwatch.status maps them to gRPC, and nothing else does.

Messages have the form: what arrived; what was expected; what to change.
"""

from __future__ import annotations

from typing import Final

SAID_CHARS_MAX: Final = 200


class MeterwatchError(Exception):
    """Root of the tree."""


class Rejected(MeterwatchError):
    """The sender's fault and permanent: sending it again unchanged is useless."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Denied(MeterwatchError):
    """The caller may not do this."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Unauthenticated(MeterwatchError):
    """Who calls is not known: nothing was shown, or nothing that holds.

    retry_after_s: what was shown held when the call began; with what the caller has renewed it may go on.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Missing(MeterwatchError):
    """What the caller names does not exist."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Stale(MeterwatchError):
    """The caller decided on a state that has changed since: read again, then decide again."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Overloaded(MeterwatchError):
    """The service has no room now; try again after retry_after_s seconds."""

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class StorageUnavailable(MeterwatchError):
    """The database cannot be reached, is starting, is read-only, or the outcome of a commit is unknown: try again."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class Draining(StorageUnavailable):
    """The service has been told to stop and takes nothing new: send again, there or elsewhere."""


class StorageBroken(MeterwatchError):
    """Stored data is damaged or the schema is not ours: an operator must look."""


class ConfigError(MeterwatchError):
    """Start only. All problems found, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def said(error: Exception) -> str:
    """An error of ours in one line, for people."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:SAID_CHARS_MAX]
