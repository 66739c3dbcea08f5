"""Why there is no answer from an address: nobody there, or somebody who wants another certificate.

gRPC says the same of both (UNAVAILABLE), so the handshake is tried once more without it, where the TLS library tells.
Asked only after a call has failed; costs two connections and at most TIMEOUT_S seconds each.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from meterwatch.client.secure import SYSTEM, Security
from meterwatch.transport.certificates import common_name, now_utc
from meterwatch.transport.hosts import host_of

TIMEOUT_S: Final = 3.0


def refusal(address: str, security: Security) -> str:
    """A sentence on why nobody answers at an address that can be reached; empty if it cannot, or all seems well."""
    if security.ca is None:
        return _plain(address)
    try:
        context = _context(security)
    except OSError as error:
        return f"the certificate files cannot be used ({_reason(error)}); {_ours(security)}"
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address) as raw, context.wrap_socket(raw, server_hostname=host_of(address)) as wrapped:
            if wrapped.recv(1):  # with TLS 1.3 the peer judges our certificate after we think that all is done
                return ""
    except ssl.SSLCertVerificationError as error:
        return (
            f"{address} is reachable, but its certificate is not trusted: {error.verify_message}; expected one for "
            f"{host_of(address)} by the CA in {security.ca}, in its time; look at both, or give the right --tls-ca"
        )
    except ssl.SSLError as error:
        if "WRONG_VERSION" in _reason(error) or "RECORD_LAYER" in _reason(error):
            return f"{address} is reachable, but speaks no TLS; leave --tls-ca away if plain text is meant"
        return f"{address} is reachable, but refused the handshake ({_reason(error)}): {_ours(security)}"
    except ConnectionResetError:
        pass
    except OSError:  # nobody there, no such name, no way, no answer in time
        return ""
    return f"{address} is reachable, but refused the handshake: {_ours(security)}"


def _plain(address: str) -> str:
    """What there is to say when we speak plain text: whether the other side answers to TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent; who it is does not matter
    context.set_alpn_protocols(["h2"])
    with suppress(OSError), _connected(address) as raw, context.wrap_socket(raw):
        return (
            f"{address} is reachable and speaks TLS; give --tls-ca (METERWATCH_TLS_CA), and --tls-cert with --tls-key"
        )
    return ""


def _context(security: Security) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if security.ca == SYSTEM else security.ca)
    if security.certificate is not None and security.key is not None:
        context.load_cert_chain(security.certificate, security.key, password=lambda: "")  # an encrypted one: no prompt
    return context


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)


def _ours(security: Security, now: datetime | None = None) -> str:
    """What to look at in our own certificate."""
    if security.certificate is None:
        return "no certificate was shown; give --tls-cert and --tls-key, or use the port for tokens"
    try:
        certificate = x509.load_pem_x509_certificate(Path(security.certificate).read_bytes())
    except (OSError, ValueError):
        return f"check {security.certificate}, which holds no readable certificate"
    ends = certificate.not_valid_after_utc
    verb = "expired" if ends <= (now or now_utc()) else "expires"
    return (
        f"check the certificate {security.certificate} of {common_name(certificate)}, which {verb} "
        f"{ends:%Y-%m-%d %H:%M} UTC and must be by a CA that the service trusts"
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)
