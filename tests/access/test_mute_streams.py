"""A head-end whose streams never say hello keeps the streams of others from nobody; over TLS, the whole service."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from access_world import World, refused, served, stream

from ingest.stream import MUTE_MAX
from meterwatch.config import Server
from meterwatch.v1 import ingest_pb2


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("mute")) as running:
        yield running


def test_streams_that_say_nothing_leave_room_for_those_of_others(world: World) -> None:
    silent, other = (world.person("head-end", name=name) for name in ("HES-1", "HES-2"))
    assert Server().head_end_streams_max + MUTE_MAX < Server().streams_max
    never: queue.Queue[bytes | None] = queue.Queue()
    open_ = silent.channel.stream_stream("/meterwatch.v1.Ingest/Stream")
    ended = threading.Semaphore(0)
    calls = [open_(iter(never.get, None)) for _ in range(Server().streams_max)]
    for call in calls:
        if not call.add_callback(ended.release):  # it has ended already
            ended.release()
    try:
        for _ in range(len(calls) - MUTE_MAX):  # who may not wait is told so at once
            assert ended.acquire(timeout=60)
        assert "HEAD_END_STREAMS_MAX" in {refused(partial(iter, call))[1] for call in calls if not call.is_active()}
        answers = stream(other, ingest_pb2.Hello(head_end="HES-2", epoch=1), "M-S1")
        assert [answer.ack.accepted for answer in answers if answer.HasField("ack")] == [1]
    finally:
        for call in calls:
            call.cancel()
            never.put(None)
