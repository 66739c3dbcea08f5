"""What a certificate says of its holder, and when it no longer counts."""

from __future__ import annotations

from typing import Any

import pytest
from access_authority import Authority, Pair

from meterwatch.access.certificates import Certificates, over_tls
from meterwatch.access.identity import How, Role
from meterwatch.errors import Unauthenticated

CA = Authority()


def auth_of(pair: Pair) -> dict[str, Any]:
    return {"transport_security_type": [b"ssl"], "x509_pem_cert": [pair.certificate]}


def test_name_roles_and_districts_come_from_the_subject_and_the_uris() -> None:
    pair = CA.issue("anna", roles=["operator", "engineer"], districts=["North", "Süd/7 b"])
    found = Certificates().identity(auth_of(pair))
    assert found is not None
    assert (found.name, found.how, found.serial) == ("anna", How.CERTIFICATE, pair.serial)
    assert found.roles == {Role.OPERATOR, Role.ENGINEER}
    assert found.districts == {"North", "Süd/7 b"}


@pytest.mark.parametrize(
    ("units", "roles"),
    [(["head-end"], {Role.HEAD_END}), (["Head_End"], {Role.HEAD_END}), (["Sales"], set()), ([], set())],
)
def test_a_unit_that_is_no_role_gives_none(units: list[str], roles: set[Role]) -> None:
    found = Certificates().identity(auth_of(CA.issue("x", roles=units)))
    assert found is not None
    assert found.roles == roles


@pytest.mark.parametrize("common", [(), ("a", "b")])
def test_a_certificate_without_one_sound_name_is_refused(common: tuple[str, ...]) -> None:
    with pytest.raises(Unauthenticated) as error:
        Certificates().identity(auth_of(CA.issue(*common)))
    assert error.value.reason == "CERTIFICATE_REFUSED"


@pytest.mark.parametrize("name", ["an\u202ena", "an\tna", " anna"])
def test_a_name_that_could_pass_for_another_on_a_screen_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated):
        Certificates().identity(auth_of(CA.issue(name)))


@pytest.mark.parametrize("uri", ["meterwatch://district/", "meterwatch://distrikt/North", "meterwatch:North"])
def test_a_district_that_cannot_be_read_does_not_open_the_whole_grid(uri: str) -> None:
    with pytest.raises(Unauthenticated):
        Certificates().identity(auth_of(CA.issue("anna", roles=["viewer"], uris=[uri])))


def test_uris_of_others_are_left_alone() -> None:
    found = Certificates().identity(auth_of(CA.issue("anna", uris=["spiffe://grid/anna"])))
    assert found is not None
    assert found.districts == frozenset()


def test_a_denied_serial_is_refused_also_when_it_was_read_before() -> None:
    denied: set[str] = set()
    pair = CA.issue("anna", roles=["operator"])
    certificates = Certificates(lambda serial: serial in denied)
    assert certificates.identity(auth_of(pair)) is not None
    denied.add(pair.serial)
    with pytest.raises(Unauthenticated) as error:
        certificates.identity(auth_of(pair))
    assert error.value.reason == "CERTIFICATE_DENIED"


def test_a_certificate_whose_time_is_over_is_refused_though_its_connection_lasts() -> None:
    now_s = [0.0]
    pair = CA.issue("anna", days=1)
    certificates = Certificates(now_s=lambda: now_s[0])
    assert certificates.identity(auth_of(pair)) is not None
    now_s[0] = 1e12
    with pytest.raises(Unauthenticated) as error:
        certificates.identity(auth_of(pair))
    assert error.value.reason == "CERTIFICATE_EXPIRED"


def test_without_a_certificate_there_is_no_identity() -> None:
    assert Certificates().identity({"transport_security_type": [b"ssl"]}) is None
    assert over_tls({"transport_security_type": [b"ssl"]})
    assert not over_tls({"transport_security_type": [b"insecure"]})
    assert not over_tls({})
