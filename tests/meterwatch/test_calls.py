"""A handler that breaks: the caller learns an incident id and no more, the log has the rest, the counter has moved."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from meterwatch.calls import Watch
from meterwatch.metrics import Metrics


async def call(_request: bytes, _context: Any) -> bytes:
    raise KeyError("password=hidden")


async def stream(_request: bytes, _context: Any) -> Any:
    yield b"one"
    raise KeyError("password=hidden")


async def all_of(answers: Any) -> None:
    async for _ in answers:
        pass


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_an_uncaught_error_is_logged_counted_and_not_told(kind: str) -> None:
    metrics = Metrics()
    server = grpc.aio.server(interceptors=[Watch(metrics)])
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    method = make(call if kind == "unary_unary" else stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Breaks", {"Now": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with capture_logs() as logs:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = getattr(channel, kind)("/test.Breaks/Now")(b"")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await (answer if kind == "unary_unary" else all_of(answer))
    await server.stop(None)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "hidden" not in str(error.value.details())
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert line["incident"] in str(error.value.details())
    assert isinstance(line["exc_info"], KeyError)
    assert (
        metrics.registry.get_sample_value(
            "meterwatch_calls_refused_total", {"method": "Now", "code": "INTERNAL", "reason": "INTERNAL"}
        )
        == 1
    )
