"""Room for calls: where each limit is, that places come back however a call ends, and that nobody takes another's."""

from __future__ import annotations

import asyncio
import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from access_world import CA, ENOUGH_S, ISSUES, Caller, World, served
from bad_inputs import told
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from test_gate import ISSUES as OF_THE_GATE
from test_gate import gated

from meterwatch.access.identity import LOCAL, How, Identity
from meterwatch.access.methods import METHODS, Takes
from meterwatch.access.room import Place, Room
from meterwatch.client.retry import Failure, failure_of
from meterwatch.config import Server
from meterwatch.errors import Overloaded
from meterwatch.v1 import alarms_pb2 as alarms
from storage.pool import SIZE_MAX

LIMITS = Server(calls_max=5, identity_calls_max=2, identity_subscribers_max=3)
Questions = queue.Queue[reflection_pb2.ServerReflectionRequest | None]
NAMES = ("anna", "vera", "olga", "")


def identity(name: str) -> Identity:
    return Identity(name, frozenset()) if name else LOCAL


def reason_of(room: Room, name: str, takes: Takes) -> str:
    with pytest.raises(Overloaded) as caught:
        room.take(identity(name), takes)
    assert caught.value.retry_after_s > 0
    return caught.value.reason


# The counts


def test_an_identity_has_so_many_calls_and_no_more_and_one_that_ends_makes_room() -> None:
    room = Room(LIMITS)
    places = [room.take(identity("anna"), Takes.CALL) for _ in range(2)]
    assert reason_of(room, "anna", Takes.CALL) == "IDENTITY_CALLS_MAX"
    assert room.take(identity("vera"), Takes.CALL)
    assert places[0] is not None
    room.leave(places[0])
    assert room.take(identity("anna"), Takes.CALL)
    assert reason_of(room, "anna", Takes.CALL) == "IDENTITY_CALLS_MAX"


def test_an_identity_has_so_many_subscriptions_beside_its_calls() -> None:
    room = Room(LIMITS)
    for _ in range(3):
        assert room.take(identity("anna"), Takes.SUBSCRIPTION)
    assert reason_of(room, "anna", Takes.SUBSCRIPTION) == "IDENTITY_SUBSCRIBERS_MAX"
    assert room.take(identity("anna"), Takes.CALL)
    assert room.take(identity("vera"), Takes.SUBSCRIPTION)
    assert room.calls == 1


def test_all_together_have_so_many_calls_and_subscriptions_are_none() -> None:
    room = Room(LIMITS)
    for name in ("anna", "anna", "vera", "vera", "olga"):
        room.take(identity(name), Takes.CALL)
    assert reason_of(room, "olga", Takes.CALL) == "CALLS_MAX"
    assert reason_of(room, "", Takes.CALL) == "CALLS_MAX"
    assert reason_of(room, "anna", Takes.CALL) == "IDENTITY_CALLS_MAX", "what he can mend himself comes first"
    assert room.take(identity("olga"), Takes.SUBSCRIPTION)


def test_callers_of_whom_nothing_is_known_are_not_told_apart_and_have_the_limit_of_all() -> None:
    room = Room(LIMITS)
    for _ in range(5):
        assert room.take(LOCAL, Takes.CALL)
    assert reason_of(room, "", Takes.CALL) == "CALLS_MAX"
    for _ in range(50):
        assert room.take(LOCAL, Takes.SUBSCRIPTION)


def test_one_name_is_one_caller_however_he_is_known() -> None:
    room = Room(LIMITS)
    for how in (How.CERTIFICATE, How.TOKEN):
        room.take(Identity("anna", frozenset(), how=how), Takes.CALL)
    assert reason_of(room, "anna", Takes.CALL) == "IDENTITY_CALLS_MAX"


def test_what_takes_nothing_always_has_room() -> None:
    room = Room(LIMITS)
    assert [room.take(identity("anna"), Takes.NOTHING) for _ in range(99)] == [None] * 99
    assert room.calls == 0


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Takes), st.booleans()), max_size=60))
def test_any_order_of_coming_and_going_is_counted_as_a_list_of_places_is(steps: list[tuple[str, Takes, bool]]) -> None:
    room, held = Room(LIMITS), list[Place]()
    for name, takes, leaves in steps:
        if leaves and held:
            room.leave(held.pop(0))
            continue
        own = held.count(Place(name, takes))
        most = {Takes.CALL: 2, Takes.SUBSCRIPTION: 3}.get(takes, 99)
        calls = sum(place.takes is Takes.CALL for place in held)
        full = (name and own >= most) or (takes is Takes.CALL and calls >= 5)
        try:
            place = room.take(identity(name), takes)
        except Overloaded:
            assert full
            continue
        assert not full
        assert (place is None) == (takes is Takes.NOTHING)
        held += [place] if place is not None else []
        assert room.calls == sum(place.takes is Takes.CALL for place in held)
    assert room._taken == Counter(held)
    for place in held:
        room.leave(place)
    assert (room.calls, len(room._taken)) == (0, 0), "nothing is kept of who has left"


