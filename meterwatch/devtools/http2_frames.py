"""HTTP/2 and gRPC framing by hand, for what no library sends: each value as it stands on the wire.

Nothing is checked: a frame that lies about itself is what this is for. Header fields are written as literals, which
every decoder takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Kinds of frames."""
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 1, 1, 4, 8, 32
"""Flags; ACK is that of SETTINGS and PING."""
INITIAL_WINDOW_SIZE: Final = 4
"""A parameter of SETTINGS."""
HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16_384
"""Of a frame's payload, unless the other side said otherwise."""


class Frame(NamedTuple):
    """One frame. says: the length that it claims; None: that of its payload."""

    kind: int
    flags: int
    stream: int
    payload: bytes = b""
    says: int | None = None

    def encoded(self) -> bytes:
        size = len(self.payload) if self.says is None else self.says
        head = size.to_bytes(3, "big") + bytes([self.kind, self.flags]) + self.stream.to_bytes(4, "big")
        return head + self.payload


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return Frame(kind, flags, stream, payload).encoded()


def message(payload: bytes, *, flag: int = 0, says: int | None = None) -> bytes:
    """A gRPC message; says: the length it claims."""
    return bytes([flag]) + (len(payload) if says is None else says).to_bytes(4, "big") + payload


def setting(identifier: int, value: int) -> bytes:
    """One parameter of a SETTINGS frame."""
    return identifier.to_bytes(2, "big") + value.to_bytes(4, "big")


def window(more: int, stream: int) -> bytes:
    """The frame that lets the other side send so many bytes more; stream 0: of the connection."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def literal(name: bytes, value: bytes) -> bytes:
    """One header field without a table, each text of at most 126 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def headers(path: str, change: Mapping[str, str] | None = None) -> bytes:
    """The header block of a call; a changed field of no value is left out."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers",
        "content-type": "application/grpc", **(change or {}),
    }  # fmt: skip
    return b"".join(literal(name.encode(), value.encode()) for name, value in fields.items() if value)
