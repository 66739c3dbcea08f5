"""Requests at the gate: nothing of one is received before its turn, and to its caller a call is what it always was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from test_gate import HAPPENED, ISSUES, METHODS, World, gated, who

from meterwatch.access.doors import ALL_BYTES_MAX, OWN_BYTES_MAX, Door, Doors
from meterwatch.access.identity import Role
from meterwatch.access.methods import ANYBODY, NAME_BYTES_MAX, REQUEST_BYTES_MAX, Reach, Rule, Takes
from meterwatch.access.methods import METHODS as TABLE
from meterwatch.client.retry import Failure, failure_of
from meterwatch.config import Server

LARGE = b"x" * 200_000
LONGEST = Server().message_bytes_max
ALL, OWN = ALL_BYTES_MAX // LONGEST, OWN_BYTES_MAX // LONGEST


def begun(world: World, method: str = "Who", token: str = "") -> Any:
    """A call whose request has not been sent."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    return world.channel.stream_unary(f"/test.Test/{method}")(metadata=metadata)


async def until(done: Any) -> None:
    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110  (nothing tells how far the server is)
            await asyncio.sleep(0.005)


async def failed(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure_of(error.value)


@pytest.fixture
def token() -> str:
    return ISSUES.token("anna", ["viewer"])


async def test_who_begins_calls_and_sends_no_request_holds_his_own_share_and_gives_it_back(
    tmp_path: Path, token: str
) -> None:
    async with gated(tmp_path) as world:
        door = world.gate._doors.people
        silent = [begun(world, token=token) for _ in range(OWN)]
        await until(lambda: door.size == OWN_BYTES_MAX)
        waits = asyncio.create_task(world.ask("Who", token, LARGE))
        await until(lambda: door.waiting == 1)
        assert await world.ask("Who", ISSUES.token("vera", ["viewer"]), LARGE) == b"vera"
        assert not waits.done()
        silent[0].cancel()
        assert await waits == b"anna"
        for one in silent:
            one.cancel()
        await until(lambda: (door.size, door.waiting) == (0, 0))


async def test_a_caller_who_leaves_while_he_waits_gives_his_turn_back(tmp_path: Path, token: str) -> None:
    async with gated(tmp_path) as world:
        door = world.gate._doors.people
        silent = [begun(world, token=token) for _ in range(OWN)]
        await until(lambda: door.size == OWN_BYTES_MAX)
        waits = world.channel.unary_unary("/test.Test/Who")(LARGE, metadata=[("authorization", f"Bearer {token}")])
        await until(lambda: door.waiting == 1)
        waits.cancel()
        await until(lambda: door.waiting == 0)
        late = world.channel.unary_unary("/test.Test/Who")(
            LARGE, metadata=[("authorization", f"Bearer {token}")], timeout=0.3
        )
        assert (await failed(late)).code == "DEADLINE_EXCEEDED"
        await until(lambda: door.waiting == 0)
        assert door.size == OWN_BYTES_MAX
        assert world.gate._room.calls == OWN
        for one in silent:
            one.cancel()
        await until(lambda: (door.size, world.gate._room.calls) == (0, 0))


async def test_a_request_that_does_not_come_ends_its_call_in_bounded_time() -> None:
    async with gated() as world:
        world.gate._doors = Doors(*(Door(LONGEST, 0.3) for _ in range(3)))
        end = await failed(begun(world))
        assert (end.code, end.reason, end.retry_after_s) == ("DEADLINE_EXCEEDED", "DEADLINE", 1.0)
        assert world.gate._doors.people.size == 0
        labels = {"method": "Who", "code": "DEADLINE_EXCEEDED", "reason": "DEADLINE"}
        assert world.metrics.registry.get_sample_value("meterwatch_calls_refused_total", labels) == 1


async def test_a_call_without_a_request_is_told_so_and_nothing_is_done() -> None:
    async with gated() as world:
        call = begun(world, "Alter")
        await call.done_writing()
        end = await failed(call)
        assert (end.code, end.reason) == ("INVALID_ARGUMENT", "MALFORMED")
        assert HAPPENED == []


async def test_of_two_requests_the_first_counts() -> None:
    async with gated() as world:
        call = begun(world, "Alter")
        await call.write(b"one")
        await call.write(b"two")
        assert await call == b""
        assert HAPPENED == ["BEGUN", "changed", "OK"]


@pytest.mark.parametrize("method", ["Forgotten", "Who"])
async def test_of_who_is_refused_nothing_is_received(tmp_path: Path, method: str) -> None:
    async with gated(tmp_path) as world:
        end = await failed(begun(world, method))
        assert end.code == "UNAUTHENTICATED"
        end = await failed(begun(world, method, ISSUES.token("eve", [])))
        assert end.code == "PERMISSION_DENIED"
        assert [door.size for door in world.gate._doors] == [0, 0, 0]


async def test_health_is_answered_though_strangers_begin_calls_and_send_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anybodys = Rule(ANYBODY, Reach.ANY, takes=Takes.NOTHING)
    monkeypatch.setitem(METHODS, "Health", (grpc.unary_unary_rpc_method_handler(who), anybodys))
    async with gated() as world:
        silent = [begun(world, "Health") for _ in range(ALL)]
        await until(lambda: world.gate._doors.anybody.size == ALL_BYTES_MAX)
        for _ in range(3):
            assert await world.ask("Health") == b""
        ends = {one: one.done() for one in silent}
        assert sum(ends.values()) == 1
        end = await failed(next(one for one in silent if ends[one]))
        assert (end.code, end.reason, end.retry_after_s) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 1.0)
        for one in silent:
            one.cancel()