def test_one_identity_cannot_have_all_connections_of_the_pool() -> None:
    limits = Server()
    assert limits.identity_calls_max < SIZE_MAX
    assert limits.identity_calls_max < limits.calls_max
    assert limits.identity_subscribers_max < limits.subscribers_max


def test_what_is_not_counted_is_what_head_ends_send_receipts_and_health() -> None:
    free = {name for name, rule in METHODS.items() if rule.takes is Takes.NOTHING}
    sends = {name for name, rule in METHODS.items() if rule.sends}
    health = {name for name in METHODS if name.startswith("grpc.health")}
    assert free == sends | health | {"meterwatch.v1.Receipts/Confirm"}
    assert [name for name, rule in METHODS.items() if rule.takes is Takes.SUBSCRIPTION] == [
        "meterwatch.v1.Alarms/Subscribe"
    ]


# At the gate


async def test_a_place_comes_back_however_a_call_ends(tmp_path: Path) -> None:
    async with gated(tmp_path) as world:
        vera = OF_THE_GATE.token("vera", ["viewer"])
        calls = [world.call("Forever", vera) for _ in range(6)]
        for call in calls:
            assert await call.read() == b"begun"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await world.ask("Who", vera)
        end = failure_of(error.value)
        assert (end.code, end.reason, end.retry_after_s) == ("RESOURCE_EXHAUSTED", "IDENTITY_CALLS_MAX", 1.0)
        assert "'vera'" in end.message
        labels = {"method": "Who", "code": "RESOURCE_EXHAUSTED", "reason": "IDENTITY_CALLS_MAX"}
        assert world.metrics.registry.get_sample_value("meterwatch_calls_refused_total", labels) == 1
        assert await world.ask("Who", OF_THE_GATE.token("anna", ["viewer"])) == b"anna"
        for call in calls:  # who leaves
            call.cancel()
        async with asyncio.timeout(ENOUGH_S):
            while world.gate._room.calls:  # noqa: ASYNC110  (nothing tells when the server has heard of it)
                await asyncio.sleep(0.01)
        for _ in range(10):  # what is answered, refused and breaks
            assert await world.ask("Who", vera) == b"vera"
            assert await world.refusal("Breaks", vera) == "INTERNAL"
            assert await world.refusal("Who", "no token") == "UNAUTHENTICATED"
            assert await world.refusal("Forgotten", vera) == "PERMISSION_DENIED"
        assert world.gate._room.calls == 0


# Against the whole service, over TLS


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("room")) as running:
        yield running


def beyond(end: Failure, reason: str, words: str) -> None:
    """It was refused so, and may come again."""
    assert (end.code, end.reason) == ("RESOURCE_EXHAUSTED", reason), end
    assert end.retry_after_s
    told(82, words, "RPC", f"{end.code} {end.reason}: {end.message} (retry after {end.retry_after_s:g} s)")


def test_one_operator_cannot_take_all_subscriptions(world: World) -> None:
    vera = world.holder(CA.issue("vera", roles=["viewer"]))
    most = Server().identity_subscribers_max
    open_ = [vera.Alarms.Subscribe(alarms.SubscribeRequest()) for _ in range(most)]
    for call in open_:
        assert next(call).HasField("snapshot")
    again = world.bearer(ISSUES.token("vera", ["viewer"]))  # on another connection, known otherwise
    with pytest.raises(grpc.RpcError) as error:
        next(again.Alarms.Subscribe(alarms.SubscribeRequest()))
    beyond(failure_of(error.value), "IDENTITY_SUBSCRIBERS_MAX", f"{most + 1} subscriptions of one name")
    other = world.person("viewer", name="olga").Alarms.Subscribe(alarms.SubscribeRequest())
    assert next(other).HasField("snapshot")
    for call in (*open_, other):
        call.cancel()


def held(caller: Caller, ended_by: Questions) -> Any:
    """A call that is under way until `ended_by` says None: reflection, which waits for the next question."""
    ended_by.put(reflection_pb2.ServerReflectionRequest(list_services=""))
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    return stub.ServerReflectionInfo(iter(ended_by.get, None), timeout=ENOUGH_S, metadata=caller.metadata)


def test_one_person_has_so_many_calls_under_way_and_the_others_are_answered(world: World) -> None:
    vera, olga = world.person("viewer", name="vera2"), world.person("viewer", name="olga2")
    questions: list[Questions] = [queue.Queue() for _ in range(Server().identity_calls_max)]
    calls = [held(vera, one) for one in questions]
    for call in calls:
        assert next(call).list_services_response.service
    with pytest.raises(grpc.RpcError) as error:
        vera.Alarms.ListAlarms(alarms.ListAlarmsRequest())
    beyond(failure_of(error.value), "IDENTITY_CALLS_MAX", f"{len(calls) + 1} calls of one name at a time")
    olga.Alarms.ListAlarms(alarms.ListAlarmsRequest())
    subscription = vera.Alarms.Subscribe(alarms.SubscribeRequest())
    assert next(subscription).HasField("snapshot")
    subscription.cancel()
    for one in questions:
        one.put(None)
    for call in calls:
        assert list(call) == []
