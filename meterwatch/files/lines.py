"""Bytes of a text file to blocks of lines.

Promises: any file size in bounded memory; UTF-8 with or without BOM, LF or CRLF; line numbers as an editor shows them.
Refuses NUL, other encodings and lines beyond LINE_MAX by line number. Refuses to know what the lines mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from meterwatch.files.columns import FileError

BLOCK_BYTES = 8 << 20
"""About 150,000 CSV rows: long arrays, and their Python strings take some 100 MB at most."""
LINE_MAX = 64 << 10
"""A NEM12 day of 1-minute values with full precision is below 20 KiB."""

_BOM = b"\xef\xbb\xbf"


def blocks(stream: IO[bytes], file: str, head: bytes = b"") -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, lines without ends); `head` is what was read already; raise FileError."""
    line = 1
    rest = (head or stream.read(LINE_MAX)).removeprefix(_BOM)
    if rest[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileError(file, 1, "the file is UTF-16; expected UTF-8; save it as UTF-8")
    while True:
        data = stream.read(BLOCK_BYTES)
        block = rest + data
        rest = b""
        if data:
            cut = block.rfind(b"\n") + 1
            block, rest = block[:cut], block[cut:]
            if len(rest) > LINE_MAX:
                raise FileError(file, line + block.count(b"\n"), _too_long(len(rest)))
        if block:
            lines = _decode(block, file, line)
            yield line, lines
            line += len(lines)
        if not data:
            return


def _decode(block: bytes, file: str, line: int) -> list[str]:
    nul = block.find(b"\0")
    if nul >= 0:
        message = "the line holds a NUL byte (U+0000); expected text; remove it"
        raise FileError(file, line + block.count(b"\n", 0, nul), message)
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"byte 0x{block[error.start]:02x} is not UTF-8 (Latin-1 or Windows-1252?); save the file as UTF-8"
        raise FileError(file, line + block.count(b"\n", 0, error.start), message) from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    longest = max(map(len, lines))
    if longest > LINE_MAX:
        at = next(i for i, found in enumerate(lines) if len(found) > LINE_MAX)
        raise FileError(file, line + at, _too_long(longest))
    return lines


def _too_long(length: int) -> str:
    return f"the line has {length} characters or more; expected at most {LINE_MAX}; is this text with line ends?"
