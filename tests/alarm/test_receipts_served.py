"""Receipts over a real server and a real database: what a named subscriber confirms is in the explanation."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import psycopg
from alarm_cases import episode, verdict
from test_service import World, refusal, serving

from meterwatch.client import AlarmFeed
from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import receipts_pb2, receipts_pb2_grpc

ENOUGH_S = 60.0  # a limit for a hung test, not an expectation


def stub(world: World) -> Any:
    return receipts_pb2_grpc.ReceiptsStub(world.channel)


def upto(seq: int, ago_us: int = 0) -> list[receipts_pb2.ReceiptPoint]:
    return [receipts_pb2.ReceiptPoint(seq=seq, ago_us=ago_us)]


async def explained(world: World, alarm_id: str) -> list[receipts_pb2.SubscriberReceipt]:
    return list((await world.stub.Explain(pb.ExplainRequest(alarm_id=alarm_id))).receipt)


async def test_an_alarm_says_to_whom_it_was_sent_who_had_it_and_who_showed_it(dsn: str) -> None:
    async with serving(dsn) as world:
        (old,) = await world.desk.record([verdict(episode(10))], [])
        call = world.stub.Subscribe(pb.SubscribeRequest(subscriber="Kim"))
        assert (await call.read()).snapshot.complete
        (new,) = await world.desk.record([verdict(episode(11), asset_id=1)], [])
        while not (await call.read()).HasField("transition"):
            pass
        alarm_id = new.alarm.alarm_id
        (sent,) = await explained(world, alarm_id)
        assert (sent.subscriber, sent.seq, sent.kind) == ("Kim", new.seq, "RAISED")
        assert (sent.onset_us, sent.detected_us) == (new.alarm.onset_us, new.alarm.raised_us)
        assert sent.committed_us == new.recorded_us
        assert sent.sent_us > 0 == sent.received_us == sent.shown_us
        request = receipts_pb2.ConfirmRequest(subscriber="Kim", received=upto(new.seq))
        assert (await stub(world).Confirm(request)).messages == 2  # the snapshot, and the transition
        (had,) = await explained(world, alarm_id)
        assert had.sent_us <= had.received_us > had.shown_us == 0
        request.shown.extend(upto(old.seq))
        assert (await stub(world).Confirm(request)).messages == 1
        ((first,), (second,)) = await explained(world, old.alarm.alarm_id), await explained(world, alarm_id)
        assert first.sent_us <= first.received_us <= first.shown_us
        assert (second.received_us, second.shown_us) == (had.received_us, 0)
        call.cancel()
    async with await psycopg.AsyncConnection.connect(dsn) as connection:  # the service is gone, the receipts are not
        rows = await connection.execute(
            "SELECT alarm_id, shown_at IS NULL, onset_at < detected_at, detected_at < committed_at,"
            " sent_at <= received_at FROM alarm_receipts WHERE subscriber = 'Kim' ORDER BY seq"
        )
        shown = [(old.alarm.alarm_id, False, True, True, True), (alarm_id, True, True, True, True)]
        assert await rows.fetchall() == shown


async def test_what_a_filter_keeps_back_or_a_fold_stands_for_has_no_receipt(dsn: str) -> None:
    async with serving(dsn, queue_max=4) as world:
        wanted = pb.AlarmFilter(district=["North"])
        call = world.stub.Subscribe(pb.SubscribeRequest(subscriber="Kim", filter=wanted))
        assert (await call.read()).snapshot.complete
        assert (await call.read()).HasField("bookmark")
        north = [verdict(episode(10, evidence={"affected": 100 * 2**i})) for i in range(9)]
        south = await world.desk.record([verdict(episode(10), asset_id=3)], [])
        (subscription,) = world.desk.hub._subscriptions
        done = []
        for told in north:  # without a pause between: the queue folds
            drafts = world.desk.book.reconcile([told], world.desk._clock.now_us())
            done += await world.desk._commit(drafts, [], world.desk._clock.now_us())
        assert len(done) == len(north)
        seen: list[int] = []
        while not seen or seen[-1] < done[-1].seq:
            message = await call.read()
            if message.HasField("transition"):
                seen.append(message.transition.seq)
        confirm = receipts_pb2.ConfirmRequest(subscriber="Kim", shown=upto(done[-1].seq))
        assert (await stub(world).Confirm(confirm)).messages == len(seen)
        assert await explained(world, south[0].alarm.alarm_id) == []
        told_seqs = [receipt.seq for receipt in await explained(world, done[0].alarm.alarm_id)]
        assert told_seqs == seen
        assert subscription.coalesced == len(done) - len(seen)
        call.cancel()


async def test_points_that_cannot_be_are_refused(dsn: str) -> None:
    async with serving(dsn) as world:
        for wrong in (
            receipts_pb2.ConfirmRequest(subscriber="Kim", received=upto(1) * 201),
            receipts_pb2.ConfirmRequest(subscriber="Kim", shown=upto(1, 8 * 86_400 * 1_000_000)),
        ):
            code, reason, _ = await refusal(stub(world).Confirm(wrong))
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RECEIPT_INVALID")
        nobody = stub(world).Confirm(receipts_pb2.ConfirmRequest(received=upto(1)))
        assert (await refusal(nobody))[1] == "TEXT_LENGTH"
        long = world.stub.Subscribe(pb.SubscribeRequest(subscriber="x" * 129))
        assert (await refusal(long.read()))[1] == "TEXT_LENGTH"


async def test_a_feed_with_a_name_confirms_by_itself_also_what_came_last(dsn: str) -> None:
    async with serving(dsn, bookmark_s=0.05) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(3)], [])

        def read() -> None:
            from_seq, log_id = done[0].seq, world.desk.hub.log_id
            with AlarmFeed(world.address, from_seq, log_id=log_id, subscriber="Kim", give_up_after_s=ENOUGH_S) as feed:
                for message in feed:
                    if message.bookmark.seq == done[-1].seq:
                        return

        await asyncio.to_thread(read)
        for transition in done[1:]:
            (receipt,) = await explained(world, transition.alarm.alarm_id)
            assert receipt.sent_us <= receipt.received_us <= receipt.shown_us
        assert await explained(world, done[0].alarm.alarm_id) == []
