"""Reads as text, one line each with three fields, and the process that posts them: how the peers of a bench are fed.

Bodies are complete before the clock starts. Values go out with the decimals a meter has (0.1 V, 0.01 A), so the text
is no longer than in the field. The client keeps its connections, one thread each, and does nothing but post and wait.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loadtest.child import Child
from loadtest.fleet import ONE_PHASE, Fleet

POST_TIMEOUT_S: Final = 120.0
MEASUREMENT: Final = "reads"
DECIMALS: Final = {"voltage_a_v": 1, "current_a_a": 2}


class MeterLike(Fleet):
    """The bench's fleet with the decimals that meters deliver; any head-end may send any meter, so streams can vary."""

    def registry(self) -> list[tuple[str, bytes]]:
        """As of the fleet; no meter names a head-end, the last column."""
        files = dict(Fleet.registry(self))
        header, *rows = files["meters"].decode().splitlines()
        assert header.endswith("head_end"), header
        files["meters"] = "\n".join((header, *(f"{row.rpartition(',')[0]}," for row in rows), "")).encode()
        return list(files.items())

    def values(self, interval: int, channels: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """As of the fleet, rounded."""
        found = Fleet.values(self, interval, channels)
        return {
            name: np.round(column, DECIMALS[name]) if name in DECIMALS else column for name, column in found.items()
        }


@dataclass(frozen=True, slots=True)
class Way:
    """How a load is sent."""

    connections: int
    batch_rows: int
    text: str = "line"
    """line: InfluxDB's line protocol; csv: VictoriaMetrics' import of CSV; "" where it is not text."""


@dataclass(frozen=True, slots=True)
class Posting:
    """Intervals first..first+intervals-1 of every meter, sent one way."""

    first: int
    intervals: int
    way: Way


@dataclass(frozen=True, slots=True)
class Posted:
    """What a run came to."""

    seconds: float
    """First byte to last acknowledgement."""
    cpu_s: float
    rows: int
    wire_bytes: int


def lines(names: list[str], end_s: int, values: dict[str, NDArray[Any]]) -> list[str]:
    """Reads of one interval in line protocol, time in seconds."""
    wh, volt, ampere = (values[name].tolist() for name in ONE_PHASE)
    return [
        f"{MEASUREMENT},meter={name} import_wh={e}i,voltage_a_v={v:.1f},current_a_a={a:.2f} {end_s}"
        for name, e, v, a in zip(names, wh, volt, ampere, strict=True)
    ]


def csv(names: list[str], end_s: int, values: dict[str, NDArray[Any]]) -> list[str]:
    """The same as CSV: meter, time in seconds, the three channels."""
    wh, volt, ampere = (values[name].tolist() for name in ONE_PHASE)
    return [f"{name},{end_s},{e},{v:.1f},{a:.2f}" for name, e, v, a in zip(names, wh, volt, ampere, strict=True)]


TEXTS: Final[dict[str, Callable[[list[str], int, dict[str, NDArray[Any]]], list[str]]]] = {"line": lines, "csv": csv}


def bodies(fleet: Fleet, posting: Posting) -> list[list[bytes]]:
    """Per connection the bodies of its posts: each connection has its own run of meters."""
    write = TEXTS[posting.way.text]
    names = [fleet.name(meter) for meter in range(fleet.meters)]
    out: list[list[bytes]] = [[] for _ in range(posting.way.connections)]
    shares = np.array_split(np.arange(fleet.meters), posting.way.connections)
    for interval in range(posting.first, posting.first + posting.intervals):
        text = write(names, fleet.end_us(interval) // 1_000_000, fleet.values(interval, ONE_PHASE))
        for number, own in enumerate(shares):
            for at in range(int(own[0]), int(own[-1]) + 1, posting.way.batch_rows):
                rows = text[at : min(at + posting.way.batch_rows, int(own[-1]) + 1)]
                out[number].append(("\n".join(rows) + "\n").encode())
    return out


class Poster:
    """The sending process, seen from the bench. port: on the loopback; paths: text -> path to post to. Close it."""

    def __init__(self, port: int, paths: dict[str, str], fleet: Fleet) -> None:
        self._child = Child("posting process", _main, port, paths, fleet)

    def prepare(self, posting: Posting) -> None:
        """Make the bodies ready."""
        self._child.obey(posting)

    def run(self) -> Posted:
        """Post what was prepared; returns when all of it is acknowledged."""
        return self._child.ask("run", Posted)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _main(pipe: Connection, port: int, paths: dict[str, str], fleet: Fleet) -> None:
    ready: list[list[bytes]] = []
    posting: Posting | None = None
    try:
        while True:
            order = pipe.recv()
            if isinstance(order, Posting):
                posting, ready = order, []  # the old bodies go before the new ones come
                ready = bodies(fleet, order)
                pipe.send("")
            else:
                assert posting is not None
                pipe.send(_post_all(port, paths[posting.way.text], ready, posting.intervals * fleet.meters))
    except (EOFError, BrokenPipeError):  # the bench has closed its end
        pass
    except Exception as error:  # the process's boundary: told to the bench
        pipe.send(f"{type(error).__name__}: {error}")


def _post_all(port: int, path: str, ready: list[list[bytes]], rows: int) -> Posted:
    errors: list[Exception] = []
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=POST_TIMEOUT_S) for _ in ready]
    for connection in connections:
        connection.connect()

    def work(connection: http.client.HTTPConnection, own: list[bytes]) -> None:
        try:
            for body in own:
                connection.request("POST", path, body)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 204:
                    raise RuntimeError(f"answered {answer.status}, expected 204: {said[:500]!r}")
        except Exception as error:  # the thread's boundary: raised again below
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(connections, ready, strict=True)]
    began_s, cpu_s = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    for connection in connections:
        connection.close()
    if errors:
        raise errors[0]
    return Posted(seconds, cpu_s, rows, sum(len(body) for own in ready for body in own))
