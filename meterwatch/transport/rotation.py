"""The certificate files of a running service: read at start, looked at again and again, never taken half-written.

    changed         the files differ from those judged last
    at rest         they look the same twice in a row; only then are they read, so a certificate that is written before
                    its key is no mismatch
    taken           all of them are sound: the next handshake uses them
    refused         one is not: the older ones stay in force, and it is said once for each reason

Connections that are open keep what they were opened with until `server.tls.connection_age_max_s`. Refuses to know the
services behind the ports.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import grpc
import structlog

from meterwatch.errors import ConfigError
from meterwatch.transport.certificates import TlsFiles, TlsMaterial, now_utc, read_material

LOOK_EVERY_S: Final = 10.0
"""A new certificate is in use after two looks at most."""
WARNING: Final = timedelta(days=30)
"""How long before its end a certificate is spoken of, once a day."""

_log = structlog.get_logger(__name__)
_Signature = tuple[tuple[int, int, int] | None, ...]


class Rotation:
    """The files in force. `material`, `refused`, `problems` and `expires_in_s` may be asked from any thread."""

    def __init__(self, files: TlsFiles, now: Callable[[], datetime] = now_utc) -> None:
        """Read them; ConfigError if they are not sound."""
        self._files, self._now = files, now
        self._seen = self._judged = _signature(files)
        self.material: TlsMaterial = read_material(files, now())
        self._problems: list[str] = []
        self._warned_on: date | None = None
        self._counting = threading.Lock()
        self.handshakes = 0
        """Handshakes begun, whether they came to an end or not: grpc tells nobody of those that failed."""

    @property
    def refused(self) -> bool:
        """True while the files are not sound and older ones are in force."""
        return bool(self._problems)

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the newer files; empty: those in force are the newest."""
        return self._problems

    @property
    def expires_in_s(self) -> float:
        """Seconds until the certificate in force ends; negative: since it did."""
        return (self.material.expires_at - self._now()).total_seconds()

    def credentials(self, *, demand: bool) -> grpc.ServerCredentials:
        """What a port is opened with. demand: no client without a certificate of client_ca gets through."""
        given = self.material

        def fetch() -> grpc.ServerCertificateConfiguration | None:  # at each handshake, in a thread of grpc
            nonlocal given
            with self._counting:
                self.handshakes += 1
            material = self.material
            if material is given:
                return None
            given = material
            return _configuration(material)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), fetch, demand)

    def look(self) -> Self:
        """Take new files if there are any and they are at rest."""
        seen = _signature(self._files)
        at_rest, self._seen = seen == self._seen, seen
        if at_rest and (self.refused or seen != self._judged):
            self._judge(seen)
        self._warn()
        return self

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_EVERY_S)

    def _judge(self, seen: _Signature) -> None:
        try:
            material = read_material(self._files, self._now())
        except ConfigError as error:
            if error.problems != self._problems:
                _log.error("certificate files refused, the older ones stay in force", problems=error.problems)
            self._judged, self._problems = seen, error.problems
            return
        if _signature(self._files) != seen:
            return  # they changed while they were read; when they rest again
        self._judged, self._problems = seen, []
        if material != self.material:
            self.material = material
            _log.info("certificate files taken", subject=material.subject, expires_at=material.expires_at.isoformat())

    def _warn(self) -> None:
        now = self._now()
        left = self.material.expires_at - now
        if left > WARNING or self._warned_on == now.date():
            return
        self._warned_on = now.date()
        say = _log.warning if left > timedelta(0) else _log.error
        say(
            "the certificate of the service expires soon" if left > timedelta(0) else "the certificate has expired",
            subject=self.material.subject,
            expires_at=self.material.expires_at.isoformat(),
        )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.client_ca)


def _signature(files: TlsFiles) -> _Signature:
    """What changes when a file does: which one it is, its length, when it was written; None: it is not there."""
    return tuple(None if path is None else _look_of(path) for path in (files.certificate, files.key, files.client_ca))


def _look_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
