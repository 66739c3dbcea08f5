"""What is wrong with a file is said before anything listens, and no key is ever shown."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tls_world import CA, NOW, Files

from meterwatch.errors import ConfigError
from meterwatch.transport import dev
from meterwatch.transport.certificates import PEM_BYTES_MAX, TlsFiles, read_material
from meterwatch.transport.hosts import host_of, is_loopback

SERVER = dev.server(CA, NOW)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    tls = Files(tmp_path).server()
    assert tls.certificate is not None
    assert tls.key is not None
    return TlsFiles(tls.certificate, tls.key, tls.client_ca)


def problems(files: TlsFiles) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_material(files, NOW)
    lines = files.key.read_text().splitlines() if files.key.is_file() else []
    assert not any(line in str(caught.value) for line in lines[1:-1])
    return caught.value.problems


def test_sound_files_are_taken_as_they_are(files: TlsFiles) -> None:
    material = read_material(files, NOW)
    assert material.certificate == files.certificate.read_bytes()
    assert material.key == files.key.read_bytes()
    assert material.subject == "server"
    assert material.expires_at - NOW == timedelta(days=dev.DAYS)
    assert "PRIVATE" not in repr(material)


def test_the_end_is_that_of_the_first_certificate_of_the_chain_to_end(files: TlsFiles) -> None:
    brief = dev.authority(NOW, days=1)
    files.certificate.write_bytes(files.certificate.read_bytes() + brief.certificate_pem)
    assert read_material(files, NOW).expires_at == brief.certificate.not_valid_after_utc


def encrypted(files: TlsFiles) -> None:
    key = dev.server(CA, NOW).key
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def of_another_kind(files: TlsFiles) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def wrong_ca(pair: dev.Pair) -> Callable[[TlsFiles], object]:
    return lambda files: files.client_ca.write_bytes(pair.certificate_pem) if files.client_ca else None


CASES: list[tuple[str, Callable[[TlsFiles], object], str]] = [
    ("no certificate", lambda f: f.certificate.unlink(), "server.tls.certificate"),
    ("no key", lambda f: f.key.unlink(), "cannot be read (No such file or directory)"),
    ("a directory", lambda f: (f.key.unlink(), f.key.mkdir(0o700)), "Is a directory"),
    ("no PEM", lambda f: f.certificate.write_bytes(b"\x00\xff"), "holds no readable certificate"),
    ("too long", lambda f: f.certificate.write_bytes(b"x" * (PEM_BYTES_MAX + 1)), "longer than"),
    ("key is no key", lambda f: f.key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n"), "no readable private key"),
    (
        "another's key",
        lambda f: f.key.write_bytes(dev.server(CA, NOW).key_pem),
        "does not belong to the certificate of",
    ),
    ("encrypted key", encrypted, "is encrypted"),
    ("Ed25519", of_another_kind, "neither an RSA nor an EC key"),
    ("open key", lambda f: f.key.chmod(0o644), "open to everybody on this machine (mode 0644)"),
    ("CA is a leaf", wrong_ca(dev.server(CA, NOW)), "which is no CA"),
    ("CA expired", wrong_ca(dev.authority(NOW, days=-1)), "holds no CA that is valid now"),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_wrong_file_is_one_sentence(files: TlsFiles, change: Callable[[TlsFiles], object], says: str) -> None:
    change(files)
    (sentence,) = problems(files)
    assert says in sentence


@pytest.mark.parametrize(("days", "says"), [(-1, "expired on"), (1, "is valid from")])
def test_a_certificate_out_of_its_time_is_refused_with_the_date(files: TlsFiles, days: float, says: str) -> None:
    pair = dev.server(CA, NOW if days < 0 else NOW + timedelta(days=1), days=days)
    dev.write_pair(files.certificate.parent, "server", pair)
    (sentence,) = problems(files)
    assert says in sentence


def test_all_that_is_wrong_is_said_at_once(files: TlsFiles) -> None:
    files.key.chmod(0o604)
    files.certificate.unlink()
    assert files.client_ca is not None
    files.client_ca.write_text("none")
    assert len(problems(files)) == 3


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes all
@given(data=st.data())
def test_whatever_stands_in_a_file_is_taken_or_refused_with_a_sentence(files: TlsFiles, data: st.DataObject) -> None:
    assert files.client_ca is not None
    pairs = {files.certificate: SERVER.certificate_pem, files.key: SERVER.key_pem, files.client_ca: CA.certificate_pem}
    for path, pem in pairs.items():
        path.write_bytes(pem)
    path = data.draw(st.sampled_from(list(pairs)))
    head, *body, tail = pairs[path].decode().strip().splitlines()
    raw = bytearray(base64.b64decode("".join(body)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), min_size=1)):
        raw[at] = byte
    path.write_text(f"{head}\n{base64.b64encode(raw).decode()}\n{tail}\n")
    with suppress(ConfigError):
        read_material(files, NOW)


def test_an_open_key_is_taken_when_told_so(files: TlsFiles) -> None:
    files.key.chmod(0o644)
    assert read_material(files._replace(open_key=True), NOW).subject == "server"


def test_a_key_for_a_group_is_no_open_key(files: TlsFiles) -> None:
    files.key.chmod(0o640)
    assert read_material(files, NOW).subject == "server"


def test_one_valid_ca_among_expired_ones_will_do(files: TlsFiles) -> None:
    assert files.client_ca is not None
    files.client_ca.write_bytes(dev.authority(NOW, days=-1).certificate_pem + CA.certificate_pem)
    assert read_material(files, NOW).client_ca == files.client_ca.read_bytes()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "meter", "128.0.0.1"])
def test_nothing_else_is(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("address", "host"), [("a:1", "a"), ("[::1]:50551", "::1"), ("127.0.0.1:2", "127.0.0.1")])
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host
