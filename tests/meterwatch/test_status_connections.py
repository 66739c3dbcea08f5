"""Connections to the status pages that say nothing: so many, for so long, and who asks is answered all the same."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from meterwatch import status_pages
from meterwatch.status_pages import LOOPBACK, StatusPages

ENOUGH_S = 60.0  # a limit for a hung test, not an expectation


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def port() -> Iterator[int]:  # type: ignore[misc]  # an async generator
    pages, at = StatusPages(CollectorRegistry(), lambda: ""), free_port()
    pages.start(at)
    yield at
    await pages.stop()


def said(port: int) -> bytes:
    return urllib.request.urlopen(f"http://{LOOPBACK}:{port}/healthz", timeout=ENOUGH_S).read()  # type: ignore[no-any-return]


async def test_of_too_many_connections_the_oldest_are_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_pages, "CONNECTIONS_MAX", 3)
    before = threading.active_count()
    with ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection((LOOPBACK, port), ENOUGH_S)) for _ in range(20)]
        for one in silent:
            one.sendall(b"GET /met")
        assert said(port) == b"ok\n"
        for one in silent[:-3]:
            assert one.recv(1) == b"", "it is closed"
        async with asyncio.timeout(ENOUGH_S):
            while threading.active_count() > before + 3:  # noqa: ASYNC110  (nothing tells when a thread has ended)
                await asyncio.sleep(0.01)


async def test_a_connection_that_says_nothing_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_pages._Silent, "timeout", 0.2)
    with socket.create_connection((LOOPBACK, port), ENOUGH_S) as silent:
        silent.sendall(b"GET /met")
        assert silent.recv(1) == b""
    assert said(port) == b"ok\n"
