"""What ends a stream of reads: hellos that cannot be, too much of something, silence; and that the next one goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bad_input_world import a_new_stream_goes_on, hello, ours, words
from bad_inputs import told
from databases import Databases
from served import (
    HEAD_END,
    OTHER_HEAD_END,
    Served,
    fresh_database,
    fresh_end_us,
    fresh_epoch,
    goes_on,
    reads,
    serving,
)
from service_process import until

from meterwatch.v1 import ingest_pb2 as pb


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


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


def test_a_stream_superseded_and_a_seq_used_again_are_on_record(cluster: Databases) -> None:
    epoch = fresh_epoch()
    found = "SELECT outcome, object FROM audit_log WHERE outcome IN ('SEQ_REUSED', 'SUPERSEDED') ORDER BY outcome"
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        with served.stream(hello(epoch)) as older:
            goes_on(older, 1)
            assert older.ask(reads(1)).nack.reason == "SEQ_REUSED"
            with served.stream(hello(epoch)):
                ours(older.end(), "ABORTED", "SUPERSEDED")
        until(lambda: len(served.sql(found)) == 2, "both are on record")
        assert served.sql(found) == [("SEQ_REUSED", f"epoch {epoch} seq 1"), ("SUPERSEDED", f"epoch {epoch}")]


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
