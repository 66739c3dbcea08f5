"""The gate around a method of a test, without TLS: who is local, what is counted, and what a call costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from access_authority import AUDIENCE, ISSUER, Issuer, jwks
from access_world import refused
from structlog.testing import capture_logs

from meterwatch.access.gate import Gate
from meterwatch.access.identity import LOCAL, caller
from meterwatch.access.methods import ANYBODY, PEOPLE, Reach, Rule
from meterwatch.access.signing_keys import SigningKeys
from meterwatch.access.tokens import Tokens
from meterwatch.access.trail import AuditRow, Trail
from meterwatch.calls import Watch
from meterwatch.errors import StorageUnavailable, Unauthenticated
from meterwatch.metrics import Metrics

ISSUES = Issuer()
OPEN = Rule(PEOPLE, Reach.ANY)
CHANGES = Rule(PEOPLE, Reach.ANY, changes=True)


async def who(_request: bytes, context: Any) -> bytes:
    return caller(context).name.encode()


async def changes(_request: bytes, _context: Any) -> bytes:
    HAPPENED.append("changed")
    return b""


async def breaks(_request: bytes, _context: Any) -> bytes:
    raise KeyError("password=hidden")


async def forever(_request: bytes, context: Any) -> None:
    await context.write(b"begun")
    await asyncio.Event().wait()


FLOOD = {"sent": 0}
HAPPENED: list[str] = []
"""Outcomes as they came into the table, and changes as they were done."""


async def floods(_request: bytes, context: Any) -> None:
    while True:
        await context.write(b"x" * 1_000_000)
        FLOOD["sent"] += 1


async def pieces(_request: bytes, context: Any) -> AsyncIterator[bytes]:
    for piece in (b"1", b"2", b"3"):
        yield piece


METHODS = {
    "Who": (grpc.unary_unary_rpc_method_handler(who), OPEN),
    "Change": (grpc.unary_unary_rpc_method_handler(who), CHANGES),
    "Alter": (grpc.unary_unary_rpc_method_handler(changes), CHANGES),
    "Breaks": (grpc.unary_unary_rpc_method_handler(breaks), CHANGES),
    "Forever": (grpc.unary_stream_rpc_method_handler(forever), CHANGES),
    "Floods": (grpc.unary_stream_rpc_method_handler(floods), OPEN),
    "Pieces": (grpc.unary_stream_rpc_method_handler(pieces), CHANGES),
    "Anybody": (grpc.unary_unary_rpc_method_handler(who), Rule(ANYBODY, Reach.ANY)),
    "Forgotten": (grpc.unary_unary_rpc_method_handler(who), None),
}


class World:
    def __init__(self, channel: Any, gate: Gate, trail: Trail, rows: list[AuditRow], metrics: Metrics) -> None:
        self.channel, self.gate, self.trail, self.rows, self.metrics = channel, gate, trail, rows, metrics
        self.away = False
        self.room = 1_000_000
        """Rows that the table takes."""

    async def ask(self, method: str, token: str = "", data: bytes = b"") -> bytes:
        metadata = [("authorization", f"Bearer {token}")] if token else []
        answer: bytes = await self.channel.unary_unary(f"/test.Test/{method}")(data, metadata=metadata)
        return answer

    def call(self, method: str, token: str) -> Any:
        return self.channel.unary_stream(f"/test.Test/{method}")(b"", metadata=[("authorization", f"Bearer {token}")])

    async def refusal(self, method: str, token: str = "") -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.ask(method, token)
        return str(error.value.code().name)


@asynccontextmanager
async def gated(directory: Path | None = None) -> AsyncIterator[World]:
    """A server behind gate and watch; with a directory it takes tokens."""
    tokens = None
    if directory is not None:
        (directory / "jwks.json").write_bytes(jwks(ISSUES))
        keys = SigningKeys(directory / "jwks.json")
        await keys.open()
        tokens = Tokens(keys, ISSUER, AUDIENCE)
    rows: list[AuditRow] = []
    HAPPENED.clear()
    metrics = Metrics()

    async def write(some: Sequence[AuditRow]) -> None:
        if world.away or len(rows) + len(some) > world.room:
            raise StorageUnavailable("away")
        rows.extend(some)
        HAPPENED.extend(row.outcome for row in some)

    def counted(method: str, code: str, reason: str) -> None:
        metrics.calls_refused.labels(method.rpartition("/")[2], code, reason).inc()

    trail = Trail(write)
    table = {f"test.Test/{name}": rule for name, (_, rule) in METHODS.items() if rule is not None}
    gate = Gate(trail, tokens, refused=counted, methods=table)
    server = grpc.aio.server(interceptors=[gate, Watch(metrics)])
    handlers = {name: handler for name, (handler, _) in METHODS.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        world = World(channel, gate, trail, rows, metrics)
        yield world
    await server.stop(None)
    await trail.flush()


async def test_without_tls_and_tokens_everybody_is_local_and_signs_as_he_likes() -> None:
    async with gated() as world:
        assert await world.ask("Who") == b""
        assert LOCAL.signs("Kim") == "Kim"
        await world.ask("Change")
        assert [(row.how, row.outcome) for row in world.rows] == [("local", "BEGUN"), ("local", "OK")]


async def test_where_tokens_are_taken_plain_text_makes_nobody_local(tmp_path: Path) -> None:
    async with gated(tmp_path) as world:
        assert await world.refusal("Who") == "UNAUTHENTICATED"
        assert await world.ask("Who", ISSUES.token("anna", ["viewer"])) == b"anna"


async def test_a_token_where_none_are_taken_is_refused() -> None:
    async with gated() as world:
        assert await world.refusal("Who", ISSUES.token()) == "UNAUTHENTICATED"


async def test_a_method_in_no_table_is_closed_also_to_local() -> None:
    async with gated() as world:
        assert await world.refusal("Forgotten") == "PERMISSION_DENIED"
        assert await world.ask("Anybody") == b""


async def test_a_method_that_is_not_there_is_as_before() -> None:
    async with gated() as world:
        assert await world.refusal("Nothing") == "UNIMPLEMENTED"


async def test_what_broke_is_on_record_and_not_told() -> None:
    async with gated() as world:
        with capture_logs():
            assert await world.refusal("Breaks") == "INTERNAL"
        await world.trail.flush()
        assert [row.outcome for row in world.rows] == ["BEGUN", "INTERNAL INTERNAL"]


async def test_a_refusal_at_the_gate_moves_the_counter_of_refused_calls() -> None:
    async with gated() as world:
        await world.refusal("Forgotten")
        labels = {"method": "Forgotten", "code": "PERMISSION_DENIED", "reason": "METHOD_CLOSED"}
        assert world.metrics.registry.get_sample_value("meterwatch_calls_refused_total", labels) == 1


async def test_a_change_is_on_record_before_it_is_begun_and_its_outcome_has_its_number() -> None:
    async with gated() as world:
        await world.ask("Alter")
        assert HAPPENED == ["BEGUN", "changed", "OK"]
        await world.ask("Alter")
        one, same, other, same_as_other = (row.call_id for row in world.rows)
        assert (same, same_as_other, len({0, one, other})) == (one, other, 3)


async def test_while_the_log_is_away_nothing_is_changed_and_a_look_is_answered() -> None:
    async with gated() as world:
        world.away = True
        assert await world.refusal("Alter") == "UNAVAILABLE"
        assert await world.ask("Who") == b""
        assert HAPPENED == []
        world.away = False
        await world.ask("Alter")
        assert HAPPENED[-3:] == ["BEGUN", "changed", "OK"]


async def test_what_is_done_is_on_record_as_done_though_its_answer_failed() -> None:
    async with gated() as world:
        world.room = 1
        assert await world.refusal("Alter") == "UNAVAILABLE"
        world.room = 2
        world.trail._try_again()
        await world.trail.flush()
        assert HAPPENED == ["BEGUN", "changed", "OK"]


async def test_an_answer_in_pieces_is_on_record_when_it_is_whole() -> None:
    async with gated() as world:
        call = world.channel.unary_stream("/test.Test/Pieces")(b"")
        assert [piece async for piece in call] == [b"1", b"2", b"3"]
        assert [row.outcome for row in world.rows] == ["BEGUN", "OK"]


async def test_a_caller_who_leaves_before_the_answer_is_on_record() -> None:
    async with gated() as world:
        call = world.channel.unary_stream("/test.Test/Forever")(b"")
        assert await call.read() == b"begun"
        call.cancel()
        while len(world.rows) < 2:  # noqa: ASYNC110  (nothing tells when the server has heard of it)
            await asyncio.sleep(0.01)
        assert [row.outcome for row in world.rows] == ["BEGUN", "CANCELLED"]


async def test_a_stream_ends_when_its_token_has_been_expired_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gated(tmp_path) as world:
        monkeypatch.setattr(world.gate, "_now_s", lambda: time.time() + 300 + 60 - 0.5)
        call = world.call("Forever", ISSUES.token("vera", ["viewer"], exp=int(time.time()) + 300))
        assert await call.read() == b"begun"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_caller_who_does_not_read_gets_nothing_more_and_the_status_when_he_reads_on(tmp_path: Path) -> None:
    """gRPC takes no status while a message is under way."""
    async with gated(tmp_path) as world:
        call = world.call("Floods", ISSUES.token("vera", ["viewer"]))
        assert await call.read()
        [blocked] = world.gate._streams
        sent = -1
        while sent != (sent := FLOOD["sent"]):  # noqa: ASYNC110  (until a message is under way and stays there)
            await asyncio.sleep(0.3)
        blocked.end(Unauthenticated("CERTIFICATE_DENIED", "denied"))
        read = 1
        with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012  (the last of several messages is the error)
            while await call.read() is not grpc.aio.EOF:
                read += 1
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert read <= sent + 1
        await world.trail.flush()
        assert [row.outcome for row in world.rows] == ["UNAUTHENTICATED CERTIFICATE_DENIED"]
        assert await world.ask("Who", ISSUES.token("anna", ["viewer"])) == b"anna"


def test_the_helper_of_these_tests_does_not_take_an_answer_for_a_refusal() -> None:
    with pytest.raises(AssertionError):
        refused(lambda: iter(()))
