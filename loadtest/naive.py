"""The naive way: plain INSERT through psycopg's executemany into the same table, one transaction a batch.

A process for each connection, so that Python's lock does not decide. Rows are Python values before the clock starts;
nothing is checked, a repeat would be an error.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from loadtest.child import Child
from loadtest.fleet import INTERVAL_S, ONE_PHASE, Fleet
from loadtest.text import Posted, Posting, Way

WAYS: Final = tuple(Way(n, rows, "") for n in (1, 2, 4) for rows in (1_000, 10_000))
_COLUMNS: Final = ("end_at", "received_at", "slot", "interval_s", "quality", "version", *ONE_PHASE)
INSERT: Final = f"INSERT INTO reads ({', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"


class Naive:
    """Inserts a fleet's reads `day_shift` days later. slot [meters]: slot of each meter. Close it."""

    def __init__(self, dsn: str, fleet: Fleet, slot: NDArray[np.int32], quality: int, day_shift: int) -> None:
        self._world = (dsn, fleet, slot, quality, day_shift)
        self._meters = fleet.meters
        self._rows = 0
        self._workers: list[Child] = []

    def prepare(self, posting: Posting) -> None:
        """Make the rows ready; a process for each connection."""
        if len(self._workers) != posting.way.connections:
            self.close()
            numbers = range(posting.way.connections)
            self._workers = [Child("inserting process", _main, number, *self._world) for number in numbers]
        self._rows = posting.intervals * self._meters
        self._all_do(posting)

    def run(self) -> Posted:
        """Insert what was prepared; returns when all of it is committed."""
        began_s = time.monotonic()
        cpu_s = sum(self._all_do("run"))
        return Posted(time.monotonic() - began_s, cpu_s, self._rows, 0)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _all_do(self, order: object) -> list[float]:
        for worker in self._workers:
            worker.send(order)
        return [worker.answer(float) for worker in self._workers]


def rows_of(fleet: Fleet, posting: Posting, number: int, slot: NDArray[np.int32], quality: int, day_shift: int) -> Any:
    """Batches of rows of one connection, as executemany takes them."""
    own = np.array_split(np.arange(fleet.meters), posting.way.connections)[number]
    received = datetime.now(UTC)
    out: list[list[tuple[Any, ...]]] = []
    for interval in range(posting.first, posting.first + posting.intervals):
        end = datetime.fromtimestamp(fleet.end_us(interval) / 1e6 + day_shift * 86_400, UTC)
        values = fleet.values(interval, ONE_PHASE)
        columns = [values[name][own].tolist() for name in ONE_PHASE]
        rows = [
            (end, received, one, INTERVAL_S, quality, 1, *channels)
            for one, *channels in zip(slot[own].tolist(), *columns, strict=True)
        ]
        out += [rows[at : at + posting.way.batch_rows] for at in range(0, len(rows), posting.way.batch_rows)]
    return out


def _main(
    pipe: Connection, number: int, dsn: str, fleet: Fleet, slot: NDArray[np.int32], quality: int, day_shift: int
) -> None:
    batches: list[list[tuple[Any, ...]]] = []
    try:
        with psycopg.connect(dsn, options="-c TimeZone=UTC -c synchronous_commit=on") as connection:
            while True:
                order = pipe.recv()
                if isinstance(order, Posting):
                    batches = rows_of(fleet, order, number, slot, quality, day_shift)
                    pipe.send(0.0)
                    continue
                cpu_s = time.process_time()
                for rows in batches:
                    with connection.cursor() as cursor:
                        cursor.executemany(INSERT, rows)
                    connection.commit()
                pipe.send(time.process_time() - cpu_s)
    except (EOFError, BrokenPipeError):  # the bench has closed its end
        pass
    except Exception as error:  # the process's boundary: told to the bench
        pipe.send(f"{type(error).__name__}: {error}")
