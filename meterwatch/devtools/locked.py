"""What requirements.lock says: every package with its version and the hashes of its wheels. Text in, rows out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).parents[2] / "requirements.lock"
_PIN: Final = re.compile(r"([a-z0-9][a-z0-9._-]*)==(\S+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package."""

    name: str
    """Normalised: lower case, dashes."""
    version: str
    sha256: tuple[str, ...]
    """Of its files, for every platform."""


def locked(text: str) -> list[Locked]:
    """The packages of a lock file, in its order. ValueError if one has no hash, or a line is none of the format."""
    found: list[Locked] = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pin, hashes = _PIN.match(line), tuple(_HASH.findall(line))
        if pin is None or not hashes:
            raise ValueError(f"{line[:100]!r} is no pinned package with hashes; make the lock anew with 'make lock'")
        found.append(Locked(normal(pin[1]), pin[2], hashes))
    return found


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
