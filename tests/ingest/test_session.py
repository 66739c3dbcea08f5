"""Laws of one stream: what the dictionary takes, what is answered, and what a changed registry changes."""

from __future__ import annotations

import asyncio

import pytest
from ingest_world import HOME, METERS, NOW_US, WORLD, Sink, message, registry
from oracle import Row

from ingest import session as subject
from ingest.dictionary import ROW_BYTES
from ingest.session import CREDITS_MAX, NACKS_MAX, Session, StreamLimits, head_end_of
from meterwatch.check_profile import DEFAULT
from meterwatch.errors import Denied, Rejected, StorageUnavailable
from meterwatch.v1 import ingest_pb2 as pb

LIMITS = StreamLimits(credits=3, batch_rows_max=100, dictionary_entries_max=6)


def session(pipeline: Sink | None = None, limits: StreamLimits = LIMITS, **hello) -> Session:
    return Session(pipeline or Sink(), limits, DEFAULT, pb.Hello(**{"head_end": "HES", "epoch": 7, **hello}))


def announce(stream: Session, *meters: str) -> pb.IngestResponse:
    return stream.extend_dictionary(pb.Dictionary(meter=meters))


def read(seq: int, wh: int = 1, meter: int = 0, stamp_us: int = NOW_US) -> pb.ReadBatch:
    return pb.ReadBatch(seq=seq, interval_s=900, meter_index=[meter], stamp_us=[stamp_us], import_wh=[wh])


async def test_welcome_tells_the_limits_and_where_to_go_on():
    pipeline = Sink()
    pipeline.last = 41
    welcome = (await session(pipeline).welcome("1.2")).welcome
    assert (welcome.server_version, welcome.last_acked_seq, welcome.clock_mode) == ("1.2", 41, "replay")
    assert (welcome.credits, welcome.batch_rows_max, welcome.dictionary_entries_max) == (3, 100, 6)
    assert (welcome.message_bytes_max, welcome.now_us) == (LIMITS.message_bytes_max, NOW_US)


@pytest.mark.parametrize("epoch", [0, 2**63, 2**64 - 1])
def test_an_epoch_the_ledger_cannot_hold_is_refused(epoch):
    with pytest.raises(Rejected) as caught:
        session(epoch=epoch)
    assert caught.value.reason == "BAD_EPOCH"
    assert session(epoch=2**63 - 1).epoch == 2**63 - 1


def test_a_head_end_is_known_by_its_exact_name():
    assert head_end_of("HES", WORLD) == HOME
    with pytest.raises(Denied) as caught:
        head_end_of("hes", WORLD)
    assert caught.value.reason == "HEAD_END_UNKNOWN"
    with pytest.raises(Rejected) as refused:
        head_end_of("", WORLD)
    assert refused.value.reason == "BAD_ID"


def test_dictionaries_append_and_tell_the_unknown():
    stream = session()
    first = announce(stream, "ONE", "GHOST").dictionary_ack
    second = announce(stream, "THREE", "OTHERS", "GHOST-2").dictionary_ack
    assert (first.first_index, first.count, list(first.unknown_index)) == (0, 2, [1])
    assert (second.first_index, second.count, list(second.unknown_index)) == (2, 3, [4])


@pytest.mark.parametrize(
    ("meters", "reason"),
    [
        (["NEW", "ONE"], "DICTIONARY_CHANGED"),
        (["NEW", "NEW"], "DICTIONARY_CHANGED"),
        (["NEW", "bad id"], "BAD_ID"),
        (["A", "B", "C", "D", "E", "F"], "DICTIONARY_FULL"),
    ],
)
async def test_a_refused_dictionary_appends_nothing(meters, reason):
    stream = session()
    announce(stream, "ONE")
    assert announce(stream, *meters).nack.reason == reason
    assert announce(stream, "NEW").dictionary_ack.first_index == 1
    assert (await stream.answer(read(1, meter=1))).ack.accepted == 1


