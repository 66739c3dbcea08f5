"""Many large calls at once on one connection, as HTTP/2 lets them be sent: the sender holds one body for all of them.

Sends what the windows of streams and connection allow, answers settings and pings, and tells how each call ended.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Final, Self

from raw_http2 import (
    ACK,
    CODES,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    STATUS,
    WINDOW_UPDATE,
    frame,
    headers,
    setting,
)

WINDOW: Final = 65_535
FRAME_MAX: Final = 16_384
HEADER_TABLE_SIZE: Final = 1


class Flood:
    """One connection. `ends`: by number of the call, name of its status, or RST_STREAM; and what was said with it."""

    def __init__(self, address: str, path: str, beginnings: Sequence[bytes], rest: bytes) -> None:
        """Each call's message is one of the beginnings and then the rest."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 60.0)
        self._arrived = b""
        self._initial = self._window = WINDOW
        self._windows: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._rest = rest
        self.ends: dict[int, tuple[str, bytes]] = {}
        # without a table of headers each status is written out
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, setting(HEADER_TABLE_SIZE, 0)))
        for number, beginning in enumerate(beginnings):
            stream = 2 * number + 1
            size = len(beginning) + len(rest)
            self._bodies[stream] = b"\x00" + size.to_bytes(4, "big") + beginning
            self._windows[stream], self._sent[stream] = self._initial, 0
            self._socket.sendall(frame(HEADERS, END_HEADERS, stream, headers(path)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, enough_s: float) -> list[str]:
        """Send all that may be sent until every call has ended; the names of their statuses."""
        deadline = time.monotonic() + enough_s
        while len(self.ends) < len(self._bodies):
            assert time.monotonic() < deadline, f"{len(self._bodies) - len(self.ends)} calls have no end"
            self._take(wait_s=0.0 if self._send() else 1.0)
        return [self.ends[stream][0] for stream in self._bodies]

    def _send(self) -> bool:
        """A frame of each call that may send one; False: none may."""
        sent = False
        for stream, body in self._bodies.items():
            at, size = self._sent[stream], len(body) + len(self._rest)
            more = min(FRAME_MAX, self._windows[stream], self._window, size - at)
            if stream in self.ends or more <= 0:
                continue
            last = END_STREAM if at + more == size else 0
            self._socket.sendall(frame(DATA, last, stream, self._piece(body, at, more)))
            self._sent[stream] += more
            self._windows[stream] -= more
            self._window -= more
            sent = True
        return sent

    def _piece(self, body: bytes, at: int, size: int) -> bytes:
        if at < len(body):
            return (body + self._rest[:FRAME_MAX])[at : at + size]
        return self._rest[at - len(body) : at - len(body) + size]

    def _take(self, wait_s: float) -> None:
        while select.select([self._socket], [], [], wait_s)[0]:
            wait_s = 0.0
            part = self._socket.recv(1 << 18)
            assert part, "the connection was closed"
            self._arrived += part
            while len(self._arrived) >= 9:
                size = 9 + int.from_bytes(self._arrived[:3], "big")
                if len(self._arrived) < size:
                    break
                head, payload = self._arrived[:9], self._arrived[9:size]
                self._arrived = self._arrived[size:]
                self._frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, payload)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        number = int.from_bytes(payload[:4], "big")
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += number
        elif kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += number
        elif kind == HEADERS and flags & END_STREAM:
            found = STATUS.search(payload)
            self.ends.setdefault(stream, (CODES[int(found.group(1))] if found else "trailers", payload))
        elif kind == RST_STREAM:
            self.ends.setdefault(stream, (f"RST_STREAM {number}", b""))
        assert kind != GOAWAY, payload

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == INITIAL_WINDOW_SIZE:
                size = int.from_bytes(payload[at + 2 : at + 6], "big")
                for stream in self._windows:
                    self._windows[stream] += size - self._initial
                self._initial = size
        self._socket.sendall(frame(SETTINGS, ACK, 0))
