"""What apt must refuse before anything is unpacked: every link from the release's key to the bytes of a package.

The archive is tests/golden/apt, asked for over file:, by the apt of this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.embedded import apt
from storage.embedded.apt import PrivateApt
from storage.embedded.errors import USE_A_URL, EmbeddedError
from storage.embedded.unpack import sha256

ARCHIVE = Path(__file__).parents[1] / "golden" / "apt"
DEB = "pool/gridtool_1.0-1_all.deb"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break, whose key is taken for Debian's."""
    copy = tmp_path / "archive"
    shutil.copytree(ARCHIVE, copy)
    monkeypatch.setattr(apt, "KEYRINGS", (copy / "key.gpg",))
    return copy


def fetched(archive: Path, home: Path) -> list[Path]:
    private = PrivateApt(home / "apt", f"file:{archive}", "trixie")
    private.update()
    return private.download(["gridtool"], home / "debs")


def test_a_package_of_a_signed_archive_is_what_the_archive_has(archive: Path, tmp_path: Path) -> None:
    (deb,) = fetched(archive, tmp_path)
    assert sha256(deb) == sha256(ARCHIVE / DEB)


def other_bytes(path: Path) -> None:
    """As long as before."""
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def other_package(archive: Path) -> None:
    other_bytes(archive / DEB)


def other_list(archive: Path) -> None:
    """A list that names the hash of another package, as somebody who can write to a mirror would make it."""
    old = sha256(archive / DEB)
    other_bytes(archive / DEB)
    for path in archive.glob("dists/trixie/main/*/Packages"):
        path.write_text(path.read_text().replace(old, sha256(archive / DEB)))


def other_release(archive: Path) -> None:
    """The same with a release file that fits, under the old signature."""
    packages = next(archive.glob("dists/trixie/main/*/Packages"))
    old = sha256(packages)
    other_list(archive)
    release = archive / "dists/trixie/InRelease"
    release.write_text(release.read_text().replace(old, sha256(packages)))


def unsigned(archive: Path) -> None:
    signed = archive / "dists/trixie/InRelease"
    body = signed.read_text().partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE")[0]
    signed.with_name("Release").write_text(body)
    signed.unlink()


def key_of_somebody_else(archive: Path) -> None:
    debian = next(path for path in GENUINE if path.is_file())
    shutil.copyfile(debian, archive / "key.gpg")


GENUINE = apt.KEYRINGS


@pytest.mark.parametrize(
    ("tampered", "says"),
    [
        (other_package, "Hash Sum mismatch|does not match|unexpected size"),
        (other_list, "Hash Sum mismatch|unexpected size"),
        (other_release, "not signed|invalid|BAD|GPG error|OpenPGP"),
        (unsigned, "not signed"),
        (key_of_somebody_else, "not signed|NO_PUBKEY|GPG error|OpenPGP"),
    ],
)
def test_what_was_tampered_with_is_refused_in_one_sentence(
    archive: Path, tmp_path: Path, tampered: Callable[[Path], None], says: str
) -> None:
    tampered(archive)
    with pytest.raises(EmbeddedError, match=says) as refused:
        fetched(archive, tmp_path)
    assert str(refused.value).startswith(f"apt could not use file:{archive}: E:")
    assert str(refused.value).endswith(f". {USE_A_URL}")
    assert ".. " not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("debs/*.deb"))
