"""Receivers of messages: real HTTP servers on the loopback address, each on a thread of its own, that can be told to
fail, to hang, to refuse, to go away and to come back on the same port."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """What came, and how to answer."""

    status: int = 200
    says: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    """Those answered with 2xx."""
    go_on: threading.Event = field(default_factory=threading.Event)
    """Cleared: it hangs, after it has read a request."""
    turns: Iterator[str] = field(default_factory=lambda: itertools.repeat("takes"))
    """What becomes of each request: takes (as `status` and `says`), fails, or hangs (until the receiver goes)."""
    port: int = 0
    _leaves: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def come(self) -> None:
        """Listen, on the port of before."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body)
                receiver.requests.append(request)
                receiver.go_on.wait()
                turn = next(receiver.turns)
                if turn == "hangs":
                    receiver._leaves.wait()
                    return
                status = 503 if turn == "fails" else receiver.status
                try:
                    self.send_response(status)
                    for name, value in receiver.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(receiver.says)))
                    self.end_headers()
                    self.wfile.write(receiver.says)
                except OSError:
                    return  # the caller has given up
                if 200 <= status < 300:
                    receiver.answered.append(request)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # a caller that was killed in the middle of its request

        self.go_on.set()
        self._leaves.clear()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def go(self) -> None:
        """Listen no more; what hangs goes on, and is not answered."""
        if self._server is not None and self._thread is not None:
            self.status = 503
            self.go_on.set()
            self._leaves.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


@contextmanager
def receiver() -> Iterator[Receiver]:
    """One that listens."""
    one = Receiver()
    one.come()
    try:
        yield one
    finally:
        one.go()
