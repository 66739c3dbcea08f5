"""The settings of TLS, and what contradicts itself in them: sections of meterwatch.config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field

from meterwatch.transport.hosts import is_loopback

_SECTION: Final = ConfigDict(extra="forbid", frozen=True)
_TLS_MODES: Final = ("require", "verify-ca", "verify-full")
"""Of libpq's sslmode, those that never fall back to plain text; the first does not look at who answers."""


class Tls(BaseModel):
    """TLS of the service (docs/security.md); without certificate and key: plain text. The files may change any time."""

    model_config = _SECTION
    certificate: Path | None = None
    """PEM, the service's own first, then the chain."""
    key: Path | None = None
    client_ca: Path | None = None
    """PEM of the CAs of the callers: nobody without a certificate by one of them gets through."""
    token_port: int | None = Field(default=None, ge=0, le=65535)
    """A second port, where no certificate is asked for because callers show a token; 0: any free port."""
    open_key: bool = False
    """Allow a key that everybody on the machine may read."""
    connection_age_max_s: float = Field(default=3600, gt=0, le=86_400)
    """A connection is ended so that who is not trusted any more must come again; clients resume."""
    connection_age_grace_s: float = Field(default=300, ge=0, le=86_400)
    """What runs on it then may take so long."""

    def problem(self) -> str | None:
        """What contradicts itself, in a sentence."""
        if (self.certificate is None) != (self.key is None):
            there, missing = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            return f"server.tls.{there} is set and server.tls.{missing} is not; TLS needs both."
        alone = [name for name in ("client_ca", "token_port") if getattr(self, name) is not None]
        if alone and self.certificate is None:
            return f"server.tls.{alone[0]} has no meaning without server.tls.certificate and server.tls.key; set them."
        if self.token_port is not None and self.client_ca is None:
            return (
                "server.tls.token_port is for callers without a certificate, and without server.tls.client_ca all are; "
                "remove it, or set server.tls.client_ca."
            )
        return None


class Client(BaseModel):
    """How commands of this machine reach the service; METERWATCH_TLS_* and the options win (docs/security.md)."""

    model_config = _SECTION
    ca: str | None = None
    """PEM of the CA of the service, or `system`; none: plain text."""
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    def problem(self) -> str | None:
        """What contradicts itself, in a sentence."""
        if (self.certificate is None) != (self.key is None):
            return "client.certificate and client.key belong together; set both or none."
        return None


def leaves_in_plain_text(url: str) -> bool:
    """True if the URL of a database, which can be read, leads to another machine and does not demand TLS."""
    parts = conninfo_to_dict(url)
    hosts = ",".join(str(parts.get(key) or "") for key in ("host", "hostaddr")).split(",")
    remote = any(host and not host.startswith(("/", "@")) and not is_loopback(host) for host in hosts)
    return remote and (parts.get("sslmode") or os.environ.get("PGSSLMODE")) not in _TLS_MODES
