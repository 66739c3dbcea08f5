"""The disk of the embedded database gets full: reads are refused before it is, events are taken, room is enough. And
subscribers are told.

How much is free is read from a file here, because a disk cannot be filled without rights; all else is the service.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from served import Raw
from service_process import ServiceProcess, free_port, import_grid, until
from test_descriptors import opened
from test_metrics import scrape
from test_status_pages import get
from test_stop import START, START_US, batch, meters

from meterwatch.batch import EventCode
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.v1 import alarms_pb2

GIB = 1 << 30
MIB = 1 << 20
PRELUDE = """
from pathlib import Path
from meterwatch import disk_watch
judge = disk_watch.DiskWatch.judge
disk_watch.DiskWatch.judge = lambda self, _: judge(self, int(Path({path!r}).read_text()))
disk_watch.EVERY_S = 0.05
from meterwatch import own_alarms, own_conditions
own_alarms.EVERY_S, own_conditions.CALM_S = 0.05, 0.5
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


class Subscriber:
    """Follows the alarms about the service, in a thread of its own, through every break."""

    def __init__(self, address: str) -> None:
        self.told: list[tuple[str, str]] = []
        """Kind of each transition, and the severity after it."""
        self._follows = threading.Event()
        self._feed = AlarmFeed(address, filter=alarms_pb2.AlarmFilter(type=["SYSTEM"]))
        self._thread = threading.Thread(target=self._follow, name="subscriber")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.close()
        self._thread.join(60)

    def _follow(self) -> None:
        for message in self._feed:
            self._follows.set()
            if message.WhichOneof("message") == "transition":
                alarm = message.transition.alarm
                assert (alarm.level, alarm.asset_kind, alarm.asset) == ("DISK_LOW", "service", "disk")
                self.told.append((message.transition.kind, alarms_pb2.Severity.Name(alarm.severity)))

    def follows(self) -> None:
        """Wait until it does: what is told from now on it is told of."""
        assert self._follows.wait(60)

    def hears(self, *told: tuple[str, str]) -> None:
        until(lambda: tuple(self.told) == told, f"the subscriber was told {told}, not {self.told}")


RAISED, WORSE = ("RAISED", "SEVERITY_MEDIUM"), ("SEVERITY", "SEVERITY_CRITICAL")
BETTER, CLEARED = ("SEVERITY", "SEVERITY_MEDIUM"), ("CLEARED", "SEVERITY_MEDIUM")


def test_with_little_disk_reads_are_refused_and_events_taken_until_there_is_room(
    directory: Path, tmp_path: Path
) -> None:
    port = free_port()
    settings = {"METERWATCH_DATABASE__DATA_DIR": str(directory), "METERWATCH_METRICS__PORT": str(port)}
    say = free_at(tmp_path / "free")
    say(100 * GIB)
    prelude = PRELUDE.format(path=str(tmp_path / "free"))
    with (
        ServiceProcess(None, START, tmp_path / "output", prelude, **settings) as service,
        Subscriber(service.address) as subscriber,
    ):
        service.start()
        subscriber.follows()
        import_grid(service.address)
        with Raw(service.address) as stream:
            assert opened(stream, 1)
            assert stream.ask(batch(1)).ack.accepted == 1
            say(GIB + MIB)
            until(lambda: scrape(port)["disk_free_bytes{}"] == GIB + MIB, "the service sees that little is left")
            assert stream.ask(batch(2)).ack.accepted == 1
            subscriber.hears(RAISED)
            say(GIB - MIB)
            until(lambda: get(port, "/readyz")[0] == 503, "the service is not ready")
            stream.send(batch(3))
            end = stream.end()
        assert (end.code, end.reason, end.retry_s) == ("RESOURCE_EXHAUSTED", "DISK_LOW", 10.0)
        assert "1023 MiB left, expected at least 1024" in end.message
        assert get(port, "/readyz")[1].strip() == end.message
        assert scrape(port)["ready{}"] == 0
        subscriber.hears(RAISED, WORSE)
        with HeadEnd(service.address, "HES-1", 2) as head_end:
            told = head_end.send_events(meters()[:1], [START_US + 5], [int(EventCode.POWER_FAIL)])
            assert told.accepted == 1
        say(2 * GIB)
        until(lambda: get(port, "/readyz")[0] == 200, "the service is ready again")
        with Raw(service.address) as stream:
            assert opened(stream, 1)
            assert stream.ask(batch(3)).ack.accepted == 1
        subscriber.hears(RAISED, WORSE, BETTER)
        service.signal(signal.SIGTERM)
        assert service.died() == 0
        service.start()
        say(100 * GIB)
        subscriber.hears(RAISED, WORSE, BETTER, CLEARED)
        service.signal(signal.SIGTERM)
        assert service.died() == 0
    said = service.output.read_text()
    assert said.count("little room on the disk") == 3
    assert said.count("NO ROOM ON THE DISK, reads are refused") == 1
