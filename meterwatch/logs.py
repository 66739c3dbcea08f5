"""What the service says while it runs: one line per change of its life, state and refusal, on stderr.

structlog formats; what grpc, asyncio and other libraries log through the standard library comes out in the same form,
and so does what a thread or a forgotten task raises. Times are UTC in ISO 8601. Called once, by the process that
serves; a program that embeds the service keeps its own logging.

Promise: who logs never waits for who reads. A pipe that nobody empties, or a full disk below a log file, costs lines,
which are counted, and nothing else.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from logging.handlers import QueueHandler
from queue import Full, Queue
from typing import Any, Final

import orjson
import structlog

from meterwatch.config import Log
from meterwatch.texts import visible

LINES_MAX: Final = 2_000
"""Lines that wait to be written; what is said while there are more is dropped. Some 500 kB. (ours)"""
LAST_WORDS_S: Final = 1.0
"""How long the end of the process waits for its last lines to be written."""
STDOUT, STDERR = 1, 2
_SHARED: Final[list[Any]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


class Lines(QueueHandler):
    """Log lines on their way to stderr, written by a thread of their own.

    It writes to the descriptor: sys.stderr has a lock, which a write that is stuck keeps, and with which the
    interpreter does not end. For the same reason the standard library's QueueListener, whose end waits for its writes,
    is not used.
    """

    def __init__(self) -> None:
        self._waiting: Queue[tuple[int, bytes]] = Queue(LINES_MAX)
        super().__init__(self._waiting)
        self._refused = self._unwritten = 0
        self._untold = 0
        """Lines refused of which no line tells yet."""
        threading.Thread(target=self._write, name="log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines that nobody will read: there were too many, or their writing failed."""
        return self._refused + self._unwritten

    def prepare(self, record: logging.LogRecord) -> Any:
        return self.format(record)

    def enqueue(self, line: Any) -> None:
        try:
            if self._untold:
                self._put(STDERR, self.format(_gap(self._untold)))
                self._untold = 0
            self._put(STDERR, line)
        except Full:
            self._refused += 1
            self._untold += 1

    def say(self, sentence: str) -> None:
        """A line on stdout, after what was logged before it."""
        try:
            self._put(STDOUT, sentence)
        except Full:
            self._refused += 1

    def written(self, within_s: float = LAST_WORDS_S) -> bool:
        """Wait until nothing waits to be written, but no longer than so; False: something does."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, within_s)

    def flush(self) -> None:
        self.written()

    def _put(self, descriptor: int, line: str) -> None:
        self._waiting.put_nowait((descriptor, f"{line}\n".encode(errors="backslashreplace")))

    def _write(self) -> None:
        while True:
            descriptor, line = self._waiting.get()
            try:
                while line:
                    select.select([], [descriptor], [])
                    with suppress(BlockingIOError):  # another was faster
                        line = line[os.write(descriptor, line) :]
            except OSError:  # who read it has gone, or the disk is full
                self._unwritten += 1
            self._waiting.task_done()


def configure(log: Log) -> None:
    """Send every log line of this process to stderr as the configuration says."""
    render: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log.format == "json":
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    else:
        plain = structlog.dev.plain_traceback
        render.append(_shown)
        render.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    _unblock(STDERR)
    lines = Lines()
    lines.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=render))
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(log.level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    threading.excepthook = _of_thread


def dropped() -> int:
    """Log lines of this process that nobody will read."""
    lines = _lines()
    return 0 if lines is None else lines.dropped


def written() -> bool:
    """Wait for the last lines, LAST_WORDS_S at most; False: nobody reads them."""
    lines = _lines()
    return lines is None or lines.written()


def say(sentence: str) -> None:
    """A line on stdout, for which nobody waits either."""
    lines = _lines()
    if lines is None:
        print(sentence, flush=True)
    else:
        lines.say(sentence)


def _lines() -> Lines | None:
    """What `configure` has put in place; None: this process logs in a way of its own."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, Lines)), None)


def _unblock(descriptor: int) -> None:
    """Have the writes of others, such as grpc's C core, fail where a pipe or socket is full, and wait for nobody."""
    with suppress(OSError):
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):  # an open file of our own: who shares the pipe with us keeps his as it is
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(own, descriptor)
            os.close(own)
        elif stat.S_ISSOCK(kind):
            os.set_blocking(descriptor, False)


def _gap(lines: int) -> logging.LogRecord:
    text = "%d log lines were dropped here: nobody read them"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lines,), None)


def _of_thread(error: threading.ExceptHookArgs) -> None:
    if error.exc_value is not None:
        name = error.thread.name if error.thread else ""
        structlog.get_logger(__name__).error("a thread ended with an error", thread=name, exc_info=error.exc_value)


def _shown(_logger: Any, _method: str, row: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line as a terminal may show it: some of its texts come from who calls."""
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = visible(value)
    return row


def _json(row: Any, default: Any = None, **_: Any) -> str:
    return orjson.dumps(row, default=default, option=orjson.OPT_NON_STR_KEYS).decode()
