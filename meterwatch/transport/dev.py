"""A throw-away CA with a certificate for the service and one for each role, to try TLS with and for tests.

Names as the service reads them (docs/security.md): CN who, OU which role, a URI SAN meterwatch://district/ID, percent-
encoded, for each district. Everything ends after DAYS; the CA's own key is written beside the others, to issue more
with, which is why none of this is for a real network.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meterwatch.errors import ConfigError

DAYS: Final = 90
ORGANISATION: Final = "meterwatch"
DISTRICT: Final = "meterwatch://district/"
ROLES: Final = {
    "HES-1": "head-end",
    "operator": "operator",
    "engineer": "engineer",
    "viewer": "viewer",
    "admin": "admin",
}
"""Name of a certificate -> its role. A head-end's name is that of the example grid."""
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""A peer whose clock is behind by so much takes a certificate made just now."""


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def authority(now: datetime, *, days: float = DAYS, name: str = "meterwatch development CA") -> Pair:
    """A new CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _started(subject, subject, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def server(ca: Pair, now: datetime, *, days: float = DAYS, hosts: Iterable[str] = LOCAL_NAMES) -> Pair:
    """A certificate for a service reached under these names and addresses."""
    names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
    return _issued(ca, "server", "server", names, ExtendedKeyUsageOID.SERVER_AUTH, now, days)


def client(ca: Pair, name: str, role: str, now: datetime, *, days: float = DAYS, districts: Sequence[str] = ()) -> Pair:
    """A certificate for who calls the service."""
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(DISTRICT + quote(district, safe="")) for district in districts
    ]
    return _issued(ca, name, role, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def write_all(directory: Path, now: datetime, hosts: Sequence[str] = (), districts: Sequence[str] = ()) -> list[Path]:
    """Make a CA and a pair for the server and for each of ROLES; the files written. ConfigError if there are any."""
    directory.mkdir(parents=True, exist_ok=True)
    if there := sorted(path.name for path in directory.glob("*.pem")):
        raise ConfigError([f"{directory} holds {', '.join(there)} already; an empty directory was expected"])
    ca = authority(now)
    names = dict.fromkeys((*LOCAL_NAMES, socket.gethostname(), *hosts))
    pairs = {"ca": ca, "server": server(ca, now, hosts=names)}
    for name, role in ROLES.items():
        pairs[name] = client(ca, name, role, now, districts=districts if role in ("operator", "viewer") else ())
    return [path for name, pair in pairs.items() for path in write_pair(directory, name, pair)]


def write_pair(directory: Path, name: str, pair: Pair) -> tuple[Path, Path]:
    """Write NAME.pem and NAME.key.pem, the key for its owner alone; the two paths."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key.pem"
    certificate.write_bytes(pair.certificate_pem)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pair.key_pem)
    return certificate, key


def _issued(
    ca: Pair,
    name: str,
    role: str,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
    days: float,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    builder = _started(subject, ca.certificate.subject, key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def _started(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: float
) -> x509.CertificateBuilder:
    begins, ends = sorted((now - CLOCK_TOLERANCE, now + timedelta(days=days)))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
