"""Laws of decoding: whatever arrives becomes columns or a refusal by name; the digest stands for what was read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ingest_world import decoded, fingerprints

from ingest.decode import check_id, columns, fingerprint, parse
from meterwatch.channels import CHANNELS, INTERVALS_S
from meterwatch.devtools.broken_wire import LENGTH, Field, written
from meterwatch.errors import Rejected
from meterwatch.v1 import ingest_pb2 as pb
from meterwatch.v1.ingest_bytes_pb2 import IngestRequestBytes

GOLDEN = Path(__file__).parents[1] / "golden" / "ingest" / "read_batch.bin"
"""An IngestRequest with one batch of three rows, written once with the stubs and never since: what a head-end in the
field sends."""
METERS = ["M-1", "M-2"]


def batch(**change) -> pb.ReadBatch:
    """Two good rows, with fields replaced."""
    fields = {"seq": 1, "interval_s": 900, "meter_index": [0, 1], "stamp_us": [900, 1800], "import_wh": [5, 6]}
    return pb.ReadBatch(**{**fields, **change})


def refusal(message: pb.ReadBatch, rows_max: int = 65_000) -> Rejected:
    with pytest.raises(Rejected) as caught:
        columns(message, fingerprints(METERS), rows_max)
    return caught.value


def outcome_of(data: bytes) -> str:
    """What becomes of bytes: read, no batch, or the reason of their refusal."""
    try:
        request = parse(data)
        if not request.HasField("batch"):
            return "no batch"
        columns(request.batch, fingerprints(METERS), 100)
    except Rejected as error:
        return error.reason
    return "read"


def test_the_golden_batch_is_read_as_it_was_written():
    found = columns(parse(GOLDEN.read_bytes()).batch, fingerprints(METERS), 65_000)
    assert (found.seq, found.interval_s, found.rows) == (2**40 + 3, 900, 3)
    assert found.meter_index.tolist() == [0, 1, 0]
    assert found.end_us.tolist() == [1_700_000_100_000_000, 1_700_000_100_000_000, -(2**63)]
    assert found.mask is not None
    assert found.mask.tolist() == [0x811, 0x891, 0x11]
    assert found.origin is not None
    assert found.origin.tolist() == [0, 4, 1]
    assert list(found.channels) == ["import_wh", "voltage_a_v", "current_a_a", "device_status"]
    assert found.channels["import_wh"].tolist() == [120, -(2**31), 2**31 - 1]
    assert found.channels["voltage_a_v"].tolist()[:2] == [229.5, math.inf]
    assert math.isnan(found.channels["voltage_a_v"][2])
    assert found.channels["current_a_a"].tolist() == [0.0, 1.25, 0.0]
    assert found.channels["device_status"].tolist() == [8, 2**32 - 1, 0]
    for channel in CHANNELS:
        if channel.name in found.channels:
            assert found.channels[channel.name].dtype == channel.dtype
    # A stored ledger is compared with this: if it changes, every batch on its way is refused as SEQ_REUSED.
    assert found.digest.hex() == "883e44684209c8f613885c15c8798c27"


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x1a\x05abc", b"\x1a\x02\x07\x00", b"\x00\x00", b"\x08"])
def test_bytes_that_are_no_message_are_malformed(data):
    with pytest.raises(Rejected) as caught:
        parse(data)
    assert caught.value.reason == "MALFORMED"
    assert f"{len(data)} bytes" in caught.value.message


@pytest.mark.parametrize("data", [b"", b"\x98\x06\x01"])
def test_a_message_that_says_nothing_is_malformed(data):
    with pytest.raises(Rejected) as caught:
        parse(data)
    assert caught.value.reason == "MALFORMED"


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"\x1a\x00")
def test_any_bytes_are_a_batch_or_refused(data):
    for tail in (data, b"\x1a" + bytes([len(data)]) + data):
        outcome_of(tail)  # what is neither raises


@settings(max_examples=300)
@given(st.data())
def test_a_good_batch_with_one_byte_changed_is_read_or_refused(data):
    whole = bytearray(GOLDEN.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert outcome_of(bytes(whole)) in {
        "read", "no batch", "MALFORMED", "COLUMN_LENGTH", "INDEX_RANGE", "INTERVAL", "UNKNOWN_ENUM", "EMPTY_BATCH",
        "BAD_SEQ", "UNKNOWN_FIELDS",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason", "told"),
    [
        ({"seq": 0}, "BAD_SEQ", "seq 0"),
        ({"seq": 2**63}, "BAD_SEQ", "9223372036854775808"),
        ({"stamp_us": [], "meter_index": []}, "EMPTY_BATCH", "0 reads"),
        ({"meter_index": [0]}, "COLUMN_LENGTH", "meter_index 1, stamp_us 2"),
        ({"stamp_us": []}, "COLUMN_LENGTH", "meter_index 2, stamp_us 0"),
        ({"import_wh": [1]}, "COLUMN_LENGTH", "import_wh 1, stamp_us 2"),
        ({"import_wh": []}, "COLUMN_LENGTH", "no channel for 2 rows"),
        ({"channel_mask": [1]}, "COLUMN_LENGTH", "channel_mask 1, stamp_us 2"),
        ({"channel_mask": [1, 3]}, "COLUMN_LENGTH", "row 1: channel_mask 0x3"),
        ({"channel_mask": [1, 1 << 12]}, "UNKNOWN_ENUM", "bits above 11"),
        ({"origin": [0, 0, 0]}, "COLUMN_LENGTH", "origin 3, stamp_us 2"),
        ({"origin": [0, 5]}, "UNKNOWN_ENUM", "row 1: origin 5"),
        ({"meter_index": [0, 2]}, "INDEX_RANGE", "row 1: index 2, dictionary has 2"),
        ({"meter_index": [2**32 - 1, 0]}, "INDEX_RANGE", "row 0: index 4294967295"),
        ({"interval_s": 0}, "INTERVAL", "interval_s 0"),
        ({"interval_s": 420}, "INTERVAL", "interval_s 420"),
        ({"interval_s": 10**9}, "INTERVAL", "[60, 300,"),
        ({"stamp_meaning": 99}, "UNKNOWN_ENUM", "stamp_meaning 99"),
        ({"stamp_meaning": -1}, "UNKNOWN_ENUM", "stamp_meaning -1"),
        ({"value_meaning": 2}, "UNKNOWN_ENUM", "value_meaning 2"),
    ],
)
def test_a_batch_that_breaks_the_contract_is_refused_by_name(change, reason, told):
    error = refusal(batch(**change))
    assert error.reason == reason
    assert told in error.message
    assert "expected" in error.message or reason == "UNKNOWN_ENUM"


def test_the_limits_are_met_exactly():
    assert columns(batch(seq=2**63 - 1, origin=[4, 4]), fingerprints(METERS), 2).rows == 2
    assert refusal(batch(), rows_max=1).reason == "TOO_MANY_ROWS"
    for interval_s in INTERVALS_S:
        assert decoded(batch(interval_s=interval_s), METERS).interval_s == interval_s


def test_a_few_unknown_fields_are_a_newer_sender_and_many_are_none():
    newer = batch().SerializeToString() + b"\xc0\x3e\x01" * 16
    assert decoded(pb.ReadBatch.FromString(newer), METERS).rows == 2
    assert refusal(pb.ReadBatch.FromString(newer + b"\xc0\x3e\x01")).reason == "UNKNOWN_FIELDS"


@pytest.mark.parametrize(("size", "reason"), [(1024, "read"), (1025, "UNKNOWN_FIELDS"), (4_000_000, "UNKNOWN_FIELDS")])
def test_unknown_bytes_have_a_limit_in_the_batch_and_around_it(size, reason):
    unknown = written(Field(1000, LENGTH, bytes(size)))
    whole = batch().SerializeToString()
    assert outcome_of(written(Field(3, LENGTH, whole + unknown))) == reason
    assert outcome_of(written(Field(3, LENGTH, whole)) + unknown) == reason


def test_an_unknown_group_is_refused_whatever_is_in_it():
    group = b"\xc3\x3e" + written(Field(7, LENGTH, bytes(2000))) + b"\xc4\x3e"
    assert outcome_of(written(Field(3, LENGTH, batch().SerializeToString() + group))) == "UNKNOWN_FIELDS"


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**63 - 1)
@example(2**63 - 1 - 900_000_000)
@example(-(2**63))
def test_interval_starts_become_ends_and_do_not_wrap(start_us):
    starts = batch(stamp_us=[start_us, 0], stamp_meaning=pb.STAMP_MEANING_INTERVAL_START)
    assert decoded(starts, METERS).end_us.tolist() == [min(start_us + 900_000_000, 2**63 - 1), 900_000_000]


def unpacked(whole: pb.ReadBatch) -> bytes:
    """The same batch as another encoder may write it: columns value by value, and in two pieces."""
    rest = pb.ReadBatch()
    rest.CopyFrom(whole)
    for field in ("stamp_us", "import_wh"):
        rest.ClearField(field)
    stamps = b"".join(b"\x29" + stamp.to_bytes(8, "little", signed=True) for stamp in whole.stamp_us)
    pieces = b"".join(b"\x82\x01\x04" + wh.to_bytes(4, "little", signed=True) for wh in whole.import_wh)
    return stamps + rest.SerializeToString() + pieces


def test_another_encoding_of_the_same_batch_has_the_same_digest():
    other = pb.ReadBatch.FromString(unpacked(batch()))
    assert other == batch()
    assert decoded(other, METERS).digest == decoded(batch(), METERS).digest


def test_the_twin_of_bytes_says_the_same():
    request = parse(GOLDEN.read_bytes())
    assert IngestRequestBytes.FromString(GOLDEN.read_bytes()).SerializeToString() == request.SerializeToString()


def test_the_digest_names_meters_and_not_indexes():
    here = decoded(batch(meter_index=[0, 1]), ["A", "B"]).digest
    assert decoded(batch(meter_index=[2, 0]), ["B", "X", "A"]).digest == here
    assert decoded(batch(meter_index=[0, 1]), ["A", "C"]).digest != here


def test_every_part_of_a_batch_but_its_seq_is_in_the_digest():
    variants = [
        batch(),
        batch(interval_s=300),
        batch(meter_index=[1, 0]),
        batch(stamp_us=[900, 1801]),
        batch(import_wh=[5, 7]),
        batch(import_wh=[], export_wh=[5, 6]),
        batch(export_wh=[5, 6]),
        batch(channel_mask=[1, 1]),
        batch(channel_mask=[1, 0]),
        batch(origin=[0, 0]),
        batch(origin=[0, 1]),
        batch(device_status=[5, 6]),
    ]
    assert len({decoded(variant, METERS).digest for variant in variants}) == len(variants)
    assert decoded(batch(seq=2), METERS).digest == decoded(batch(), METERS).digest


def test_fingerprints_do_not_depend_on_the_process():
    assert fingerprint("9717902") == 0x747EE0A8


@pytest.mark.parametrize("text", ["A", "a" * 64, "0_.:-"])
def test_legal_ids_pass(text):
    assert check_id(text, "meter") == text


@pytest.mark.parametrize(
    "text", ["", "a" * 65, "a b", "a\n", "\n", "'; DROP TABLE", "%s", "\u0410", "a\u202eb", "e\u0301", "a\0", "\\copy"]
)
def test_illegal_ids_are_refused_and_shown_escaped(text):
    with pytest.raises(Rejected) as caught:
        check_id(text, "meter")
    assert caught.value.reason == "BAD_ID"
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
