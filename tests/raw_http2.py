"""HTTP/2 by hand: what no gRPC library sends. Frames go out as bytes, and how a stream ends is told in one word.

The frames themselves are those of meterwatch.devtools.http2_frames; of the answers only what is plain in their bytes is
read: the kind of the frame that ends a stream, and the first grpc-status of a connection.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

from meterwatch.devtools.http2_frames import (
    ACK,
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
    WINDOW_UPDATE,
    frame,
    headers,
    message,
    setting,
    window,
)

__all__ = [
    "ACK",
    "CODES",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "INITIAL_WINDOW_SIZE",
    "PING",
    "PREFACE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Http2",
    "frame",
    "headers",
    "message",
    "setting",
    "window",
]
_HEAD: Final = 9
STATUS: Final = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")
CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class Http2:
    """One connection, past its preface. settings: what its first frame says of us."""

    def __init__(self, address: str, timeout_s: float = 20.0, settings: bytes = b"", window: int | None = None) -> None:
        """window: bytes of a stream that may be sent to us before we `widen` it; None: as HTTP/2 has it."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        if window is not None:
            settings += INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a connection that is closed already is no error, its end tells."""
        with suppress(ConnectionError):
            self._socket.sendall(data)

    def call(self, path: str, data: bytes, change: Mapping[str, str] | None = None, *, stream: int = 1) -> None:
        """Open a stream with a whole body."""
        self.send(frame(HEADERS, END_HEADERS, stream, headers(path, change)))
        self.send(frame(DATA, END_STREAM, stream, data))

    def widen(self, stream: int, size: int) -> None:
        """Let so many bytes more of a stream be sent to us."""
        self.send(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    def end(self, stream: int = 1) -> str:
        """How the stream ended: the name of a gRPC status, RST_STREAM or GOAWAY with its number, or `closed`."""
        while True:
            kind, flags, of, payload = self._frame()
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            elif kind == GOAWAY:
                said = payload[8:].decode("ascii", "replace")
                return f"GOAWAY {int.from_bytes(payload[4:8], 'big')} {said}".strip()
            elif kind == RST_STREAM and of == stream:
                return f"RST_STREAM {int.from_bytes(payload, 'big')}"
            elif kind == HEADERS and of == stream and flags & END_STREAM:
                found = STATUS.search(payload)
                return CODES[int(found.group(1))] if found else "trailers"
            elif kind < 0:
                return "closed"

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(_HEAD)
        if len(head) < _HEAD:
            return -1, 0, 0, b""
        payload = self._exactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, payload

    def _exactly(self, size: int) -> bytes:
        out = b""
        try:
            while len(out) < size and (part := self._socket.recv(size - len(out))):
                out += part
        except ConnectionError:
            pass
        return out
