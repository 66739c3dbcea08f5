"""A proxy of ours that breaks connections as networks do, in front of a service or of a database.

    client  --up-->  [ proxy ]  --up-->  server
            <-down-            <-down-

What befalls the bytes is a `Weather`; `change` puts another one in force for the connections there are and those to
come. `cuts` says after how many bytes the next connections are cut, and how: RST to both sides (SO_LINGER 0), FIN to
both, or only one direction closed. A direction that is a hole is read and forgotten, and the end of the other side is
not passed on: what a black hole looks like to both. Delay and rate hold for each direction of each connection; jitter
comes from the seed.

Promises: deterministic but for the operating system's segments; nothing of it outlives the `with`. Refuses to know what
it carries. Both ends are (host, port) or the path of a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

Endpoint = tuple[str, int] | Path
PART_BYTES = 16_384
ENOUGH_S = 60.0


class Cut(Enum):
    """How a connection ends when it is cut."""

    RST = "RST to both"
    FIN = "FIN to both"
    HALF = "the direction that reached the limit closed, the other open"


@dataclass(frozen=True)
class Weather:
    """What befalls the bytes of a connection; the default: nothing."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more delay, drawn per part."""
    bytes_per_s: float | None = None
    hole_up: bool = False
    hole_down: bool = False
    stalled: bool = False
    """Nothing passes until the weather changes; then all that waited does."""
    refused: bool = False
    """New connections are reset at once."""


class BreakableProxy:
    """See the module head. `weather`: at first."""

    def __init__(
        self, server: Endpoint, *, listen: Path | None = None, weather: Weather | None = None, seed: int = 0
    ) -> None:
        self.server = server
        self.weather = weather or Weather()
        self.cuts: deque[tuple[int, Cut]] = deque()
        """One for each connection to come: after how many bytes, of both directions together, it is cut, and how."""
        self.connections = 0
        """Accepted so far."""
        self.bytes_up = self.bytes_down = 0
        """Passed on so far."""
        self._listen = listen
        self._rng = random.Random(seed)
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """host:port it listens on."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._pipes)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENOUGH_S)
        self._loop.close()

    def change(self, weather: Weather) -> None:
        """Another weather, for the connections there are as well."""
        self._run(self._change(weather))

    def reset(self) -> None:
        """Cut all connections there are with RST."""
        self._run(self._reset())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(ENOUGH_S)

    async def _start(self) -> None:
        if self._listen is None:
            self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        else:
            self._listener = await asyncio.start_unix_server(self._accepted, self._listen)

    async def _stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._rounds()  # what is accepted is ours in the next rounds of the loop
        await self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rounds()  # and what is aborted ends in them

    async def _rounds(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _change(self, weather: Weather) -> None:
        self.weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reset(self) -> None:
        for pipe in list(self._pipes):
            pipe.end(Cut.RST)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.weather.refused:
            _abort(writer)
            return
        try:
            if isinstance(self.server, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(self.server)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self.server)
        except OSError:
            _abort(writer)
            return
        pipe = _Pipe(writer, far_writer, *(self.cuts.popleft() if self.cuts else (None, Cut.FIN)))
        self._pipes.add(pipe)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(pipe, reader, far_writer, up=True))
                ways.create_task(self._carry(pipe, far_reader, writer, up=False))
        finally:
            pipe.end(Cut.FIN)
            try:
                await pipe.gone()
            finally:
                pipe.end(Cut.RST)
                self._pipes.discard(pipe)

    async def _carry(
        self, pipe: _Pipe, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """Pass one direction on until it ends."""
        with contextlib.suppress(ConnectionError, OSError):
            while not pipe.over.is_set():
                part = await source.read(PART_BYTES)
                while self.weather.stalled and not pipe.over.is_set():
                    await _first_of(self._changed, pipe.over)
                weather = self.weather
                if weather.hole_up if up else weather.hole_down:
                    if not part:
                        await pipe.over.wait()  # the end is not seen on the other side
                    continue
                if not part:
                    if target.can_write_eof():
                        target.write_eof()
                    return
                await asyncio.sleep(self._pause_s(weather, len(part)))
                room = len(part) if pipe.cut_after is None else max(pipe.cut_after - pipe.passed, 0)
                if pipe.over.is_set():
                    return
                target.write(part[:room])
                pipe.passed += len(part[:room])
                if up:
                    self.bytes_up += len(part[:room])
                else:
                    self.bytes_down += len(part[:room])
                await target.drain()
                if pipe.passed == pipe.cut_after:
                    if pipe.cut is not Cut.HALF:
                        pipe.end(pipe.cut)
                    elif target.can_write_eof():
                        target.write_eof()
                    return
            return
        pipe.end(Cut.RST)

    def _pause_s(self, weather: Weather, size: int) -> float:
        rate_s = size / weather.bytes_per_s if weather.bytes_per_s else 0.0
        return weather.delay_s + self._rng.uniform(0.0, weather.jitter_s) + rate_s


class _Pipe:
    """The two connections of one that is carried."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, cut_after: int | None, cut: Cut
    ) -> None:
        self._ends = client, server
        self.cut_after, self.cut = cut_after, cut
        self.over = asyncio.Event()
        self.passed = 0
        """Bytes passed on in both directions."""

    def end(self, cut: Cut) -> None:
        """End both; with RST also what has ended and waits for its last bytes to go."""
        if self.over.is_set() and cut is not Cut.RST:
            return
        self.over.set()
        for end in self._ends:
            if cut is Cut.RST:
                _abort(end)
            else:
                end.close()

    async def gone(self) -> None:
        """Wait until both connections are closed."""
        await asyncio.gather(*(end.wait_closed() for end in self._ends), return_exceptions=True)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what is unsent is forgotten, and the other side gets an error and no end."""
    own = writer.get_extra_info("socket")
    if own is not None and own.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def endpoint_of(dsn: str) -> Endpoint:
    """Where the PostgreSQL of a URL listens."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host") or "localhost"), int(str(parts.get("port") or 5432))
    return Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)


def through(dsn: str, proxy: BreakableProxy) -> str:
    """The URL of the same database behind a proxy."""
    parts = conninfo_to_dict(dsn)
    user = quote(str(parts.get("user") or ""), safe="")
    password = f":{quote(str(parts['password']), safe='')}" if parts.get("password") else ""
    return f"postgresql://{user}{password}@{proxy.address}/{quote(str(parts['dbname']), safe='')}"
