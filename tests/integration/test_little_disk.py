"""The disk of the embedded database gets full: reads are refused before it is, events are taken, room is enough.

How much is free is read from a file here, because a disk cannot be filled without rights; all else is the service.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Raw
from service_process import ServiceProcess, free_port, import_grid, until
from test_descriptors import opened
from test_metrics import scrape
from test_status_pages import get
from test_stop import START, START_US, batch, meters

from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd

GIB = 1 << 30
MIB = 1 << 20
PRELUDE = """
from pathlib import Path
from meterwatch import disk_watch
judge = disk_watch.DiskWatch.judge
disk_watch.DiskWatch.judge = lambda self, _: judge(self, int(Path({path!r}).read_text()))
disk_watch.EVERY_S = 0.05
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="meterwatch-little-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def free_at(path: Path) -> Callable[[int], None]:
    """Says how much is free; a reader sees the old number or the new one."""

    def say(size: int) -> None:
        (path.parent / "next").write_text(str(size))
        (path.parent / "next").replace(path)

    return say


def test_with_little_disk_reads_are_refused_and_events_taken_until_there_is_room(
    directory: Path, tmp_path: Path
) -> None:
    port = free_port()
    settings = {"METERWATCH_DATABASE__DATA_DIR": str(directory), "METERWATCH_METRICS__PORT": str(port)}
    say = free_at(tmp_path / "free")
    say(100 * GIB)
    prelude = PRELUDE.format(path=str(tmp_path / "free"))
    with ServiceProcess(None, START, tmp_path / "output", prelude, **settings) as service:
        service.start()
        import_grid(service.address)
        with Raw(service.address) as stream:
            assert opened(stream, 1)
            assert stream.ask(batch(1)).ack.accepted == 1
            say(GIB + MIB)
            until(lambda: scrape(port)["disk_free_bytes{}"] == GIB + MIB, "the service sees that little is left")
            assert stream.ask(batch(2)).ack.accepted == 1
            say(GIB - MIB)
            until(lambda: get(port, "/readyz")[0] == 503, "the service is not ready")
            stream.send(batch(3))
            end = stream.end()
        assert (end.code, end.reason, end.retry_s) == ("RESOURCE_EXHAUSTED", "DISK_LOW", 10.0)
        assert "1023 MiB left, expected at least 1024" in end.message
        assert get(port, "/readyz")[1].strip() == end.message
        assert scrape(port)["ready{}"] == 0
        with HeadEnd(service.address, "HES-1", 2) as head_end:
            told = head_end.send_events(meters()[:1], [START_US + 5], [int(EventCode.POWER_FAIL)])
            assert told.accepted == 1
        say(2 * GIB)
        until(lambda: get(port, "/readyz")[0] == 200, "the service is ready again")
        with Raw(service.address) as stream:
            assert opened(stream, 1)
            assert stream.ask(batch(3)).ack.accepted == 1
        service.signal(signal.SIGTERM)
        assert service.died() == 0
    said = service.output.read_text()
    assert said.count("little room on the disk") == 2
    assert said.count("NO ROOM ON THE DISK, reads are refused") == 1
