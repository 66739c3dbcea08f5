"""Whoever logs, and whatever breaks: one line on stderr, in the form configured, with UTC."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

PROGRAM = """
import logging, threading
import structlog
from meterwatch.config import Log
from meterwatch.logs import configure
configure(Log(level="{level}", format="{form}"))
structlog.get_logger("ours").info("stream open", head_end="H", odd=object)
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
    assert "ValueError: lost?" in text