def test_the_dictionary_may_be_full():
    assert announce(session(), *"ABCDEF").dictionary_ack.count == 6


def test_the_dictionaries_of_a_head_end_have_so_many_bytes_together(monkeypatch):
    monkeypatch.setattr(subject, "DICTIONARIES_BYTES_MAX", 100)
    stream = session()
    assert announce(stream, "A", "B").dictionary_ack.count == 2
    assert stream.dictionary_bytes == 2 * (1 + ROW_BYTES)
    assert announce(stream, "C" * 50).nack.reason == "DICTIONARY_FULL"
    assert announce(stream, "C").dictionary_ack.first_index == 2, "nothing of what was refused is announced"
    stream.others_bytes = lambda: 90
    assert announce(stream, "D").nack.reason == "DICTIONARY_FULL"


def test_a_repeat_in_a_large_dictionary_is_found_in_one_pass():
    meters = [f"M{i}" for i in range(200_000)]
    stream = session(limits=StreamLimits())
    assert announce(stream, *meters, meters[-1]).nack.reason == "DICTIONARY_CHANGED"


async def test_an_ack_accounts_for_every_row():
    stream = session()
    rows = [
        Row("ONE", NOW_US, {"import_wh": 1}),
        Row("ONE", NOW_US, {"import_wh": 1}),
        Row("GHOST", NOW_US, {"import_wh": 1}),
        Row("ONE", NOW_US - 900_000_000, {"import_wh": -1}),
    ]
    announce(stream, "ONE", "GHOST")
    ack = (await stream.answer(message(rows, seq=5))).ack
    assert (ack.seq, ack.accepted, ack.versions, ack.duplicates, ack.rejected) == (5, 1, 0, 1, 2)
    assert list(ack.rejected_row) == [2, 3]
    assert list(ack.rejected_reason) == [pb.ROW_REASON_UNKNOWN_METER, pb.ROW_REASON_NEGATIVE]
    assert (ack.replayed, ack.credits) == (False, CREDITS_MAX)


def test_the_smaller_the_batches_the_more_may_be_under_way() -> None:
    stream = session()
    assert [stream._grant(rows) for rows in (65_000, 20_000, 10_000, 2_000, 1, 0)] == [3, 4, 8, 40, 64, 64]
    assert stream.granted == CREDITS_MAX
    assert stream._grant(65_000) == 3
    stream._pipeline.crowded = True
    assert [stream._grant(rows) for rows in (65_000, 10_000, 1)] == [1, 2, 16], "a full queue shrinks the credits"
    assert stream.granted == 64, "who had more is not punished for what is under way"
    assert stream.granted == CREDITS_MAX  # what was granted once may still be on its way


async def test_the_same_batch_again_is_replayed_and_another_is_reuse():
    stream = session(pipeline := Sink())
    announce(stream, "ONE", "THREE")
    assert not (await stream.answer(read(1))).ack.replayed
    assert (await stream.answer(read(1))).ack.replayed
    for other in (read(1, wh=2), read(1, meter=1), read(1, stamp_us=NOW_US - 900_000_000)):
        nack = (await stream.answer(other)).nack
        assert (nack.seq, nack.reason, nack.permanent, nack.credits) == (1, "SEQ_REUSED", True, 3)
    assert len(pipeline.batches) == 1


async def test_a_resend_on_a_new_stream_is_judged_by_meters_and_not_by_indexes():
    pipeline = Sink()
    first, again, other = session(pipeline), session(pipeline), session(pipeline)
    announce(first, "ONE", "THREE")
    announce(again, "THREE", "ONE")
    announce(other, "THREE")
    await first.answer(read(1, meter=0))
    assert (await again.answer(read(1, meter=1))).ack.replayed
    assert (await other.answer(read(1, meter=0))).nack.reason == "SEQ_REUSED"


