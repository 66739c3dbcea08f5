"""Sends what meterwatch.devtools.broken_http2 makes, a connection each, and says how each of them ended.

Promises: a connection follows from the seed and its number alone. Refuses to judge what comes back: whatever HTTP/2 has
for it will do.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from meterwatch.devtools.broken_http2 import Conversation, conversation
from meterwatch.devtools.http2_frames import END_STREAM, GOAWAY, HEAD_BYTES, HEADERS, PREFACE, RST_STREAM

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection that ends with RST."""
WAITS_S: Final = 0.05
"""So long an answer is read, and so long a server that does not read on is waited for."""
ENOUGH_S: Final = 30.0
"""A limit for a server that takes no connection, not an expectation."""


def drawn(seed: int, number: int) -> Conversation:
    """What the connection of this number says."""
    return conversation(random.Random(f"{seed} {number}"))


async def send_all(
    address: str, conversations: Iterable[Conversation], tls: ssl.SSLContext | None = None
) -> Counter[str]:
    """Send these, all at once; how often a connection ended how. `refused`: it was not taken."""
    return Counter(await asyncio.gather(*(_one(address, each, tls) for each in conversations)))


async def _one(address: str, sent: Conversation, tls: ssl.SSLContext | None) -> str:
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port), ssl=tls), ENOUGH_S)
    except (OSError, TimeoutError):
        return "refused"
    answer = bytearray()
    over = False
    if sent.end == "resets" and (connected := writer.get_extra_info("socket")) is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    try:
        for piece in sent.pieces:
            writer.write(piece)
            with suppress(TimeoutError):
                await asyncio.wait_for(writer.drain(), WAITS_S)
        if sent.end == "half closes" and writer.can_write_eof():
            writer.write_eof()
        if sent.end in ("waits", "half closes"):
            async with asyncio.timeout(WAITS_S):
                while part := await reader.read(65_536):
                    answer += part
            over = True
    except TimeoutError:
        pass
    except OSError:  # reset by the service; ssl.SSLError is one
        over = True
    finally:
        await _closed(writer)
    return f"{said(bytes(answer))}, {'closed' if over else 'left open'}"


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close; what nobody takes is not waited for."""
    writer.close()
    closed = asyncio.ensure_future(writer.wait_closed())
    _, late = await asyncio.wait([closed], timeout=WAITS_S)
    if late:
        writer.transport.abort()
    with suppress(OSError):
        await closed


def calls_of(sent: Conversation) -> int:
    """How many calls a conversation begins at most."""
    data = b"".join(sent.pieces)
    return sum(kind == HEADERS for kind, _, _ in _frames(data[len(PREFACE) :])) if data.startswith(PREFACE) else 0


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and payload of each frame; the last may be cut."""
    at = 0
    while at + HEAD_BYTES <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        yield data[at + 3], data[at + 4], data[at + HEAD_BYTES : at + HEAD_BYTES + size]
        at += HEAD_BYTES + size


def said(answer: bytes) -> str:
    """What a service answered on a connection, in a word: the worst of it."""
    found = set()
    for kind, flags, payload in _frames(answer):
        if kind == GOAWAY:
            return f"GOAWAY {int.from_bytes(payload[4:8], 'big')}"
        if kind == RST_STREAM:
            found.add("a stream reset")
        elif kind == HEADERS and flags & END_STREAM:
            found.add("a status")
    return min(found, default="nothing said")
