"""Plain HTTP for those who watch the service: /metrics, /healthz, /readyz.

Healthy: the event loop still turns; whoever supervises the service starts it anew if not. Ready: reads are taken,
stored and judged now; a load balancer sends head-ends elsewhere if not, and the answer says why. On the loopback
address, unless whoever runs it says otherwise: nobody is asked who he is. Connections that say nothing cost at most
CONNECTIONS_MAX threads and files. Refuses to know what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from meterwatch.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"
BEAT_S: Final = 1.0
STUCK_S: Final = 15.0
"""An event loop that has not turned for so long is stuck. The longest work on it is some seconds. (ours)"""

CONNECTIONS_MAX: Final = 64
"""Of more, the oldest is closed: who asks is answered within milliseconds, and who is older only holds on. (ours)"""
PATIENCE_S: Final = 10.0
"""So long a connection may say nothing."""


class StatusPages:
    """Answers from `start` to `stop`. not_ready: why no reads are taken, empty if they are; asked in another thread."""

    def __init__(
        self, registry: CollectorRegistry, not_ready: Callable[[], str], remark: Callable[[], str] = lambda: ""
    ) -> None:
        """remark: what is to be said of a service that is ready."""
        self._remark = remark
        self._metrics = make_wsgi_app(registry)
        self._not_ready = not_ready
        self._beat_s = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._server: Any = None
        self._thread: Thread | None = None

    def start(self, port: int, address: str = LOOPBACK) -> None:
        """Answer from now on; port 0: do not. ConfigError if the port is taken."""
        if port == 0:
            return
        try:
            self._server = make_server(address, port, self._answer, _Server, _Silent)
        except OSError as error:
            text = f"metrics.port {port} on {address} cannot be bound ({error.strerror}); set another, or 0 for none"
            raise ConfigError([text]) from None
        self._beat()
        self._thread = Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            await asyncio.to_thread(self._thread.join)

    def _beat(self) -> None:
        self._beat_s = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start_response)
                return answer
            case "/healthz":
                return _said(start_response, self._stuck())
            case "/readyz":
                return _said(start_response, self._stuck() or self._not_ready(), self._remark())
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"/metrics, /healthz and /readyz are served here\n"]

    def _stuck(self) -> str:
        since_s = time.monotonic() - self._beat_s
        return f"the event loop has not turned for {since_s:.0f} s" if since_s > STUCK_S else ""


def _said(start_response: Callable[..., Any], trouble: str, remark: str = "") -> list[bytes]:
    status = "503 Service Unavailable" if trouble else "200 OK"
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return ["; ".join(part for part in (trouble or "ok", remark) if part).encode() + b"\n"]


class _Server(ThreadingWSGIServer):
    """A thread for each connection, and no more of them than CONNECTIONS_MAX."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._open: dict[Any, None] = {}
        self._turn = Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._turn:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > CONNECTIONS_MAX else None
            self._open.pop(oldest, None)
        if oldest is not None:
            with suppress(OSError):  # it has ended meanwhile
                oldest.shutdown(SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._turn:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody left in the middle, or said nothing: no traceback on stderr."""


class _Silent(WSGIRequestHandler):
    """Each answer is no line in the log."""

    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        pass
