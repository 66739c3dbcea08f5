"""Over HTTP: ready only while reads are taken, healthy while the loop turns."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from test_metrics import config, free_port

from meterwatch import status_pages
from meterwatch.app import running
from meterwatch.status_pages import StatusPages


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_a_service_is_ready_while_it_takes_reads(dsn: str) -> None:
    port = free_port()
    async with running(config(dsn, port)) as service:
        assert await asyncio.to_thread(get, port, "/readyz") == (200, "ok\n")
        assert await asyncio.to_thread(get, port, "/healthz") == (200, "ok\n")
        service.pipeline.ready("the rules are rebuilt")
        assert await asyncio.to_thread(get, port, "/readyz") == (503, "the rules are rebuilt\n")
        assert (await asyncio.to_thread(get, port, "/healthz"))[0] == 200
        service.pipeline.ready()
        service.pipeline._reads.rows = 600_000
        assert await asyncio.to_thread(get, port, "/readyz") == (503, "600000 rows wait for the database\n")
        service.pipeline._reads.rows = 0
        code, said = await asyncio.to_thread(get, port, "/elsewhere")
        assert (code, "/metrics" in said) == (404, True)
        assert "meterwatch_queue_rows" in (await asyncio.to_thread(get, port, "/metrics"))[1]
    with pytest.raises(urllib.error.URLError):
        get(port, "/readyz")


async def test_the_pages_are_on_loopback_alone_unless_it_is_said_in_so_many_words() -> None:
    """Linux answers on all of 127/8 to who listens everywhere; to who listens on one address, on that one."""
    for address, elsewhere in ((status_pages.LOOPBACK, False), (status_pages.EVERYWHERE, True)):
        port = free_port()
        pages = StatusPages(CollectorRegistry(), lambda: "")
        pages.start(port, address)
        try:
            assert await asyncio.to_thread(get, port, "/readyz") == (200, "ok\n")
            with socket.socket() as caller:
                assert (await asyncio.to_thread(caller.connect_ex, ("127.0.0.2", port)) == 0) is elsewhere
        finally:
            await pages.stop()


async def test_a_loop_that_stands_still_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_pages, "STUCK_S", 0.2)
    monkeypatch.setattr(status_pages, "BEAT_S", 0.01)
    port = free_port()
    pages = StatusPages(CollectorRegistry(), lambda: "")
    pages.start(port)
    try:
        assert (await asyncio.to_thread(get, port, "/healthz"))[0] == 200
        found: list[tuple[int, str]] = []
        asked = threading.Timer(0.5, lambda: found.append(get(port, "/healthz")))
        asked.start()
        asked.join()  # the loop stands still meanwhile
        assert found[0][0] == 503
        assert "not turned" in found[0][1]
        await asyncio.sleep(0.05)
        assert (await asyncio.to_thread(get, port, "/readyz"))[0] == 200
    finally:
        await pages.stop()
