"""Laws of a feed's receipts: the caller never waits, what could not be told is told later, and never too early."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from meterwatch.client import receipts as module
from meterwatch.client.receipts import FeedReceipts
from meterwatch.v1 import receipts_pb2 as pb
from meterwatch.v1 import receipts_pb2_grpc as rpc

ENOUGH_S = 30.0  # a limit for a hung test, not an expectation


class FakeReceipts(rpc.ReceiptsServicer):
    """Refuses the first calls with these statuses, then keeps what it is told."""

    def __init__(self, *refusals: grpc.StatusCode) -> None:
        self.refusals = list(refusals)
        self.calls = 0
        self.told: list[pb.ConfirmRequest] = []
        self.asked = threading.Event()

    def Confirm(self, request: pb.ConfirmRequest, context: Any) -> pb.ConfirmResponse:
        self.calls += 1
        self.asked.set()
        if self.refusals:
            context.abort(self.refusals.pop(0), "refused on purpose")
        self.told.append(request)
        return pb.ConfirmResponse()


@contextmanager
def told(fake: FakeReceipts | None) -> Iterator[FeedReceipts]:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    if fake is not None:
        rpc.add_ReceiptsServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    receipts = FeedReceipts(f"127.0.0.1:{port}", "Kim", every_s=0.01)
    try:
        yield receipts
    finally:
        receipts.close()
        receipts.join()
        server.stop(0).wait(ENOUGH_S)


def test_what_the_service_refused_for_now_is_told_again_with_the_time_it_happened() -> None:
    fake = FakeReceipts(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)
    with told(fake) as receipts:
        receipts.received(4)
        began_s = time.monotonic()
        receipts.shown(4)
        receipts.start()
        while not fake.told:
            assert fake.asked.wait(ENOUGH_S)
        ended_s = time.monotonic()
    (request, *more) = fake.told
    assert (request.subscriber, [p.seq for p in request.received], [p.seq for p in request.shown]) == ("Kim", [4], [4])
    assert 0 <= request.shown[0].ago_us <= request.received[0].ago_us
    assert request.shown[0].ago_us <= (ended_s - began_s) * 1e6
    assert more == []


def test_what_is_not_told_when_the_feed_ends_is_told_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", ENOUGH_S)
    fake = FakeReceipts()
    with told(fake) as receipts:
        receipts._every_s = 10 * ENOUGH_S
        receipts.start()
        receipts.received(9)
    assert [point.seq for request in fake.told for point in request.received] == [9]


def test_a_service_without_receipts_is_asked_once() -> None:
    with told(None) as receipts:
        receipts.received(1)
        receipts.start()
        receipts._thread.join(ENOUGH_S)
        assert not receipts._thread.is_alive()
        receipts.start()  # every message of the feed does so
        receipts.received(2)


def test_thinned_points_are_few_and_none_is_earlier_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS_MAX", 8)
    now_s = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])
    receipts = FeedReceipts("127.0.0.1:1", "Kim")
    for seq in range(1, 101):
        now_s[0] = float(seq)
        receipts.received(seq)
    points = receipts._received
    assert len(points) <= 8
    assert points[-1] == (100, 100.0)
    assert all(at_s >= seq for seq, at_s in points)
    receipts.received(40)  # sent once more after a break
    now_s[0] = 101.0
    receipts.received(50)
    assert receipts._received[-1] == (100, 101.0)
