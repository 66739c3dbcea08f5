"""Bad single calls against the real service, and any bytes to any method: each answer is ours and has a reason."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from bad_input_world import a_new_stream_goes_on, grid, hello, ours
from bad_inputs import told
from served import (
    FOREIGN,
    HEAD_END,
    METERS,
    OTHER_HEAD_END,
    Ended,
    Raw,
    Served,
    ended,
    fresh_end_us,
    fresh_epoch,
    reads,
    serving,
)

from meterwatch.v1 import alarms_pb2, ingest_pb2, reads_pb2, registry_pb2
from meterwatch.v1 import ingest_pb2 as pb


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


# -- the small calls --------------------------------------------------------------------------------------------------


def refused(served: Served, method: str, data: bytes) -> Ended:
    with pytest.raises(grpc.RpcError) as raised:
        served.call(method, data)
    return ended(raised.value)


def one_read(**change: Any) -> pb.SendReadsRequest:
    fields: dict[str, Any] = {"head_end": HEAD_END, "epoch": fresh_epoch(), "seq": 1, "interval_s": 900, **change}
    fields.setdefault("read", [pb.Read(meter=METERS[0], end_us=fresh_end_us(), import_wh=5)])
    return pb.SendReadsRequest(**fields)


def one_event(**change: Any) -> pb.SendEventsRequest:
    fields: dict[str, Any] = {
        "head_end": HEAD_END, "epoch": fresh_epoch(), "seq": 1, "meter": [METERS[0]], "meter_index": [0],
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
    if "at_us" in change:
        told(63, f"an event at {change['at_us'][0]} us", "ROW", reason)


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
