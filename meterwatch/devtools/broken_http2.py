"""HTTP/2 conversations with one thing wrong: a sound call is put down as frames, and one way of breaking it is drawn.

Buggy clients, proxies and attackers differ from a library in these ways; random bytes end at the first frame, so they
are one way among many. Deterministic: the same generator gives the same bytes. Refuses to know sockets, and what is
answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from meterwatch.devtools import broken_wire
from meterwatch.devtools.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    headers,
    literal,
    message,
    setting,
)
from meterwatch.v1 import alarms_pb2, ingest_pb2

READS, STREAM, SUBSCRIBE = (
    f"/meterwatch.v1.{method}" for method in ("Ingest/SendReads", "Ingest/Stream", "Alarms/Subscribe")
)
HEAD_END: Final = "HES-1"
PATHS: Final = (READS, STREAM, SUBSCRIBE, "/grpc.health.v1.Health/Check", "/meterwatch.v1.Alarms/ListAlarms")
STREAMS_MAX: Final = 2**31 - 1
"""The highest number of a stream."""
FLOOD: Final = 600
"""Of one thing in a row: more than the calls that a connection may have under way."""
ENDS: Final = ("waits", "waits", "closes", "resets", "half closes")
"""What follows the last byte: the answer is read for a while; the connection is closed, reset, closed for sending."""


class Conversation(NamedTuple):
    """What one connection sends. way: the name of what is wrong."""

    way: str
    pieces: tuple[bytes, ...]
    end: str


def conversation(rng: random.Random) -> Conversation:
    """One connection's bytes, cut where it pleases."""
    way = rng.choice(WAYS)
    made = way(rng, sound(rng))
    data = made if isinstance(made, bytes) else PREFACE + encoded(made)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
    pieces = tuple(data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True))
    return Conversation(way.__name__.strip("_"), pieces, rng.choice(ENDS))


def encoded(frames: Iterable[Frame]) -> bytes:
    """Frames as they go out."""
    return b"".join(one.encoded() for one in frames)


def sound(rng: random.Random) -> list[Frame]:
    """A call as a library makes it, of a method that there is, with a message that is or is not its own."""
    path = rng.choice(PATHS)
    return [
        Frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 65_535)),
        Frame(SETTINGS, ACK, 0),
        Frame(HEADERS, END_HEADERS, 1, headers(path)),
        Frame(DATA, 0, 1, message(_request(rng, path))),
        Frame(WINDOW_UPDATE, 0, 0, (1000).to_bytes(4, "big")),
        Frame(PING, 0, 0, rng.randbytes(8)),
        Frame(DATA, END_STREAM, 1),
    ]


def _request(rng: random.Random, path: str) -> bytes:
    if path == STREAM:
        return ingest_pb2.IngestRequest(hello=ingest_pb2.Hello(head_end=HEAD_END, epoch=1)).SerializeToString()
    if path == SUBSCRIBE:
        return alarms_pb2.SubscribeRequest(from_seq=rng.choice((0, 1, 2**40))).SerializeToString()
    read = ingest_pb2.Read(meter="X-1", end_us=900_000_000, import_wh=1)
    request = ingest_pb2.SendReadsRequest(head_end=HEAD_END, epoch=1, seq=1, interval_s=900, read=[read])
    return request.SerializeToString() if path == READS else b""


Way = Callable[[random.Random, list[Frame]], bytes | list[Frame]]


# -- any frame --------------------------------------------------------------------------------------------------------


def _instead(frames: Sequence[Frame], at: int, *others: Frame) -> list[Frame]:
    return [*frames[:at], *others, *frames[at + 1 :]]


