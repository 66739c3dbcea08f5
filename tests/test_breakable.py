"""The proxy that breaks connections does what it says: else the tests that use it show nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from breakable import BreakableProxy, Cut, Weather

TIMEOUT_S = 20.0  # a limit for a hung test, not an expectation


class Echo(threading.Thread):
    """Gives back what it gets, on one connection after another; `ends` says how each ended."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(name="echo", daemon=True)
        self._listener = listener
        self.ends: list[str] = []
        self.got = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(TIMEOUT_S)
                try:
                    while part := connection.recv(65_536):
                        self.got += len(part)
                        connection.sendall(part)
                    self.ends.append("FIN")
                except OSError:
                    self.ends.append("RST")


@contextmanager
def echoing(path: Path | None = None) -> Iterator[tuple[Echo, tuple[str, int] | Path]]:
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if path is None else str(path))
    listener.listen()
    echo = Echo(listener)
    echo.start()
    yield echo, listener.getsockname() if path is None else path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    echo.join(TIMEOUT_S)


def connected(proxy: BreakableProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def received(connection: socket.socket, size: int) -> bytes:
    """What comes until it is so much, or until the end."""
    out = b""
    while len(out) < size and (part := connection.recv(size - len(out))):
        out += part
    return out


def until(done: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(TIMEOUT_S * 100)):
        if done():
            return
        waiting.wait(0.01)
    raise AssertionError("waited too long")


SAID = bytes(range(256)) * 500


@pytest.mark.parametrize(
    "weather", [Weather(), Weather(delay_s=0.005, jitter_s=0.005), Weather(bytes_per_s=2_000_000)], ids=str
)
def test_in_any_weather_that_breaks_nothing_the_bytes_arrive_as_they_were(weather: Weather) -> None:
    with echoing() as (echo, address), BreakableProxy(address, weather=weather) as proxy:
        with connected(proxy) as connection:
            threading.Thread(target=connection.sendall, args=(SAID,), daemon=True).start()
            assert received(connection, len(SAID)) == SAID
        until(lambda: echo.ends == ["FIN"])
        assert (proxy.bytes_up, proxy.bytes_down, proxy.connections) == (len(SAID), len(SAID), 1)


def test_a_unix_socket_in_front_of_a_unix_socket(tmp_path: Path) -> None:
    with (
        echoing(tmp_path / "echo") as (_, address),
        BreakableProxy(address, listen=tmp_path / "proxy"),
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(tmp_path / "proxy"))
        connection.sendall(b"here and back")
        assert received(connection, 13) == b"here and back"


@pytest.mark.parametrize("cut", Cut)
def test_a_connection_is_cut_after_so_many_bytes_and_no_sooner(cut: Cut) -> None:
    with echoing() as (echo, address), BreakableProxy(address) as proxy:
        proxy.cuts.append((1000, cut))
        with connected(proxy) as connection:
            connection.sendall(b"x" * 999)  # the thousandth byte is the first of the echo
            if cut is Cut.RST:
                with pytest.raises(ConnectionError):
                    received(connection, 999)
            else:
                assert len(received(connection, 999)) <= 1
        until(lambda: len(echo.ends) == 1)
        assert echo.got == 999
        assert proxy.bytes_up + proxy.bytes_down == 1000


def test_a_hole_swallows_one_direction_and_shows_no_end() -> None:
    with echoing() as (echo, address), BreakableProxy(address, weather=Weather(hole_down=True)) as proxy:
        with connected(proxy) as connection:
            connection.sendall(b"heard and not answered")
            until(lambda: echo.got == 22)
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        until(lambda: echo.ends == ["FIN"])
        with connected(proxy) as connection:
            proxy.change(Weather(hole_up=True))
            connection.sendall(b"not heard")
        assert (echo.got, echo.ends) == (22, ["FIN"])


def test_what_was_stalled_arrives_once_the_weather_changes() -> None:
    with (
        echoing() as (echo, address),
        BreakableProxy(address, weather=Weather(stalled=True)) as proxy,
        connected(proxy) as connection,
    ):
        connection.sendall(b"later")
        until(lambda: proxy.open == 1)
        assert echo.got == 0
        proxy.change(Weather())
        assert received(connection, 5) == b"later"


def test_a_reset_reaches_both_sides_and_refused_connections_the_client() -> None:
    with echoing() as (echo, address), BreakableProxy(address) as proxy:
        with connected(proxy) as connection:
            connection.sendall(b"x")
            assert received(connection, 1) == b"x"
            proxy.change(Weather(refused=True))
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        until(lambda: echo.ends == ["RST"])
        with pytest.raises(ConnectionResetError), connected(proxy) as connection:
            received(connection, 1)
        assert proxy.connections == 2
