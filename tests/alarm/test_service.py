"""The Alarms service over a real grpc.aio server and a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest
from alarm_cases import at, clock, episode, names, verdict
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from alarm.desk import AlarmDesk
from alarm.profile import AlarmProfile
from alarm.receipts import Receipts
from alarm.receipts_service import ReceiptService
from alarm.service import AlarmService, handlers
from meterwatch.episodes import Severity, Verdict
from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import alarms_pb2_grpc as pb_grpc
from meterwatch.v1.receipts_pb2_grpc import add_ReceiptsServicer_to_server
from storage.alarms import AlarmStore
from storage.receipts import ReceiptStore


@dataclass
class World:
    desk: AlarmDesk
    store: AlarmStore
    stub: Any
    channel: grpc.aio.Channel
    address: str

    async def restart(self) -> AlarmDesk:
        return await AlarmDesk.open(self.store, names(), clock())


@asynccontextmanager
async def serving(dsn: str, ring_max: int = 10_000, queue_max: int = 1024, **options: Any) -> AsyncIterator[World]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "TRUNCATE alarms, alarm_log, alarm_actions, alarm_pages, asset_shelves, subscriber_receipts"
        )
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
        store = AlarmStore(pool)
        desk = await AlarmDesk.open(store, names(), clock())
        desk.hub = type(desk.hub)([], desk.hub.seq, desk.hub.log_id, ring_max, queue_max)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        receipts = await Receipts.open(ReceiptStore(pool), clock())
        service = AlarmService(desk, store, clock(), lambda: True, receipts=receipts, **options)
        server.add_generic_rpc_handlers((handlers(service),))
        add_ReceiptsServicer_to_server(ReceiptService(receipts), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield World(desk, store, pb_grpc.AlarmsStub(channel), channel, f"127.0.0.1:{port}")
        await server.stop(None)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Code, reason and metadata of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    status = rpc_status.from_call(failed.value)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "meterwatch"
    return failed.value.code(), info.reason, dict(info.metadata)


async def transitions(call: Any, count: int) -> list[pb.Transition]:
    found: list[pb.Transition] = []
    while len(found) < count:
        message = await call.read()
        if message.HasField("transition"):
            found.append(message.transition)
    return found


async def test_from_0_gives_the_snapshot_and_then_every_transition_once(dsn: str) -> None:
    async with serving(dsn) as world:
        (first,) = await world.desk.record([verdict(episode(10))], [])
        call = world.stub.Subscribe(pb.SubscribeRequest())
        snapshot = (await call.read()).snapshot
        assert (snapshot.seq, snapshot.complete, len(snapshot.alarm)) == (first.seq, True, 1)
        assert (await call.read()).bookmark.seq == first.seq
        await world.desk.record([verdict(episode(10, 20)), verdict(episode(11), asset_id=1)], [])
        assert [t.seq for t in await transitions(call, 2)] == [first.seq + 1, first.seq + 2]
        call.cancel()


async def test_a_large_snapshot_comes_in_parts_of_500(dsn: str) -> None:
    async with serving(dsn) as world:
        world.desk.book.profile = AlarmProfile(classes=())
        episodes = [episode(i * 0.02, i * 0.02 + 0.01) for i in range(1201)]
        await world.desk.record([verdict(*episodes)], [])
        call = world.stub.Subscribe(pb.SubscribeRequest())
        parts = [(await call.read()).snapshot for _ in range(3)]
        assert [(len(part.alarm), part.complete) for part in parts] == [(500, False), (500, False), (201, True)]
        call.cancel()


@pytest.mark.parametrize("ring_max", [10_000, 1])
async def test_from_n_gives_everything_after_n_from_ring_or_log(dsn: str, ring_max: int) -> None:
    async with serving(dsn, ring_max) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        call = world.stub.Subscribe(pb.SubscribeRequest(from_seq=done[0].seq, log_id=world.desk.hub.log_id))
        assert [t.seq for t in await transitions(call, 3)] == [t.seq for t in done[1:]]
        (live,) = await world.desk.record([verdict(episode(10, 20))], [])
        assert (await transitions(call, 1))[0].seq == live.seq
        call.cancel()


async def test_from_0_of_a_known_log_gives_all_of_it_also_what_has_ended(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("TRUNCATE alarms, alarm_log, alarm_actions, alarm_pages, asset_shelves")
        await connection.execute("UPDATE alarm_cursor SET seq = 0")
    async with serving(dsn) as world:
        await world.desk.record([verdict(episode(30)), verdict(episode(31), asset_id=2)], [])
        await world.desk.record([verdict(episode(30, 40)), verdict(episode(31, 41), asset_id=2)], [])
        call = world.stub.Subscribe(pb.SubscribeRequest(log_id=world.desk.hub.log_id))
        assert [t.seq for t in await transitions(call, 4)] == [1, 2, 3, 4]
        call.cancel()


async def test_a_cursor_the_log_does_not_hold_is_refused_with_those_it_holds(dsn: str) -> None:
    async with serving(dsn, ring_max=1) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        newest, log_id = done[-1].seq, world.desk.hub.log_id
        code, reason, held = await refusal(world.stub.Subscribe(pb.SubscribeRequest(from_seq=newest + 1)).read())
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_TOO_NEW")
        assert held == {"newest_seq": str(newest), "log_id": log_id}
        other = pb.SubscribeRequest(from_seq=newest, log_id="x")
        assert (await refusal(world.stub.Subscribe(other).read()))[1] == "OTHER_LOG"
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("DELETE FROM alarm_log WHERE seq <= %s", (done[1].seq,))
        code, _, held = await refusal(world.stub.Subscribe(pb.SubscribeRequest(from_seq=done[0].seq)).read())
        assert (code, held["oldest_seq"]) == (grpc.StatusCode.OUT_OF_RANGE, str(done[2].seq))


async def test_a_filtered_stream_gets_bookmarks_with_the_newest_cursor(dsn: str) -> None:
    async with serving(dsn, bookmark_s=0.01) as world:
        call = world.stub.Subscribe(pb.SubscribeRequest(filter=pb.AlarmFilter(district=["Nowhere"])))
        assert (await call.read()).snapshot.complete
        (done,) = await world.desk.record([verdict(episode(10))], [])
        while (message := await call.read()).bookmark.seq < done.seq:
            assert message.HasField("bookmark")
        assert message.bookmark.rules_ready
        call.cancel()


async def test_a_filtered_stream_that_heard_nothing_for_longer_than_the_log_lasts_resumes_from_its_bookmark(
    dsn: str,
) -> None:
    async with serving(dsn, ring_max=1, bookmark_s=0.01) as world:
        wanted = pb.AlarmFilter(district=["Nowhere"])
        call = world.stub.Subscribe(pb.SubscribeRequest(filter=wanted))
        began = (await call.read()).snapshot.seq
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        while (bookmark := (await call.read()).bookmark).seq < done[-1].seq:
            pass
        call.cancel()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("DELETE FROM alarm_log WHERE seq <= %s", (done[-1].seq,))
        old = pb.SubscribeRequest(from_seq=began, log_id=bookmark.log_id, filter=wanted)
        assert (await refusal(world.stub.Subscribe(old).read()))[1] == "CURSOR_TOO_OLD"
        again = world.stub.Subscribe(pb.SubscribeRequest(from_seq=bookmark.seq, log_id=bookmark.log_id, filter=wanted))
        assert (await again.read()).bookmark.seq == done[-1].seq
        again.cancel()


@pytest.mark.parametrize("ring_max", [10_000, 1])
async def test_transitions_that_wait_come_together_if_the_caller_says_so(dsn: str, ring_max: int) -> None:
    async with serving(dsn, ring_max) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        request = pb.SubscribeRequest(from_seq=done[0].seq - 1, log_id=world.desk.hub.log_id)
        alone = await transitions(world.stub.Subscribe(request), 4)
        request.transitions_max = 3
        call = world.stub.Subscribe(request)
        sizes, together = [], []
        while len(together) < 4:
            message = await call.read()
            if message.HasField("transitions"):
                sizes.append(len(message.transitions.transition))
                together += message.transitions.transition
        assert sizes == [3, 1]
        assert together == alone
        assert [t.seq for t in alone] == [t.seq for t in done]
        live = await world.desk.record([verdict(episode(10, 20), asset_id=i) for i in range(2)], [])
        while not (message := await call.read()).HasField("transitions"):
            assert message.HasField("bookmark")
        assert [t.seq for t in message.transitions.transition] == [t.seq for t in live]
        call.cancel()


async def test_more_transitions_in_a_message_than_allowed_are_refused(dsn: str) -> None:
    async with serving(dsn) as world:
        call = world.stub.Subscribe(pb.SubscribeRequest(transitions_max=1001))
        assert (await refusal(call.read()))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "TRANSITIONS_MAX")


async def test_bookmarks_go_on_while_nothing_happens(dsn: str) -> None:
    async with serving(dsn, bookmark_s=0.01) as world:
        call = world.stub.Subscribe(pb.SubscribeRequest())
        assert (await call.read()).snapshot.complete
        for _ in range(20):
            assert (await call.read()).HasField("bookmark")
        call.cancel()


async def test_a_subscriber_that_leaves_between_two_messages_is_no_incident(dsn: str) -> None:
    class Gone:
        async def send_initial_metadata(self, metadata: tuple[()]) -> None:
            pass

        async def write(self, message: bytes) -> None:
            raise grpc.aio.InternalError("the call is over")

    async with serving(dsn) as world:
        call_details = type("Details", (), {"method": "/meterwatch.v1.Alarms/Subscribe"})
        handler = handlers(AlarmService(world.desk, world.store, clock(), lambda: True)).service(call_details)
        assert handler is not None
        await handler.unary_stream(pb.SubscribeRequest().SerializeToString(), Gone())
        assert world.desk.hub.subscribers == 0


async def test_draining_ends_subscriptions_with_a_retryable_status(dsn: str) -> None:
    async with serving(dsn) as world:
        call = world.stub.Subscribe(pb.SubscribeRequest())
        await call.read()
        await call.read()
        world.desk.hub.close()
        assert (await refusal(call.read()))[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (pb.AlarmFilter(type=["x"] * 65), "FILTER_TOO_LARGE"),
        (pb.AlarmFilter(type=["outage"]), "FILTER_INVALID"),
        (pb.AlarmFilter(state=[99]), "FILTER_INVALID"),  # type: ignore[list-item]
        (pb.AlarmFilter(severity_min=9), "FILTER_INVALID"),  # type: ignore[arg-type]
        (pb.AlarmFilter(feeder=["\0"]), "TEXT_NUL"),
    ],
)
async def test_a_filter_beyond_its_limits_is_an_invalid_argument(dsn: str, wanted: pb.AlarmFilter, reason: str) -> None:
    async with serving(dsn) as world:
        expected = (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert (await refusal(world.stub.Subscribe(pb.SubscribeRequest(filter=wanted)).read()))[:2] == expected
        assert (await refusal(world.stub.ListAlarms(pb.ListAlarmsRequest(filter=wanted))))[:2] == expected


async def test_bytes_that_are_no_message_get_a_status_of_ours(dsn: str) -> None:
    async with serving(dsn) as world:
        call = world.channel.unary_unary("/meterwatch.v1.Alarms/GetAlarm")
        assert (await refusal(call(b"\xff")))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")


async def test_pages_list_every_alarm_once(dsn: str) -> None:
    async with serving(dsn) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(4)], [])
        listed, token = [], ""
        while True:
            page = await world.stub.ListAlarms(pb.ListAlarmsRequest(active_only=True, page_size=3, page_token=token))
            listed += [alarm.alarm_id for alarm in page.alarm]
            if not (token := page.next_page_token):
                break
        assert listed == sorted(t.alarm.alarm_id for t in done)
        assert (await refusal(world.stub.ListAlarms(pb.ListAlarmsRequest(page_token="?"))))[1] == "PAGE_TOKEN"


async def test_acknowledging_over_the_wire(dsn: str) -> None:
    async with serving(dsn) as world:
        (done,) = await world.desk.record([verdict(episode(10))], [])
        request = pb.AcknowledgeRequest(
            alarm_id=done.alarm.alarm_id, expected_version=1, action_id="a1", operator="Kim", note="on it"
        )
        answer = await world.stub.Acknowledge(request)
        assert answer.alarm.state == pb.ALARM_STATE_ACK_ACTIVE
        assert await world.stub.Acknowledge(request) == answer
        request.action_id = "a2"
        assert (await refusal(world.stub.Acknowledge(request)))[:2] == (grpc.StatusCode.ABORTED, "ALARM_CHANGED")
        request.expected_version = 2
        assert (await refusal(world.stub.Acknowledge(request)))[1] == "NOT_ACKNOWLEDGEABLE"
        found = await world.stub.GetAlarm(pb.GetAlarmRequest(alarm_id=done.alarm.alarm_id))
        assert [t.kind for t in found.transition] == ["RAISED", "ACKNOWLEDGED"]
        assert found.alarm == answer.alarm
        missing = world.stub.GetAlarm(pb.GetAlarmRequest(alarm_id="OUT-0"))
        assert (await refusal(missing))[:2] == (grpc.StatusCode.NOT_FOUND, "ALARM_UNKNOWN")


async def test_a_shelf_over_the_wire_silences_a_subscriber_and_is_lifted_after_a_restart(dsn: str) -> None:
    async with serving(dsn) as world:
        (done,) = await world.desk.record([verdict(episode(10))], [])
        call = world.stub.Subscribe(pb.SubscribeRequest(filter=pb.AlarmFilter(paging_only=True)))
        assert len((await call.read()).snapshot.alarm) == 1
        request = pb.ActRequest(
            alarm_id=done.alarm.alarm_id, expected_version=1, action_id="a1", operator="Kim",
            kind=pb.ACTION_KIND_SHELVE, shelve_s=60,
        )  # fmt: skip
        assert (await refusal(world.stub.Act(request)))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "ACTION_INVALID")
        request.note = "crew there"
        answer = (await world.stub.Act(request)).alarm
        assert (answer.shelved_until_us, answer.shelved_by) == (at(31), "Kim")
        assert (await world.stub.Act(request)).alarm == answer
        request.action_id, request.kind, request.shelve_s = "a2", pb.ACTION_KIND_UNSHELVE, 0
        assert (await refusal(world.stub.Act(request)))[:2] == (grpc.StatusCode.ABORTED, "ALARM_CHANGED")
        (left,) = await transitions(call, 1)
        assert (left.kind, left.operator, left.note) == ("SHELVED", "Kim", "crew there")
        call.cancel()
        assert not (await world.stub.ListAlarms(pb.ListAlarmsRequest(active_only=True))).alarm
        later = await AlarmDesk.open(world.store, names(), clock(31))
        assert [t.kind for t in await later.lift_shelves()] == ["UNSHELVED"]
        assert len((await world.stub.ListAlarms(pb.ListAlarmsRequest(active_only=True))).alarm) == 1


async def test_one_action_on_many_over_the_wire_answers_for_each(dsn: str) -> None:
    async with serving(dsn) as world:
        done = await world.desk.record([verdict(episode(10), asset_id=i) for i in range(2)], [])
        what = pb.ActRequest(action_id="a1", operator="Kim", kind=pb.ACTION_KIND_COMMENT, note="seen")
        targets = [pb.ActTarget(alarm_id=done[0].alarm.alarm_id, expected_version=1), pb.ActTarget(alarm_id="OUT-0")]
        request = pb.ActOnManyRequest(act=what, target=targets)
        answer = await world.stub.ActOnMany(request)
        assert [(r.alarm.version, r.reason) for r in answer.result] == [(2, ""), (0, "ALARM_UNKNOWN")]
        assert await world.stub.ActOnMany(request) == answer
        what.action_id = "a2"
        both = await world.stub.ActOnMany(pb.ActOnManyRequest(act=what, filter=pb.AlarmFilter()))
        assert sorted(r.alarm.version for r in both.result) == [2, 3]
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            audit = await connection.execute(
                "SELECT a.action_id, a.alarm_id, a.operator, a.note, l.version FROM alarm_actions a"
                " JOIN alarm_log l USING (seq, alarm_id) ORDER BY seq"
            )
            rows = await audit.fetchall()
        first, second = (t.alarm.alarm_id for t in done)
        assert rows[0] == ("a1", first, "Kim", "seen", 2)
        assert sorted(rows[1:]) == sorted([("a2", first, "Kim", "seen", 3), ("a2", second, "Kim", "seen", 2)])
        for wrong in (
            pb.ActOnManyRequest(act=what),
            pb.ActOnManyRequest(act=what, target=[targets[0], targets[0]]),
            pb.ActOnManyRequest(act=what, target=targets, filter=pb.AlarmFilter()),
        ):
            assert (await refusal(world.stub.ActOnMany(wrong)))[1] == "ACTION_INVALID"


async def test_kpis_count_what_began_to_page_and_nothing_else(dsn: str) -> None:
    async with serving(dsn) as world:
        await world.desk.record([verdict(episode(10)), verdict(episode(11), asset_id=1)], [])
        (quiet, *_) = list(world.desk.book)
        shelve = pb.ActRequest(action_id="a1", operator="Kim", kind=pb.ACTION_KIND_SHELVE, note="why", shelve_s=60)
        shelve.alarm_id = quiet.alarm_id
        await world.stub.Act(shelve)
        worse = [verdict(episode(10 + i, severity=Severity.CRITICAL), asset_id=i) for i in range(2)]
        assert len(await world.desk.record(worse, [])) == 2
        found = await world.stub.GetKpis(pb.GetKpisRequest(hours=1))
        assert (found.windows, found.pages, found.paging, found.stale, found.flood_now) == (6, 2, 1, 0, False)
        lift = pb.ActRequest(action_id="a2", operator="Kim", kind=pb.ACTION_KIND_UNSHELVE, alarm_id=quiet.alarm_id)
        await world.stub.Act(lift)
        found = await world.stub.GetKpis(pb.GetKpisRequest(hours=1))
        assert (found.pages, found.paging, found.top[0].asset, found.top[0].pages) == (3, 2, quiet.asset, 2)
        assert (await refusal(world.stub.GetKpis(pb.GetKpisRequest(hours=745))))[1] == "BAD_QUERY"


async def test_a_restart_and_the_same_verdicts_change_nothing(dsn: str) -> None:
    async with serving(dsn) as world:
        stated = [
            verdict(episode(1, 5), episode(10, evidence={"affected": 7, 3: (1, 2)})),
            verdict(episode(2), asset_id=3),
        ]
        assert len(await world.desk.record(stated, [])) == 3
        assert await (await world.restart()).record(stated, []) == []


async def test_a_shelf_over_an_asset_is_kept_listed_and_lifted(dsn: str) -> None:
    async with serving(dsn) as world:
        await world.desk.record([verdict(episode(10)), verdict(episode(10), asset_id=1)], [])
        request = pb.ShelveAssetRequest(
            action_id="s1", operator="Kim", reason="crew", asset_kind="transformer", asset="T0", shelve_s=60
        )
        answer = await world.stub.ShelveAsset(request)
        assert [alarm.asset for alarm in answer.alarm] == ["T0"]
        assert await world.stub.ShelveAsset(request) == answer
        assert list((await world.stub.ListShelves(pb.ListShelvesRequest())).shelf) == [answer.shelf]
        again = await world.restart()
        assert [shelf.over for shelf in again.book.shelves(clock().now_us())] == [("", "transformer", "T0")]
        born = next(t for t in await again.record([verdict(episode(10, 11), episode(20))], []) if t.kind == "RAISED")
        assert (born.alarm.shelved_by, born.alarm.version, born.alarm.pages) == ("Kim", 1, False)
        for wrong in (
            pb.ShelveAssetRequest(action_id="s1", operator="Lee", reason="x", type="OUTAGE", shelve_s=60),
            pb.ShelveAssetRequest(action_id="s2", operator="Kim", reason="x", shelve_s=60),
            pb.ShelveAssetRequest(action_id="s2", operator="Kim", reason="x", type="NOISE", shelve_s=60),
        ):
            assert (await refusal(world.stub.ShelveAsset(wrong)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_of_two_shelves_at_one_moment_a_restart_takes_the_later(dsn: str) -> None:
    async with serving(dsn) as world:
        request = pb.ShelveAssetRequest(operator="Kim", reason="crew", asset_kind="transformer", asset="T0")
        for number in range(20):
            request.action_id, request.shelve_s = f"s{number}", 60 * (number % 2)
            await world.stub.ShelveAsset(request)
            found = [shelf.action_id for shelf in await world.store.load_shelves(clock().now_us())]
            assert found == ([request.action_id] if number % 2 else [])


async def test_lists_and_explanations_say_under_which_alarm_another_stands_and_kpis_count_one_call(dsn: str) -> None:
    async with serving(dsn) as world:

        def said(rule: str, severity: Severity, cleared: float | None = None) -> Verdict:
            return Verdict(rule, "transformer", 0, at(0), (episode(10, cleared, severity=severity),))

        async def stands() -> dict[str, str]:
            found = await world.stub.ListAlarms(pb.ListAlarmsRequest())
            name = {alarm.alarm_id: alarm.type for alarm in found.alarm} | {"": ""}
            for alarm in found.alarm:
                request = pb.GetAlarmRequest(alarm_id=alarm.alarm_id)
                assert (await world.stub.GetAlarm(request)).alarm == alarm
            return {alarm.type: name[alarm.stands_under] for alarm in found.alarm}

        await world.desk.record([said("HOT_SPOT", Severity.MEDIUM)], [])
        assert await stands() == {"HOT_SPOT": ""}
        await world.desk.record([said("OVERLOAD", Severity.HIGH), verdict(episode(11))], [])
        assert await stands() == {"HOT_SPOT": "OVERLOAD", "OVERLOAD": "", "OUTAGE": ""}
        listed = (await world.stub.ListAlarms(pb.ListAlarmsRequest())).alarm
        for alarm in listed:
            explained = await world.stub.Explain(pb.ExplainRequest(alarm_id=alarm.alarm_id))
            assert explained.alarm.stands_under == alarm.stands_under
            together = [] if alarm.type == "OUTAGE" else ["OVERLOAD", "HOT_SPOT"]
            assert [one.type for one in explained.called_with] == together
        figures = await world.stub.GetKpis(pb.GetKpisRequest())
        assert (figures.pages, figures.pages_under, figures.paging) == (2, 1, 3)
        assert list(figures.one_call) == list(world.desk.book.profile.one_call)
        await world.desk.record([said("OVERLOAD", Severity.HIGH, 20)], [])
        assert await stands() == {"HOT_SPOT": "", "OVERLOAD": "", "OUTAGE": ""}