def _other_kind(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    return _instead(frames, at, frames[at]._replace(kind=rng.choice((*range(10), 10, 11, 0x7F, 0xFF))))


def _other_flags(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    return _instead(frames, at, frames[at]._replace(flags=rng.randrange(256)))


def _other_stream(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    return _instead(frames, at, frames[at]._replace(stream=rng.choice((0, 1, 2, 3, STREAMS_MAX, 2**31, 2**32 - 1))))


def _other_length(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    size = len(frames[at].payload)
    says = rng.choice((0, max(size - 1, 0), size + 1, size + 9, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**24 - 1))
    return _instead(frames, at, frames[at]._replace(says=says))


def _ragged(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    payload = frames[at].payload
    payload = payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.5 else payload + rng.randbytes(5)
    return _instead(frames, at, frames[at]._replace(payload=payload))


def _too_large(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    return _instead(frames, at, frames[at]._replace(payload=bytes(FRAME_BYTES_MAX + rng.choice((0, 1, 50_000)))))


def _left_out(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    return _instead(frames, rng.randrange(len(frames)))


def _twice(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    at = rng.randrange(len(frames))
    return _instead(frames, at, frames[at], frames[at])


def _in_disorder(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    return rng.sample(frames, len(frames))


def _cut(rng: random.Random, frames: list[Frame]) -> bytes:
    whole = PREFACE + encoded(frames)
    return whole[: rng.randrange(len(whole))]


def _some_bytes(rng: random.Random, frames: list[Frame]) -> bytes:
    whole = bytearray(PREFACE + encoded(frames))
    for _ in range(rng.choice((1, 1, 3, 20))):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def _rubbish(rng: random.Random, _: list[Frame]) -> bytes:
    return rng.choice((PREFACE, PREFACE[:-3], b"")) + rng.randbytes(rng.choice((1, 9, 200, 5000)))


def _other_protocol(rng: random.Random, _: list[Frame]) -> bytes:
    hello = bytes.fromhex("16030100c6010000c20303") + rng.randbytes(190)
    return rng.choice((b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", b"\r\n\r\n", hello, b"SSH-2.0-x\r\n", bytes(4096)))


def _random_frames(rng: random.Random, _: list[Frame]) -> list[Frame]:
    def one() -> Frame:
        payload = rng.randbytes(rng.choice((0, 4, 8, 60)))
        return Frame(rng.randrange(11), rng.randrange(256), rng.choice((0, 1, 1, 3, 4)), payload)

    return [one() for _ in range(rng.choice((3, 30, 300)))]


# -- one kind of frame ------------------------------------------------------------------------------------------------


def _settings(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    values = (0, 1, 2, FRAME_BYTES_MAX - 1, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
    some = b"".join(
        setting(rng.choice((1, 2, 3, 4, 5, 6, 8, 0xFE03, 0xFFFF)), rng.choice(values))
        for _ in range(rng.choice((1, 3, 1000)))
    )
    strange = rng.choice((
        Frame(SETTINGS, 0, 0, some), Frame(SETTINGS, 0, 0, some[:-1]), Frame(SETTINGS, ACK, 0, some),
        Frame(SETTINGS, 0, 1, some),
    ))  # fmt: skip
    return _instead(frames, rng.randrange(2), *[strange] * rng.choice((1, 1, FLOOD)))


def _windows(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    more = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1))
    strange = Frame(WINDOW_UPDATE, 0, rng.choice((0, 1, 3, 2)), more.to_bytes(4, "big"))
    return [*frames[:3], *[strange] * rng.choice((1, 2, FLOOD)), *frames[3:]]


def _no_window(_: random.Random, frames: list[Frame]) -> list[Frame]:
    """Nobody reads an answer: not one byte of a stream may be sent to us."""
    return [Frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0)), *frames[1:]]


def _beyond_window(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    """More than flow control allows before an answer can have come."""
    size = rng.choice((FRAME_BYTES_MAX, 1))
    return [*frames[:4], *[Frame(DATA, 0, 1, bytes(size))] * rng.choice((5, 40)), *frames[4:]]


def _continuations(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    block = headers(READS)
    cut = rng.randrange(len(block))
    begun = Frame(HEADERS, 0, 1, block[:cut])
    rest = [
        [Frame(CONTINUATION, 0, 1)] * FLOOD,
        [Frame(CONTINUATION, 0, 1, literal(b"x-y", b"z" * 100))] * FLOOD,
        [Frame(CONTINUATION, END_HEADERS, 3, block[cut:])],
        [Frame(PING, 0, 0, bytes(8)), Frame(CONTINUATION, END_HEADERS, 1, block[cut:])],
        [Frame(CONTINUATION, END_HEADERS, 1, block[cut:]), Frame(CONTINUATION, END_HEADERS, 1, block[cut:])],
        [Frame(HEADERS, END_HEADERS, 3, block)],
    ]
    return [*frames[:2], begun, *rng.choice(rest), *frames[3:]]


def _resets(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    block = headers(rng.choice(PATHS))
    flood: list[Frame] = []
    for stream in range(1, 2 * rng.choice((1, 50, FLOOD)), 2):
        flood += [
            Frame(HEADERS, END_HEADERS, stream, block),
            Frame(RST_STREAM, 0, stream, rng.choice((8, 0, 2**32 - 1)).to_bytes(4, "big")),
        ]
    strange = [
        [Frame(RST_STREAM, 0, rng.choice((0, 1, 9)), bytes(4))], [Frame(RST_STREAM, 0, 1, bytes(3))], flood, flood
    ]  # fmt: skip
    return [*frames[:2], *rng.choice(strange), *frames[2:]]


def _many_streams(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    """Calls that are begun and never go on, as many as a connection may have and more."""
    block = headers(rng.choice(PATHS))
    step = rng.choice((2, 2, 200))
    return [*frames[:2], *(Frame(HEADERS, END_HEADERS, 1 + step * n, block) for n in range(FLOOD))]


def _pings(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    size = rng.choice((0, 7, 8, 9))
    strange = Frame(PING, rng.choice((0, 0, ACK)), rng.choice((0, 0, 1)), bytes(size))
    return [*frames[:3], *[strange] * rng.choice((1, 10, FLOOD)), *frames[3:]]


def _empty_data(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    padded = Frame(DATA, PADDED, 1, rng.choice((b"\x00", b"\xff", b"\xff" + bytes(255), b"\x01\x00")))
    return [*frames[:3], *[rng.choice((Frame(DATA, 0, 1), padded))] * rng.choice((2, FLOOD)), *frames[3:]]


def _priorities(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    on = rng.choice((1, 3)).to_bytes(4, "big") + b"\x10"
    strange = [
        Frame(PRIORITY, 0, 1, on), Frame(PRIORITY, 0, 1, on[:4]), Frame(PRIORITY, 0, 0, on),
        Frame(HEADERS, END_HEADERS | PRIORITISED, 3, on + headers(READS)),
        Frame(HEADERS, END_HEADERS | PRIORITISED | PADDED, 3, b"\xff" + on),
    ]  # fmt: skip
    return [*frames[:3], *[rng.choice(strange)] * rng.choice((1, FLOOD)), *frames[3:]]


def _goaways(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    last, code = rng.choice((0, 1, STREAMS_MAX)), rng.choice((0, 11, 2**32 - 1))
    said = Frame(GOAWAY, 0, rng.choice((0, 0, 1)), last.to_bytes(4, "big") + code.to_bytes(4, "big") + rng.randbytes(9))
    at = rng.randrange(len(frames))
    return [*frames[:at], *[said] * rng.choice((1, 20)), *frames[at:]]


def _promises(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    promise = Frame(PUSH_PROMISE, END_HEADERS, rng.choice((0, 1)), (2).to_bytes(4, "big") + headers(READS))
    return [*frames[:3], promise, *frames[3:]]


# -- header blocks ----------------------------------------------------------------------------------------------------


def _hpack(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    """Blocks that the decoder of HPACK must refuse, or must not unpack without an end."""
    block = headers(READS)
    kept = b"\x40" + literal(b"x-long", b"y" * 100)[1:]
    strange = rng.choice((
        rng.randbytes(rng.choice((1, 20, 400))),
        b"\x80" + block,  # index 0
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + block,  # an index without an end
        b"\xbe" + block,  # of a table that is empty
        b"\x3f" + b"\xff" * 9 + b"\x0f" + block,  # a table as large as it likes
        (b"\x3f\xe1\x1f" + b"\x20") * 200 + block,  # larger and smaller, in turn
        b"\x00\x7f\xff\xff\xff\xff\x0f" + block,  # a name of 4 GB
        b"\x00\x83\xff\xff\xff\x01x" + block,  # Huffman's code, padded with too much
        block + kept + b"\xbe" * 5000,  # one field, five thousand times
        kept * 100 + block,
        block[: rng.randrange(len(block))],
    ))  # fmt: skip
    return _instead(
        frames, 2, *(Frame(HEADERS, END_HEADERS, 1 + 2 * n, strange) for n in range(rng.choice((1, 1, 40))))
    )


def _fields(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    """Fields that a call may not have, or lacks."""
    change = rng.choice((
        {":method": rng.choice(("GET", "", "post", "CONNECT"))}, {":scheme": rng.choice(("", "ftp"))},
        {":path": rng.choice(("", "*", "/", "//", "/a/b/c", "/%00", "/" + "x" * 120))}, {":authority": ""},
        {"te": ""}, {"te": "gzip"}, {"content-type": ""}, {"content-type": "application/grpc+nothing"},
        {"connection": "close"}, {"Upper": "case"}, {":unknown": "1"}, {"x y": "1"}, {"x": "a\r\nb: c"}, {"x": "\x00"},
        {"grpc-timeout": rng.choice(("1n", "99999999H", "-1S", "1", "1X", "100000000S"))}, {"grpc-encoding": "zip"},
        {"grpc-accept-encoding": "," * 120}, {"x-bin": "%"}, {"authorization": "Bearer x"}, {"content-length": "1"},
    ))  # fmt: skip
    block = headers(rng.choice(PATHS), change)
    block = rng.choice((block, block, block * 2, literal(b"late", b"pseudo") + block))
    return _instead(frames, 2, Frame(HEADERS, END_HEADERS, 1, block))


# -- messages of gRPC -------------------------------------------------------------------------------------------------


def _half_messages(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    body = frames[3].payload[5:]
    says = rng.choice((0, 1, len(body) + 1, 2**22, 2**31, 2**32 - 1))
    sent = message(body, flag=rng.choice((0, 0, 1, 2, 255)), says=says)
    return [*frames[:3], Frame(DATA, 0, 1, sent[: rng.randrange(1, len(sent) + 1)]), *rng.choice((frames[4:], []))]


def _broken_messages(rng: random.Random, frames: list[Frame]) -> list[Frame]:
    body = frames[3].payload[5:]
    made = broken_wire.broken(rng, body) if body else rng.randbytes(30)
    sent = message(made) * rng.choice((1, 1, 2, 50))
    cut = [Frame(DATA, 0, 1, sent[at : at + FRAME_BYTES_MAX]) for at in range(0, len(sent), FRAME_BYTES_MAX)]
    return [*frames[:3], *cut, *frames[4:]]


WAYS: Final[tuple[Way, ...]] = (
    _other_kind, _other_flags, _other_stream, _other_length, _ragged, _too_large, _left_out, _twice, _in_disorder, _cut,
    _some_bytes, _rubbish, _other_protocol, _random_frames, _settings, _windows, _no_window, _beyond_window,
    _continuations, _resets, _many_streams, _pings, _empty_data, _priorities, _goaways, _promises, _hpack, _fields,
    _half_messages, _broken_messages,
)  # fmt: skip
