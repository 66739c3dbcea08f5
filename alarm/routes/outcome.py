"""What came of one try to send a message. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterwatch.notices import DeliveryState

REFUSING: Final = frozenset({400, 410, 413, 414, 415, 422, 431})
"""The message itself is wrong. All else may be mended, as a wrong token or path, and then the message must come."""
RETRY_AFTER_S_MAX: Final = 600.0
SAID_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """state WAITING: failed, to be tried again, if the receiver says so not before retry_after_s."""

    state: DeliveryState
    text: str = ""
    retry_after_s: float = 0.0


def sent() -> Outcome:
    """The target has it."""
    return Outcome(DeliveryState.SENT)


def failed(text: str, retry_after_s: float = 0.0) -> Outcome:
    """Try again."""
    return Outcome(DeliveryState.WAITING, text, retry_after_s)


def of_status(status: int, retry_after: str, said: bytes) -> Outcome:
    """What an HTTP status means. A redirect is a failure: messages go to the addresses in the file and no other."""
    if 200 <= status < 300:
        return sent()
    text = f"HTTP {status}"
    if said:
        text += ": " + " ".join(said.decode("utf-8", "replace").split())[:SAID_CHARS_MAX]
    if status in REFUSING:
        return Outcome(DeliveryState.DEAD, text)
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return failed(text, min(seconds, RETRY_AFTER_S_MAX))
