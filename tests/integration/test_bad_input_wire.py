"""Bytes no encoder of ours writes, and calls no client of ours makes, against the real service: each has its answer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from bad_input_world import DAY_US, grid
from bad_inputs import told
from served import (
    ENOUGH_S,
    HEAD_END,
    METERS,
    STEP_S,
    US,
    Ended,
    Raw,
    Served,
    ended,
    fresh_end_us,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)

from meterwatch.devtools.broken_wire import (
    END_GROUP,
    FIXED32,
    LENGTH,
    START_GROUP,
    VARINT,
    Field,
    put_together,
    taken_apart,
    varint,
    written,
)
from meterwatch.v1 import alarms_pb2
from meterwatch.v1 import ingest_pb2 as pb

METER_INDEX, STAMP, MASK, IMPORT, VOLTAGE, UNKNOWN = 4, 5, 6, 16, 20, 900


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


def fields_of(batch: pb.ReadBatch) -> list[Field]:
    return taken_apart(batch.SerializeToString())


def request(fields: list[Field] | bytes) -> bytes:
    """The message of the stream around a batch."""
    inner = fields if isinstance(fields, bytes) else put_together(fields)
    return written(Field(3, LENGTH, inner))


def changed(batch: pb.ReadBatch, number: int, *others: Field) -> list[Field]:
    """The batch with its field `number` replaced."""
    return [new for field in fields_of(batch) for new in (others if field.number == number else [field])]


def payload(batch: pb.ReadBatch, number: int) -> bytes:
    return next(field.payload for field in fields_of(batch) if field.number == number)


def answer_to(raw: Raw, message: bytes) -> tuple[str, str]:
    """Where and what, as the catalogue says it."""
    answer = raw.ask(message)
    if answer.HasField("nack"):
        return "NACK", f"{answer.nack.reason}: {answer.nack.message}"
    ack = answer.ack
    reasons = [pb.RowReason.Name(code).removeprefix("ROW_REASON_") for code in ack.rejected_reason]
    if reasons:
        return "ROW", f"{', '.join(reasons)} of {ack.accepted + ack.rejected} rows"
    return "TAKEN", f"{ack.accepted} accepted, {ack.duplicates} duplicates"


def unpacked(batch: pb.ReadBatch) -> list[Field]:
    values = payload(batch, IMPORT)
    return changed(batch, IMPORT, *(Field(IMPORT, FIXED32, values[i : i + 4]) for i in range(0, len(values), 4)))


def split(batch: pb.ReadBatch) -> list[Field]:
    values = payload(batch, STAMP)
    return changed(batch, STAMP, Field(STAMP, LENGTH, values[:8]), Field(STAMP, LENGTH, values[8:]))


def long_form(batch: pb.ReadBatch) -> bytes:
    """Tags and lengths with bytes that say nothing."""

    def longer(value: int) -> bytes:
        raw = varint(value)
        return raw[:-1] + bytes([raw[-1] | 128, 128, 0])

    parts = []
    for field in fields_of(batch):
        size = longer(len(field.payload)) if field.kind == LENGTH else b""
        parts.append(longer(field.number << 3 | field.kind) + size + field.payload)
    return b"".join(parts)


def groups(depth: int) -> bytes:
    return varint(UNKNOWN << 3 | START_GROUP) * depth + varint(UNKNOWN << 3 | END_GROUP) * depth


def big_endian(batch: pb.ReadBatch) -> list[Field]:
    count = len(batch.voltage_a_v)
    return changed(batch, VOLTAGE, Field(VOLTAGE, LENGTH, struct.pack(f">{count}f", *batch.voltage_a_v)))


CASES: list[tuple[int, str, str, Any]] = [
    (2, "a batch cut in the midst of a column", "MALFORMED", lambda b: request(b.SerializeToString()[:-3])),
    (3, "field number 2^29", "MALFORMED", lambda b: request([*fields_of(b), Field(2**29, VARINT, b"\1")])),
    (3, "wire type 6", "MALFORMED", lambda b: request(b.SerializeToString() + varint(UNKNOWN << 3 | 6) + b"\1")),
    (3, "wire type 7", "MALFORMED", lambda b: request(b.SerializeToString() + varint(UNKNOWN << 3 | 7) + b"\1")),
    (4, "a group without end", "MALFORMED", lambda b: request(b.SerializeToString() + varint(UNKNOWN << 3 | START_GROUP))),
    (5, "a length in 11 bytes", "MALFORMED", lambda b: request(varint(IMPORT << 3 | LENGTH) + b"\xff" * 10 + b"\1")),
    (6, "tags and lengths in more bytes than needed", "", lambda b: request(long_form(b))),
    (7, "import_wh as varints", "COLUMN_LENGTH", lambda b: request(changed(b, IMPORT, Field(IMPORT, VARINT, b"\5")))),
    (7, "stamp_us as text of 3 bytes", "MALFORMED", lambda b: request(changed(b, STAMP, Field(STAMP, LENGTH, b"abc")))),
    (8, "import_wh of 7 bytes", "MALFORMED", lambda b: request(changed(b, IMPORT, Field(IMPORT, LENGTH, b"\0" * 7)))),
    (9, "import_wh value by value", "", lambda b: request(unpacked(b))),
    (9, "stamp_us in two pieces", "", lambda b: request(split(b))),
    (12, "interval_s twice, 420 and then 900", "", lambda b: request([Field(2, FIXED32, struct.pack("<I", 420)), *fields_of(b)])),
    (12, "interval_s twice, 900 and then 420", "INTERVAL", lambda b: request([*fields_of(b), Field(2, FIXED32, struct.pack("<I", 420))])),
    (14, "meter_index as the varint 2^40 + 7", "COLUMN_LENGTH", lambda b: request(changed(b, METER_INDEX, Field(METER_INDEX, VARINT, varint(2**40 + 7))))),
    (15, "groups 101 deep", "MALFORMED", lambda b: request(b.SerializeToString() + groups(101))),
    (15, "1,000,000 groups in each other", "MALFORMED", lambda b: request(b.SerializeToString() + groups(500_000))),
    (16, "an unknown field of 3 bytes", "", lambda b: request([*fields_of(b), Field(UNKNOWN, LENGTH, b"new")])),
    (16, "17 unknown fields", "UNKNOWN_FIELDS", lambda b: request([*fields_of(b), *[Field(UNKNOWN, VARINT, b"\1")] * 17])),
    (16, "one unknown field of 4,000,000 bytes", "UNKNOWN_FIELDS", lambda b: request([*fields_of(b), Field(UNKNOWN, LENGTH, bytes(4_000_000))])),
    (20, "a column that says it is 2^32 - 1 bytes long", "MALFORMED", lambda b: request(varint(IMPORT << 3 | LENGTH) + varint(2**32 - 1) + b"\0" * 4)),
    (35, "voltages in big-endian order, 30 rows", "IMPLAUSIBLE_BATCH", lambda _: request(big_endian(reads(1, 30, voltage_a_v=[230.1] * 30)))),
    (36, "channel_mask 0 in one row of two", "NO_VALUE", lambda _: request(fields_of(reads(1, 2, channel_mask=[0, 1])))),
    (45, "voltage_a_v -0.0", "", lambda _: request(fields_of(reads(1, 2, voltage_a_v=[-0.0, 230.0])))),
    (46, "current_a_a 1e-45, the smallest there is", "", lambda _: request(fields_of(reads(1, 2, current_a_a=[1e-45, 1.0])))),
    (46, "current_a_a 1e38", "OUT_OF_RANGE", lambda _: request(fields_of(reads(1, 2, current_a_a=[1e38, 1.0])))),
    (49, "voltage 0 with a current", "", lambda _: request(fields_of(reads(1, 2, voltage_a_v=[0.0, 230.0], current_a_a=[9.0, 1.0])))),
    (65, "a read of 1990, before the meter was there", "TOO_OLD", lambda _: request(fields_of(reads(1, 2, stamp_us=[7305 * DAY_US, fresh_end_us()])))),
    (56, "121 s and more ahead", "FUTURE", lambda _: request(fields_of(reads(1, 2, stamp_us=[grid(2 * STEP_S + 121), fresh_end_us()])))),
]  # fmt: skip
"""Number, words, the reason (none: taken), what is made of a good batch of two rows."""


@pytest.mark.parametrize(("number", "words", "reason", "make"), CASES, ids=[case[1] for case in CASES])
def test_bytes_and_values_each_have_their_answer(
    served: Served, number: int, words: str, reason: str, make: Any
) -> None:
    with served.stream() as raw:
        where, said = answer_to(raw, make(reads(1, 2)))
        assert reason in said if reason else where == "TAKEN", said
        told(number, words, where, said)
        goes_on(raw, 2)


def test_minus_zero_is_stored_as_zero(served: Served) -> None:
    batch = reads(1, 1, voltage_a_v=[-0.0])
    with served.stream() as raw:
        assert raw.ask(batch).ack.accepted == 1
    stored = "SELECT voltage_a_v::text FROM meter_reads WHERE end_at = to_timestamp(%s / 1e6) AND meter = %s"
    assert served.sql(stored, batch.stamp_us[0], METERS[0]) == [("0",)]


def test_more_empty_meter_numbers_than_a_dictionary_may_have(served: Served) -> None:
    with served.stream() as raw:
        nack = raw.ask(written(Field(2, LENGTH, b"\x0a\x00" * 2_000_000))).nack
        assert nack.reason == "DICTIONARY_FULL"
        told(17, "a dictionary of 2,000,000 empty numbers, 4 MB", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw)


def test_unknown_bytes_around_a_good_batch_are_counted_too(served: Served) -> None:
    with served.stream() as raw:
        message = request(fields_of(reads(1))) + written(Field(UNKNOWN, LENGTH, bytes(100_000)))
        where, said = answer_to(raw, message)
        assert (where, said.split(":")[0]) == ("NACK", "UNKNOWN_FIELDS")
        told(16, "100,000 unknown bytes around the batch", where, said)
        goes_on(raw, 2)


# -- calls ------------------------------------------------------------------------------------------------------------


def call_of(served: Served, method: str, data: bytes, **options: Any) -> Ended:
    """How a unary call of bytes ends."""
    with grpc.insecure_channel(served.address) as channel:
        try:
            channel.unary_unary(f"/meterwatch.v1.{method}")(data, **{"timeout": ENOUGH_S, **options})
        except grpc.RpcError as error:
            return ended(error)
    return Ended("OK", "", "", "", None)


def good_reads() -> bytes:
    return pb.SendReadsRequest(
        head_end=HEAD_END, epoch=fresh_epoch(), seq=1, interval_s=STEP_S,
        read=[pb.Read(meter=METERS[0], end_us=fresh_end_us(), import_wh=1)],
    ).SerializeToString()  # fmt: skip


def said_of(end: Ended) -> str:
    return f"{end.code} {end.reason}: {end.message}" if end.reason else f"{end.code}, of gRPC itself"


CALLS: list[tuple[int, str, str, dict[str, Any]]] = [
    (22, "a request with gzip", "OK", {"compression": grpc.Compression.Gzip}),
    (27, "metadata of 20 KB", "RESOURCE_EXHAUSTED", {"metadata": (("x-long", "y" * 20_000),)}),
    (28, "a deadline of 1 us", "DEADLINE_EXCEEDED", {"timeout": 1e-6}),
]


@pytest.mark.parametrize(("number", "words", "code", "options"), CALLS, ids=[case[1] for case in CALLS])
def test_a_strange_call_ends_by_name_and_the_next_is_answered(
    served: Served, number: int, words: str, code: str, options: dict[str, Any]
) -> None:
    end = call_of(served, "Ingest/SendReads", good_reads(), **options)
    assert end.code == code, end
    told(number, words, "TAKEN" if code == "OK" else "RPC", "answered as any other" if code == "OK" else said_of(end))
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"


def test_a_bomb_of_gzip_is_not_unpacked(served: Served) -> None:
    end = call_of(served, "Ingest/SendReads", bytes(64 << 20), compression=grpc.Compression.Gzip)
    assert (end.code, end.reason) == ("RESOURCE_EXHAUSTED", ""), end
    told(22, "64 MiB of zeros in 64 KiB of gzip", "RPC", f"{end.code}, of gRPC itself and without RetryInfo")
    assert call_of(served, "Ingest/SendReads", good_reads()).code == "OK"


ALARMS: list[tuple[int, str, str, Any]] = [
    (84, "Subscribe from 2^63 - 1", "FAILED_PRECONDITION", ("Subscribe", alarms_pb2.SubscribeRequest(from_seq=2**63 - 1))),
    (84, "Subscribe from 2^64 - 1", "FAILED_PRECONDITION", ("Subscribe", alarms_pb2.SubscribeRequest(from_seq=2**64 - 1))),
    (84, "a filter of 10,000 districts", "INVALID_ARGUMENT", ("Subscribe", alarms_pb2.SubscribeRequest(filter=alarms_pb2.AlarmFilter(district=[f"D-{n}" for n in range(10_000)])))),
    (84, "a filter of 100,000 districts", "INVALID_ARGUMENT", ("Subscribe", alarms_pb2.SubscribeRequest(filter=alarms_pb2.AlarmFilter(district=[f"D-{n}" for n in range(100_000)])))),
    (84, "a filter of a type there is not", "INVALID_ARGUMENT", ("Subscribe", alarms_pb2.SubscribeRequest(filter=alarms_pb2.AlarmFilter(type=["(a+)+$"])))),
    (85, "Acknowledge of an alarm there is not", "NOT_FOUND", ("Acknowledge", alarms_pb2.AcknowledgeRequest(alarm_id="nobody", operator="eve", action_id="a-1", expected_version=1))),
    (85, "shelve for 10 years", "INVALID_ARGUMENT", ("Act", alarms_pb2.ActRequest(alarm_id="nobody", operator="eve", action_id="a-2", kind=alarms_pb2.ACTION_KIND_SHELVE, note="hot", shelve_s=315_360_000))),
    (85, "shelve for 0 s", "INVALID_ARGUMENT", ("Act", alarms_pb2.ActRequest(alarm_id="nobody", operator="eve", action_id="a-3", kind=alarms_pb2.ACTION_KIND_SHELVE, note="hot"))),
]  # fmt: skip


@pytest.mark.parametrize(("number", "words", "code", "call"), ALARMS, ids=[case[1] for case in ALARMS])
def test_a_strange_question_about_alarms_is_refused(
    served: Served, number: int, words: str, code: str, call: Any
) -> None:
    method, message = call
    with grpc.insecure_channel(served.address) as channel:
        make = channel.unary_stream if method == "Subscribe" else channel.unary_unary
        ask: Any = make(f"/meterwatch.v1.Alarms/{method}")
        with pytest.raises(grpc.RpcError) as raised:
            list(ask(message.SerializeToString(), timeout=ENOUGH_S))
    end = ended(raised.value)
    assert (end.code, end.domain) == (code, "meterwatch"), end
    told(number, words, "RPC", said_of(end))


def test_the_constants_of_this_file_are_those_of_the_contract() -> None:
    names = {field.number: field.name for field in pb.ReadBatch.DESCRIPTOR.fields}
    assert [names[number] for number in (METER_INDEX, STAMP, MASK, IMPORT, VOLTAGE)] == [
        "meter_index", "stamp_us", "channel_mask", "import_wh", "voltage_a_v",
    ]  # fmt: skip
    assert UNKNOWN not in names
    assert DAY_US == 86_400 * US