async def test_a_meter_registered_in_mid_stream_is_known_at_once():
    pipeline = Sink(registry(METERS[:1]))
    stream = session(pipeline)
    assert list(announce(stream, "ONE", "THREE").dictionary_ack.unknown_index) == [1]
    assert (await stream.answer(read(1, meter=1))).ack.rejected == 1
    pipeline.now = registry(METERS)  # another snapshot of the same time, as under a clock that stands still
    assert (await stream.answer(read(2, meter=1))).ack.accepted == 1


async def test_slots_follow_a_registry_that_orders_its_meters_anew():
    pipeline = Sink(registry(METERS[:2]))
    stream = session(pipeline)
    announce(stream, "ONE")
    pipeline.now = registry(METERS[1::-1])
    announce(stream, "THREE")
    await stream.answer(read(1, meter=0))
    await stream.answer(read(2, meter=1))
    assert [batch.reads.slot.tolist() for batch in pipeline.batches] == [[1], [0]]


async def test_batches_in_flight_are_answered_for_what_they_are():
    stream = session(Sink())
    announce(stream, "ONE")
    answers = await asyncio.gather(*(stream.answer(read(seq, meter=seq % 2)) for seq in range(1, 7)))
    assert [answer.WhichOneof("message") for answer in answers] == ["nack", "ack"] * 3
    assert [(answer.ack.seq or answer.nack.seq) for answer in answers] == [1, 2, 3, 4, 5, 6]


async def test_the_summary_counts_batches_rows_and_answers():
    stream = session()
    announce(stream, "ONE")
    await stream.answer(read(1))
    await stream.answer(read(2, meter=9))  # could not be read
    spoilt = pb.ReadBatch(
        seq=3, interval_s=900, meter_index=[0] * 20, stamp_us=range(NOW_US, NOW_US + 20), voltage_a_v=[1e9] * 20
    )
    assert (await stream.answer(spoilt)).nack.reason == "IMPLAUSIBLE_BATCH"  # could be read
    summary = stream.summary().summary
    assert (summary.batches, summary.rows, summary.acked, summary.nacked) == (3, 21, 1, 2)


async def test_the_tenth_refusal_within_a_minute_ends_the_stream(monkeypatch):
    stream = session()
    now = [1000.0]
    monkeypatch.setattr("ingest.session.time.monotonic", lambda: now[0])
    for seq in range(1, NACKS_MAX):
        assert (await stream.answer(read(seq))).nack.reason == "INDEX_RANGE"
    now[0] += 60.0  # the first has left the window
    assert stream.refuse(Rejected("MALFORMED", "no message")).nack.seq == 0
    now[0] -= 0.1
    with pytest.raises(Rejected) as caught:
        announce(stream, "bad id")
    assert caught.value.reason == "TOO_MANY_NACKS"
    assert "BAD_ID" in caught.value.message


async def test_an_error_of_ours_promises_nothing_and_is_no_nack():
    stream = session(pipeline := Sink())
    announce(stream, "ONE")
    pipeline.error = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await stream.answer(read(1))
    assert (stream.acked, stream.nacked) == (0, 0)
    pipeline.error = None
    assert not (await stream.answer(read(1))).ack.replayed


async def test_a_database_that_does_not_answer_ends_in_the_deadline():
    class Deaf(Sink):
        async def submit(self, batch):
            await asyncio.Event().wait()

    stream = session(Deaf(), StreamLimits(batch_deadline_s=0.01))
    announce(stream, "ONE")
    with pytest.raises(TimeoutError):
        await stream.answer(read(1))
    assert (stream.acked, stream.nacked) == (0, 0)


async def test_a_replay_clock_sees_the_stamps_before_they_are_judged():
    stream = session(pipeline := Sink())
    announce(stream, "ONE")
    assert (await stream.answer(read(1, stamp_us=NOW_US + 900_000_000))).ack.accepted == 1
    assert pipeline.clock.now_us() == NOW_US + 900_000_000
