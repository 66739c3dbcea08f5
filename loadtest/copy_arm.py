"""The yardstick: raw binary COPY of a load's rows into the same table, from a process of its own.

Rows are made before the clock starts, in psycopg's documented binary format, with the bytes the service would store
for them (a test compares the two). Nothing is checked, judged or remembered here: this is what the database can take.
The only module of this package, with loadtest.database, that knows a database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from loadtest.child import Child
from loadtest.fleet import INTERVAL_S, Fleet
from loadtest.load import Load
from meterwatch.channels import CHANNELS

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_2000_US: Final = 946_684_800_000_000
_FIXED: Final = (
    ("end_at", ">i8"), ("received_at", ">i8"), ("slot", ">i4"), ("interval_s", ">i4"), ("quality", ">i4"),
    ("version", ">i2"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CopyLoad:
    """A load, `day_shift` days later, over so many connections, in transactions of so many rows."""

    load: Load
    day_shift: int
    connections: int
    rows_max: int = 60_000


@dataclass(frozen=True, slots=True)
class CopyRun:
    """What a run came to."""

    seconds: float
    cpu_s: float
    rows: int


def columns_of(channels: Iterable[str]) -> list[str]:
    """Columns that a COPY of rows with these channels names: the fixed ones and theirs, as in the table."""
    return [*(name for name, _ in _FIXED), *(channel.name for channel in CHANNELS if channel.name in channels)]


def rows_of(
    slot: NDArray[np.int32], end_us: int, received_us: int, quality: int, channels: dict[str, NDArray[Any]]
) -> bytes:
    """Rows of one interval as COPY wants them, without header and trailer."""
    fields: list[tuple[str, str]] = [("n", ">i2")]
    for name, dtype in _FIXED:
        fields += [(f"l_{name}", ">i4"), (name, dtype)]
    for channel in CHANNELS:
        if channel.name in channels:
            fields += [(f"l_{channel.name}", ">i4"), (channel.name, ">f4" if channel.dtype.kind == "f" else ">i4")]
    out: NDArray[Any] = np.empty(len(slot), np.dtype(fields))
    out["n"] = len(columns_of(channels))
    fixed = (end_us - EPOCH_2000_US, received_us - EPOCH_2000_US, slot, INTERVAL_S, quality, 1)
    for (name, dtype), values in zip(_FIXED, fixed, strict=True):
        out[f"l_{name}"] = np.dtype(dtype).itemsize
        out[name] = values
    for name, values in channels.items():
        out[f"l_{name}"] = 4
        out[name] = values
    return out.tobytes()


class CopyArm:
    """The process, seen from the bench. slot [meters]: slot of each meter of the fleet. Close it."""

    def __init__(self, dsn: str, fleet: Fleet, slot: NDArray[np.int32], quality: int) -> None:
        self._child = Child("copying process", _main, dsn, fleet, slot, quality)
        self._child.answer(str)

    def prepare(self, load: CopyLoad) -> None:
        """Make the rows ready."""
        self._child.obey(load)

    def run(self) -> CopyRun:
        """Copy what was prepared; returns when all of it is committed."""
        return self._child.ask("run", CopyRun)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _main(pipe: Connection, dsn: str, fleet: Fleet, slot: NDArray[np.int32], quality: int) -> None:
    connections: list[psycopg.Connection[Any]] = []
    parts: list[list[bytes]] = []
    query, rows = "", 0
    try:
        pipe.send("")
        while True:
            order = pipe.recv()
            if isinstance(order, CopyLoad):
                while len(connections) < order.connections:
                    connections.append(
                        psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC -c synchronous_commit=on")
                    )
                parts = _parts(order, fleet, slot, quality)
                _record_stamps(connections[0], order, fleet)
                query = f"COPY reads ({', '.join(columns_of(order.load.channels))}) FROM STDIN (FORMAT BINARY)"
                rows = order.load.intervals * fleet.meters
                pipe.send("")
            else:
                pipe.send(_run(connections, query, parts, rows))
    except EOFError:  # the bench has closed its end
        for connection in connections:
            connection.close()
    except Exception as error:  # the process's boundary: told to the bench
        pipe.send(f"{type(error).__name__}: {error}")


def _parts(order: CopyLoad, fleet: Fleet, slot: NDArray[np.int32], quality: int) -> list[list[bytes]]:
    """Per connection the COPY data of its transactions: each connection has its own run of meters."""
    parts: list[list[bytes]] = [[] for _ in range(order.connections)]
    received_us = time.time_ns() // 1000
    for interval in range(order.load.first, order.load.first + order.load.intervals):
        values = fleet.values(interval, order.load.channels)
        end_us = fleet.end_us(interval) + order.day_shift * 86_400_000_000
        for number, own in enumerate(np.array_split(np.arange(fleet.meters), order.connections)):
            for at in range(0, len(own), order.rows_max):
                rows = own[at : at + order.rows_max]
                channels = {name: column[rows] for name, column in values.items()}
                parts[number].append(HEADER + rows_of(slot[rows], end_us, received_us, quality, channels) + TRAILER)
    return parts


def _record_stamps(connection: psycopg.Connection[Any], order: CopyLoad, fleet: Fleet) -> None:
    """The interval ends of the load, as the service records them, so that its readers find the reads."""
    for interval in range(order.load.first, order.load.first + order.load.intervals):
        at = _EPOCH + timedelta(microseconds=fleet.end_us(interval) + order.day_shift * 86_400_000_000)
        connection.execute("INSERT INTO read_stamps VALUES (%s) ON CONFLICT DO NOTHING", (at,))


def _run(connections: list[psycopg.Connection[Any]], query: str, parts: list[list[bytes]], rows: int) -> CopyRun:
    errors: list[Exception] = []

    def work(connection: psycopg.Connection[Any], own: list[bytes]) -> None:
        try:
            with connection.cursor() as cursor:
                for data in own:
                    with cursor.copy(query) as copy:
                        copy.write(data)
        except Exception as error:  # the thread's boundary: raised again below
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(connections, parts, strict=False)]
    began_s, cpu_s = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return CopyRun(time.monotonic() - began_s, time.process_time() - cpu_s, rows)
