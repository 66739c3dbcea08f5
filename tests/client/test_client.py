"""Laws of the client, against a service that breaks streams: nothing lost, nothing doubled, credits kept."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from fake_ingest import FakeIngest, Serving, status

from meterwatch.client import Backoff, HeadEnd, Incomplete, Refused, Row, Superseded, Unreachable
from meterwatch.v1 import ingest_pb2 as pb

START_US = 1_767_225_600_000_000
STEP_US = 900_000_000


def quick() -> Backoff:
    return Backoff(0.001, 0.005)


def send(head_end: HeadEnd, rows: int, meters: int = 7) -> set[tuple[str, int]]:
    index = np.arange(rows) % meters
    end_us = START_US + np.arange(rows) // meters * STEP_US
    names = [f"M{i}" for i in range(meters)]
    head_end.send_columns(names, index, end_us, 900, import_wh=np.arange(rows), voltage_a_v=np.full(rows, 230.0))
    return {(names[i], int(t)) for i, t in zip(index, end_us, strict=True)}


@pytest.mark.parametrize("seed", range(6))
def test_breaks_lose_nothing_and_double_nothing(seed: int) -> None:
    fake = FakeIngest(break_rate=0.3, seed=seed, breaks_max=12)
    with Serving(fake) as address, HeadEnd(address, "HES-1", batch_rows=10, backoff=quick()) as head_end:
        sent = send(head_end, 300)
        totals = head_end.flush()
    assert set(fake.stored) == sent
    assert set(fake.stored.values()) == {1}
    assert fake.differing_resends == 0
    assert fake.unanswered_max <= fake.credits
    assert fake.streams > 1
    assert (totals.sent, totals.accepted, totals.batches) == (300, 300, 30)


def test_all_credits_are_used_and_no_more() -> None:
    fake = FakeIngest(credits=3)
    with Serving(fake) as address, HeadEnd(address, "HES-1", batch_rows=5) as head_end:
        send(head_end, 200)
    assert fake.unanswered_max == 3


def test_batches_keep_to_the_services_limits() -> None:
    fake = FakeIngest(welcome={"batch_rows_max": 16, "message_bytes_max": 1024 + 20 * 8})
    with Serving(fake) as address, HeadEnd(address, "HES-1") as head_end:
        send(head_end, 100)
        assert head_end.flush().batches == 13  # 20 bytes a row: 8 rows


def test_a_refused_batch_is_counted_and_the_others_are_stored() -> None:
    fake = FakeIngest()
    fake.nack[2] = pb.Nack(seq=2, reason="TOO_SPREAD", message="x", permanent=True)
    fake.nack[3] = pb.Nack(seq=3, reason="BUSY", message="x", permanent=False)
    with Serving(fake) as address, HeadEnd(address, "HES-1", batch_rows=10) as head_end:
        send(head_end, 50)
        totals = head_end.flush()
    assert (totals.nacked, totals.nacked_rows, totals.accepted) == (1, 10, 40)
    assert totals.nack_reasons == {"TOO_SPREAD: x": 1}


def test_the_same_epoch_again_is_answered_as_replayed() -> None:
    fake = FakeIngest()
    with Serving(fake) as address:
        for _ in range(2):
            with HeadEnd(address, "HES-1", epoch=5, batch_rows=10) as head_end:
                send(head_end, 30)
                totals = head_end.flush()
    assert totals.replayed == 3
    assert set(fake.stored.values()) == {1}


def test_a_summary_that_differs_is_an_error() -> None:
    fake = FakeIngest()
    fake.summary_lies = True
    with (
        Serving(fake) as address,
        pytest.raises(Incomplete, match="sent were"),
        HeadEnd(address, "HES-1") as head_end,
    ):
        send(head_end, 10)


@pytest.mark.parametrize(
    ("code", "reason", "delay", "raised"),
    [
        (grpc.StatusCode.ABORTED, "SUPERSEDED", None, Superseded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", None, Refused),
        (grpc.StatusCode.PERMISSION_DENIED, "UNKNOWN_HEAD_END", None, Refused),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAMS", 0.01, None),
        (grpc.StatusCode.UNAVAILABLE, "STARTING", 0.01, None),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "SLOW", None, None),
    ],
)
def test_a_status_is_final_or_retried(code: grpc.StatusCode, reason: str, delay: float | None, raised: type) -> None:
    fake = FakeIngest(status=status(code, reason, delay), breaks_max=2)
    with Serving(fake) as address:
        client = HeadEnd(address, "HES-1", backoff=quick())
        if raised is None:
            with client as head_end:
                send(head_end, 10)
                assert head_end.flush().accepted == 10
            assert fake.streams == 3
        else:
            with pytest.raises(raised, match=reason), client:
                pass


def test_no_service_is_unreachable_after_the_time_given() -> None:
    with pytest.raises(Unreachable, match="no answer from"), HeadEnd("127.0.0.1:1", "HES-1", give_up_after_s=0.0):
        pass


def test_on_ack_is_told_every_batch_once() -> None:
    fake = FakeIngest(break_rate=0.2, seed=3, breaks_max=5)
    seen: list[int] = []
    with Serving(fake) as address:
        client = HeadEnd(
            address, "HES-1", batch_rows=10, backoff=quick(), on_ack=lambda seq, ack, latency_s: seen.append(seq)
        )
        with client as head_end:
            send(head_end, 100)
    assert sorted(seen) == list(range(1, 11))


def test_rows_with_missing_channels_carry_a_mask() -> None:
    fake = FakeIngest()
    with Serving(fake) as address, HeadEnd(address, "HES-1", epoch=1) as head_end:
        head_end.send_rows(
            [Row("A", START_US, import_wh=5), {"meter": "B", "end_us": START_US, "voltage_a_v": 230.5, "import_wh": 1}]
        )
        assert head_end.flush().accepted == 2
    batch = pb.ReadBatch.FromString(fake.ledger[1, 1][0])
    assert list(batch.channel_mask) == [1, 1 | 1 << 4]
    assert list(batch.import_wh) == [5, 1]


def test_interval_lengths_go_into_batches_of_their_own() -> None:
    fake = FakeIngest()
    with Serving(fake) as address, HeadEnd(address, "HES-1", epoch=1) as head_end:
        head_end.send_columns(["A"], [0, 0], [START_US, START_US + STEP_US], [900, 1800], import_wh=[1, 2])
        assert head_end.flush().batches == 2


def test_events_are_repeated_until_answered() -> None:
    fake = FakeIngest(break_rate=1.0, breaks_max=2)
    with Serving(fake) as address, HeadEnd(address, "HES-1", backoff=quick()) as head_end:
        assert head_end.send_events(["A", "B"], [START_US, START_US], [1, 2]).accepted == 2


BASE = {"meter": ["A"], "meter_index": [0], "end_us": [START_US], "interval_s": 900, "import_wh": [1]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"import_wh": [1.5]}, "float64; expected integers; round"),
        ({"import_wh": [float("nan")]}, "clear their bit in mask"),
        ({"import_wh": [1, 2]}, "give one value per row"),
        ({"import_wh": [1 << 31]}, "expected -2147483648 to 2147483647"),
        ({"meter_index": [1]}, "expected 0 to 0"),
        ({"end_us": [1_767_225_600]}, "multiply seconds by"),
        ({"interval_s": 901}, "expected one of 60"),
        ({"meter": ["A B"]}, "change the meter number"),
        ({"imprt_wh": [1]}, "did you mean 'import_wh'"),
        ({"mask": [2]}, "export_wh"),
        ({"import_wh": None}, "no channel was given"),
        ({"voltage_a_v": ["x"]}, "expected numbers"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_sent(change: dict, says: str) -> None:
    fake = FakeIngest()
    with Serving(fake) as address, HeadEnd(address, "HES-1") as head_end:
        with pytest.raises(ValueError, match=says):
            head_end.send_columns(**{**BASE, **change})
        assert head_end.flush().sent == 0
