"""What a target of `meterwatch.devtools.fuzz` is, and one run at it.

A target makes sound inputs, breaks them, and has the code that must take or refuse them. `take` returns the reason of a
refusal that is ours, or ACCEPTED and in further lines what else came of it, for a guide that sees no arrays. Every
other exception, a refusal without a sentence, and an input that is accepted and breaks what acceptance promises is a
finding. Knows none of the readers, so that it can be there before they are.
"""

from __future__ import annotations

import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from meterwatch.errors import Rejected

ACCEPTED: Final = "accepted"
SOUND_EVERY: Final = 50
"""One input in so many is left sound, and must be taken."""
FINDINGS_MAX: Final = 5
"""Of one target; then the rest of its runs is left out."""


class Finding(Exception):
    """Something accepted that must not be, or refused without saying why."""


class Target(NamedTuple):
    """What is aimed at. break_: one thing wrong with a sound input."""

    sound: Callable[[random.Random], bytes]
    break_: Callable[[random.Random, bytes], bytes]
    take: Callable[[bytes], str]


def made(name: str, target: Target, seed: int, number: int) -> bytes:
    """The input of one run."""
    rng = random.Random(f"{seed} {name} {number}")
    sound = target.sound(rng)
    return sound if number % SOUND_EVERY == 0 else target.break_(rng, sound)


def tried(target: Target, data: bytes, *, sound: bool = False) -> str:
    """What `take` returns, or the reason of the refusal; other errors are raised, and a refusal of what is sound."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where a number wraps
            outcome = target.take(data)
    except Rejected as error:
        if not error.reason or not error.message:
            raise AssertionError("a refusal without a reason") from error
        outcome = error.reason
    if sound and outcome.partition("\n")[0] != ACCEPTED:
        raise AssertionError(f"a sound input was refused: {outcome}")
    return outcome


def told(name: str, data: bytes, error: Exception) -> str:
    """A finding in words."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{name}: {type(error).__name__}: {str(error)[:300]} at {last.filename}:{last.lineno}\n"
        f"    input {data[:200]!r}{'...' if len(data) > 200 else ''}"
    )


def said(problems: Iterable[tuple[int, str]], content: bytes) -> str:
    """ACCEPTED without problems, else the first; Finding if one does not say where and what, on one printable line."""
    last = content.count(b"\n") + content.count(b"\r") + 2
    first = ""
    for line, message in problems:
        first = first or message
        if not 0 <= line <= last:
            raise Finding(f"line {line} of a file of {last}: {message}")
        if not message or not message.isprintable():
            raise Finding(f"line {line}: a message that is no line of text: {message!r}")
    return _kind(first) if first else ACCEPTED


def _kind(message: str) -> str:
    """A sentence without what arrived: refusals of one kind have one name."""
    return re.sub(r"'.*'|\".*\"|/\S+|[\d.]+|0x\w+", "_", message)[:60]
