"""A CA of the tests, certificates of it, and an issuer of tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

ISSUER, AUDIENCE = "https://id.test", "meterwatch"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes
    serial: str


def _name(common: Sequence[str], units: Sequence[str] = ()) -> x509.Name:
    pairs = [(NameOID.COMMON_NAME, one) for one in common]
    return x509.Name(
        [x509.NameAttribute(oid, text) for oid, text in pairs + [(NameOID.ORGANIZATIONAL_UNIT_NAME, u) for u in units]]
    )


@dataclass
class Authority:
    """A tiny CA. Keys are EC: they are made in a millisecond."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: _name(["test CA"]))

    @property
    def pem(self) -> bytes:
        builder = self._builder(self.name, self.key.public_key(), 3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(
        self,
        *common: str,
        roles: Sequence[str] = (),
        districts: Sequence[str] = (),
        uris: Sequence[str] = (),
        days: float = 1,
    ) -> Pair:
        """A certificate for a client, or with the name localhost for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"meterwatch://district/{quote(district, safe='')}")
            for district in districts
        ]
        names += [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName("localhost")] if "localhost" in common else []
        builder = self._builder(_name(common, roles), key.public_key(), days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self.key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(made.public_bytes(Encoding.PEM), private, f"{made.serial_number:x}")

    def _builder(self, subject: x509.Name, key: Any, days: float) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=3650))
            .not_valid_after(now + timedelta(days=days))
        )


@dataclass
class Issuer:
    """Signs tokens. Its public key goes into a JWKS under `kid`."""

    kid: str = "k1"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return made | {"kid": self.kid, "use": "sig", "alg": "ES256"}

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def claims(self, name: str = "anna", roles: Any = ("operator",), **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"sub": name, "roles": list(roles) if isinstance(roles, tuple) else roles, "iss": ISSUER}
        return claims | {"aud": AUDIENCE, "exp": now + 3600, "nbf": now - 10} | changes

    def token(self, *arguments: Any, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        claims = {name: value for name, value in self.claims(*arguments, **changes).items() if value is not None}
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": self.kid} | (headers or {}))


def jwks(*issuers: Issuer) -> bytes:
    return json.dumps({"keys": [issuer.jwk for issuer in issuers]}).encode()
