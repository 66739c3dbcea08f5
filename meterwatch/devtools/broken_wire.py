"""Protobuf bytes with one thing wrong: a message is taken apart into its fields, one of them is broken, and it is put
together again. Other languages' encoders, buggy senders and hostile ones differ from ours in these ways, and random
bytes almost never reach beyond the parser's first byte.

Deterministic: the same generator state gives the same bytes. Refuses to know the messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
EXTREMES: Final = (
    b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x00" * 7 + b"\x80", b"\x00\x00\x80\x7f" * 2,
    b"\x00\x00\xc0\x7f" * 2, b"\x01\x00\x80\x7f" * 2, b"\x00\x00\x80\xff" * 2, b"\x01" + b"\x00" * 7,
    b"\xff\xff\xff\x7f" * 2,    b"\x00\x00\x00\x80" * 2, b"\x01\x00\x00\x00" * 2, b"\x00\x00\xf0\x7f" * 2,
)  # fmt: skip
"""Little-endian values at the ends of integers and floats, NaN and infinities among them."""


class Field(NamedTuple):
    """One field as it stands on the wire. payload: without its length, if it has one."""

    number: int
    kind: int
    payload: bytes


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def taken_apart(data: bytes) -> list[Field]:
    """The fields of a sound message without groups."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        begin = at
        match tag & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                size, begin = _read_varint(data, at)
                at = begin + size
        fields.append(Field(tag >> 3, tag & 7, data[begin:at]))
    return fields


def written(field: Field) -> bytes:
    """A field as bytes."""
    size = varint(len(field.payload)) if field.kind == LENGTH else b""
    return varint(field.number << 3 | field.kind) + size + field.payload


def put_together(fields: list[Field]) -> bytes:
    """A message of these fields."""
    return b"".join(map(written, fields))


Way = Callable[[random.Random, list[Field], int], bytes | list[Field]]


def _instead(fields: list[Field], at: int, *others: Field) -> list[Field]:
    return [*fields[:at], *others, *fields[at + 1 :]]


def _raw(fields: list[Field], at: int, raw: bytes) -> bytes:
    return put_together(fields[:at]) + raw + put_together(fields[at + 1 :])


def _left_out(_: random.Random, fields: list[Field], at: int) -> list[Field]:
    return _instead(fields, at)


def _twice(_: random.Random, fields: list[Field], at: int) -> list[Field]:
    return _instead(fields, at, fields[at], fields[at])


def _in_disorder(rng: random.Random, fields: list[Field], _: int) -> list[Field]:
    return rng.sample(fields, len(fields))


def _other_kind(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    return _instead(fields, at, fields[at]._replace(kind=rng.choice((0, 1, 2, 3, 4, 5, 6, 7))))


def _other_number(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    return _instead(fields, at, fields[at]._replace(number=rng.choice((0, 1, 2, 9, 28, 51, 2**29 - 1, 2**29, 2**31))))


def _wrong_length(rng: random.Random, fields: list[Field], at: int) -> bytes:
    field = fields[at]
    size = rng.choice((0, 1, max(len(field.payload) - 1, 0), len(field.payload) + 1, 2**31 - 1, 2**32 - 1, 2**63))
    return _raw(fields, at, varint(field.number << 3 | LENGTH) + varint(size) + field.payload)


def _long_varint(rng: random.Random, fields: list[Field], at: int) -> bytes:
    raw = written(fields[at])
    spare = rng.choice((1, 4, 9, 12))
    return _raw(fields, at, bytes([raw[0] | 128, *[128] * (spare - 1), 0]) + raw[1:])


def _ragged(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    payload = fields[at].payload
    keep = rng.randrange(len(payload) + 1)
    longer = rng.random() < 0.5
    return _instead(fields, at, fields[at]._replace(payload=payload + payload[:keep] if longer else payload[:keep]))


def _split(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    field = fields[at]
    cut = rng.randrange(len(field.payload) // 4 + 1) * 4
    return _instead(
        fields, at, field._replace(payload=field.payload[:cut]), field._replace(payload=field.payload[cut:])
    )


def _unpacked(_: random.Random, fields: list[Field], at: int) -> list[Field]:
    field = fields[at]
    step, kind = (8, FIXED64) if len(field.payload) % 8 == 0 else (4, FIXED32)
    values = [field.payload[i : i + step] for i in range(0, len(field.payload), step)]
    return _instead(fields, at, *(Field(field.number, kind, value) for value in values if len(value) == step))


def _extreme(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    field = fields[at]
    value = rng.choice(EXTREMES)
    where = rng.randrange(len(field.payload) // 4 + 1) * 4
    payload = (field.payload[:where] + value + field.payload[where + 8 :])[: len(field.payload)]
    return _instead(fields, at, field._replace(payload=payload))


def _extreme_everywhere(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    field = fields[at]
    payload = (rng.choice(EXTREMES) * (len(field.payload) // 8 + 1))[: len(field.payload)]
    return _instead(fields, at, field._replace(payload=payload))


def _strange_varint(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    value = rng.choice((0, 1, 2, 99, 2**31 - 1, 2**31, 2**32 + 7, 2**63, 2**64 - 1))
    return _instead(fields, at, Field(fields[at].number, VARINT, varint(value)))


def _unknown(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    number = rng.choice((100, 1000, 2**29 - 1))
    more = [Field(number + n, LENGTH, rng.randbytes(rng.choice((0, 3, 2000)))) for n in range(rng.choice((1, 17)))]
    return [*fields[: at + 1], *more, *fields[at + 1 :]]


def _random_payload(rng: random.Random, fields: list[Field], at: int) -> list[Field]:
    return _instead(fields, at, Field(fields[at].number, LENGTH, rng.randbytes(rng.randrange(40))))


def _nested(rng: random.Random, fields: list[Field], at: int) -> bytes:
    depth = rng.choice((1, 99, 101, 5000))
    start, end = varint(fields[at].number << 3 | START_GROUP), varint(fields[at].number << 3 | END_GROUP)
    return _raw(fields, at, start * depth + end * rng.choice((depth, depth - 1)))


def _cut(rng: random.Random, fields: list[Field], _: int) -> bytes:
    whole = put_together(fields)
    return whole[: rng.randrange(len(whole))]


def _one_byte(rng: random.Random, fields: list[Field], _: int) -> bytes:
    whole = bytearray(put_together(fields))
    whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


WAYS: Final[tuple[Way, ...]] = (
    _left_out, _twice, _in_disorder, _other_kind, _other_number, _wrong_length, _long_varint, _ragged, _split,
    _unpacked, _extreme, _extreme_everywhere, _strange_varint, _unknown, _random_payload, _nested, _cut, _one_byte,
)  # fmt: skip


def broken(rng: random.Random, data: bytes) -> bytes:
    """A sound message with one thing wrong with it."""
    fields = taken_apart(data)
    made = rng.choice(WAYS)(rng, fields, rng.randrange(len(fields)))
    return made if isinstance(made, bytes) else put_together(made)
