"""The server takes what it has a method for, answers the rest, and says so when it takes nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from meterwatch import acceptor
from meterwatch.acceptor import Acceptor

ONE, TWO, STREAMED = "test.Test/One", "test.Test/Two", "test.Test/Streamed"


class Named(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Notes what is called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.called.append(details.method)
        return await continuation(details)


async def echo(request: bytes, context: Any) -> bytes:
    return request + dict(context.invocation_metadata()).get("more", "").encode()


async def thrice(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield request


def handlers() -> dict[str, Any]:
    return {
        "One": grpc.unary_unary_rpc_method_handler(echo),
        "Two": grpc.unary_unary_rpc_method_handler(echo),
        "Streamed": grpc.unary_stream_rpc_method_handler(thrice),
    }


@asynccontextmanager
async def serving(interceptor: Named) -> AsyncIterator[tuple[Acceptor, grpc.aio.Channel]]:
    server = Acceptor([("grpc.so_reuseport", 0)], [interceptor], [ONE, STREAMED])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers()),))
    server.add_registered_method_handlers("test.Test", {"One": handlers()["One"]})  # as generated code does it, twice
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield server, channel
        finally:
            await server.stop(None)


async def test_calls_come_to_their_method_through_the_interceptors_and_many_at_once() -> None:
    interceptor = Named()
    async with serving(interceptor) as (_, channel):
        one: Any = channel.unary_unary(f"/{ONE}")
        answers = await asyncio.gather(*(one(b"%d" % n, metadata=(("more", "!"),)) for n in range(200)))
        assert answers == [b"%d!" % n for n in range(200)]
        assert [part async for part in channel.unary_stream(f"/{STREAMED}")(b"x")] == [b"x"] * 3
    assert interceptor.called == [f"/{ONE}"] * 200 + [f"/{STREAMED}"]


@pytest.mark.parametrize("path", [f"/{TWO}", "/test.Test/Nothing", "nothing", "/" + "x" * 5000])
async def test_what_is_no_method_of_the_server_is_unimplemented_and_passes_the_interceptors_without_a_name(
    path: str,
) -> None:
    interceptor = Named()
    async with serving(interceptor) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(path)(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert interceptor.called == [""]


async def test_a_server_that_takes_no_calls_any_more_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def planted(*_: object) -> None:
        raise RuntimeError("planted")

    async with serving(Named()) as (server, _):
        watching = asyncio.ensure_future(server.run())
        await asyncio.sleep(0)  # lets it begin
        assert not watching.done()
        watching.cancel()
    monkeypatch.setattr(acceptor._Core, "_take", planted)
    async with serving(Named()) as (server, _):
        with pytest.raises(RuntimeError, match="planted"):
            await server.run()
