"""The console in a real terminal against a real service: an alarm appears, is acknowledged by a key, and another client
sees that. The terminal is a pseudo-terminal, its screen that of an emulator."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyte
import pytest
from databases import Databases
from served import ENOUGH_S, HEAD_END, METERS, US, Served, fresh_database, serving
from service_process import free_port, until

from meterwatch.batch import EventCode
from meterwatch.cli import calls
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.v1 import alarms_pb2 as pb

pytestmark = pytest.mark.timeout(300)  # each step waits for a process that starts, up to ENOUGH_S
COLUMNS, LINES = 140, 30
WATCH = """
import ctypes, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
from meterwatch.cli import app
app(sys.argv[1:])
"""


class Terminal:
    """A program on a pseudo-terminal, and what its screen shows."""

    def __init__(self, *arguments: str, program: str = WATCH) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        environment = os.environ | {"TERM": "xterm-256color", "LINES": "", "COLUMNS": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def text(self) -> str:
        return "\n".join(self._screen.display)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, true: Callable[[str], bool]) -> str:
        """Read what the program writes until the screen is as wanted."""
        deadline = time.monotonic() + ENOUGH_S
        while time.monotonic() < deadline:
            if true(self.text()):
                return self.text()
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                try:
                    written = os.read(self._master, 65_536)
                except OSError:  # it has ended, and the terminal with it
                    break
                self._stream.feed(self._decoder.decode(written))
        raise AssertionError(f"the screen is not as expected:\n{self.text()}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(ENOUGH_S)
        os.close(self._master)


@contextmanager
def terminal(*arguments: str, program: str = WATCH) -> Iterator[Terminal]:
    opened = Terminal(*arguments, program=program)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def service(cluster: Databases) -> Iterator[Served]:
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        yield served


def cut(address: str) -> None:
    """Enough of the transformer's meters say that they are without supply, some minutes ago."""
    at_us = int(time.time() - 600) * US
    with HeadEnd(address, HEAD_END) as head_end:
        head_end.send_events(list(METERS), [at_us + i for i in range(4)], [int(EventCode.POWER_FAIL)] * 4)


def heard(service: Served, kind: str) -> Any:
    """The first such transition that another client is told of, from the beginning of the log."""
    [[log_id]] = service.sql("SELECT log_id::text FROM service_identity")
    with AlarmFeed(service.address, log_id=log_id, give_up_after_s=ENOUGH_S) as feed:
        for message in feed:
            if message.HasField("transition") and message.transition.kind == kind:
                return message.transition
    raise AssertionError("the feed has ended")


def test_an_alarm_appears_is_acknowledged_by_a_key_and_another_client_sees_it(service: Served) -> None:
    with terminal("alarms", "watch", "--address", service.address, "--operator", "Kim") as screen:
        screen.until(lambda text: "LIVE" in text and "0 of 0 alarms" in text)
        cut(service.address)
        shown = screen.until(lambda text: "! UNACK" in text)
        assert "OUTAGE" in shown
        assert "T-1" in shown

        screen.press("a")
        screen.until(lambda text: "Acknowledge OUT-" in text)
        screen.press("crew sent\r")
        screen.until(lambda text: "v ACK" in text)
        change = heard(service, "ACKNOWLEDGED")
        assert (change.operator, change.note, change.alarm.acknowledged_by) == ("Kim", "crew sent", "Kim")

        screen.press("e")
        page = screen.until(lambda text: "Judged by" in text)
        assert "fault began" in page
        drawn = "SELECT DISTINCT kind FROM alarm_receipts WHERE subscriber LIKE 'Kim@%%' AND shown_at IS NOT NULL"
        until(lambda: ("RAISED",) in service.sql(drawn), "the console has said what it drew")
        screen.press("q")
        screen.until(lambda text: "fault began" not in text)
        screen.press("q")
        assert screen.process.wait(ENOUGH_S) == 0


def test_over_a_restart_of_the_service_the_console_goes_on_from_its_cursor(cluster: Databases) -> None:
    port = free_port()
    with fresh_database(cluster) as dsn, ExitStack() as first, ExitStack() as opened:
        served = first.enter_context(serving(dsn, port=port))
        cut(served.address)
        screen = opened.enter_context(terminal("alarms", "watch", "--address", served.address))
        screen.until(lambda text: "1 of 1 alarms" in text)
        first.close()
        with serving(dsn, port=port):
            act = pb.ActRequest(kind=pb.ACTION_KIND_SHELVE, operator="Lee", note="test", shelve_s=600)
            target = pb.ActTarget(alarm_id=heard(served, "RAISED").alarm.alarm_id)
            assert not calls.act(served.address, act, [target], None)[0].reason
            shown = screen.until(lambda text: "z SHELF" in text and "reconnected" in text)
            assert "BLIND" not in shown


def test_without_a_service_the_console_says_so_and_leaves(service: Served) -> None:
    with terminal("alarms", "watch", "--address", "127.0.0.1:1") as screen:
        screen.until(lambda text: "no service at 127.0.0.1:1" in text)
        assert screen.process.wait(ENOUGH_S) != 0


def test_in_a_pipe_the_console_refuses_and_names_the_command_for_it(service: Served) -> None:
    command = [sys.executable, "-c", WATCH, "alarms", "watch", "--address", service.address]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=ENOUGH_S, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0
    assert "alarms follow" in done.stderr
