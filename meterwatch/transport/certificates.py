"""Certificates and keys as they stand in PEM files, and whether a service could use them.

Pure: bytes and a time in, sentences out; `read_material` alone touches files. A private key appears in no sentence, no
repr and no log. Each sentence says which file, what is wrong with it and what to change.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from meterwatch.errors import ConfigError

OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
PEM_BYTES_MAX: Final = 1 << 20
"""A bundle of every public CA is a quarter of that."""


class TlsFiles(NamedTuple):
    """Where the service's certificate (its own first, then the chain), key and the CAs of its clients are kept."""

    certificate: Path
    key: Path
    client_ca: Path | None
    open_key: bool = False
    """The key may be readable by everybody."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files held when they were sound."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    subject: str
    """Common name of the certificate, or its whole subject."""
    expires_at: datetime
    """When the first certificate of the chain ends."""
    life_s: float
    """How long that one was valid from its begin to its end."""


def read_material(files: TlsFiles, now: datetime) -> TlsMaterial:
    """Read and judge the files; ConfigError with every problem found. now: of the machine, as grpc judges by it."""
    problems: list[str] = []
    if not files.open_key:
        problems += key_mode_problems(files.key)
    certificate = _bytes("server.tls.certificate", files.certificate, problems)
    key = _bytes("server.tls.key", files.key, problems)
    client_ca = None if files.client_ca is None else _bytes("server.tls.client_ca", files.client_ca, problems)
    chain: list[x509.Certificate] = []
    if certificate is not None:
        chain, found = parsed_chain(f"server.tls.certificate {files.certificate}", certificate)
        problems += found
        problems += chain_problems(f"server.tls.certificate {files.certificate}", chain, now)
    if key is not None:
        problems += key_problems(f"server.tls.key {files.key}", key, chain[0] if chain else None)
    if client_ca is not None:
        name = f"server.tls.client_ca {files.client_ca}"
        authorities, found = parsed_chain(name, client_ca)
        problems += [*found, *authority_problems(name, authorities, now)]
    if problems or certificate is None or key is None:
        raise ConfigError(problems)
    first = min(chain, key=lambda one: one.not_valid_after_utc)
    ends = first.not_valid_after_utc
    life_s = (ends - first.not_valid_before_utc).total_seconds()
    return TlsMaterial(certificate, key, client_ca, common_name(chain[0]), ends, life_s)


def parsed_chain(name: str, pem: bytes) -> tuple[list[x509.Certificate], list[str]]:
    """The certificates in a file, and what is wrong with it."""
    try:
        chain = x509.load_pem_x509_certificates(pem)
        for one in chain:  # read in full now, because the library looks into them only when asked
            one.public_key(), common_name(one), _is_authority(one), one.not_valid_before_utc, one.not_valid_after_utc
        return chain, []
    except (ValueError, UnsupportedAlgorithm):
        return [], [f"{name} holds no readable certificate; expected PEM: -----BEGIN CERTIFICATE----- and so on."]


def chain_problems(name: str, chain: list[x509.Certificate], now: datetime) -> Iterator[str]:
    """Certificates that are not valid now, with their dates."""
    for one in chain:
        if now >= one.not_valid_after_utc:
            yield f"{name} ({common_name(one)}) expired on {_day(one.not_valid_after_utc)}; put a new one in its place."
        elif now < one.not_valid_before_utc:
            yield (
                f"{name} ({common_name(one)}) is valid from {_day(one.not_valid_before_utc)} only; "
                "look at the machine's clock, or use one that is valid now."
            )


def authority_problems(name: str, authorities: list[x509.Certificate], now: datetime) -> Iterator[str]:
    """Why no client could be verified by these. Some may have expired while another is valid: so CAs are changed."""
    if not authorities:
        return
    for one in authorities:
        if not _is_authority(one):
            yield f"{name} holds the certificate of {common_name(one)}, which is no CA; expected CA certificates only."
    if not any(one.not_valid_before_utc <= now < one.not_valid_after_utc for one in authorities):
        last = max(one.not_valid_after_utc for one in authorities)
        yield f"{name} holds no CA that is valid now; the last expired on {_day(last)}."


def key_problems(name: str, pem: bytes, certificate: x509.Certificate | None) -> Iterator[str]:
    """Why the service cannot use the key with this certificate. Never shows any of it."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        yield f"{name} is encrypted; there is nobody to ask for a passphrase; store it without, with mode 0600."
        return
    except (ValueError, UnsupportedAlgorithm):
        yield f"{name} holds no readable private key; expected PEM: -----BEGIN PRIVATE KEY----- and so on."
        return
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        yield f"{name} is neither an RSA nor an EC key, and gRPC takes no other; make one of these."
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate is not None and key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        yield f"{name} does not belong to the certificate of {common_name(certificate)}; give the two made together."


def key_mode_problems(path: Path) -> Iterator[str]:
    """A key that others than its owner and group may read or write."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # who reads it says so
    if mode & OTHERS:
        yield (
            f"server.tls.key {path} is open to everybody on this machine (mode {mode:04o}); chmod 600 it, "
            "or set server.tls.open_key = true."
        )


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or all of the subject where it has none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string() or "no name"


def now_utc() -> datetime:
    """The machine's time, whatever clock the service lives by: peers judge certificates by theirs."""
    return datetime.now(UTC)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _bytes(name: str, path: Path, problems: list[str]) -> bytes | None:
    try:
        with path.open("rb") as file:
            pem = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        problems.append(f"{name} {path} cannot be read ({error.strerror}); give the path of a PEM file.")
        return None
    if len(pem) > PEM_BYTES_MAX:
        problems.append(f"{name} {path} is longer than {PEM_BYTES_MAX:,} bytes; expected a PEM file.")
        return None
    return pem


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC")
