"""Whoever logs, and whatever breaks: one line on stderr, in the form configured, with UTC."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import IO

from meterwatch.logs import LINES_MAX

PROGRAM = """
import logging, threading
import structlog
from meterwatch.config import Log
from meterwatch.logs import configure
configure(Log(level="{level}", format="{form}"))
structlog.get_logger("ours").info("stream open", head_end="H", odd=object, agent="\x1b[2J\u202e")
structlog.get_logger("ours").debug("detail")
logging.getLogger("grpc._cython.cygrpc").error("from %s", "grpc")
def fall():
    raise ValueError("lost?")
thread = threading.Thread(target=fall, name="copy-1")
thread.start()
thread.join()
"""


def lines(level: str, form: str) -> list[str]:
    program = PROGRAM.format(level=level, form=form)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_per_line_whoever_wrote_it() -> None:
    ours, grpc, thread = [json.loads(line) for line in lines("info", "json")]
    assert (ours["event"], ours["level"], ours["logger"], ours["head_end"]) == ("stream open", "info", "ours", "H")
    assert (grpc["event"], grpc["level"]) == ("from grpc", "error")
    assert thread["thread"] == "copy-1"
    assert "ValueError: lost?" in thread["exception"]
    for row in (ours, grpc, thread):
        assert datetime.fromisoformat(row["timestamp"]).utcoffset() == timedelta(0)


def test_the_level_is_the_one_configured() -> None:
    assert any("detail" in line for line in lines("debug", "json"))
    assert not any("stream open" in line for line in lines("error", "json"))


def test_console_lines_have_no_colour_when_piped() -> None:
    text = "\n".join(lines("info", "console"))
    assert "\x1b" not in text
    assert r"agent=\x1b[2J\u202e" in text, "what callers say of themselves writes on no screen"
    assert "ValueError: lost?" in text


FLOOD = """
import logging, sys
from meterwatch import logs
from meterwatch.config import Log
logs.configure(Log(format="json"))
log = logging.getLogger("flood")
sys.stdin.readline()
for number in range({lines}):
    log.warning("line %d", number)
logs.written()
print(logs.dropped(), flush=True)
if sys.stdin.readline():
    while not logs.written():
        pass
    log.warning("line %d", {lines})
"""
FLOOD_LINES = LINES_MAX + 4_000
"""More than a pipe of 64 KiB and the lines that wait hold together."""


def flooding(lines: int) -> tuple[subprocess.Popen[str], IO[str], IO[str], IO[str]]:
    """A program that logs so many lines when it is told to, with its stdin, stdout and stderr."""
    program = [sys.executable, "-c", FLOOD.format(lines=lines)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process, process.stdin, process.stdout, process.stderr


def go(stdin: IO[str]) -> None:
    stdin.write("\n")
    stdin.flush()


def test_what_a_blocked_pipe_costs_is_counted_and_told_where_it_is_missing() -> None:
    process, stdin, stdout, _ = flooding(FLOOD_LINES)
    go(stdin)
    dropped = int(stdout.readline())  # nobody has read a line by now
    assert dropped > 0
    _, said = process.communicate("\n", timeout=60)
    number, gaps = 0, 0
    for line in said.splitlines():
        event = json.loads(line)["event"]
        if gap := re.match(r"(\d+) log lines were dropped here", event):
            gaps += int(gap[1])
            number += int(gap[1])
        else:
            assert event == f"line {number}"
            number += 1
    assert (number, gaps) == (FLOOD_LINES + 1, dropped)
    assert process.returncode == 0


def test_a_process_ends_though_nobody_reads_its_last_words() -> None:
    process, stdin, stdout, stderr = flooding(FLOOD_LINES)
    go(stdin)
    stdin.close()
    assert int(stdout.readline()) > 0
    assert process.wait(60) == 0
    stdout.close()
    stderr.close()


def test_a_closed_pipe_costs_the_lines_and_nothing_else() -> None:
    process, stdin, stdout, stderr = flooding(10)
    stderr.close()
    go(stdin)
    assert int(stdout.readline()) == 10
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


OTHERS = """
import os
from meterwatch.config import Log
from meterwatch.logs import configure
configure(Log())
try:
    while True:
        os.write(2, b"x" * 4096)
except BlockingIOError:
    print("full")
"""


def test_who_writes_to_a_blocked_pipe_past_the_log_does_not_wait_either_and_our_parent_s_end_stays_as_it_was() -> None:
    reader, writer = os.pipe()
    done = subprocess.run([sys.executable, "-c", OTHERS], stdout=subprocess.PIPE, stderr=writer, timeout=60, check=True)
    assert done.stdout == b"full\n"
    assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)
