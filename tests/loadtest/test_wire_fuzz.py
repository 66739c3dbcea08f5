"""Broken HTTP/2 in thousands of connections, over plain text and TLS; `make fuzz-wire CONNECTIONS=100000` for more."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest

from loadtest import wire_fuzz
from loadtest.wire_fuzz import RightCaller, errors_in, problems_of
from loadtest.wire_sender import calls_of, drawn, said, send_all
from meterwatch.devtools.broken_http2 import ENDS, WAYS, Conversation, conversation, encoded, sound
from meterwatch.devtools.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Frame,
    frame,
)

CONNECTIONS = 800
NOWHERE = "127.0.0.1:1"


def test_nothing_that_no_library_sends_ends_a_service_or_keeps_a_right_call_from_its_answer(cluster):
    cluster.create_database("wire_fuzz")
    try:
        result = wire_fuzz.run(CONNECTIONS, 1, cluster.dsn_of("wire_fuzz"), print)
    finally:
        cluster.drop_database("wire_fuzz")
    assert result["problems"] == []
    figures = [arm["figures"] for arm in result["arms"].values()]
    assert [arm["connections"] for arm in figures] == [CONNECTIONS / 2] * 2
    assert all(arm["right_calls"] >= arm["connections"] / wire_fuzz.BLOCK for arm in figures)
    assert all("a status, left open" in arm["ends"] for arm in result["arms"].values())


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_a_connection_follows_from_seed_and_number():
    assert drawn(1, 4711) == drawn(1, 4711)
    assert len({drawn(1, number).pieces for number in range(100)} | {drawn(2, n).pieces for n in range(100)}) > 150


def test_all_ways_and_all_ends_come():
    rng = random.Random(1)
    made = [conversation(rng) for _ in range(3000)]
    assert {one.way for one in made} == {way.__name__.strip("_") for way in WAYS}
    assert {one.end for one in made} == {*ENDS}
    assert {len(one.pieces) for one in made} == {1, 2, 4}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_each_way_breaks_a_sound_call(way):
    same = 0
    for seed in range(40):
        rng = random.Random(seed)
        frames = sound(rng)
        made = way(rng, frames)
        same += (made if isinstance(made, bytes) else PREFACE + encoded(made)) == PREFACE + encoded(frames)
    assert same <= 10


@pytest.mark.parametrize(
    "one", [Frame(0, 0, 0), Frame(255, 255, 2**32 - 1, b"x" * 70_000), Frame(1, 4, 7, b"ab", says=2**24 - 1)]
)
def test_a_frame_is_its_length_in_three_bytes_kind_flags_stream_and_payload(one):
    head = struct.pack(">IBBI", len(one.payload) if one.says is None else one.says, one.kind, one.flags, one.stream)
    assert one.encoded() == head[1:] + one.payload


# -- what is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"", "nothing said"),
        (frame(SETTINGS, 0, 0) + frame(PING, 1, 0, bytes(8)), "nothing said"),
        (frame(HEADERS, END_HEADERS, 1, b"x") + frame(DATA, 0, 1, b"yz"), "nothing said"),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x"), "a status"),
        (frame(HEADERS, END_STREAM, 1) + frame(RST_STREAM, 0, 1, bytes(4)), "a status"),
        (frame(RST_STREAM, 0, 1, bytes(4)), "a stream reset"),
        (frame(HEADERS, END_STREAM, 1) + frame(GOAWAY, 0, 0, bytes(4) + bytes([0, 0, 0, 11]) + b"why"), "GOAWAY 11"),
        (frame(GOAWAY, 0, 0, bytes(8))[:-3], "GOAWAY 0"),
    ],
)
def test_an_answer_in_a_word(answer, word):
    assert said(answer) == word


def test_the_calls_of_a_connection_are_its_frames_of_headers():
    begun = frame(HEADERS, END_HEADERS, 1, b"x" * 40)
    sent = begun * 3 + frame(DATA, 0, 1) + begun[:20]
    assert calls_of(Conversation("any", (PREFACE[:5], PREFACE[5:] + sent), "waits")) == 4
    assert calls_of(Conversation("any", (begun,), "waits")) == 0


def test_a_connection_that_is_not_taken_is_counted():
    conversations = [Conversation("any", (PREFACE,), end) for end in ENDS]
    assert asyncio.run(send_all(NOWHERE, conversations)) == {"refused": len(ENDS)}


def test_a_right_call_without_an_answer_is_told():
    caller = RightCaller(NOWHERE, "plain", None)
    caller.await_another()
    caller.close()
    assert caller.answered == len(caller.errors) >= 2
    assert "right call 0" in caller.errors[0]


SOUND = {
    "refused": 0, "calls": 20_000, "right_calls": 9, "right_failed": 0, "right_accepted": 9, "right_stored": 9,
    "rss_mb_grown": 10, "errors_logged": 0, "descriptors_more": 32, "threads_more": 0, "connections_more": 0,
    "temp_files_more": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"refused": 1}, "1 connections were not taken"),
        ({"right_failed": 2}, "2 of 9 right calls failed"),
        ({"right_calls": 0}, "0 of 0 right calls"),
        ({"right_stored": 8}, "9 right reads acknowledged, 8 stored"),
        ({"rss_mb_grown": 132}, "memory grew by 132 MB after the first tenth, 131 may be"),
        ({"errors_logged": 1}, "1 errors in the log"),
        ({"descriptors_more": 33}, "33 descriptors more than before"),
        ({"threads_more": 33}, "33 threads more"),
        ({"connections_more": 33}, "33 connections more"),
        ({"temp_files_more": 33}, "33 temp_files more"),
    ],
)
def test_each_thing_that_goes_wrong_fails_the_run(figures, says):
    assert problems_of(SOUND) == []
    (problem,) = problems_of(SOUND | figures)
    assert says in problem


def test_errors_of_ours_in_a_log_are_told_and_those_of_a_broken_call_are_not():
    assert (
        errors_in('{"level": "info", "event": "x"}\nI0000 gRPC\n{"level": "error", "event": "Invalid encoding on b"}')
        == []
    )
    (error,) = errors_in('{"level": "error", "event": "Task exception was never retrieved"}\n')
    assert "never retrieved" in error
