"""Laws of the alarm feed: it goes on from the last cursor seen, and says so when it cannot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from meterwatch.client import AlarmFeed, Backoff, Refused
from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import alarms_pb2_grpc as rpc


class FakeAlarms(rpc.AlarmsServicer):
    """A log of transitions 1..last, so many a message; every stream breaks after `per_stream` messages."""

    def __init__(self, last: int, per_stream: int, together: int = 0) -> None:
        self.last, self.per_stream, self.together, self.asked = last, per_stream, together, []

    def Subscribe(self, request, context):
        self.asked.append((request.from_seq, request.log_id))
        if request.from_seq > self.last:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "newer than the log")
        messages = []
        if request.from_seq == 0:
            messages += [
                pb.SubscribeResponse(snapshot=pb.Snapshot(seq=2, log_id="L", complete=c)) for c in (False, True)
            ]
        log = [pb.Transition(seq=seq) for seq in range(max(request.from_seq, 2) + 1, self.last + 1)]
        if self.together:
            assert request.transitions_max >= self.together
            parts = [log[at : at + self.together] for at in range(0, len(log), self.together)]
            messages += [pb.SubscribeResponse(transitions=pb.Transitions(transition=part)) for part in parts]
        else:
            messages += [pb.SubscribeResponse(transition=transition) for transition in log]
        yield from messages[: self.per_stream]
        context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")


@pytest.fixture
def serve():
    server = grpc.server(ThreadPoolExecutor(4))
    port = server.add_insecure_port("127.0.0.1:0")

    def start(alarms: FakeAlarms) -> str:
        rpc.add_AlarmsServicer_to_server(alarms, server)
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    server.stop(0).wait(5)


def test_breaks_neither_skip_nor_repeat_a_transition(serve) -> None:
    alarms = FakeAlarms(last=9, per_stream=3)
    seen = []
    with AlarmFeed(serve(alarms), backoff=Backoff(0.001, 0.005)) as feed:
        for message in feed:
            if message.HasField("transition"):
                seen.append(message.transition.seq)
                if seen[-1] == 9:
                    break
    assert seen == list(range(3, 10))
    assert alarms.asked == [(0, ""), (3, "L"), (6, "L")]


def test_a_broken_snapshot_begins_anew(serve) -> None:
    alarms = FakeAlarms(last=4, per_stream=1)
    with AlarmFeed(serve(alarms), backoff=Backoff(0.001, 0.005)) as feed:
        for _ in zip(feed, range(3), strict=False):
            pass
    assert set(alarms.asked) == {(0, "")}


def test_a_cursor_newer_than_the_log_is_refused(serve) -> None:
    with AlarmFeed(serve(FakeAlarms(last=4, per_stream=9)), from_seq=99) as feed, pytest.raises(Refused) as caught:
        next(iter(feed))
    assert caught.value.code == "FAILED_PRECONDITION"


def test_transitions_that_come_together_are_given_one_by_one_and_none_is_skipped_or_repeated(serve) -> None:
    alarms = FakeAlarms(last=13, per_stream=3, together=2)
    with AlarmFeed(serve(alarms), backoff=Backoff(0.001, 0.005)) as feed:
        seen = []
        for message in feed:
            if message.HasField("transition"):
                seen.append(message.transition.seq)
                if seen[-1] == 13:
                    break
    assert seen == list(range(3, 14))
    assert alarms.asked == [(0, ""), (4, "L"), (10, "L")]


def test_a_caller_that_stops_in_the_midst_of_transitions_resumes_after_the_last_it_finished(serve) -> None:
    alarms = FakeAlarms(last=9, per_stream=9, together=5)
    with AlarmFeed(serve(alarms), from_seq=2, log_id="L") as feed:
        for message in feed:
            if message.transition.seq == 5:
                break
    assert feed.seq == 4  # 5 was given and not finished