async def test_a_request_longer_than_its_method_allows_is_not_kept() -> None:
    rule = METHODS["Who"][1]
    assert rule is not None
    assert rule.bytes_max == REQUEST_BYTES_MAX
    async with gated() as world:
        assert await world.ask("Who", data=b"x" * REQUEST_BYTES_MAX) == b""
        end = await failed(world.channel.unary_unary("/test.Test/Who")(b"x" * (REQUEST_BYTES_MAX + 1)))
        assert (end.code, end.reason, end.retry_after_s) == ("INVALID_ARGUMENT", "MESSAGE_TOO_LARGE", None)


def test_what_strangers_and_subscribers_send_is_short_and_what_is_imported_or_sent_is_not() -> None:
    lengths = {name: rule.bytes_max for name, rule in TABLE.items()}
    assert {length for name, length in lengths.items() if not TABLE[name].roles} == {NAME_BYTES_MAX}
    assert lengths["meterwatch.v1.Alarms/Subscribe"] == REQUEST_BYTES_MAX
    whole = {name for name, length in lengths.items() if length is None}
    assert whole == {name for name, rule in TABLE.items() if rule.sends} | {
        "meterwatch.v1.Registry/Import", "meterwatch.v1.Thermal/ImportAmbient",
        "meterwatch.v1.Transformers/ImportFlexibility",
    }  # fmt: skip


@pytest.mark.parametrize("sends", [True, False])
async def test_what_has_no_place_in_the_room_counts_until_it_is_answered(
    sends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def stores(request: bytes, _context: Any) -> bytes:
        await answered.wait()
        return request[:1]

    rule = Rule(frozenset(Role), Reach.OWN, sends=sends, takes=Takes.NOTHING, bytes_max=None)
    monkeypatch.setitem(METHODS, "Send", (grpc.unary_unary_rpc_method_handler(stores), rule))
    async with gated() as world:
        door = world.gate._doors.head_ends if sends else world.gate._doors.people
        sent = asyncio.create_task(world.ask("Send", data=LARGE))
        await until(lambda: door.size == len(LARGE))
        answered.set()
        assert await sent == LARGE[:1]
        await until(lambda: door.size == 0)
