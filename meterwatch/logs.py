"""What the service says while it runs: one line per change of its life, state and refusal, on stderr.

structlog formats; what grpc, asyncio and other libraries log through the standard library comes out in the same form,
and so does what a thread or a forgotten task raises. Times are UTC in ISO 8601. Called once, by the process that
serves; a program that embeds the service keeps its own logging.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any, Final

import orjson
import structlog

from meterwatch.config import Log

_SHARED: Final[list[Any]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(log: Log) -> None:
    """Send every log line of this process to stderr as the configuration says."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # grpc's C core writes to stderr by itself; only what is broken
    render: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log.format == "json":
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    else:
        plain = structlog.dev.plain_traceback
        render.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=render))
    root = logging.getLogger()
    root.handlers[:] = [handler]
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


def _of_thread(error: threading.ExceptHookArgs) -> None:
    if error.exc_value is not None:
        name = error.thread.name if error.thread else ""
        structlog.get_logger(__name__).error("a thread ended with an error", thread=name, exc_info=error.exc_value)


def _json(row: Any, default: Any = None, **_: Any) -> str:
    return orjson.dumps(row, default=default, option=orjson.OPT_NON_STR_KEYS).decode()
