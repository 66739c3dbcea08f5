"""The list of certificates that are let in no more: a text file, read again when it changes.

One serial number a line, in hexadecimal as `openssl x509 -serial` prints it; colons, 0x and case do not matter, `#`
begins a comment. A file that is not sound, or is gone, leaves the list as it was: what was denied stays denied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import structlog

from meterwatch.errors import ConfigError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_log = structlog.get_logger(__name__)


class DeniedSerials:
    """The serials in the file; without a file none. ConfigError if it cannot be read at first."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._serials: frozenset[str] = frozenset()
        self._seen: tuple[int, int, int] | None = None
        self.problem = ""
        """Why the file as it is now was not read; empty: the list is that of the file."""
        if path is not None:
            try:
                self._seen, self._serials = _stamp(path), parsed(path)
            except (OSError, ValueError) as error:
                raise ConfigError([f"access.denied_serials_file {path}: {error}"]) from None

    def __call__(self, serial: str) -> bool:
        return serial in self._serials

    def reload(self) -> bool:
        """Read the file if it is another one than last time. True: the list has changed."""
        if self._path is None:
            return False
        try:
            seen = _stamp(self._path)
            if seen == self._seen:
                self.problem = ""
                return False
            serials = parsed(self._path)
        except (OSError, ValueError) as error:
            if self.problem != str(error):  # once, not at every look
                _log.error("denied serials not read again, the list stays", file=str(self._path), error=str(error))
            self.problem = str(error)
            return False
        self._seen, self.problem = seen, ""
        changed = serials != self._serials
        self._serials = serials
        _log.info("denied serials read", serials=len(serials), changed=changed)
        return changed


def parsed(path: Path) -> frozenset[str]:
    """The serials, as certificates.py writes them. ValueError with the line that is none."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"more than {FILE_BYTES_MAX} bytes arrived; shorten the list")
    found = set()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip().lower().replace(":", "").removeprefix("serial=").removeprefix("0x")
        if not text:
            continue
        if not re.fullmatch(r"[0-9a-f]{1,40}", text):
            raise ValueError(f"line {number} is {line[:60]!r}; a hexadecimal serial number was expected; correct it")
        found.add(text.lstrip("0") or "0")
    return frozenset(found)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
