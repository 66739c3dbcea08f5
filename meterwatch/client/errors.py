"""What a client raises. A ValueError, besides, means that the arrays or rows given were not as they must be."""

from __future__ import annotations

from meterwatch.errors import MeterwatchError


class Refused(MeterwatchError):
    """The service ended the call and trying again unchanged is useless."""

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(f"{reason or code}: {message}")
        self.code = code
        """Name of the gRPC status."""
        self.reason = reason
        """Stable name the service gave; empty if the status came from gRPC itself."""
        self.message = message


class Superseded(Refused):
    """A newer stream with the same head-end and epoch took over: two programs send under one name."""


class Unreachable(MeterwatchError):
    """The service gave no answer for give_up_after_s. Unanswered batches may or may not be stored."""


class Incomplete(MeterwatchError):
    """The service counted something else than was sent, or answered a batch nobody sent."""
