"""Nobody reads what the service says: it serves on, and what must end ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from databases import Databases
from served import fresh_database
from service_process import ServiceProcess, import_grid
from test_failpoints import START, living
from test_rule_raises import FAILED, raising

BLOCK = b"x" * 4095 + b"\n"


class Unread(ServiceProcess):
    """Its output is a pipe: to look into it would be to read it."""

    def tail(self) -> str:
        return "(nobody reads what it says)"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A pipe that is full, by its path, and the end it could be read from."""
    path = tmp_path / "output"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, BLOCK)
    os.close(writer)
    yield path, reader
    os.close(reader)


def test_a_service_starts_serves_and_stops_while_nobody_reads_its_log(
    cluster: Databases, pipe: tuple[Path, int]
) -> None:
    path, reader = pipe
    with (
        fresh_database(cluster) as dsn,
        Unread(dsn, START, path, METERWATCH_LOG__LEVEL="debug") as process,
    ):
        with living(process, dsn) as world:
            for _ in range(3):
                transformer = next(world.free)
                world.overload(transformer)
                world.head_end.flush()
                assert [state for state, *_ in world.alarms("OVERLOAD", transformer)] == ["UNACK_ACTIVE"]
            world.kept()
        process.signal(signal.SIGTERM)
        assert process.died() == 0
    assert set(os.read(reader, 1 << 20).split()) == {BLOCK.strip()}, "it was read meanwhile"


def test_a_service_that_has_to_end_ends_though_nobody_reads_why(cluster: Databases, pipe: tuple[Path, int]) -> None:
    path, _ = pipe
    with fresh_database(cluster) as dsn, Unread(dsn, START, path, raising(path.parent)) as process:
        process.start()
        import_grid(process.address)
        (path.parent / "judge").touch()
        assert process.died() == FAILED
