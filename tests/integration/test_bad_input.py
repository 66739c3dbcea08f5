"""Bad rows and batches against the real service: each has its named answer, and the next good batch is stored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from bad_input_world import DAY_US, a_new_stream_goes_on, grid, hello, words
from bad_inputs import told
from served import (
    FOREIGN,
    METERS,
    STEP_S,
    US,
    Served,
    fresh_end_us,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)

from meterwatch.quality import METHOD_MASK
from meterwatch.v1 import ingest_pb2 as pb

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


# -- rows: the rest of the batch is stored ----------------------------------------------------------------------------

ROWS: list[tuple[int, str, dict[str, Any], str]] = [
    (64, "UNKNOWN_METER", {"meter_index": [4, 0]}, "nobody"),
    (69, "NOT_YOURS", {"meter_index": [5, 0]}, FOREIGN),
    (56, "FUTURE", {"first_us": lambda: grid(3600)}, "end_us"),
    (56, "FUTURE", {"first_us": lambda: grid(0) + 3650 * DAY_US}, "end_us"),
    (55, "FUTURE", {"first_us": lambda: 2**63 - 1}, "9223372036854775807"),
    (57, "TOO_OLD", {"first_us": lambda: grid(-401 * 86_400)}, "end_us"),
    (55, "TOO_OLD", {"first_us": lambda: 0}, "end_us"),
    (55, "TOO_OLD", {"first_us": lambda: -(2**63)}, "-9223372036854775808"),
    (58, "UNALIGNED", {"first_us": lambda: fresh_end_us() + 60 * US}, "end_us"),
    (44, "NOT_FINITE", {"voltage_a_v": [NAN, 230.0]}, "nan"),
    (44, "NOT_FINITE", {"voltage_a_v": [INF, 230.0]}, "inf"),
    (44, "NOT_FINITE", {"current_b_a": [-INF, 1.0]}, "-inf"),
    (47, "NEGATIVE", {"import_wh": [-1, 5]}, "-1"),
    (50, "ABOVE_CAPACITY", {"import_wh": [2**31 - 1, 5]}, "2147483647"),
    (49, "OUT_OF_RANGE", {"voltage_a_v": [230_000.0, 230.0]}, "230000"),
    (46, "OUT_OF_RANGE", {"current_a_a": [2001.0, 2000.0]}, "2001"),
    (49, "OUT_OF_RANGE", {"power_factor": [1.75, 0.9]}, "1.75"),
]


@pytest.mark.parametrize(("number", "reason", "change", "arrived"), ROWS)
def test_a_bad_row_is_quarantined_and_its_neighbour_stored(
    served: Served, number: int, reason: str, change: dict[str, Any], arrived: str
) -> None:
    change = dict(change)
    epoch = fresh_epoch()
    if "first_us" in change:
        change["stamp_us"] = [change.pop("first_us")(), fresh_end_us()]
    with served.stream(hello(epoch), meters=(*METERS, "nobody", FOREIGN)) as raw:
        answer = raw.ask(reads(1, 2, **change))
        ack = answer.ack
        assert (ack.accepted, ack.rejected, list(ack.rejected_row)) == (1, 1, [0]), answer
        assert [pb.RowReason.Name(code) for code in ack.rejected_reason] == [f"ROW_REASON_{reason}"]
        goes_on(raw, 2)
    ((row_no, stored_reason, detail),) = served.sql(
        "SELECT row_no, reason, detail::text FROM quarantine WHERE epoch = %s", epoch
    )
    assert (row_no, stored_reason) == (0, reason)
    assert arrived in detail
    assert "meter" in detail
    told(number, words(change), "ROW", f"{reason}, kept as {detail}")


def test_two_values_for_one_interval_are_both_ambiguous_and_equal_ones_are_a_duplicate(served: Served) -> None:
    end_us = fresh_end_us()
    with served.stream() as raw:
        same = {"meter_index": [0, 0], "stamp_us": [end_us, end_us]}
        ack = raw.ask(reads(1, 2, **same, import_wh=[1, 2])).ack
        assert [pb.RowReason.Name(code) for code in ack.rejected_reason] == ["ROW_REASON_AMBIGUOUS"] * 2
        told(43, "one interval of a meter twice, with two values", "ROW", "AMBIGUOUS, both")
        ack = raw.ask(reads(2, 2, **same, import_wh=[3, 3])).ack
        assert (ack.accepted, ack.duplicates, ack.rejected) == (1, 1, 0)
        told(43, "one interval of a meter twice, with one value", "TAKEN", "1 accepted, 1 duplicate")


# -- batches: a nack, and the stream goes on --------------------------------------------------------------------------

BATCHES: list[tuple[int, str, dict[str, Any], tuple[str, ...]]] = [
    (31, "COLUMN_LENGTH", {"meter_index": [0]}, ("meter_index", "1", "2")),
    (31, "COLUMN_LENGTH", {"import_wh": [1, 2, 3]}, ("import_wh", "3", "2")),
    (31, "COLUMN_LENGTH", {"voltage_a_v": [230.0]}, ("voltage_a_v", "1", "2")),
    (31, "COLUMN_LENGTH", {"channel_mask": [1]}, ("channel_mask", "1", "2")),
    (31, "COLUMN_LENGTH", {"import_wh": []}, ("no channel", "import_wh")),
    (31, "COLUMN_LENGTH", {"channel_mask": [1, 3]}, ("channel_mask", "row 1")),
    (33, "INDEX_RANGE", {"meter_index": [0, 4]}, ("row 1", "4")),
    (33, "INDEX_RANGE", {"meter_index": [0, 2**32 - 1]}, ("row 1", "4294967295")),
    (38, "INTERVAL", {"interval_s": 0}, ("0", "900")),
    (38, "INTERVAL", {"interval_s": 420}, ("420", "900")),
    (38, "INTERVAL", {"interval_s": 10**9}, ("1000000000", "900")),
    (52, "UNKNOWN_ENUM", {"origin": [0, 99]}, ("row 1", "99")),
    (13, "UNKNOWN_ENUM", {"channel_mask": [1, 2**20]}, ("channel_mask",)),
    (13, "UNKNOWN_ENUM", {"stamp_meaning": 7}, ("7",)),
    (37, "UNKNOWN_ENUM", {"value_meaning": 7}, ("value_meaning", "7")),
    (39, "BAD_SEQ", {"seq": 0}, ("0", "1")),
    (39, "BAD_SEQ", {"seq": 2**64 - 1}, ("18446744073709551615",)),
    (30, "EMPTY_BATCH", {"meter_index": [], "stamp_us": [], "import_wh": []}, ("0 reads", "at least 1")),
]


@pytest.mark.parametrize(("number", "reason", "change", "fragments"), BATCHES)
def test_a_bad_batch_is_nacked_and_the_stream_goes_on(
    served: Served, number: int, reason: str, change: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    epoch = fresh_epoch()
    with served.stream(hello(epoch)) as raw:
        answer = raw.ask(reads(**{"seq": 1, "rows": 2, **change}))
        nack = answer.nack
        assert (nack.reason, nack.permanent) == (reason, True), answer
        assert nack.seq == change.get("seq", 1)
        for fragment in fragments:
            assert fragment in nack.message
        assert len(nack.message.split(";")) >= 2, "what arrived; what was expected; what to change"
        told(number, words(change), "NACK", f"{nack.reason}: {nack.message}")
        assert served.sql("SELECT count(*) FROM batches WHERE epoch = %s", epoch) == [(0,)]
        goes_on(raw, 2)


@pytest.mark.parametrize(("unit", "divisor"), [("seconds", US), ("milliseconds", 1000)])
def test_stamps_of_another_unit_are_recognised(served: Served, unit: str, divisor: int) -> None:
    with served.stream() as raw:
        nack = raw.ask(reads(1, 30, stamp_us=[fresh_end_us() // divisor for _ in range(30)])).nack
        assert nack.reason == "LOOKS_LIKE_OTHER_UNIT"
        assert unit in nack.message
        assert "microseconds" in nack.message
        told(54, f"stamp_us in {unit}, 30 rows", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw, 2)


def test_nanoseconds_are_recognised(served: Served) -> None:
    with served.stream() as raw:
        nack = raw.ask(reads(1, 30, stamp_us=[fresh_end_us() * 1000 for _ in range(30)])).nack
        assert (nack.reason, "nanoseconds" in nack.message) == ("LOOKS_LIKE_OTHER_UNIT", True)
        told(54, "stamp_us in nanoseconds, 30 rows", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw, 2)


def test_reads_of_too_many_days_are_refused_with_their_number(served: Served) -> None:
    def of_days(seq: int, days: int) -> pb.ReadBatch:
        noon_us = grid(0) // DAY_US * DAY_US - DAY_US // 2 + 4 * STEP_S * US
        return reads(seq, days, meter_index=[0] * days, stamp_us=[noon_us - day * DAY_US for day in range(days)])

    with served.stream() as raw:
        nack = raw.ask(of_days(1, 65)).nack
        assert nack.reason == "TOO_SPREAD"
        assert "65 days" in nack.message
        assert "64" in nack.message
        told(41, "reads of 65 days in one batch", "NACK", f"{nack.reason}: {nack.message}")
        ack = raw.ask(of_days(2, 64)).ack
        assert (ack.seq, ack.rejected) == (2, 0)
        goes_on(raw, 3)


def test_a_batch_of_impossible_values_is_refused_as_a_whole(served: Served) -> None:
    with served.stream() as raw:
        nack = raw.ask(reads(1, 30, voltage_a_v=[1e30] * 30)).nack
        assert (nack.reason, "30 of 30" in nack.message) == ("IMPLAUSIBLE_BATCH", True)
        told(46, "voltage_a_v 1e30 in 30 of 30 rows", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw, 2)


def test_more_rows_than_allowed_are_refused_with_the_limit(served: Served) -> None:
    with served.stream() as raw:
        n = 65_001
        nack = raw.ask(reads(1, meter_index=[0] * n, stamp_us=[grid(-3600)] * n, import_wh=[1] * n)).nack
        assert nack.reason == "TOO_MANY_ROWS"
        assert "65001" in nack.message
        assert "65000" in nack.message
        told(32, "65,001 rows", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw, 2)


def test_ten_million_rows_in_one_message_are_refused_by_grpc_itself_and_not_to_be_retried(served: Served) -> None:
    n = 10_000_000

    def packed(field: int, size: int) -> bytes:
        return varint(field << 3 | 2) + varint(size) + bytes(size)

    body = b"\x09" + (1).to_bytes(8, "little") + b"\x15" + (900).to_bytes(4, "little")
    body += packed(4, 4 * n) + packed(5, 8 * n) + packed(16, 4 * n)
    with served.stream() as raw:
        raw.send(varint(3 << 3 | 2) + varint(len(body)) + body)
        end = raw.end()
    assert (end.code, end.reason, end.retry_s) == ("RESOURCE_EXHAUSTED", "", None)
    told(19, "a message of 160 MB, 10,000,000 rows", "RPC", f"{end.code}, of gRPC itself and without RetryInfo")
    a_new_stream_goes_on(served)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


JUNK_NUMBER = {
    "truncated": 2, "field 0": 3, "stray group end": 4, "long varint": 5, "half a double": 8, "bad utf-8": 10, "nothing": 30,
}  # fmt: skip
"""Numbers in the catalogue; the others are its first."""
JUNK = {
    "ones": b"\xff" * 20,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "truncated": pb.IngestRequest(batch=pb.ReadBatch(seq=1, import_wh=[1, 2, 3])).SerializeToString()[:-3],
    "field 0": b"\x00\x01",
    "stray group end": b"\x0c",
    "long varint": b"\x08" + b"\xff" * 11,
    "nothing": b"",
    "bad utf-8": b"\x12\x04\x0a\x02\xff\xfe",
    "half a double": b"\x1a\x05\x2a\x03\x00\x00\x00",
    "random": random.Random(5).randbytes(4000),
}


@pytest.mark.parametrize("name", JUNK)
def test_bytes_that_are_no_message_are_nacked(served: Served, name: str) -> None:
    with served.stream() as raw:
        nack = raw.ask(JUNK[name]).nack
        assert (nack.reason, nack.seq, nack.permanent) == ("MALFORMED", 0, True), nack
        assert str(len(JUNK[name])) in nack.message
        told(
            JUNK_NUMBER.get(name, 1),
            f"{name}: {JUNK[name][:24]!r}, {len(JUNK[name])} bytes",
            "NACK",
            f"{nack.reason}: {nack.message}",
        )
        goes_on(raw)


@pytest.mark.parametrize(
    "meter", ["", "x" * 65, "a b", "\uff2d-1", "M\x00", "'; DROP TABLE reads --", "M\u202e1", "%s", "a\n"]
)
def test_a_bad_meter_number_is_refused_escaped_and_its_dictionary_whole(served: Served, meter: str) -> None:
    with served.stream() as raw:
        nack = raw.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=["M-new", meter]))).nack
        assert nack.reason == "BAD_ID"
        assert nack.message.isascii()
        assert "\n" not in nack.message
        told(
            11 if "\x00" in meter else 67 if {*"'%\n"} & {*meter} else 66,
            f"meter {meter!a}",
            "NACK",
            f"{nack.reason}: {nack.message}",
        )
        ack = raw.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=["M-new"]))).dictionary_ack
        assert (ack.first_index, ack.count) == (len(METERS), 1)
        goes_on(raw)


def test_a_meter_announced_twice_is_refused(served: Served) -> None:
    with served.stream() as raw:
        nack = raw.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=["M-9", METERS[0]]))).nack
        assert (nack.reason, METERS[0] in nack.message) == ("DICTIONARY_CHANGED", True)
        told(34, "meter M-1 announced twice", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw)


def test_thousands_of_meters_nobody_knows_go_into_quarantine_and_not_into_the_registry(served: Served) -> None:
    n, end_us, epoch = 20_000, fresh_end_us(), fresh_epoch()
    known = served.sql("SELECT count(*) FROM meters")
    with served.stream(hello(epoch), meters=[f"N-{i}" for i in range(n)]) as raw:
        batch = reads(1, meter_index=list(range(n)), stamp_us=[end_us] * n, import_wh=[1] * n)
        ack = raw.ask(batch).ack
        assert (ack.accepted, ack.rejected) == (0, n)
        assert {*ack.rejected_reason} == {pb.ROW_REASON_UNKNOWN_METER}
        raw.send(pb.IngestRequest(dictionary=pb.Dictionary(meter=METERS)))
        assert raw.answer().dictionary_ack.first_index == n
        assert raw.ask(reads(2, meter_index=[n])).ack.accepted == 1
    assert served.sql("SELECT count(*) FROM meters") == known
    assert served.sql("SELECT count(*) FROM quarantine WHERE epoch = %s", epoch) == [(n,)]
    told(68, f"{n:,} meters in one batch that nobody knows", "ROW", f"UNKNOWN_METER of {n} rows; none is registered")


def test_a_second_hello_is_refused_and_the_stream_goes_on(served: Served) -> None:
    with served.stream() as raw:
        nack = raw.ask(pb.IngestRequest(hello=hello())).nack
        assert (nack.reason, "hello" in nack.message) == ("MALFORMED", True)
        goes_on(raw)


# -- order and repetition ---------------------------------------------------------------------------------------------


def test_gaps_are_accepted_and_going_back_is_a_retry(served: Served) -> None:
    first, second = reads(5, 2), reads(1_000_005)
    with served.stream() as raw:
        assert raw.ask(first).ack.accepted == 2
        assert raw.ask(second).ack.accepted == 1
        back = raw.ask(first).ack
        assert (back.seq, back.accepted, back.replayed) == (5, 2, True)
        late = raw.ask(reads(4)).ack
        assert (late.seq, late.accepted, late.replayed) == (4, 1, False)
        goes_on(raw)


def test_a_seq_reused_with_other_content_stores_nothing(served: Served) -> None:
    epoch = fresh_epoch()
    first, other = reads(1), reads(1)
    with served.stream(hello(epoch)) as raw:
        assert raw.ask(first).ack.accepted == 1
        nack = raw.ask(other).nack
        assert (nack.reason, nack.seq) == ("SEQ_REUSED", 1)
        told(40, "the same seq with another value", "NACK", f"{nack.reason}: {nack.message}")
        assert str(epoch) in nack.message
        stored = "SELECT 1 FROM meter_reads WHERE end_at = to_timestamp(%s / 1e6) AND meter = %s AND quality & %s = 0"
        assert served.sql(stored, other.stamp_us[0], METERS[0], METHOD_MASK) == []
        goes_on(raw, 2)
