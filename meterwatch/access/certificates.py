"""The identity in a client's certificate, as TLS has verified it.

    subject CN    name; of a head-end the one in the registry
    subject OU    role, one or more
    SAN URI       meterwatch://district/<id>, percent-encoded, for each district; none: the whole grid

A certificate is read once and remembered: a head-end's streams and an operator's calls bring the same bytes again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from cryptography import x509
from cryptography.x509.oid import NameOID

from meterwatch.access.identity import DISTRICTS_MAX, How, Identity, roles_in, sound_name
from meterwatch.errors import Unauthenticated

DISTRICT_URI: Final = "meterwatch://district/"
REMEMBERED_MAX: Final = 4096
"""Certificates read and kept: more than there are connections."""
_PEM: Final = "x509_pem_cert"
_TRANSPORT: Final = "transport_security_type"


def over_tls(auth: Mapping[str, Sequence[bytes]]) -> bool:
    """True: the call came through TLS, with or without a client's certificate."""
    return bytes(next(iter(auth.get(_TRANSPORT, ())), b"")) == b"ssl"


class Certificates:
    """Identities by the certificate a call brings. denied: serial numbers that are let in no more."""

    def __init__(
        self, denied: Callable[[str], bool] = lambda serial: False, now_s: Callable[[], float] = time.time
    ) -> None:
        self._denied = denied
        self._now_s = now_s
        self._known: OrderedDict[bytes, Identity] = OrderedDict()

    def identity(self, auth: Mapping[str, Sequence[bytes]]) -> Identity | None:
        """Who the certificate says; None: there is none. Unauthenticated when it no longer counts."""
        pem = next(iter(auth.get(_PEM, ())), None)
        if pem is None:
            return None
        found = self._known.get(pem)
        if found is None:
            found = self._known[pem] = identity_of(x509.load_pem_x509_certificate(pem))
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        self.check(found)
        return found

    def check(self, identity: Identity) -> None:
        """Unauthenticated if the certificate behind an identity is denied, or its time is over."""
        if identity.serial and self._denied(identity.serial):
            raise Unauthenticated(
                "CERTIFICATE_DENIED",
                f"the certificate of {identity.name!r} with serial {identity.serial} is denied; use a new one",
            )
        if identity.expires_s is not None and identity.expires_s < self._now_s():
            raise Unauthenticated(
                "CERTIFICATE_EXPIRED", f"the certificate of {identity.name!r} has expired; use a new one"
            )


def identity_of(certificate: x509.Certificate) -> Identity:
    """What a verified certificate says. Unauthenticated if its name cannot be one."""
    names = _subject(certificate, NameOID.COMMON_NAME)
    if len(names) != 1 or not sound_name(names[0]):
        raise Unauthenticated(
            "CERTIFICATE_REFUSED",
            f"a certificate with {len(names)} common names arrived; expected one of 1 to 64 printable characters",
        )
    return Identity(
        names[0],
        roles_in(_subject(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)),
        _districts(certificate),
        How.CERTIFICATE,
        certificate.not_valid_after_utc.timestamp(),
        f"{certificate.serial_number:x}",
    )


def _subject(certificate: x509.Certificate, oid: Any) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]


def _districts(certificate: x509.Certificate) -> frozenset[str]:
    """Refuses what it does not understand: a district misread as none would open the whole grid."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    ours = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("meterwatch:")]
    found = frozenset(unquote(uri.removeprefix(DISTRICT_URI)) for uri in ours if uri.startswith(DISTRICT_URI))
    if len(found) < len(set(ours)) or "" in found or len(found) > DISTRICTS_MAX:
        raise Unauthenticated(
            "CERTIFICATE_REFUSED",
            f"a certificate with {len(ours)} URIs of meterwatch arrived; expected up to {DISTRICTS_MAX}, each "
            f"{DISTRICT_URI}<id>",
        )
    return found
