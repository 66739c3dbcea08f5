"""Bad input against the real service over real gRPC: each has its named answer, and the next good batch is stored."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from bad_inputs import told
from databases import Databases
from served import (
    FOREIGN,
    HEAD_END,
    METERS,
    OTHER_HEAD_END,
    STEP_S,
    US,
    Ended,
    Raw,
    Served,
    ended,
    fresh_database,
    fresh_end_us,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)

from meterwatch.v1 import alarms_pb2, ingest_pb2, reads_pb2, registry_pb2
from meterwatch.v1 import ingest_pb2 as pb

DAY_US = 86_400 * US
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


def hello(epoch: int | None = None, head_end: str = HEAD_END) -> pb.Hello:
    return pb.Hello(head_end=head_end, epoch=fresh_epoch() if epoch is None else epoch)


def grid(offset_s: int) -> int:
    """An interval end `offset_s` from now, on the grid."""
    return (int(time.time()) + offset_s) // STEP_S * STEP_S * US


def ours(end: Ended, code: str, reason: str, *, retried: bool = False, of: tuple[int, str] | None = None) -> None:
    """The call ended so. of: number and input in the catalogue."""
    assert (end.code, end.reason, end.domain) == (code, reason, "meterwatch"), end
    assert (end.retry_s is not None) == retried, end
    assert end.message
    if of is not None:
        again = f" (retry after {end.retry_s:g} s)" if end.retry_s is not None else ""
        told(*of, "RPC", f"{end.code} {end.reason}: {end.message}{again}")


def words(change: dict[str, Any]) -> str:
    """A change to a good batch or request, as the catalogue shows it."""
    return ", ".join(f"{name} {str(value).strip()[:80]}" for name, value in change.items())


def a_new_stream_goes_on(served: Served) -> None:
    with served.stream() as raw:
        goes_on(raw)


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
        nack = raw.ask(pb.IngestRequest(dictionary=pb.Dictionary(meter=["M-9", "M-1"]))).nack
        assert (nack.reason, "M-1" in nack.message) == ("DICTIONARY_CHANGED", True)
        told(34, "meter M-1 announced twice", "NACK", f"{nack.reason}: {nack.message}")
        goes_on(raw)


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
        stored = "SELECT count(*) FROM reads WHERE end_at = to_timestamp(%s / 1e6)"
        assert served.sql(stored, other.stamp_us[0]) == [(0,)]
        goes_on(raw, 2)


# -- what ends the stream ---------------------------------------------------------------------------------------------


def test_a_stream_without_hello_is_ended(served: Served) -> None:
    with served.stream(welcomed=False) as raw:
        raw.send(reads(1))
        end = raw.end()
    ours(end, "INVALID_ARGUMENT", "NO_HELLO", of=(39, "a batch before hello"))
    assert "batch" in end.message
    a_new_stream_goes_on(served)


def test_a_stream_of_junk_from_the_start_is_ended(served: Served) -> None:
    with served.stream(welcomed=False) as raw:
        raw.send(b"\xff" * 20)
        ours(raw.end(), "INVALID_ARGUMENT", "MALFORMED")
    a_new_stream_goes_on(served)


def test_a_stream_that_says_nothing_ends(served: Served) -> None:
    with served.stream(welcomed=False) as raw:
        raw.half_close()
        ours(raw.end(), "INVALID_ARGUMENT", "NO_HELLO")
    a_new_stream_goes_on(served)


@pytest.mark.parametrize(
    ("greeting", "code", "reason"),
    [
        (pb.Hello(head_end="nobody", epoch=1), "PERMISSION_DENIED", "HEAD_END_UNKNOWN"),
        (pb.Hello(head_end="", epoch=1), "INVALID_ARGUMENT", "BAD_ID"),
        (pb.Hello(head_end="HES 1", epoch=1), "INVALID_ARGUMENT", "BAD_ID"),
        (pb.Hello(head_end=HEAD_END, epoch=0), "INVALID_ARGUMENT", "BAD_EPOCH"),
        (pb.Hello(head_end=HEAD_END, epoch=2**64 - 1), "INVALID_ARGUMENT", "BAD_EPOCH"),
    ],
)
def test_a_bad_hello_ends_the_stream(served: Served, greeting: pb.Hello, code: str, reason: str) -> None:
    with served.stream(welcomed=False) as raw:
        raw.send(pb.IngestRequest(hello=greeting))
        number = 42 if reason == "HEAD_END_UNKNOWN" else 66 if reason == "BAD_ID" else 39
        ours(
            raw.end(),
            code,
            reason,
            of=(number, f"hello: {words({field.name: value for field, value in greeting.ListFields()})}"),
        )
    a_new_stream_goes_on(served)


def test_more_batches_than_credits_end_the_stream(served: Served) -> None:
    stamp_us = [fresh_end_us()] * 20_000
    with served.stream() as raw:
        for seq in range(1, 40):
            raw.send(reads(seq, meter_index=[0] * 20_000, stamp_us=stamp_us, import_wh=[1] * 20_000))
        end = raw.end()
    ours(
        end, "FAILED_PRECONDITION", "CREDITS_EXCEEDED", of=(79, "39 batches of 20,000 rows without waiting for answers")
    )
    assert "8" in end.message
    a_new_stream_goes_on(served)


def test_ten_refusals_end_the_stream(served: Served) -> None:
    with served.stream() as raw:
        for _ in range(9):
            assert raw.ask(b"\xff").nack.reason == "MALFORMED"
        raw.send(b"\xff")
        end = raw.end()
    ours(end, "INVALID_ARGUMENT", "TOO_MANY_NACKS", of=(79, "ten refused messages within a minute"))
    assert "MALFORMED" in end.message
    a_new_stream_goes_on(served)


def test_of_two_streams_with_one_epoch_the_newer_wins(served: Served) -> None:
    epoch = fresh_epoch()
    with served.stream(hello(epoch)) as older, served.stream(hello(epoch)) as newer:
        end = older.end()
        ours(end, "ABORTED", "SUPERSEDED")
        assert str(epoch) in end.message
        goes_on(newer)


def test_an_idle_stream_is_ended_and_may_come_again(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn, idle_timeout_s=0.3) as served:
        with served.stream() as raw:
            end = raw.end()
        assert (end.code, end.domain) == ("DEADLINE_EXCEEDED", "meterwatch")
        assert "nothing arrived" in end.message
        told(
            78,
            "a stream that sends nothing for server.idle_timeout_s",
            "RPC",
            f"{end.code} {end.reason}: {end.message}",
        )
        a_new_stream_goes_on(served)


def test_a_stream_too_many_is_told_to_wait(cluster: Databases) -> None:
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, streams_max=1) as served,
        served.stream() as raw,
        served.stream(welcomed=False) as second,
    ):
        ours(
            second.end(),
            "RESOURCE_EXHAUSTED",
            "STREAMS_MAX",
            retried=True,
            of=(82, "one stream more than server.streams_max"),
        )
        goes_on(raw)


def test_one_head_end_cannot_take_all_streams_and_replacing_one_needs_no_room(cluster: Databases) -> None:
    epoch = fresh_epoch()
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, head_end_streams_max=1) as served,
        served.stream(hello(epoch)) as raw,
        served.stream(welcomed=False) as second,
    ):
        second.send(pb.IngestRequest(hello=hello()))
        ours(second.end(), "RESOURCE_EXHAUSTED", "HEAD_END_STREAMS_MAX", retried=True)
        goes_on(raw, 1)
        with served.stream(hello(head_end=OTHER_HEAD_END), meters=[]), served.stream(hello(epoch)) as newer:
            ours(raw.end(), "ABORTED", "SUPERSEDED")
            goes_on(newer, 2)


def test_a_good_stream_ends_with_its_count(served: Served) -> None:
    with served.stream() as raw:
        goes_on(raw, 1)
        assert raw.ask(reads(2, interval_s=1)).HasField("nack")
        raw.half_close()
        summary = raw.answer().summary
        assert (summary.batches, summary.acked, summary.nacked) == (2, 1, 1)
        assert raw.end().code == "OK"


# -- the small calls --------------------------------------------------------------------------------------------------


def refused(served: Served, method: str, data: bytes) -> Ended:
    with pytest.raises(grpc.RpcError) as raised:
        served.call(method, data)
    return ended(raised.value)


def one_read(**change: Any) -> pb.SendReadsRequest:
    fields: dict[str, Any] = {"head_end": HEAD_END, "epoch": fresh_epoch(), "seq": 1, "interval_s": 900, **change}
    fields.setdefault("read", [pb.Read(meter="M-1", end_us=fresh_end_us(), import_wh=5)])
    return pb.SendReadsRequest(**fields)


def one_event(**change: Any) -> pb.SendEventsRequest:
    fields: dict[str, Any] = {
        "head_end": HEAD_END, "epoch": fresh_epoch(), "seq": 1, "meter": ["M-1"], "meter_index": [0],
        "at_us": [fresh_end_us() + 1], "code": [5], **change,
    }  # fmt: skip
    return pb.SendEventsRequest(**fields)


READS: list[tuple[dict[str, Any], str, str]] = [
    ({"head_end": "nobody"}, "PERMISSION_DENIED", "HEAD_END_UNKNOWN"),
    ({"head_end": "a b"}, "INVALID_ARGUMENT", "BAD_ID"),
    ({"epoch": 0}, "INVALID_ARGUMENT", "BAD_EPOCH"),
    ({"seq": 0}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"seq": 2**64 - 1}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"interval_s": 7}, "INVALID_ARGUMENT", "INTERVAL"),
    ({"read": []}, "INVALID_ARGUMENT", "EMPTY_BATCH"),
    ({"read": [pb.Read(meter="M-1", end_us=1)]}, "INVALID_ARGUMENT", "COLUMN_LENGTH"),
    ({"read": [pb.Read(meter="M 1", end_us=1, import_wh=1)]}, "INVALID_ARGUMENT", "BAD_ID"),
    ({"read": [pb.Read(meter="M-1", end_us=1, import_wh=1)] * 1001}, "INVALID_ARGUMENT", "TOO_MANY_ROWS"),
    ({"read": [pb.Read(meter="M" * 300, end_us=1, import_wh=1)] * 990}, "INVALID_ARGUMENT", "MESSAGE_TOO_LARGE"),
]
EVENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"head_end": "nobody"}, "PERMISSION_DENIED", "HEAD_END_UNKNOWN"),
    ({"epoch": 0}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"seq": 0}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"epoch": 2**64 - 1}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"seq": 2**64 - 1}, "INVALID_ARGUMENT", "BAD_SEQ"),
    ({"at_us": [], "meter_index": [], "code": []}, "INVALID_ARGUMENT", "EMPTY_BATCH"),
    ({"meter_index": [0, 0]}, "INVALID_ARGUMENT", "COLUMN_LENGTH"),
    ({"meter_index": [1]}, "INVALID_ARGUMENT", "INDEX_RANGE"),
    ({"meter_index": [2**32 - 1]}, "INVALID_ARGUMENT", "INDEX_RANGE"),
    ({"code": [0]}, "INVALID_ARGUMENT", "UNKNOWN_ENUM"),
    ({"code": [99]}, "INVALID_ARGUMENT", "UNKNOWN_ENUM"),
    ({"code": [-1]}, "INVALID_ARGUMENT", "UNKNOWN_ENUM"),
    ({"meter": ["M\n1"]}, "INVALID_ARGUMENT", "BAD_ID"),
]


@pytest.mark.parametrize(("change", "code", "reason"), READS)
def test_bad_reads_are_refused(served: Served, change: dict[str, Any], code: str, reason: str) -> None:
    large = (
        (18, f"SendReads of {len(change.get('read', ()))} reads")
        if reason in ("MESSAGE_TOO_LARGE", "TOO_MANY_ROWS")
        else None
    )
    ours(refused(served, "Ingest/SendReads", one_read(**change).SerializeToString()), code, reason, of=large)
    answer = pb.SendReadsResponse.FromString(served.call("Ingest/SendReads", one_read().SerializeToString()))
    assert answer.ack.accepted == 1


@pytest.mark.parametrize(("change", "code", "reason"), EVENTS)
def test_bad_events_are_refused(served: Served, change: dict[str, Any], code: str, reason: str) -> None:
    ours(refused(served, "Ingest/SendEvents", one_event(**change).SerializeToString()), code, reason)
    answer = pb.SendEventsResponse.FromString(served.call("Ingest/SendEvents", one_event().SerializeToString()))
    assert (answer.accepted, answer.rejected) == (1, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"meter": ["nobody"]}, "UNKNOWN_METER"),
        ({"meter": [FOREIGN]}, "NOT_YOURS"),
        ({"at_us": [grid(7200)]}, "FUTURE"),
        ({"at_us": [2**63 - 1]}, "FUTURE"),
        ({"at_us": [-(2**63)]}, "TOO_OLD"),
    ],
)
def test_a_bad_event_is_quarantined(served: Served, change: dict[str, Any], reason: str) -> None:
    request = one_event(**change)
    answer = pb.SendEventsResponse.FromString(served.call("Ingest/SendEvents", request.SerializeToString()))
    assert [pb.RowReason.Name(code) for code in answer.rejected_reason] == [f"ROW_REASON_{reason}"]
    assert served.sql("SELECT reason FROM quarantine WHERE epoch = %s", request.epoch) == [(reason,)]


def test_events_sent_again_are_replayed_and_a_reused_seq_is_refused(served: Served) -> None:
    request = one_event()
    for replayed in (False, True):
        answer = pb.SendEventsResponse.FromString(served.call("Ingest/SendEvents", request.SerializeToString()))
        assert (answer.accepted, answer.replayed) == (1, replayed)
    other = one_event(epoch=request.epoch, code=[6])
    ours(refused(served, "Ingest/SendEvents", other.SerializeToString()), "INVALID_ARGUMENT", "SEQ_REUSED")


def test_a_head_end_writes_only_its_own_meters(served: Served) -> None:
    with served.stream(hello(head_end=OTHER_HEAD_END)) as raw:
        ack = raw.ask(reads(1)).ack
        assert [pb.RowReason.Name(code) for code in ack.rejected_reason] == ["ROW_REASON_NOT_YOURS"]


# -- every method -----------------------------------------------------------------------------------------------------

METHODS = [
    (f"{service.name}/{method.name}", method.client_streaming, method.server_streaming)
    for module in (ingest_pb2, alarms_pb2, registry_pb2, reads_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
BLOBS = [
    b"",
    b"\xff" * 20,
    b"\x0a\x02\xff\xfe",
    b"\x08" + b"\xff" * 11,
    *(random.Random(n).randbytes(64) for n in (1, 2)),
]
OF_GRPC = {"CANCELLED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("method", [method for method in METHODS if not method[1]], ids=lambda method: method[0])
@pytest.mark.parametrize("blob", BLOBS, ids=range(len(BLOBS)))
def test_no_answer_is_unknown_and_each_of_ours_has_a_reason(
    served: Served, method: tuple[str, bool, bool], blob: bytes
) -> None:
    name, _, streaming = method
    end = Ended("OK", "", "", "", None)
    with grpc.insecure_channel(served.address) as channel:
        make = channel.unary_stream if streaming else channel.unary_unary
        try:
            call: Any = make(f"/meterwatch.v1.{name}")(blob, timeout=10)
            if streaming:
                next(call)
                call.cancel()
        except StopIteration:
            pass
        except grpc.RpcError as error:
            end = ended(error)
    assert end.code not in ("UNKNOWN", "INTERNAL"), end
    if end.code != "OK" and not (end.code in OF_GRPC and not end.reason):
        assert (end.domain, bool(end.reason)) == ("meterwatch", True), end
    if blob[:1] == b"\xff":
        ours(end, "INVALID_ARGUMENT", "MALFORMED")


def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    end = refused(served, "Ingest/Nothing", b"")
    assert end.code == "UNIMPLEMENTED"
    told(29, "the method Ingest/Nothing", "RPC", f"{end.code}, of gRPC itself")


def test_a_message_of_a_thousand_random_ones_never_ends_in_our_fault(served: Served) -> None:
    rng = random.Random(11)
    good = pb.IngestRequest(batch=reads(1, 4)).SerializeToString()
    raw: Raw | None = None
    try:
        for n in range(1000):
            if n % 9 == 0:
                if raw is not None:
                    raw.leave()
                raw = served.stream()
            assert raw is not None
            mutant = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            answer = raw.ask(bytes(mutant))
            assert answer.WhichOneof("message") in ("ack", "nack", "dictionary_ack"), answer
        assert raw is not None
        raw.leave()
    finally:
        if raw is not None:
            raw.leave()
    a_new_stream_goes_on(served)
