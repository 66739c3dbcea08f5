"""A sender that has left when an answer is to go out: gRPC raises, and that is no defect of ours."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
import structlog

from ingest.stream import Streams


async def test_an_answer_that_does_not_go_out_ends_the_stream_and_is_not_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def left(*_: object) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")

    monkeypatch.setattr(Streams, "_run", left)
    with structlog.testing.capture_logs() as said, pytest.raises(asyncio.CancelledError):
        await object.__new__(Streams)._lived(None, None)  # type: ignore[arg-type]
    assert said == []
