"""Text files with one thing wrong: a word replaced, a line moved, a quote too many, bytes of another encoding.

What people and other systems do to CSV, TOML and YAML, and what somebody does who means harm. Deterministic: the same
generator state gives the same bytes. Refuses to know the formats.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

_WORD: Final = re.compile(r"[^\s,;:{}\[\]\"'#()=]+")
WORDS: Final = (
    "",
    "0",
    "-1",
    "-0",
    "1.5",
    "1e3",
    "1e999",
    "NaN",
    "nan",
    "inf",
    "-Infinity",
    "infinity",
    "0x10",
    "0o7",
    "1_000",
    "99999999999999999999",
    "9" * 400,
    "1e-400",
    "2147483648",
    "9223372036854775808",
    "0.1e1",
    "\u0663",
    "\uff11",
    "true",
    "NO",
    "yes",
    "~",
    "null",
    "None",
    "2026-02-30",
    "2026-13-01",
    "0000-00-00",
    "9999-12-31T23:59:60Z",
    "24:00",
    "12:30",
    "2026-03-29T02:30:00",
    "4714-11-24 BC",
    "'",
    '"',
    "''",
    '"""',
    "[",
    "]",
    "{",
    "}",
    "{}",
    "[]",
    "&a",
    "*a",
    "<<",
    "!!python/object/apply:os.system",
    "!!binary",
    "---",
    "...",
    "- - - -",
    "? :",
    ": ",
    "|",
    ">",
    "%s",
    "%YAML 9.9",
    "{0.__class__}",
    "{asset.__init__}",
    "{{",
    "=cmd()",
    "'; DROP TABLE reads; --",
    "../../etc/passwd",
    "/dev/stdin",
    "\\",
    "\\x00",
    "\t",
    "\r",
    "\x00",
    "\x1b[31m",
    "\x85",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\U0001f600",
    "e\u0301",
    "\u0410",
    "a" * 70,
    "a" * 300,
    "Mars/Base",
    "Europe/Berlin",
    "UTC",
    "__import__('os')",
    "**",
    "2 ** 9999",
    "(" * 40,
    "(" * 3000,
    "not " * 100,
    "-" * 200,
    "1 " * 300,
    "lambda: 0",
    "x.y",
    "x[0]",
    "f'{1}'",
    "1 if 1 else 2",
    "import_wh",
    "nominal_v",
    "15m",
    "1h30m",
    "9999999d",
    "meter",
    "transformer",
    "high",
    "M-1",
    "T-1",
    "900",
    "420",
)
"""Values that some reader somewhere has taken for another one, or fallen over."""

Way = Callable[[random.Random, str], str | bytes]


def _word(rng: random.Random, text: str) -> str:
    found = list(_WORD.finditer(text))
    if not found:
        return rng.choice(WORDS)
    one = rng.choice(found)
    return text[: one.start()] + rng.choice(WORDS) + text[one.end() :]


def _word_of_its_own(rng: random.Random, text: str) -> str:
    """A word where another one of the file stood: the right type at the wrong place."""
    found = list(_WORD.finditer(text))
    if len(found) < 2:
        return text * 2
    one, other = rng.choice(found), rng.choice(found)
    return text[: one.start()] + other.group() + text[one.end() :]


def _character(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(WORDS)[:1] + text[at + rng.randrange(2) :]


def _lines(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at : at + 2] = ["".join(lines[at : at + 2])]
        case 4:
            lines[at] = rng.choice(("  ", "\t", " ")) + lines[at]
        case 5:
            lines[at] = lines[at].lstrip()
        case _:
            lines[at : at + 1] = [lines[at]] * rng.choice((2, 50))
    return "\n".join(lines)


def _separators(rng: random.Random, text: str) -> str:
    old, new = rng.choice(((",", ";"), (",", "\t"), ("\n", "\r\n"), ("\n", "\r"), (": ", ":"), (".", ","), ("=", ":")))
    return text.replace(old, new, rng.choice((1, -1)))


def _cut(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text))]


def _from_the_midst(rng: random.Random, text: str) -> str:
    return text[rng.randrange(len(text)) :]


def _encoding(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32")))


def _byte(rng: random.Random, text: str) -> bytes:
    data = bytearray(text.encode())
    data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


WAYS: Final[tuple[Way, ...]] = (
    _word, _word, _word, _word, _word_of_its_own, _word_of_its_own, _character, _lines, _lines, _separators, _cut,
    _from_the_midst, _encoding, _byte,
)  # fmt: skip
"""Words most often: they leave the form whole, so that what is behind it is reached."""


def broken(rng: random.Random, text: str) -> bytes:
    """A sound file with one thing wrong with it."""
    made = rng.choice(WAYS)(rng, text)
    return made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")
